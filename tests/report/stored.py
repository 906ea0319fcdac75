"""A run folder made of a hand-built result: what a scan writes, without the model."""

from __future__ import annotations

from pathlib import Path

from memaudit.report.report_json import to_json
from memaudit.report.samples_csv import iter_csv
from memaudit.result import ScanResult


def store(folder: Path, result: ScanResult) -> Path:
    """Write the two files that are read back."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(to_json(result), encoding="utf-8")
    (folder / "samples.csv").write_text("".join(iter_csv(result)), encoding="utf-8", newline="")
    return folder
