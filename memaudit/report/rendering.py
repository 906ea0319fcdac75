"""Rich renderables as plain text of a given width, for every terminal report.

Knows Rich. Knows nothing of the content, and writes to no stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.report.wording import neutral, no_commands

PROSE_WIDTH = 100
"""Widest line of prose, in columns: longer ones are hard to read."""
GLUE = "\ue000"
"""Placeholder for a non-breaking space, which ``neutral`` never lets through."""


def glue_units(line: str) -> str:
    """Put GLUE between figures and their units."""
    return line.replace(" %", f"{GLUE}%").replace(" = ", f"{GLUE}={GLUE}")


def harmless(line: str, style: str = "") -> Text:
    """Return any text as one harmless line with figures kept beside their units."""
    return Text(glue_units(neutral(line)), style=style, overflow="fold")


def prose(*lines: Text) -> Table:
    """Return lines below each other, none wider than PROSE_WIDTH."""
    grid = Table.grid()
    grid.add_column(max_width=PROSE_WIDTH)
    for line in lines:
        grid.add_row(line)
    return grid


def titled_table(title: str = "") -> Table:
    """Return an empty table with a bold title on the left and a rule below its head."""
    return Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )


def to_text(parts: Iterable[RenderableType], *, width: int, color: bool) -> str:
    """Render the parts below each other, with no space at line ends."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        force_jupyter=False,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    lines = capture.get().replace(GLUE, " ").splitlines()
    return no_commands("\n".join(line.rstrip() for line in lines) + "\n")
