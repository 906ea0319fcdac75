"""Terminal view of a verification.

Knows Rich and findings. Text from the run folder goes through `neutral`.
"""

from __future__ import annotations

from collections import Counter

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.report.terminal import to_text
from memaudit.report.wording import neutral, shorten
from memaudit.run.verify import DIFFERS, Integrity, State

_COLOURS: dict[State, str] = {
    "changed": "bold red",
    "missing": "bold red",
    "extra": "bold yellow",
    "unproven": "bold yellow",
    "not checked": "bold yellow",
}
_LONGEST = 300


def render_integrity(integrity: Integrity, *, width: int, color: bool) -> str:
    """Render a summary sentence, the manifest's hash, and a line for each finding."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for state, what, detail in integrity.findings:
        word = Text(state, style=_COLOURS.get(state, ""))
        grid.add_row(word, _text(what), _text(detail))
    sentence = Text(_sentence(integrity), style="bold")
    manifest = Text(f"manifest.json {integrity.manifest_sha256}")
    parts: list[RenderableType] = [sentence, manifest, Text(), grid]
    return to_text(parts, width=max(width, 78), color=color)


def _sentence(integrity: Integrity) -> str:
    counted = Counter(finding.state for finding in integrity.findings)
    same, unchecked = counted["same"], integrity.unchecked
    if doubts := counted["unproven"] * (integrity.exit_code != 1):
        rest = f"; {unchecked} not checked" if unchecked else ""
        return f"Not proven: {doubts} of {same + unchecked + doubts}; {same} as recorded{rest}."
    if integrity.exit_code == 0 and unchecked:
        total = same + unchecked
        return f"Incomplete: {unchecked} of {total} not checked; {same} as recorded."
    if integrity.exit_code == 0:
        return f"All as recorded: {same} the same."
    rest = f"; {unchecked} not checked" if unchecked else ""
    wrong = ", ".join(f"{counted[state]} {state}" for state in DIFFERS if counted[state])
    return f"Not as recorded: {wrong}; {same} the same{rest}."


def _text(line: str) -> Text:
    return Text(shorten(neutral(line), _LONGEST))
