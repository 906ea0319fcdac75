"""How many suffix tokens come out: extraction against the length of the suffix.

Knows how far each attack got in each window, as a finished run says it: greedy decoding returns
the first s tokens exactly when its first mismatch comes no earlier, so the run's own passes serve
every length at once. No model is asked, and no torch loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memaudit.diagnose.sweep.figures import (
    Piece,
    as_bools,
    thinned,
    with_few_bars,
)
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
"""Of a curve at most."""
_BARS = 8
"""Of them with an interval."""
_NAME = "suffix-length"


def reaches(matched: Floats, tokens: int) -> Bools:
    """Which windows (N,) come out for so many tokens, of how far each got (N,)."""
    return as_bools(matched >= tokens)


def sweep_suffixes(
    data: Part,
    controls: Part | None,
    suffix_tokens: int,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> Piece:
    """Share of windows that come out for s tokens, s from 1 to S, by every attack of the run."""
    shown = [s for s in _LENGTHS if s < suffix_tokens] + [suffix_tokens]
    table = FigureTable(
        name=_NAME,
        title="Suffix length",
        says=(
            "Share of windows whose first s suffix tokens come out in a row. No pass was made for "
            "it: how far each attack got stands in the run. Prompts were fitted for the whole "
            "suffix."
        ),
        columns=[Column("suffix tokens", "count"), *_columns(attacks, controls)],
        rows=[[s, *_cells(data, controls, attacks, s, resamples)] for s in shown],
    )
    plot = Plot(
        name=_NAME,
        title="Extraction against suffix length",
        says="Dotted: controls. The shorter the suffix, the more of it anybody could have guessed.",
        x=Axis("suffix tokens s"),
        y=Axis("share of windows", low=0.0),
        lines=_lines(data, controls, suffix_tokens, attacks, resamples),
    )
    return Piece(_findings(data, controls, suffix_tokens, resamples), (), [table], [plot])


def _columns(attacks: tuple[str, ...], controls: Part | None) -> list[Column]:
    named = [(attack, f"controls, {attack}") for attack in attacks]
    shown = [name for pair in named for name in pair[: 1 if controls is None else 2]]
    return [Column(name, "share") for name in shown]


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
    said = [f"{_rate(data, 'none', s, resamples).parts('share')[0]} for {s}" for s in some]
    tail = f", {', '.join(said)}" if said else ""
    first = f"Suffix length: the plain prefix extracts {whole} of the windows for all "
    sentences = [f"{first}{suffix_tokens} tokens{tail}."]
    if controls is not None:
        sentences.append(_of_controls(data, controls, suffix_tokens, resamples))
    ten = min(10, suffix_tokens)
    going = reaches(matched, ten)
    if ten < suffix_tokens and going.any():
        on = resamples.rate(reaches(matched[going], suffix_tokens), data.clusters[going])
        sentences.append(
            f"Of the {int(going.sum()):,} windows that come out for {ten} tokens, "
            f"{on:share} come out to the end."
        )
    return [" ".join(sentences)]


def _of_controls(data: Part, controls: Part, suffix_tokens: int, resamples: Resamples) -> str:
    most = int(controls.score("matched", "none").max())
    if most >= suffix_tokens:
        found = f"{_rate(controls, 'none', suffix_tokens, resamples):share}"
        return f"Of the controls {found} come out to the end as well."
    beyond, theirs = (_rate(part, "none", most + 1, resamples) for part in (data, controls))
    return (
        f"No control comes out for more than {most} tokens, which is their own longest "
        f"({theirs:share} of {len(controls):,} controls for {most + 1}); "
        f"{beyond:share} of the windows do."
    )
