"""Extraction against the length of the suffix.

Knows the matched suffix tokens of each window in a finished run. Greedy decoding returns the first
s tokens exactly when its first mismatch comes later, so the run's passes serve every length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.section import Section, heads
from memaudit.diagnose.subject import Part
from memaudit.diagnose.sweep.view import SHARE, View, thinned, with_few_bars
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.stats import Bools

_LENGTHS = (1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500)
"""Suffix lengths that the table shows, and S."""
_POINTS = 200
"""Most points of a curve."""
_BARS = 8
"""Points of a curve with an interval."""
_NAME = "suffix-length"


def _reaches(part: Part, attack: str, tokens: int) -> Bools:
    """Return a mask of windows (N,) with at least ``tokens`` matched suffix tokens."""
    return np.asarray(part.score("matched", attack) >= tokens)


def _rate(view: View, part: Part, attack: str, tokens: int) -> Estimate:
    return view.rate(part, _reaches(part, attack, tokens))


def sweep_suffixes(view: View, suffix_tokens: int, attacks: Sequence[str]) -> Section:
    """Return the share of windows with s tokens extracted, s from 1 to S, for every attack."""
    lengths = [s for s in _LENGTHS if s < suffix_tokens] + [suffix_tokens]
    columns = [
        (part, attack, attack if role == "data" else f"controls, {attack}")
        for attack in attacks
        for role, part in view.parts.items()
    ]
    names = [name for *_, name in columns]
    table = FigureTable(
        name=_NAME,
        title="Suffix length",
        says=(
            "Share of windows whose first s suffix tokens are all extracted. The figures come from "
            "the run; no further pass was made. Prompts were fitted for the whole suffix."
        ),
        columns=[*heads("count", "suffix tokens"), *heads("share", *names)],
        rows=[[s, *(_rate(view, part, attack, s) for part, attack, _ in columns)] for s in lengths],
    )
    plot = Plot(
        name=_NAME,
        title="Extraction against suffix length",
        says="Dotted: controls. Short suffixes are easier to guess.",
        x=Axis("suffix tokens s"),
        y=SHARE,
        lines=_lines(view, suffix_tokens, attacks),
    )
    return Section([_finding(view, suffix_tokens)], [], [table], [plot])


def _lines(view: View, suffix_tokens: int, attacks: Sequence[str]) -> list[Line]:
    at = thinned(range(1, suffix_tokens + 1), _POINTS)
    barred = {1, *thinned(at, _BARS)}
    lines = []
    for attack in attacks:
        line = Line.of(attack, attack, at, [_rate(view, view.data, attack, s) for s in at])
        lines.append(with_few_bars(line, [s in barred for s in at]))
        if view.controls is not None:
            y = [float(_reaches(view.controls, attack, s).mean()) for s in at]
            lines.append(Line(f"{attack}, controls", attack, at, y, dash=":"))
    return lines


def _finding(view: View, suffix_tokens: int) -> str:
    data = view.data
    some = sorted({min(s, suffix_tokens) for s in (5, 20)} - {suffix_tokens}, reverse=True)
    whole = f"{_rate(view, data, 'none', suffix_tokens):share}"
    rates = [f"{_rate(view, data, 'none', s).parts('share')[0]} for {s}" for s in some]
    tail = f", {', '.join(rates)}" if rates else ""
    first = f"Suffix length: the plain prefix extracts {whole} of the windows for all "
    sentences = [f"{first}{suffix_tokens} tokens{tail}."]
    if view.controls is not None:
        sentences.append(_controls_sentence(view, view.controls, suffix_tokens))
    ten = min(10, suffix_tokens)
    going = _reaches(data, "none", ten)
    if ten < suffix_tokens and going.any():
        on = _rate(view, data.take(going), "none", suffix_tokens)
        sentences.append(
            f"Of the {int(going.sum()):,} windows extracted for {ten} tokens, "
            f"{on:share} are extracted to the end."
        )
    return " ".join(sentences)


def _controls_sentence(view: View, controls: Part, suffix_tokens: int) -> str:
    longest = int(controls.score("matched", "none").max())
    if longest >= suffix_tokens:
        rate = f"{_rate(view, controls, 'none', suffix_tokens):share}"
        return f"Of the controls, {rate} are extracted to the end."
    data_rate, control_rate = (
        _rate(view, part, "none", longest + 1) for part in (view.data, controls)
    )
    return (
        f"No control is extracted for more than {longest} tokens "
        f"({control_rate:share} of {len(controls):,} controls for {longest + 1}); "
        f"{data_rate:share} of the windows are."
    )
