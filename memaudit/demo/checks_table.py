"""Terminal view of the checks: a verdict, then a row for each.

Knows checks and blocks. Knows nothing of how checks are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from memaudit.demo.checks import Check
from memaudit.report.blocks import Head, Table, Text
from memaudit.report.terminal import render_blocks

_COLUMNS = (
    Head("Result", "text", style="verdict"),
    Head("Check", "text"),
    Head("Finding", "text", style="prose"),
)


def render_checks(checks: Sequence[Check], *, width: int, color: bool) -> str:
    """Render the verdict and a row for each check, for ``width`` columns."""
    rows = [("pass" if check.holds else "fail", check.name, check.finding) for check in checks]
    blocks = (Text([conclude(checks)], "lead"), Table("checks", "Checks", "", _COLUMNS, rows))
    return render_blocks(blocks, width=width, color=color)


def conclude(checks: Sequence[Check]) -> str:
    """State in a sentence whether this installation can be trusted."""
    failed = [check.name for check in checks if not check.holds]
    if not failed:
        return "The instrument works: it found what the model memorized, and nothing else."
    return f"Do not trust this installation: these checks failed: {', '.join(failed)}."
