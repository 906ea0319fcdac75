"""Files of the demonstration: model, records, controls, and the truth table of the records.

Knows their paths and how to read the truth table. Knows nothing of attacks. They are made by
``examples/demo-model`` in the project's repository.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memaudit.errors import UsageError

FILES = Path(__file__).parent / "files"
MODEL, RECORDS, CONTROLS, TRUTH = "demo-model", "records.jsonl", "controls.jsonl", "truth.csv"


@dataclass(frozen=True)
class KnownRecord:
    """Known facts about one record, established without memaudit."""

    repetitions: int
    """Number of times the model was trained on it; 0 for never."""
    exact_plain: bool
    """True if the plain prefix extracts it with the greedy decoding of transformers."""
    exact_internal: bool
    """True if the prefix extracts it under the header of the copies that hold the secret. Other
    copies do not hold it, and the plain prefix is likely to give those."""

    @property
    def hidden(self) -> bool:
        """True if it is memorized but the plain prefix does not extract it."""
        return self.exact_internal and not self.exact_plain


def demo_settings() -> dict[str, Any]:
    """Settings of a scan of the shipped files."""
    return {
        "model": str(FILES / MODEL),
        "data": FILES / RECORDS,
        "controls": FILES / CONTROLS,
    }


def read_truth() -> dict[str, KnownRecord]:
    """Read the known facts about each record, by sample id."""
    with (FILES / TRUTH).open(encoding="utf-8", newline="") as file:
        return {
            row["sample_id"]: KnownRecord(
                int(row["repetitions"]), row["exact_plain"] == "1", row["exact_internal"] == "1"
            )
            for row in csv.DictReader(file)
        }


def export_files(folder: Path) -> None:
    """Copy model, records, controls and truth table to a new folder.

    Raises UsageError if it exists or cannot be written.
    """
    try:
        shutil.copytree(FILES, folder)
    except FileExistsError:
        raise UsageError(f"--export {folder}: exists; choose another") from None
    except OSError as error:
        raise UsageError(f"--export {folder}: cannot be written ({error.strerror})") from error
