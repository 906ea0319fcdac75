"""The demonstration, and that it notices when the instrument is broken.

Each sabotage is done to the scan itself, through the shipped files and the demo's own profile.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.config.sources import Layer, load_profile, resolve
from memaudit.data.folds import Fold
from memaudit.demo import shipped
from memaudit.demo.checks import Check, judge_instrument
from memaudit.demo.checks_table import conclude, render_checks
from memaudit.demo.shipped import demo_settings, export_files, read_truth
from memaudit.errors import UsageError
from memaudit.pipeline.scan import scan
from memaudit.progress import Silent


def run_demo(**changed: Any) -> dict[str, Check]:
    """The checks of a demo with some settings changed."""
    flags = Layer(source="flag", values={**demo_settings(), **changed})
    outcome = scan(resolve([load_profile("demo"), flags]), "memaudit demo", Silent())
    marks = [fold.marks for fold in outcome.prompts]
    return {check.name: check for check in judge_instrument(outcome.result, marks, read_truth())}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.holds}


def read_records(name: str) -> list[dict[str, Any]]:
    lines = (shipped.FILES / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_shipped_model_passes_every_check() -> None:
    checks = run_demo()
    assert not failed(checks), checks


def test_windows_scored_by_the_prompt_that_they_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    import memaudit.data.plan as plan

    make_folds: Callable[..., tuple[Fold, ...]] = plan.make_folds

    def leaky(*arguments: Any) -> tuple[Fold, ...]:
        return tuple(
            Fold(
                fit=np.sort(np.concatenate([fold.fit, fold.audit])),
                select=fold.select,
                audit=fold.audit,
            )
            for fold in make_folds(*arguments)
        )

    monkeypatch.setattr(plan, "make_folds", leaky)
    checks = run_demo(attacks=["none", "copy", "dynamic"])
    assert failed(checks) == {"folds"}


def test_near_duplicates_on_both_sides_of_the_split() -> None:
    checks = run_demo(protocol={"split": "random"}, attacks=["none", "copy", "dynamic"])
    assert failed(checks) == {"folds", "copy"}


def test_controls_that_the_model_was_trained_on(tmp_path: Path) -> None:
    trained = [record for record in read_records(shipped.RECORDS) if record["repetitions"] >= 32]
    controls = write_records(tmp_path / "controls.jsonl", trained)
    assert failed(run_demo(controls=controls, attacks=["none", "copy", "dynamic"])) >= {"controls"}


def test_a_model_that_was_never_trained(tmp_path: Path) -> None:
    export_files(tmp_path / "demo")
    model = tmp_path / "demo" / shipped.MODEL
    rng = torch.Generator().manual_seed(0)
    weights = load_file(model / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:
            weights[name] = 0.02 * torch.randn(weight.shape, generator=rng).to(weight.dtype)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    checks = run_demo(model=str(model), attacks=["none", "copy", "dynamic"])
    assert {"repetitions", "hidden memory"} <= failed(checks)


def test_suffixes_that_belong_to_other_records(tmp_path: Path) -> None:
    records = read_records(shipped.RECORDS)
    suffixes = [record["suffix"] for record in records]
    random.Random(0).shuffle(suffixes)
    mixed = [{**r, "suffix": suffix} for r, suffix in zip(records, suffixes, strict=True)]
    data = write_records(tmp_path / "records.jsonl", mixed)
    checks = run_demo(data=data, attacks=["none", "copy", "dynamic"])
    assert {"plain prefix", "repetitions", "hidden memory"} <= failed(checks)


def test_the_truth_table_knows_every_record_and_repetitions_are_graded() -> None:
    truth, records = read_truth(), read_records(shipped.RECORDS)
    assert {r["id"]: r["repetitions"] for r in records} == {
        name: known.repetitions for name, known in truth.items()
    }
    assert {known.repetitions for known in truth.values()} == {0, 1, 2, 4, 8, 16, 32, 64}
    assert any(known.hidden for known in truth.values())
    controls = read_records(shipped.CONTROLS)
    assert not {r["suffix"] for r in controls} & {r["suffix"] for r in records}


def test_export_writes_everything_and_never_over_something(tmp_path: Path) -> None:
    export_files(tmp_path / "demo")
    for name in (shipped.RECORDS, shipped.CONTROLS, shipped.TRUTH):
        assert (tmp_path / "demo" / name).read_bytes() == (shipped.FILES / name).read_bytes()
    assert (tmp_path / "demo" / shipped.MODEL / "model.safetensors").is_file()
    with (tmp_path / "demo" / shipped.TRUTH).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(read_truth())
    with pytest.raises(UsageError, match="--export"):
        export_files(tmp_path / "demo")


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 4)])
def test_the_command_exits_by_the_checks(
    holds: bool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[Any] = []

    def run_scan(order: Any, *_: Any) -> Any:
        scanned.append(order.resolved.config)
        return SimpleNamespace(result=None, prompts=())

    checks = (Check("copy", holds, "Nothing."),)
    monkeypatch.setattr("memaudit.cli.demo.run_scan", run_scan)
    monkeypatch.setattr("memaudit.demo.checks.judge_instrument", lambda *_: checks)
    result = CliRunner().invoke(app, ["demo", "--seed", "3", "--reveal", "--out", "here"])
    assert result.exit_code == code
    assert ("The instrument works" in result.stdout) is holds
    (config,) = scanned
    assert (config.protocol.seed, config.reveal, config.out) == (3, True, Path("here"))
    assert config.windows.suffix_tokens == 16
    assert Path(config.model) == shipped.FILES / shipped.MODEL


UNHEARD = """
import sys
from types import SimpleNamespace
from memaudit.cli import demo
from memaudit.cli.app import main
from memaudit.demo import checks
demo.run_scan = lambda *_: SimpleNamespace(result=None, prompts=())
checks.judge_instrument = lambda *_: [checks.Check("copy", {holds}, "Nothing.")]
sys.argv = ["memaudit", "demo"]
main()
"""


@pytest.mark.parametrize(("holds", "code"), [(True, 0), (False, 4)])
def test_a_reader_that_went_away_changes_no_judgement(holds: bool, code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    script = [sys.executable, "-c", UNHEARD.format(holds=holds)]
    done = subprocess.run(script, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (code, "")


def test_the_command_exports_instead_of_scanning(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert CliRunner().invoke(app, ["demo", "--export", str(folder)]).exit_code == 0
    assert (folder / shipped.TRUTH).is_file()
    again = CliRunner().invoke(app, ["demo", "--export", str(folder)])
    assert again.exit_code == 2
    assert "--export" in again.stderr


def test_a_check_that_fails_is_named_and_a_passing_set_is_praised() -> None:
    good, bad = Check("copy", True, "Nothing."), Check("controls", False, "3 hits.")
    assert conclude([good]) == (
        "The instrument works: it found what the model memorized, and nothing else."
    )
    assert render_checks([good, bad], width=80, color=False) == (
        "Do not trust this installation: these checks failed: controls.\n\n"
        "Checks\n"
        "Result  Check     Finding\n"
        "──────────────────────────\n"
        "PASS    copy      Nothing.\n"
        "FAIL    controls  3 hits.\n"
    )
    units = Check("copy", True, f"{'x' * 62} 0 % of it")
    assert "\n" + " " * 15 + "0 % of it" in render_checks([units], width=79, color=False)
    assert "\x1b[" in render_checks([good, bad], width=80, color=True)
