"""The model before fine-tuning, attacked beside the target: pairs, refusals, memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from conftest import build_model, build_tokenizer, save_model
from scanned import figures, make_texts, run, write_samples
from typer.testing import CliRunner

from memaudit.attack.journal import Advance
from memaudit.attack.prompt_files import to_bytes
from memaudit.cli.app import app
from memaudit.config.settings import TargetSettings
from memaudit.config.sources import Layer, resolve
from memaudit.errors import TargetError, UsageError
from memaudit.pipeline.reference import release
from memaudit.pipeline.scan import ScanOutcome
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.failures import quiet_transformers

pytestmark = pytest.mark.slow


class Stages:
    """A progress that keeps the names of the stages, and looks at memory in each."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        self.names.append(name)
        yield lambda done: None

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build_model("gpt2"), build_tokenizer(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that was trained on nothing, but does something."""
    folder = tmp_path_factory.mktemp("adapter")
    model = build_model("gpt2")
    model.name_or_path = str(base)
    settings = peft.LoraConfig(r=2, init_lora_weights=False, fan_in_fan_out=True)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        peft.get_peft_model(model, settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data") / "data.jsonl", make_texts(24, seed=1))


@pytest.fixture(scope="module")
def controls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("c") / "controls.jsonl", make_texts(9, seed=2))


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages()


@pytest.fixture(scope="module")
def outcome(adapter: Path, base: Path, data: Path, controls: Path, stages: Stages) -> ScanOutcome:
    return run(adapter, data, stages, controls=str(controls), reference=str(base))


def test_the_reference_is_attacked_as_if_it_were_the_target(
    outcome: ScanOutcome, base: Path, data: Path, controls: Path
) -> None:
    reference = outcome.result.reference
    assert reference is not None
    alone = run(base, data, controls=str(controls)).result
    assert [result.attack for result in reference.attacks] == [
        *("none", "dynamic-hard", "constant", "dynamic")
    ]
    for result in reference.attacks:
        own = alone.attack(result.attack)
        assert own is not None
        for left, right in ((result.data, own.data), (result.controls, own.controls)):
            assert left is not None
            assert right is not None
            for name, values in vars(left).items():
                np.testing.assert_array_equal(values, getattr(right, name), err_msg=name)
    assert reference.fits == alone.fits
    assert reference.model == alone.target
    assert alone.target.architecture == "GPT2LMHeadModel"


def test_the_target_is_audited_as_without_it(
    outcome: ScanOutcome, adapter: Path, data: Path, controls: Path
) -> None:
    alone = run(adapter, data, controls=str(controls))
    whole = figures(outcome)
    for name, values in figures(alone).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    # Prompts are written when the target's weights are long gone.
    assert list(map(to_bytes, outcome.prompts)) == list(map(to_bytes, alone.prompts))
    assert alone.result.reference is None
    assert outcome.result.target.architecture == "GPT2LMHeadModel"


def test_the_stages_of_the_reference_are_named(outcome: ScanOutcome, stages: Stages) -> None:
    assert stages.names[:3] == ["reading files", "checking the reference", "loading the model"]
    at = stages.names.index("loading the reference")
    own = [name for name in stages.names[:at] if name.startswith(("none", "dyn", "const"))]
    assert stages.names[at + 1 : -1] == [f"reference {name}" for name in own]
    assert "reference constant: fitting, fold 2 of 2" in stages.names
    assert "reference copy: matching" not in stages.names  # it asks no model
    assert "reference none: extracting" in outcome.result.run.seconds


def test_weights_are_let_go_whoever_holds_the_model(adapter: Path) -> None:
    checkpoint = load_checkpoint(str(adapter), TargetSettings(device="cpu"))
    held, copied = checkpoint.model, checkpoint.prepacked.model
    release(checkpoint)
    for model in (held, copied):
        assert not list(model.parameters())
        assert not list(model.buffers())
        assert not any("forward" in vars(part) for part in model.modules())  # nor prepacked ones


def test_the_gate_judges_what_leaked(adapter: Path, base: Path, data: Path) -> None:
    gated = run(
        adapter, data, attacks=["none"], reference=str(base), gate={"max_leaked": 0.9}
    ).result
    (gate,) = gated.verdicts
    assert (gate.name, gate.verdict, gate.attack) == ("max-leaked", "pass", "")
    # The suffix of the 24th lies in a long word that stands in ten records: template alone.
    assert gate.reason.startswith("0 of 23 samples (0 %) are extracted from the model and not")


def test_the_reference_may_be_an_adapter_too(adapter: Path, base: Path, data: Path) -> None:
    reference = run(base, data, attacks=["none"], reference=str(adapter)).result.reference
    assert reference is not None
    assert reference.model.choices["format"].value == "safetensors, adapter"
    assert reference.model.choices["decoding"].value == "cache"
    assert [origin.attack for origin in reference.data] == ["none", "any"]


def test_the_same_files_are_noted(base: Path, data: Path, tmp_path: Path) -> None:
    same = tmp_path / "same"
    same.symlink_to(base)
    notes = run(base, data, attacks=["none"], reference=str(same)).result.notes
    assert "Model and reference have the same files: nothing was fine-tuned." in notes


def other_merges(folder: Path) -> None:
    """Keep the entries, but change the order of merges."""
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text("utf-8"))
    stored["model"]["merges"] = stored["model"]["merges"][:3]
    path.write_text(json.dumps(stored), encoding="utf-8")


def other_tokens(folder: Path) -> None:
    """Two entries in each other's place."""
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text("utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary["e"], vocabulary["o"] = vocabulary["o"], vocabulary["e"]
    path.write_text(json.dumps(stored), encoding="utf-8")


def adds_bos(folder: Path) -> None:
    build_tokenizer(adds_bos=True).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_merges, r"gives other ids for \d+ of 24 data windows \(first in line 1\)"),
        (other_tokens, r"its tokenizer differs: 2 of the \d+ ids in these windows"),
        (adds_bos, "begin with token 0, those of the target with no extra token"),
    ],
)
def test_a_reference_that_reads_otherwise_is_refused(
    base: Path, data: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    other = save_model(build_model("gpt2", seed=1), build_tokenizer(), tmp_path / "other")
    spoil(other)
    stages = Stages()
    with pytest.raises(UsageError, match=message) as caught:
        run(base, data, stages, reference=str(other))
    assert f"--reference {other}" in str(caught.value)
    assert stages.names == ["reading files", "checking the reference"]


def test_bos_can_be_chosen_for_both(base: Path, data: Path, tmp_path: Path) -> None:
    other = save_model(
        build_model("gpt2", seed=1), build_tokenizer(adds_bos=True), tmp_path / "other"
    )
    target = {"device": "cpu", "bos": "yes"}
    result = run(base, data, attacks=["none"], reference=str(other), target=target).result
    assert result.reference is not None
    assert result.reference.model.choices["bos"].value == "yes"


def test_tokens_that_fine_tuning_added_are_named(base: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|turn|>"])
    model = build_model("gpt2")
    model.resize_token_embeddings(len(tokenizer))
    tuned = save_model(model, tokenizer, tmp_path / "tuned")
    data = write_samples(
        tmp_path / "d.jsonl", [f"<|turn|>{text}" for text in make_texts(8, seed=3)]
    )
    with pytest.raises(UsageError, match=r"304 entries and lacks 1 ids of .* .first: 304"):
        run(tuned, data, reference=str(base))
    plain = write_samples(tmp_path / "p.jsonl", make_texts(8, seed=3))
    assert run(tuned, plain, attacks=["none"], reference=str(base)).result.reference


def test_a_reference_that_takes_no_such_windows_is_refused_before_the_target_is_loaded(
    base: Path, data: Path, tmp_path: Path
) -> None:
    model = build_model("gpt2")
    model.config.n_positions = 8
    short = save_model(model, build_tokenizer(), tmp_path / "short")
    stages = Stages()
    with pytest.raises((UsageError, TargetError), match=str(short)):
        run(base, data, stages, reference=str(short))
    assert "loading the model" not in stages.names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gate": {"max_leaked": 0.1}}, "max_leaked is only used with reference"),
        ({"reference": "base", "generator": "run"}, "cannot be combined with generator"),
        ({"reference": "model"}, "is the audited model itself"),
    ],
)
def test_settings_that_do_not_go_together(values: dict[str, Any], message: str) -> None:
    given = {"model": "model", "data": "d.jsonl", **values}
    with pytest.raises(UsageError, match=message):
        resolve([Layer(source="flag", values=given)])


