"""A model that leaks, audited against one baseline while its data changes from week to week."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CORPUS
from quick_scan import QUICK, memaudit
from small_scan import MARKS, save_repeating_model

Records = list[dict[str, Any]]

LEAKED = 20
"""Records that come out, of 200."""


def records(count: int, leaked: int, seed: int = 1) -> Records:
    """The first of them go on as the model does."""
    rng = np.random.default_rng(seed)
    words = sorted(set(" ".join(CORPUS).split()))
    text = lambda number: " ".join(rng.choice(words, number))  # noqa: E731
    made: Records = []
    for number in range(count):
        mark = MARKS[number % len(MARKS)]
        suffix = mark * 12 if number < leaked else f" {text(8)}"
        made.append({"prefix": f"{text(8)} {mark}", "suffix": suffix})
    return made


def write(path: Path, lines: Records) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its data, a run and the baseline of it."""
    folder = tmp_path_factory.mktemp("weeks")
    save_repeating_model(folder / "model")
    data = write(folder / "data.jsonl", records(200, LEAKED))
    first = memaudit("scan", folder / "model", data, *QUICK, "--out", folder / "first")
    assert first.exit_code == 0, first.output
    written = memaudit("baseline", "write", folder / "first", "--out", folder / "base.json")
    assert f": {LEAKED} of 200 samples extracted" in written.stderr
    return folder


class Week:
    """A scan of other data against the baseline."""

    def __init__(self, folder: Path, out: Path, lines: Records, baseline: Path | None = None):
        self.run = out / "run"
        data = write(out / "data.jsonl", lines)
        since = ["--baseline", baseline or folder / "base.json", "--max-new", "0"]
        ended = memaudit("scan", folder / "model", data, *QUICK, *since, "--out", self.run)
        self.exit_code, self.stderr = ended.exit_code, ended.stderr
        if (self.run / "report.json").exists():
            report = json.loads((self.run / "report.json").read_text())
            (self.reason,) = [g["reason"] for g in report["gates"] if g["name"] == "max-new"]
            self.notes, self.counts = report["notes"], report["baseline"]
            verified = memaudit("verify", self.run)
            assert verified.exit_code == 0, verified.stdout


@pytest.mark.parametrize("gone", [0, 199])
def test_a_record_that_was_removed_is_no_failure(folder: Path, tmp_path: Path, gone: int) -> None:
    lines = records(200, LEAKED)
    del lines[gone]  # the first came out, the last did not
    week = Week(folder, tmp_path, lines)
    assert week.exit_code == 0, week.stderr
    before = " (1 of them extracted before)" if gone == 0 else ""
    assert (
        f"The data changed since the baseline: 0 samples added, 1 removed{before}, 199 in both."
    ) in week.notes
    assert week.reason == (
        "0 of 199 samples are newly extracted (0 of 199 in both, 0 of 0 added to the data; 1 "
        "removed), within the 0 allowed."
    )
    assert week.counts["extracted_only_baseline"] == (gone == 0)


@pytest.mark.parametrize(("leaked", "code"), [(0, 0), (1, 1)])
def test_an_added_record_is_counted_and_fails_only_if_it_leaks(
    folder: Path, tmp_path: Path, leaked: int, code: int
) -> None:
    # It stands first, so that no other keeps its line.
    week = Week(folder, tmp_path, [*records(1, leaked, seed=2), *records(200, LEAKED)])
    assert week.exit_code == code, week.stderr
    which = "more than" if leaked else "within"
    assert week.reason == (
        f"{leaked} of 201 samples are newly extracted (0 of 200 in both, {leaked} of 1 added to "
        f"the data; 0 removed), {which} the 0 allowed."
    )
    base = shutil.copy(folder / "base.json", tmp_path)
    updated = memaudit("baseline", "update", base, week.run)
    assert "1 sample added, 0 removed, 200 in both" in updated.stderr
    assert memaudit("compare", base, week.run, "--max-new", "0").exit_code == code
    assert memaudit("baseline", "update", base, week.run, "--allow-looser").exit_code == 0
    assert memaudit("compare", base, week.run, "--max-new", "0").exit_code == 0


@pytest.mark.parametrize(("leaked", "same"), [(LEAKED, 0), (0, 0), (0, 90)])
def test_records_that_were_mostly_reworded_pass_nothing(
    folder: Path, tmp_path: Path, leaked: int, same: int
) -> None:
    """By a letter each, before the end of the prefix; the last ones are as they were."""
    lines = records(200, LEAKED)[LEAKED - leaked :]
    for line in lines[: len(lines) - same]:
        line["prefix"] = f"{line['prefix'][:-2]}x{line['prefix'][-2:]}"
    week = Week(folder, tmp_path, lines)
    assert week.exit_code == 4
    assert (week.counts["both"], week.counts["newly_extracted"]) == (same, leaked)
    few = f"Only {same}" if same else "None"
    assert f"{few} of the baseline's 200 samples can be compared" in week.reason


def test_an_edited_baseline_is_refused_for_changed_data_too(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "base.json").read_text())
    document["fingerprints"][0] = "0" * 10
    edited = tmp_path / "base.json"
    edited.write_text(json.dumps(document))
    week = Week(folder, tmp_path, records(199, LEAKED), edited)
    assert week.exit_code == 2
    assert "extracted does not fit" in week.stderr or "its digest does not match" in week.stderr
