"""Settings: layers, sources, messages, and the round trip through config.toml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memaudit.config.settings import ScanConfig
from memaudit.config.sources import (
    Layer,
    collect_layers,
    list_profiles,
    load_profile,
    resolve,
    setting_lines,
    to_toml,
)
from memaudit.errors import UsageError

PATHS = {"model": "m", "data": "d.jsonl"}


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from the project's own pyproject.toml


def config_of(flags: dict[str, object], **more: object):  # type: ignore[no-untyped-def]
    sources = {"profile": None, "config_file": None, "sets": []} | more
    return resolve(collect_layers(PATHS | flags, **sources))  # type: ignore[arg-type]


def test_every_profile_resolves_and_says_what_it_is_for() -> None:
    profiles = list_profiles()
    assert set(profiles) >= {"quick", "standard", "paper", "code", "records"}
    for name, layer in profiles.items():
        assert layer.about, name
        assert config_of({}, profile=name).config.model == "m"


def test_paper_profile_has_the_settings_of_the_paper() -> None:
    config = config_of({}, profile="paper").config
    dynamic = config.dynamic
    assert (dynamic.learning_rate, dynamic.learning_rate_embedding) == (7e-6, 2e-4)
    assert (dynamic.mapping, dynamic.embedding, dynamic.initialisation) == (
        "naive",
        "trained",
        "identity",
    )
    assert (dynamic.num_virtual_tokens, dynamic.epochs, dynamic.batch_size) == (50, 15, 128)
    assert config.constant.learning_rate == 5e-4
    assert config.protocol.split == "random"


def test_later_layers_win_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.memaudit]\nprofile = "records"\n[tool.memaudit.windows]\nprefix_tokens = 40\n'
    )
    resolved = config_of({"windows": {"suffix_tokens": 9}}, sets=["protocol.seed=7"])
    assert resolved.config.windows.prefix_tokens == 40
    assert resolved.config.windows.suffix_tokens == 9
    assert resolved.config.protocol.seed == 7
    assert resolved.config.protocol.cluster_run == 16
    assert resolved.sources["windows.prefix_tokens"] == "pyproject.toml"
    assert resolved.sources["windows.suffix_tokens"] == "flag"
    assert resolved.sources["protocol.seed"] == "flag"
    assert resolved.sources["protocol.cluster_run"] == "profile records"
    assert resolved.sources["scores.confidence"] == "default"


def test_the_profile_flag_overrides_the_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.memaudit]\nprofile = "records"\n')
    assert config_of({}, profile="paper").config.windows.prefix_tokens == 50


def test_config_file_repeats_the_settings(tmp_path: Path) -> None:
    first = config_of({"windows": {"prefix_tokens": 12}}, profile="quick").config
    (tmp_path / "config.toml").write_text(to_toml(first))
    layers = collect_layers({}, profile=None, config_file=tmp_path / "config.toml", sets=[])
    assert resolve(layers).config == first


@pytest.mark.parametrize("setting", ["reveal", "target.trust_remote_code", "target.allow_pickle"])
def test_a_file_cannot_lift_a_safeguard(tmp_path: Path, setting: str) -> None:
    section, _, key = f"tool.memaudit.{setting}".rpartition(".")
    (tmp_path / "pyproject.toml").write_text(f"[{section}]\n{key} = true\n")
    with pytest.raises(UsageError, match="can only be set by the flag --"):
        config_of({})
    (tmp_path / "pyproject.toml").unlink()
    assert config_of({}, sets=[f"{setting}=true"]).sources[setting] == "flag"


def test_a_config_file_replaces_the_project_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(config_of({}).config))
    (tmp_path / "pyproject.toml").write_text("[tool.memaudit.windows]\nlimit = 3\n")
    layers = collect_layers({}, profile=None, config_file=tmp_path / "config.toml", sets=[])
    assert resolve(layers).config.windows.limit is None


def test_prompts_that_start_from_the_constant_one_are_as_long() -> None:
    with pytest.raises(UsageError, match="make them equal"):
        config_of({"dynamic": {"num_virtual_tokens": 7, "start": "constant"}})
    config_of({"dynamic": {"num_virtual_tokens": 7}})


def test_few_windows_get_more_epochs() -> None:
    constant = config_of({}).config.constant
    assert constant.epochs_for(100_000) == constant.epochs
    steps = -(-100 // constant.batch_size) * constant.epochs_for(100)
    assert constant.min_steps <= steps < constant.min_steps + 7


def test_a_path_is_a_profile(tmp_path: Path) -> None:
    profile = tmp_path / "own.toml"
    profile.write_text('about = "own"\n[protocol]\nfolds = 3\n')
    assert config_of({}, profile=str(profile)).config.protocol.folds == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"protocol": {"folds": 1}}, "protocol.folds = 1 (flag): input should be greater"),
        (
            {"windows": {"stride": 5, "prefix_tokens": 9, "suffix_tokens": 9}},
            "windows (flag): stride is only used with placement",
        ),
        ({"windows": {"placement": "middle"}}, "windows.placement = 'middle' (flag): input"),
        ({"nonsense": 1}, "nonsense (flag): unknown setting"),
        ({"attacks": ["noen"]}, "attacks.0 = 'noen'"),
        (
            {"gate": {"max_exact": 1.5}},
            "gate.max_exact = 1.5 (flag): a share is below 1; did you mean 0.015",
        ),
        ({"gate": {"max_fractional": -1}}, "gate.max_fractional = -1 (flag): input should be"),
        (
            {"gate": {"max_lift": 1}},
            "gate.max_lift = 1 (flag): a share is below 1; did you mean 0.01,",
        ),
        (
            {"gate": {"max_new": -1, "baseline": "b"}},
            "gate.max_new = -1 (flag): input should be greater than or equal to 0",
        ),
        (
            {"gate": {"max_new": 0}},
            "gate (flag): max_new is only used with baseline, the run to compare with",
        ),
        (
            {"gate": {"baseline": "b.json"}},
            "gate (flag): baseline is only used with max_new, the number of new samples allowed",
        ),
    ],
)
def test_a_bad_value_is_named_with_its_source(flags: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="MODEL is missing"):
        resolve([Layer(source="flag", values={"data": "d"})])


@pytest.mark.parametrize(
    ("content", "message"),
    [("folds = [", "not valid TOML"), ("[tool]\nmemaudit = 3\n", "must be a table")],
)
def test_a_broken_pyproject_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(content)
    with pytest.raises(UsageError, match=message):
        config_of({})


def test_unknown_profile_lists_the_shipped_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"--profile nope: no such profile; give a path or a shipped profile: .*quick",
    ):
        load_profile("nope")


@pytest.mark.parametrize("assignment", ["dynamic.depth", "=3"])
def test_set_needs_key_and_value(assignment: str) -> None:
    with pytest.raises(UsageError, match="write it as"):
        config_of({}, sets=[assignment])


def test_set_takes_toml_values_and_plain_words() -> None:
    config = config_of(
        {}, sets=["dynamic.depth=2", "dynamic.mapping=naive", 'attacks=["none", "copy"]']
    ).config
    assert (config.dynamic.depth, config.dynamic.mapping) == (2, "naive")
    assert config.attacks == ("none", "copy")


def test_setting_lines_are_one_line_each() -> None:
    lines = setting_lines(Layer(source="x", values={"attacks": ["none", "copy"], "a": {"b": 1}}))
    assert lines == ['attacks = [ "none", "copy", ]', "a.b = 1"]


@pytest.mark.parametrize(
    "name",
    [
        "protocol.seed",
        "windows.limit",
        "scores.top_k",
        "scores.bootstrap",
        "target.training_tokens",
        "dynamic.low_rank",
        "gate.max_new",
    ],
)
def test_no_whole_number_is_larger_than_a_report_is_read_back_with(name: str) -> None:
    baseline = ["gate.baseline=b.json"] if name.startswith("gate") else []
    config_of({}, sets=[f"{name}={10**18 - 1}", *baseline])
    with pytest.raises(UsageError, match=name):
        config_of({}, sets=[f"{name}={10**18}", *baseline])


def test_every_whole_number_has_an_upper_limit() -> None:
    def whole_numbers(schema: object) -> Iterator[dict[str, object]]:
        if isinstance(schema, dict):
            if schema.get("type") == "integer":
                yield schema
            for part in schema.values():
                yield from whole_numbers(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from whole_numbers(part)

    schemas = list(whole_numbers(ScanConfig.model_json_schema()))
    assert len(schemas) > 20
    assert all(schema["maximum"] <= 10**18 - 1 for schema in schemas)  # type: ignore[operator]
