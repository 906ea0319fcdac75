"""The roll-up by group: counts in the report, the table, and readers that count again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_result import make_result, make_windows, several_windows
from quick_scan import memaudit
from stored import remake, store

from memaudit.report.build import to_report
from memaudit.report.groups import group_rows
from memaudit.report.hashes import results_hash
from memaudit.report.result import ScanResult
from memaudit.report.terminal import render_blocks
from memaudit.sensitive.counting import Items, SensitiveContent

SECRET = "=Ann Secret"


def grouped(*names: str | None) -> ScanResult:
    """Seven samples of three windows, of which the first is template alone, in these groups."""
    windows = several_windows(make_windows(21))
    named = tuple(names[number] for number in windows.sample)
    made = make_result(
        data=replace(windows, group=named), hits={"none": 5, "copy": 21, "constant": 8}
    )
    items, nothing = np.zeros((21, 1), np.uint16), np.zeros((100, 1), np.uint16)
    items[[3, 20]] = 1
    content = Items(items, items[:7]), Items(nothing, nothing)
    return replace(made, sensitive=SensitiveContent({"phone": "a rule"}, {}, *content))


GROUPS = (SECRET, SECRET, "b", "c", "c", None, "d")


def test_groups_are_counted_by_their_samples() -> None:
    made = grouped(*GROUPS)
    by = {a.attack: a.samples.extracted for a in made.attacks}
    section = to_report(made).groups
    assert section is not None
    expected = {
        name: len({g for g, hit in zip(GROUPS, hits, strict=True) if hit and g})
        for name, hits in by.items()
    }
    assert expected["none"] < expected["constant"] < expected["copy"] == section.groups == 4
    assert dict(section.extracted_by) == expected
    assert section.extracted == expected["constant"]  # copy asks no model
    assert section.sensitive == {"phone": 1}
    (table,) = group_rows(to_report(made))
    shown = render_blocks([table], width=80, color=False)
    assert shown.startswith(f"Groups with at least one extracted sample: {section.extracted} of 4")
    assert "Secret" not in shown + json.dumps(to_report(made).document())


def test_data_without_groups_has_no_section() -> None:
    report = to_report(grouped(*[None] * 7))
    assert report.groups is None
    assert group_rows(report) == []


EDITS: dict[str, Any] = {
    "groups.extracted": lambda d: d["groups"].update(extracted=0),
    "groups.sensitive.phone": lambda d: d["groups"]["sensitive"].update(phone=0),
    "groups does not": lambda d: d.update(groups=None),
}


@pytest.mark.parametrize("figure", EDITS)
def test_an_edited_roll_up_is_refused(tmp_path: Path, figure: str) -> None:
    run = store(tmp_path / "run", grouped(*GROUPS))
    assert memaudit("report", run).exit_code == 0
    path = run / "report.json"
    document = json.loads(path.read_text())
    EDITS[figure](document)
    document["hashes"]["results"] = results_hash(document)
    path.write_text(json.dumps(document))
    remake(run)
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert figure in ended.stderr