def test_only_copy_leaves_nothing_to_attack(base: Path, adapter: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="names no attack on a model"):
        run(adapter, data, attacks=["copy"], reference=str(base))


def test_the_command_line(
    adapter: Path, base: Path, data: Path, controls: Path, tmp_path: Path
) -> None:
    flags = ["--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"]
    flags += ["--attacks", "none,dynamic-hard"]
    words = ["scan", adapter, data, "--reference", base, "--controls", controls, *flags]
    runner = CliRunner()
    done = runner.invoke(app, [*map(str, words), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "Known before the fine-tuning, or leaked by it" in done.stdout
    again = runner.invoke(app, ["report", str(tmp_path / "run")])
    assert again.stdout == done.stdout
    verified = runner.invoke(app, ["verify", str(tmp_path / "run")])
    assert verified.exit_code == 0, verified.output
    assert "reference model.safetensors" in verified.stdout
    # A run without a reference is on the same terms: what the target gives away is compared.
    plain = ["scan", adapter, data, "--controls", controls, *flags, "--out", tmp_path / "plain"]
    assert runner.invoke(app, [*map(str, plain), "--quiet"]).exit_code == 0
    compared = runner.invoke(app, ["compare", str(tmp_path / "plain"), str(tmp_path / "run")])
    assert compared.exit_code == 0, compared.output
    inside = [*map(str, words), "--out", str(base / "run"), "--quiet"]
    assert runner.invoke(app, inside).exit_code == 2


def test_inspect_checks_both_and_adds_their_cost(adapter: Path, base: Path, data: Path) -> None:
    flags = ["--prefix-tokens", "8", "--suffix-tokens", "6", "--attacks", "none", "--device", "cpu"]
    done = CliRunner().invoke(
        app, ["inspect", str(adapter), str(data), "--reference", str(base), *flags]
    )
    assert done.exit_code == 0, done.output
    assert "Reference" in done.stdout
    assert "two, one after the other" in done.stdout
    bare = CliRunner().invoke(app, ["inspect", str(adapter), "--reference", str(base)])
    assert bare.exit_code == 0, bare.output
