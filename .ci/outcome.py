"""What `.ci/versions` found in each of its environments, side by side.

``python .ci/outcome.py FOLDER NAME...`` reads FOLDER/NAME, a virtual environment in which the
demonstration, the tests and perhaps the benchmark left demo.txt, tests.xml and bench.json. Exits
with 1 where a check or a test failed, or none ran.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from memaudit.system.environment import TESTED

LIBRARIES = ("python", "torch", "transformers", "peft", "tokenizers", "numpy")
LIST_VERSIONS = (
    "import json, memaudit.system.environment as e; print(json.dumps(e.describe_libraries()))"
)

Column = dict[str, str]
"""Of one environment: what was looked at, and what came of it."""


def versions(environment: Path) -> Column:
    """The installed versions of the libraries that decide figures."""
    python = environment / "bin" / "python"
    listed = subprocess.run([python, "-c", LIST_VERSIONS], capture_output=True, check=True)
    installed = json.loads(listed.stdout)
    return {library: installed[library] for library in LIBRARIES}


def demo_checks(environment: Path) -> Column:
    """How many of the demonstration's checks hold."""
    checks = re.findall(r"^(PASS|FAIL)\b", _text(environment / "demo.txt"), re.MULTILINE)
    return {"demo checks held": f"{checks.count('PASS')} of {len(checks)}"}


def test_counts(environment: Path) -> Column:
    """Tests that passed, failed and were skipped."""
    found = _text(environment / "tests.xml")
    suite = ElementTree.fromstring(found).find("testsuite") if found else None
    counts = {} if suite is None else suite.attrib
    total, skipped = int(counts.get("tests", 0)), int(counts.get("skipped", 0))
    failed = int(counts.get("failures", 0)) + int(counts.get("errors", 0))
    passed = total - failed - skipped
    return {"tests passed": f"{passed}", "failed": f"{failed}", "skipped": f"{skipped}"}


def bench_figures(environment: Path) -> Column:
    """Pace of extraction, also as a multiple of the fastest ``generate``."""
    found = _text(environment / "bench.json")
    if not found:
        return {}
    document = json.loads(found)
    column = {"decoding": document["target"]["choices"]["decoding"]["value"]}
    for table in document["tables"]:
        column[f"{table['title']}, windows/s"] = f"{table['ways'][0]['windows_per_second']:.1f}"
        ratios = [way["memaudit_is"] for way in table["ways"] if way["name"] == "generate"]
        if ratios := [ratio for ratio in ratios if ratio is not None]:
            column[f"{table['title']}, x best generate"] = f"{min(ratios):.2f}"
    return column


def main(folder: Path, names: list[str]) -> int:
    """Print the table; returns the exit code."""
    columns = [
        versions(folder / name)
        | demo_checks(folder / name)
        | test_counts(folder / name)
        | bench_figures(folder / name)
        for name in names
    ]
    rows = list(dict.fromkeys(row for column in columns for row in column))
    wide = max(map(len, rows))
    print(" " * wide, *(f"{name:>14}" for name in names))
    for row in rows:
        print(f"{row:{wide}}", *(f"{column.get(row, '-'):>14}" for column in columns))
    for line in untold(columns[-1]):
        print(line)
    return int(any(map(_has_failed, columns)))


def untold(newest: Column) -> Iterator[str]:
    """Where memaudit names another version as the newest tested than these environments have."""
    for library, tested in TESTED.items():
        here = newest[library].partition("+")[0]
        if here != tested:
            yield f"memaudit/environment.py: TESTED has {library} {tested}, this run had {here}"


def _has_failed(column: Column) -> bool:
    held, checks = column["demo checks held"].split(" of ")
    whole = held == checks != "0" and column["tests passed"] != "0"
    return not whole or column["failed"] != "0"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
