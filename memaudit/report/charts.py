"""Plots of the page, each with its figures as a table for those who cannot see it.

Knows the report, the windows, what is worth plotting, and how a column of the data falls into
groups. Knows nothing of markup. Names and values of columns come from outside, so they appear in
tables, which the page escapes, and never in a plot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from memaudit.config.settings import attack_label
from memaudit.report.blocks import Head, Table
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import FigureTable
from memaudit.report.model import Report
from memaudit.report.model_parts import AnyAttack, Attack, Fit, Rate
from memaudit.report.plots import Estimate, Spread, interval_plot, line_plot
from memaudit.report.reading import (
    column,
    confidence,
    controls_rate,
    figures,
    interval_text,
    ladder_rows,
    model_attacks,
    passed_through,
    rate_text,
    scored,
    setting,
    strongest,
)
from memaudit.report.wording import level, percent_interval, shorten
from memaudit.score.estimate import number, percent
from memaudit.score.sampling import queries
from memaudit.score.stats import Bools, Floats, Interval, clopper_pearson

_HALF = 0.5
_PROBABILITIES = (0.1, 0.5, 0.9, 0.99)
_DASHES = (":", "-", "--", "-.")
_BUDGETS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
"""Numbers of samples from the model."""
_LONGEST_SUFFIX = 10_000
"""Tokens; a report may claim any length, and a plot has only so many dots."""
_FARTHEST = 1e6
"""Largest epoch, and largest loss in nats/token, to plot."""
_MOST_CURVES = 8
"""Folds whose training is plotted."""
MOST_CARDS = 6
_MOST_NUMBERS = 12
"""Distinct numbers with a group each; more are binned into `_BINS` ranges of equal counts."""
_BINS = 8
_MOST_WORDS = 30
"""Distinct texts with a group each; a column with more identifies samples, not groups."""
_LONGEST_NAME = 80
_MARKERS = {"none": "o", "dynamic-hard": "^", "constant": "s", "dynamic": "D"}


@dataclass(frozen=True)
class Card:
    """A plot with its figures."""

    table: FigureTable
    """Figures, with the title and the caption of the plot."""
    plot: str
    """SVG; empty if there is nothing to plot."""


def _card(
    name: str,
    title: str,
    caption: str,
    plot: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Card:
    """Return a card whose first column names the rows."""
    heads = [Head(text, "number" if place else "text") for place, text in enumerate(head)]
    return Card(Table(name, title, caption, heads, rows), plot)


def rates_card(report: Report) -> Card:
    """Return the rate of every attack with its interval, on data and controls."""
    attacks = ladder_rows(report)
    on_controls = [controls_rate(attack) for attack in attacks]
    on_data = [attack.extracted for attack in attacks]
    spreads = [Spread("data", _estimates(on_data, attacks), "o", False)]
    if any(on_controls):
        spreads.append(Spread("controls", _estimates(on_controls, attacks), "s", True))
    highest = max((point.high for spread in spreads for point in spread.estimates), default=100.0)
    names = [attack_label(attack.attack) for attack in attacks]
    axis = Axis("samples extracted, %", low=0, high=max(1.0, min(100.0, 1.05 * highest)))
    rows = [
        [attack_label(attack.attack), *_rate_cells(attack.extracted), *_rate_cells(rate)]
        for attack, rate in zip(attacks, on_controls, strict=True)
    ]
    return _card(
        "rates",
        "How much is extracted",
        "Share of samples from which each attack extracts a window word for word, with the outer "
        "ends of the exact and clustered intervals. Controls are text that the model has not seen.",
        interval_plot("rates", names, spreads, axis) if names else "",
        ["attack", "data", "interval", "controls", "interval"],
        rows,
    )


def _estimates(
    rates: Sequence[Rate | None], attacks: Sequence[Attack | AnyAttack]
) -> list[Estimate]:
    """Return the rates in percent, with the ends of their intervals within 0 and 100."""
    estimates = []
    for row, (rate, attack) in enumerate(zip(rates, attacks, strict=True)):
        if rate is not None and rate.n and not math.isnan(rate.estimate):
            low, high = (100 * min(max(0.0, end), 1.0) for end in rate.interval.ends)
            estimates.append(Estimate(row, attack.attack, 100 * rate.estimate, low, high))
    return estimates


def _rate_cells(rate: Rate | None) -> list[str]:
    if rate is None:
        return ["", ""]
    counted = f"{rate.k:,} of {rate.n:,}"
    return [f"{counted} ({rate_text(rate)})", interval_text(rate.interval)]


def matched_card(report: Report, windows: pd.DataFrame) -> Card:
    """Return how many tokens of a suffix are extracted before the first wrong one."""
    length = min(max(1, report.data.suffix_tokens), _LONGEST_SUFFIX)
    grid = sorted({1, *(round(length * share) for share in (0.1, 0.25, 0.5, 0.75, 1.0))} - {0})
    lines, rows = [], []
    for attack, role, matched in _by_attack(report, windows, "matched"):
        share = _at_least(matched, length)  # (length,), for 1 token and more
        lines.append(_line(attack, role, range(1, length + 1), 100 * share))
        rows.append([_named(attack, role), *(percent(share[at - 1]) for at in grid)])
    x = Axis("tokens of the suffix", low=0, high=length)
    return _card(
        "matched",
        "How far extraction gets",
        "Share of windows with at least this many tokens extracted before the first wrong one. A "
        "curve that stays high to its right end is text the model knows by heart; one that falls "
        "at "
        "once is text it only guesses.",
        line_plot("matched", lines, x, Axis("windows, %", low=0)) if lines else "",
        ["tokens", *map(str, grid)],
        rows,
    )


def _at_least(matched: Floats, length: int) -> Floats:
    """Return the share of windows with at least 1, 2, ... ``length`` tokens matched: (length,)."""
    counted = np.bincount(np.clip(matched, 0, length).astype(np.int64), minlength=length + 1)
    return np.asarray(counted[::-1].cumsum()[::-1][1:] / max(1, len(matched)))


def sampling_cards(report: Report, windows: pd.DataFrame) -> Iterator[Card]:
    """Yield the (n,p) curves: samples needed to extract a window at least once."""
    top_k, temperature = (setting(report, "scores", name) for name in ("top_k", "temperature"))
    sampler = f"from the {top_k} likeliest tokens, at temperature {temperature}"
    shares = [
        (_named(attack, role), attack, role, _within(queries(log_p_z, _HALF)))
        for attack, role, log_p_z in _by_attack(report, windows, "log_p_z")
        if not np.isnan(log_p_z).all()
    ]
    yield _sampling_card(
        "sampling",
        "How much sampling extracts",
        "Share of windows that n samples each extract at least once with a probability of one half "
        f"({sampler}): what an attacker gets by asking again and again.",
        [(name, _line(attack, role, *share), share) for name, attack, role, share in shares],
    )
    best = strongest(report)
    if best is None:
        return
    log_p_z = figures(scored(windows, "data"), column("log_p_z", best.attack))
    if not len(log_p_z) or np.isnan(log_p_z).all():
        return
    curves = []
    for p, dash in zip(_PROBABILITIES, _DASHES, strict=True):
        share = _within(queries(log_p_z, p))
        name = f"p = {p:g}"
        curves.append(
            (
                name,
                Line(name, best.attack, list(share[0]), list(share[1]), dash=dash, step=True),
                share,
            )
        )
    yield _sampling_card(
        "certainty",
        "How sure an attacker can be",
        f"The same for {attack_label(best.attack)} alone, at several probabilities p of seeing the "
        "suffix.",
        curves,
    )


def _sampling_card(
    name: str, title: str, caption: str, curves: list[tuple[str, Line, tuple[Floats, Floats]]]
) -> Card:
    powers = [10**power for power in range(7)]
    x = Axis("samples n", True, powers, [f"{power:,}" for power in powers], 1, _BUDGETS[-1])
    y = Axis("windows, %", low=0)
    rows = [
        [label, *(percent(_share_at(share, n)) for n in _BUDGETS)] for label, _, share in curves
    ]
    plot = line_plot(name, [line for _, line, _ in curves], x, y) if curves else ""
    return _card(name, title, caption, plot, ["samples", *(f"{n:,}" for n in _BUDGETS)], rows)


def _within(needed: Floats) -> tuple[Floats, Floats]:
    """Return numbers of samples, and the share of windows in % that need no more."""
    budgets = np.unique(np.rint(np.logspace(0, 6, 61)))
    known = np.sort(needed[~np.isnan(needed)])
    share = np.searchsorted(known, budgets, side="right") / max(1, len(needed))
    return budgets, np.asarray(100 * share)


def _share_at(share: tuple[Floats, Floats], n: int) -> float:
    return float(share[1][np.searchsorted(share[0], n, side="right") - 1]) / 100


def training_cards(report: Report) -> Iterator[Card]:
    """Yield the training curves of each fitted prompt, by fold."""
    for attack in report.attacks:
        if not attack.fits:
            continue
        name = attack.attack
        lines = [line for fit in attack.fits[:_MOST_CURVES] for line in _curves(name, fit)]
        rows = [_fit_row(fit) for fit in attack.fits]
        left = len(attack.fits) - _MOST_CURVES
        more = f" Only the first {_MOST_CURVES} folds are plotted." if left > 0 else ""
        yield _card(
            f"training-{name}",
            f"How {name} was fitted",
            "Loss on the fit windows and NLL on the select windows, which decide the epoch, in "
            f"nats/token, one line per fold; the dot marks the chosen epoch.{more}",
            line_plot(f"training-{name}", lines, _epochs(lines), Axis("nats/token"), 2),
            ["fold", "trained on", "chosen", "epochs", "NLL before", "NLL best", "stopped because"],
            rows,
        )


def _epochs(lines: Sequence[Line]) -> Axis:
    """Return an axis with about eight whole numbers."""
    last = int(max((x for line in lines for x in line.x if not math.isnan(x)), default=0))
    return Axis("epoch", ticks=range(0, last + 1, max(1, round(last / 8))))


def _curves(attack: str, fit: Fit) -> Iterator[Line]:
    epochs = fit.epochs
    number_of = [_plottable(epoch.epoch) for epoch in epochs]
    loss = [_plottable(epoch.loss) for epoch in epochs]
    nll = [_plottable(epoch.select_nll) for epoch in epochs]
    yield Line("loss, fit", attack, number_of, loss, dash="--")
    yield Line("NLL, select", attack, number_of, nll)
    if fit.chosen_epoch in number_of:
        place = number_of.index(fit.chosen_epoch)
        yield Line("chosen", attack, [number_of[place]], [nll[place]], dash="", marker="o")


def _plottable(value: float) -> float:
    return value if abs(value) <= _FARTHEST else math.nan


def _fit_row(fit: Fit) -> list[str]:
    nll = [epoch.select_nll for epoch in fit.epochs]
    known = [value for value in nll if not math.isnan(value)]
    first = number(nll[0], 3) if nll else "-"
    best = number(min(known), 3) if known else "-"
    cells = [str(fit.fold), f"{fit.fit_windows:,}", fit.chosen]
    return [*cells, str(max(0, len(nll) - 1)), first, best, fit.stop_reason]


def _by_attack(
    report: Report, windows: pd.DataFrame, score: str
) -> Iterator[tuple[str, str, Floats]]:
    """Yield attack on the model, role and the role's scores, where there are any."""
    for role in ("data", "control"):
        rows = scored(windows, role)
        for attack in model_attacks(report):
            values = figures(rows, column(score, attack.attack))
            known = values if score == "log_p_z" else values[~np.isnan(values)]
            if len(known):
                yield attack.attack, role, known


