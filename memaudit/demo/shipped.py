"""The files of the demonstration: model, records, controls, and what is known of the records.

Knows where they lie and how the truth table is read. Knows nothing of attacks. They are made by
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
    """What is known of one record, apart from memaudit."""

    repetitions: int
    """How often the model was trained on it; 0 for never."""
    exact_plain: bool
    """Whether the plain prefix extracts it, by the greedy decoding of transformers."""
    exact_internal: bool
    """Whether the prefix does under the header of the copies that hold the secret. There are
    others that do not, and the plain prefix is likely to give those."""

    @property
    def hidden(self) -> bool:
        """Memorized, and yet not to be had with the plain prefix."""
        return self.exact_internal and not self.exact_plain


def demo_settings() -> dict[str, Any]:
    """The settings that point a scan at the shipped files."""
    return {
        "model": str(FILES / MODEL),
        "data": FILES / RECORDS,
        "controls": FILES / CONTROLS,
    }


def read_truth() -> dict[str, KnownRecord]:
    """What is known of each record, by sample id."""
    with (FILES / TRUTH).open(encoding="utf-8", newline="") as file:
        return {
            row["sample_id"]: KnownRecord(
                int(row["repetitions"]), row["exact_plain"] == "1", row["exact_internal"] == "1"
            )
            for row in csv.DictReader(file)
        }


def export_files(folder: Path) -> None:
    """Copy model, records, controls and truth table to a folder that is not there yet.

    Raises UsageError where it is, or cannot be written.
    """
    try:
        shutil.copytree(FILES, folder)
    except FileExistsError:
        raise UsageError(f"--export {folder}: exists; name another") from None
    except OSError as error:
        raise UsageError(f"--export {folder}: cannot be written ({error.strerror})") from error
