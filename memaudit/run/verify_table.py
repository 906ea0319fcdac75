"""Terminal view of a verification.

Knows blocks and findings. Text from the run folder is shortened here and neutralised by the blocks.
"""

from __future__ import annotations

from collections import Counter

from memaudit.report.blocks import Head, Table, Text
from memaudit.report.terminal import render_blocks
from memaudit.run.verify import DIFFERS, Integrity
from memaudit.system.plain_text import neutral, shorten

_LONGEST = 300
_COLUMNS = (
    Head("State", "text", style="state"),
    Head("Compared", "text"),
    Head("Detail", "text", style="prose"),
)


def render_integrity(integrity: Integrity, *, width: int, color: bool) -> str:
    """Render a summary sentence, the manifest's hash, and a row for each finding."""
    rows = [
        tuple(shorten(neutral(cell), _LONGEST) for cell in finding)
        for finding in integrity.findings
    ]
    manifest = f"manifest.json {integrity.manifest_sha256}"
    blocks = (
        Text([_sentence(integrity), manifest], "lead"),
        Table("findings", "Findings", "", _COLUMNS, rows),
    )
    return render_blocks(blocks, width=width, color=color)


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