def _named(attack: str, role: str) -> str:
    label = attack_label(attack)
    return label if role == "data" else f"{label}, controls"


def _line(attack: str, role: str, x: Sequence[float] | Floats, y: Floats) -> Line:
    dash = "-" if role == "data" else ":"
    return Line(_named(attack, role), attack, list(x), list(y), dash=dash, step=True)


class Group(NamedTuple):
    """Windows with the same value in a column."""

    name: str
    rows: Bools
    """(N,) mask of the scored windows of the data."""


class Grouping(NamedTuple):
    """A column and its groups."""

    name: str
    numeric: bool
    groups: list[Group]


def group_cards(report: Report, windows: pd.DataFrame) -> list[Card]:
    """Return up to `MOST_CARDS` cards, one for each column with groups, numeric columns first."""
    rows = scored(windows, "data")
    candidates = (_column(rows, name) for name in passed_through(windows))
    grouped = [candidate for candidate in candidates if candidate is not None]
    columns = sorted(grouped, key=lambda candidate: not candidate.numeric)
    return [
        _group_card(report, rows, grouping, f"column-{place}")
        for place, grouping in enumerate(columns[:MOST_CARDS])
    ]


def _column(rows: pd.DataFrame, name: str) -> Grouping | None:
    """Return a column's groups; None if its values are all equal or too many."""
    texts = rows[name].astype(str)
    filled = (texts != "").to_numpy()
    values = pd.to_numeric(texts.where(filled), errors="coerce").to_numpy(dtype=np.float64)
    numeric = bool(filled.any() and np.isfinite(values[filled]).all())
    groups = list(_by_number(values, filled) if numeric else _by_word(texts[filled]))
    if len(groups) < 2:
        return None
    if not filled.all():
        groups.append(Group("(none)", ~filled))
    if not numeric:
        groups = [Group(group.name, (texts == group.name).to_numpy()) for group in groups]
    return Grouping(name, numeric, groups)


