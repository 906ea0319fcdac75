"""The checks as a terminal shows them: a verdict, one line each.

Knows checks and widths. Knows nothing of how they are judged.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from memaudit.demo.checks import Check
from memaudit.report.wording import GLUE, glue_units

_COLOURS = {True: "bold green", False: "bold red"}


def render_checks(checks: Sequence[Check], *, width: int, color: bool) -> str:
    """A sentence and a line for each check, for ``width`` columns."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        no_color=not color,
        highlight=False,
    )
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(max_width=100)
    for check in checks:
        word = Text("PASS" if check.holds else "FAIL", style=_COLOURS[check.holds])
        table.add_row(word, Text(check.name), Text(glue_units(check.finding)))
    with console.capture() as capture:
        console.print(Text(conclude(checks), style="bold"))
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().replace(GLUE, " ").splitlines()) + "\n"


def conclude(checks: Sequence[Check]) -> str:
    """Whether the instrument can be trusted here, in a sentence."""
    failed = [check.name for check in checks if not check.holds]
    if not failed:
        return "The instrument works here: it found what is there, and nothing else."
    return f"Do not trust this installation: {', '.join(failed)} came out wrong."
