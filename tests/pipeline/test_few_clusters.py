"""Data with too few clusters for folds: what needs none runs, and the run is inconclusive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer, save_model
from quick_scan import memaudit
from scanned import make_texts, write_samples

from memaudit.report.gate_reading import gates_fault
from memaudit.report.reading import verdict
from memaudit.report.recompute import settings_fault
from memaudit.run.load import load_run, read_run

FLAGS = [
    *("--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"),
    *("--set", "scores.bootstrap=100", "--set", "protocol.cluster_run=8"),
]
WHY = (
    "copy, constant and dynamic cannot run: the data has 3 clusters of near-duplicates, and 2 "
    "folds need at least 4; give at least 1 more record that is no near-duplicate."
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model, and three records of which one is there twice."""
    folder = tmp_path_factory.mktemp("files")
    save_model(build_model("gpt2"), build_tokenizer(), folder / "model")
    texts = make_texts(3, seed=5)
    data = write_samples(folder / "data.jsonl", [*texts, texts[0]])
    return [str(folder / "model"), str(data), *FLAGS]


@pytest.fixture(scope="module")
def run(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    ended = memaudit("scan", *files, "--max-exact", "0.9", "--out", folder)
    assert ended.exit_code == 4, ended.output
    assert ended.stderr.count(WHY) == 1
    assert "Could not run, for lack of folds: copy, constant, dynamic." in ended.stdout
    assert "none: none possible" in ended.stdout
    return folder


def test_what_needs_no_folds_runs_and_the_rest_is_named(run: Path) -> None:
    report = read_run(run).report
    assert [attack.attack for attack in report.attacks] == ["none", "dynamic-hard"]
    assert report.attacks_not_run == ("copy", "constant", "dynamic")
    assert report.headline[0] == report.notes[0] == WHY
    gates = {gate.name: gate for gate in report.gates}
    assert gates["max-exact"].verdict == "pass"  # of what ran; the run still does not pass
    assert (gates["attacks"].verdict, gates["attacks"].reason) == ("inconclusive", WHY)
    assert verdict(report) == ("inconclusive", f"This run is inconclusive on attacks: {WHY}")


def test_attacks_that_could_have_run_cannot_be_taken_out(run: Path) -> None:
    report = load_run(run).report
    assert settings_fault(report) is None
    more = report.data.clusters.model_copy(update={"count": 4})
    enough = report.model_copy(update={"data": report.data.model_copy(update={"clusters": more})})
    assert settings_fault(enough) == "the attacks are not those of the settings"


def test_the_verdict_cannot_be_taken_out(run: Path) -> None:
    report = load_run(run).report
    kept = tuple(gate for gate in report.gates if gate.name != "attacks")
    passing = report.model_copy(update={"gates": kept, "exit_code": 0})
    assert gates_fault(passing) == "gate attacks is missing"


def test_no_baseline_is_made_of_it(run: Path) -> None:
    ended = memaudit("baseline", "write", run)
    assert ended.exit_code == 2
    assert "constant, dynamic could not run" in ended.stderr
    assert "--attacks none,dynamic-hard" in ended.stderr


def test_shards_and_their_merge_agree(files: list[str], run: Path, tmp_path: Path) -> None:
    shards = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(shards, start=1):
        words = [*files, "--max-exact", "0.9", "--shard", f"{number}/2", "--out", folder]
        ended = memaudit("scan", *words)
        assert ended.exit_code == 0, ended.output
        assert WHY in ended.stderr
        assert f"extracts in this share, {number}/2, " in ended.stderr
    merged = tmp_path / "merged"
    ended = memaudit("merge", *shards, "--out", merged)
    assert ended.exit_code == 4, ended.output
    same = [json.loads((folder / "report.json").read_text()) for folder in (run, merged)]
    assert same[0]["attacks"] == same[1]["attacks"]
    assert same[0]["gates"] == same[1]["gates"]


@pytest.mark.parametrize("attacks", ["copy", "dynamic,constant"])
def test_nothing_left_to_run_is_refused(files: list[str], tmp_path: Path, attacks: str) -> None:
    ended = memaudit("scan", *files, "--attacks", attacks, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "the data has 3 clusters of near-duplicates, and 2 folds need at least 4" in ended.stderr