def _by_number(values: Floats, filled: Bools) -> Iterator[Group]:
    distinct = np.unique(values[filled])
    if len(distinct) <= _MOST_NUMBERS:
        yield from (Group(_label(value), values == value) for value in distinct)
        return
    ends = np.unique(np.quantile(values[filled], np.linspace(0, 1, _BINS + 1), method="lower"))
    for place, (low, high) in enumerate(itertools.pairwise(ends)):
        inside = (values > low if place else values >= low) & (values <= high)
        yield Group(f"{'over ' if place else ''}{_label(low)} to {_label(high)}", inside)


def _label(value: float) -> str:
    """Format a number with all its digits: years and dates differ in the last ones."""
    return f"{value:.15g}"


def _by_word(texts: pd.Series[str]) -> Iterator[Group]:
    counted = texts.value_counts()
    if len(counted) <= _MOST_WORDS:
        yield from (Group(str(name), np.empty(0, dtype=bool)) for name in sorted(counted.index))


def _group_card(report: Report, rows: pd.DataFrame, grouping: Grouping, name: str) -> Card:
    attacks = [attack.attack for attack in model_attacks(report)]
    hits = {attack: figures(rows, column("exact", attack)) == 1 for attack in attacks}
    sure = confidence(report)
    table, lines = [], []
    for attack in attacks:
        rates = [
            _rate(hits[attack][group.rows], sure) for group in grouping.groups if group.rows.any()
        ]
        lines.append(_shifted_line(attack, attacks, rates))
    best = strongest(report)
    interval = [] if best is None else [f"interval, {attack_label(best.attack)}"]
    for group in grouping.groups:
        cells = [_counted(hits[attack][group.rows]) for attack in attacks]
        if best is not None:
            rate = _rate(hits[best.attack][group.rows], sure)
            cells.append(percent_interval(rate.interval))
        table.append([shorten(group.name, _LONGEST_NAME), f"{int(group.rows.sum()):,}", *cells])
    names = [group.name for group in grouping.groups if group.rows.any()]
    crowded = len(names) > _MOST_NUMBERS or any(len(group) > 8 for group in names)
    labels = [str(place + 1) for place in range(len(names))] if crowded else names
    label = "group, as in the table" if crowded else shorten(grouping.name, _LONGEST_NAME)
    axis = Axis(label, ticks=range(len(names)))
    plot = ""
    if grouping.numeric and lines:
        axis = Axis(axis.label, ticks=axis.ticks, names=labels)
        plot = line_plot(name, lines, axis, Axis("windows extracted exactly, %", low=0))
    return _card(
        name,
        f"By {shorten(grouping.name, _LONGEST_NAME)}",
        f"Share of windows extracted exactly, with the exact interval at {level(sure)} confidence, "
        "which treats windows as independent.",
        plot,
        [shorten(grouping.name, _LONGEST_NAME), "windows", *map(attack_label, attacks), *interval],
        table,
    )


class _Rate(NamedTuple):
    estimate: float
    interval: Interval


def _rate(hits: Bools, sure: float) -> _Rate:
    k, n = int(hits.sum()), len(hits)
    return _Rate(k / n if n else 0.0, clopper_pearson(k, n, sure))


def _counted(hits: Bools) -> str:
    return f"{int(hits.sum()):,} ({percent(float(hits.mean()))})" if len(hits) else "-"


def _shifted_line(attack: str, attacks: Sequence[str], rates: Sequence[_Rate]) -> Line:
    """Return an attack's line, shifted a little so that no interval hides another."""
    shift = 0.12 * (attacks.index(attack) - (len(attacks) - 1) / 2)
    return Line(
        attack_label(attack),
        attack,
        [place + shift for place in range(len(rates))],
        [100 * rate.estimate for rate in rates],
        [100 * rate.interval.low for rate in rates],
        [100 * rate.interval.high for rate in rates],
        marker=_MARKERS[attack],
    )
