"""A run folder made of a hand-built result: what a scan writes, without the model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from made_result import KEY
from pydantic import ValidationError

from memaudit.config.sources import to_toml
from memaudit.data.project_key import ProjectKey
from memaudit.report.build import to_report
from memaudit.report.model import Report
from memaudit.report.page import to_html
from memaudit.report.result import ScanResult
from memaudit.report.tables import iter_samples, iter_windows
from memaudit.run.load import read_report
from memaudit.run.manifest import to_manifest
from memaudit.run.tables import read_windows


def store(folder: Path, result: ScanResult) -> Path:
    """Write the files that are read back, and the manifest of them, sealed by `KEY`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(to_report(result).text(), encoding="utf-8")
    for name, lines in (("samples", iter_samples(result)), ("windows", iter_windows(result))):
        (folder / f"{name}.csv").write_text("".join(lines), encoding="utf-8", newline="")
    return seal(folder, KEY if result.run.key_id == KEY.key_id else None)


def complete(folder: Path, result: ScanResult) -> Path:
    """Write the settings and the page as well."""
    store(folder, result)
    (folder / "config.toml").write_text(to_toml(result.config), encoding="utf-8")
    return remake(folder, KEY)


def remake(folder: Path, key: ProjectKey | None = None) -> Path:
    """Make page and manifest anew, as somebody who hides a change would, without the key."""
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    with suppress(ValidationError):  # of a report off its schema nobody can make a page
        page = to_html(Report.model_validate(document), read_windows(folder / "windows.csv"))
        (folder / "report.html").write_text(page, encoding="utf-8", newline="")
    return seal(folder, key)


def seal(folder: Path, key: ProjectKey | None = None) -> Path:
    """Write the manifest anew, as somebody who hides a change would."""
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "manifest.json").write_text(to_manifest(folder, key=key), encoding="utf-8")
    return folder


def read_back(result: ScanResult) -> tuple[Report, pd.DataFrame]:
    """The report and the windows as every format gets them: through files."""
    with tempfile.TemporaryDirectory() as folder:
        stored = store(Path(folder), result)
        return read_report(stored), read_windows(stored / "windows.csv")


def edited(report: Report, change: Callable[[dict[str, Any]], object]) -> Report:
    """The report after a change of its JSON that fits the schema."""
    document = report.document()
    change(document)
    return Report.model_validate(document)
