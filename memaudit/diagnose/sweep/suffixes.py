"""Extraction against the length of the suffix.

Knows the matched suffix tokens of each window in a finished run. Greedy decoding returns the first
s tokens exactly when its first mismatch comes later, so the run's passes serve every length. Asks
no model and loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memaudit.diagnose.sweep.figures import Piece, as_bools, thinned, with_few_bars
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats

if TYPE_CHECKING:  # it loads torch
    from memaudit.diagnose.subject import Part

_LENGTHS = (1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500)
"""Suffix lengths that the table shows, and S."""
_POINTS = 200
"""Most points of a curve."""
_BARS = 8
"""Points of a curve with an interval."""
_NAME = "suffix-length"


def reaches(matched: Floats, tokens: int) -> Bools:
    """Return a mask of windows (N,) with at least ``tokens`` matched suffix tokens."""
    return as_bools(matched >= tokens)


def sweep_suffixes(
    data: Part,
    controls: Part | None,
    suffix_tokens: int,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> Piece:
    """Return the share of windows with s tokens extracted, s from 1 to S, for every attack."""
    lengths = [s for s in _LENGTHS if s < suffix_tokens] + [suffix_tokens]
    table = FigureTable(
        name=_NAME,
        title="Suffix length",
        says=(
            "Share of windows whose first s suffix tokens are all extracted. The figures come from "
            "the run; no further pass was made. Prompts were fitted for the whole suffix."
        ),
        columns=[Column("suffix tokens", "count"), *_columns(attacks, controls)],
        rows=[[s, *_cells(data, controls, attacks, s, resamples)] for s in lengths],
    )
    plot = Plot(
        name=_NAME,
        title="Extraction against suffix length",
        says="Dotted: controls. Short suffixes are easier to guess.",
        x=Axis("suffix tokens s"),
        y=Axis("share of windows", low=0.0),
        lines=_lines(data, controls, suffix_tokens, attacks, resamples),
    )
    return Piece(_findings(data, controls, suffix_tokens, resamples), (), [table], [plot])


def _columns(attacks: tuple[str, ...], controls: Part | None) -> list[Column]:
    named = [(attack, f"controls, {attack}") for attack in attacks]
    names = [name for pair in named for name in pair[: 1 if controls is None else 2]]
    return [Column(name, "share") for name in names]


def _cells(
    data: Part, controls: Part | None, attacks: tuple[str, ...], tokens: int, resamples: Resamples
) -> list[Cell]:
    parts = [part for part in (data, controls) if part is not None]
    return [_rate(part, attack, tokens, resamples) for attack in attacks for part in parts]


def _rate(part: Part, attack: str, tokens: int, resamples: Resamples) -> Estimate:
    return resamples.rate(reaches(part.score("matched", attack), tokens), part.clusters)


def _lines(
    data: Part,
    controls: Part | None,
    suffix_tokens: int,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> list[Line]:
    at = thinned(range(1, suffix_tokens + 1), _POINTS)
    barred = {1, *thinned(at, _BARS)}
    lines = []
    for attack in attacks:
        rates = [_rate(data, attack, s, resamples) for s in at]
        line = Line.of(attack, attack, at, rates)
        lines.append(with_few_bars(line, [s in barred for s in at]))
        if controls is not None:
            matched = controls.score("matched", attack)
            y = [float(reaches(matched, s).mean()) for s in at]
            lines.append(Line(f"{attack}, controls", attack, at, y, dash=":"))
    return lines


def _findings(
    data: Part, controls: Part | None, suffix_tokens: int, resamples: Resamples
) -> list[str]:
    matched = data.score("matched", "none")
    some = sorted({min(s, suffix_tokens) for s in (5, 20)} - {suffix_tokens}, reverse=True)
    whole = f"{_rate(data, 'none', suffix_tokens, resamples):share}"
    rates = [f"{_rate(data, 'none', s, resamples).parts('share')[0]} for {s}" for s in some]
    tail = f", {', '.join(rates)}" if rates else ""
    first = f"Suffix length: the plain prefix extracts {whole} of the windows for all "
    sentences = [f"{first}{suffix_tokens} tokens{tail}."]
    if controls is not None:
        sentences.append(_controls_sentence(data, controls, suffix_tokens, resamples))
    ten = min(10, suffix_tokens)
    going = reaches(matched, ten)
    if ten < suffix_tokens and going.any():
        on = resamples.rate(reaches(matched[going], suffix_tokens), data.clusters[going])
        sentences.append(
            f"Of the {int(going.sum()):,} windows extracted for {ten} tokens, "
            f"{on:share} are extracted to the end."
        )
    return [" ".join(sentences)]


def _controls_sentence(data: Part, controls: Part, suffix_tokens: int, resamples: Resamples) -> str:
    longest = int(controls.score("matched", "none").max())
    if longest >= suffix_tokens:
        rate = f"{_rate(controls, 'none', suffix_tokens, resamples):share}"
        return f"Of the controls, {rate} are extracted to the end."
    data_rate, control_rate = (
        _rate(part, "none", longest + 1, resamples) for part in (data, controls)
    )
    return (
        f"No control is extracted for more than {longest} tokens "
        f"({control_rate:share} of {len(controls):,} controls for {longest + 1}); "
        f"{data_rate:share} of the windows are."
    )
