"""Render the checks for a terminal: a verdict, then one line each.

Knows checks and widths. Knows nothing of how checks are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from memaudit.demo.checks import Check
from memaudit.report.terminal import glue_units, to_text

_COLOURS = {True: "bold green", False: "bold red"}


def render_checks(checks: Sequence[Check], *, width: int, color: bool) -> str:
    """Render the verdict and a line for each check, for ``width`` columns."""
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(max_width=100)
    for check in checks:
        word = Text("PASS" if check.holds else "FAIL", style=_COLOURS[check.holds])
        table.add_row(word, Text(check.name), Text(glue_units(check.finding)))
    verdict = Text(conclude(checks), style="bold")
    return to_text((verdict, table), width=width, color=color)


def conclude(checks: Sequence[Check]) -> str:
    """State in a sentence whether this installation can be trusted."""
    failed = [check.name for check in checks if not check.holds]
    if not failed:
        return "The instrument works: it found what the model memorized, and nothing else."
    return f"Do not trust this installation: these checks failed: {', '.join(failed)}."
