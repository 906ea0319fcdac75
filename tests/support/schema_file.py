"""The JSON schema that the package holds, made from the report's model.

Run as a program it writes the file: ``python tests/support/schema_file.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from memaudit.report.schema import schema

FILE = Path(__file__).parents[2] / "memaudit" / "report" / "report.schema.json"


def schema_text() -> str:
    """Return the content of the file."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
