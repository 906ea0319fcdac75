"""Settings from variables of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from memaudit.config.environment import read_environment, unknown_variables, variable_of
from memaudit.config.flags import fields_of
from memaudit.config.settings import ScanConfig
from memaudit.config.sources import ResolvedConfig, collect_layers, resolve, to_toml
from memaudit.data.project_key import VARIABLE
from memaudit.errors import UsageError

PATHS = {"model": "m", "data": "d.jsonl"}


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # away from the project's own pyproject.toml


def resolved(
    environ: dict[str, str],
    flags: dict[str, object] | None = None,
    profile: str | None = None,
    config_file: Path | None = None,
) -> ResolvedConfig:
    return resolve(
        collect_layers(
            PATHS | (flags or {}),
            profile=profile,
            config_file=config_file,
            sets=[],
            environ=environ,
        )
    )


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("MEMAUDIT_GATE_MAX_EXACT", "0.01", "gate.max_exact", 0.01),
        ("MEMAUDIT_TARGET_DEVICE", "cpu", "target.device", "cpu"),
        ("MEMAUDIT_TARGET_OFFLINE", "true", "target.offline", True),
        ("MEMAUDIT_PROTOCOL_SEED", " 7 ", "protocol.seed", 7),
        ("MEMAUDIT_ATTACKS", "none, copy", "attacks", ("none", "copy")),
        ("MEMAUDIT_WINDOWS_CHAT_DATE", "2020-01-02", "windows.chat_date", "2020-01-02"),
        ("MEMAUDIT_DYNAMIC_LEARNING_RATE", "1e-3", "dynamic.learning_rate", 1e-3),
        ("MEMAUDIT_KEY_FILE", "key", "key_file", Path("key")),
        ("MEMAUDIT_REFERENCE", "123", "reference", "123"),
    ],
)
def test_a_variable_sets_its_setting_and_is_named(
    variable: str, text: str, name: str, value: object
) -> None:
    found = resolved({variable: text, "PATH": "/bin", "MEMAUDIT_KEY": "0" * 64})
    setting: object = found.config
    for part in name.split("."):
        setting = getattr(setting, part)
    assert (str(setting) if isinstance(value, str) else setting) == value
    assert found.sources[name] == f"environment {variable}"


def test_flags_win_over_the_environment_and_it_wins_over_files(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.memaudit]\nprofile = "records"\n[tool.memaudit.windows]\nprefix_tokens = 40\n'
    )
    environ = {"MEMAUDIT_WINDOWS_PREFIX_TOKENS": "30", "MEMAUDIT_WINDOWS_SUFFIX_TOKENS": "20"}
    found = resolved(environ, {"windows": {"suffix_tokens": 9}})
    assert (found.config.windows.prefix_tokens, found.config.windows.suffix_tokens) == (30, 9)
    assert found.sources["windows.suffix_tokens"] == "flag"
    file = tmp_path / "config.toml"
    file.write_text(to_toml(found.config))
    again = resolved({"MEMAUDIT_WINDOWS_PREFIX_TOKENS": "31"}, config_file=file)
    assert again.config.windows.prefix_tokens == 31
    assert again.sources["windows.suffix_tokens"] == str(file)


def test_the_profile_may_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.memaudit]\nprofile = "records"\n')
    environ = {"MEMAUDIT_PROFILE": "quick"}
    assert "profile quick" in resolved(environ).sources.values()
    assert "profile paper" in resolved(environ, profile="paper").sources.values()


@pytest.mark.parametrize("text", ["1", "true", "false"])
@pytest.mark.parametrize("setting", ["reveal", "target.trust_remote_code", "target.allow_pickle"])
def test_no_variable_lifts_a_safeguard(setting: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"environment {variable_of(setting)}\): can only be set"):
        resolved({variable_of(setting): text})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"MEMAUDIT_GATE_MAX_EXACT": "5"},
            "gate.max_exact = '5' (environment MEMAUDIT_GATE_MAX_EXACT): a share is below 1",
        ),
        (
            {"MEMAUDIT_GATE_MAX_EXACT": "nan"},
            "gate.max_exact = 'nan' (environment MEMAUDIT_GATE_MAX_EXACT): input should be",
        ),
        ({"MEMAUDIT_GATE_MAX_EXACT": ""}, "the variable MEMAUDIT_GATE_MAX_EXACT is empty"),
        ({"MEMAUDIT_PROFILE": " "}, "the variable MEMAUDIT_PROFILE is empty"),
        ({"MEMAUDIT_REFERENCE": "\udcff"}, "reference"),
        ({"MEMAUDIT_ATTACKS": "nonee"}, "attacks.0 = 'nonee' (environment MEMAUDIT_ATTACKS)"),
    ],
)
def test_a_bad_value_is_refused_with_its_variable(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(environ)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "variable",
    [
        "MEMAUDIT_GATE_MAX_EXCAT",
        "MEMAUDIT_GATE",
        "MEMAUDIT_GATES_MAX_EXACT",
        "MEMAUDIT_GTAE_MAX_EXACT",
        "MEMAUDIT_MAX_EXACT",
        "MEMAUDIT_MAX_LEAKED",
        "memaudit_gate_max_exact",
        "Memaudit_Gate_Max_Lift",
    ],
)
def test_a_misspelt_gate_is_an_error(variable: str) -> None:
    with pytest.raises(UsageError, match=f"{variable} is no setting"):
        resolved({variable: "0.01"})


def test_another_unknown_variable_is_named_with_the_nearest() -> None:
    environ = {"MEMAUDIT_TARGET_DEVICES": "cpu", "MEMAUDIT_ZZZ": "1", "MEMAUDITOR": "2"}
    assert unknown_variables(environ) == [
        "the environment variable MEMAUDIT_TARGET_DEVICES is no setting; did you mean "
        "MEMAUDIT_TARGET_DEVICE?",
        "the environment variable MEMAUDIT_ZZZ is no setting; see memaudit help settings",
    ]
    assert read_environment(environ) == {}


def test_no_two_settings_share_a_variable_and_none_is_the_key() -> None:
    variables = [variable_of(name) for name in fields_of(ScanConfig)]
    assert len(variables) == len(set(variables)) > 60
    assert not {VARIABLE, "MEMAUDIT_PROFILE"} & set(variables)
