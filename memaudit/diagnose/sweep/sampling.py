"""(n,p)-discoverable extraction: how many samples until windows come out.

Knows how likely the sampler's output of each suffix is, as a finished run says it. From Hayes et
al. 2024 (arXiv 2410.19482): a window comes out of n samples at least once with probability
1 - (1 - p_z)^n. No model is asked, and no torch loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.sweep.figures import Piece, with_few_bars
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, tails
from memaudit.score.sampling import queries
from memaudit.score.stats import Floats, Interval, Ints

if TYPE_CHECKING:  # it loads torch
    from memaudit.diagnose.subject import Part

PROBABILITIES = (0.1, 0.5, 0.9, 0.99)
"""p of the curves."""
SHARES = (0.5, 0.01, 0.001)
"""Of the windows, for which the samples are counted."""
_COUNTED = (0.5, 0.9)
_SHOWN = 0.5
"""p of findings, and of the curves with intervals."""
_DECADES = 6
"""n goes from 1 to 10 to this."""
_PER_DECADE = 4
_COLOURS = ("series-5", "series-1", "series-4", "series-2")


def discoverable(log_p_z: Floats, n: float, p: float) -> Floats:
    """Which windows (N,) come out of n samples with probability p at least: 1 or 0."""
    return (queries(log_p_z, p) <= n).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Quantiles:
    """How likely the windows are that come first, and how sure that is."""

    log_p_z: Floats
    """(SHARES,) ln p_z of the window at each of the shares; NaN where one is below a window."""
    resampled: Floats
    """(resamples,SHARES) the same of resamples that draw whole clusters."""

    def samples(self, share: float, p: float, resamples: Resamples) -> Estimate | None:
        """Least n with which that share of the windows comes out with probability p.

        An end, or the figure, is None where no number of samples does it. None altogether where
        the share is less than one window.
        """
        at = SHARES.index(share)
        if np.isnan(self.log_p_z[at]):
            return None
        tail, last = tails(resamples.confidence)[0], resamples.number - 1
        # The likelier the windows, the fewer the samples; no end lies between two windows.
        places = [math.ceil((1 - tail) * last), math.floor(tail * last)]
        few, many = (float(n) for n in queries(np.sort(self.resampled[:, at])[places], p))
        return Estimate.of(float(queries(self.log_p_z[[at]], p)[0]), Interval(few, many))


def quantiles(log_p_z: Floats, clusters: Ints, resamples: Resamples) -> Quantiles:
    """Return the ln p_z of the ``share * N``-th likeliest of N windows, for all shares at once."""
    shares, nothing = np.array(SHARES), np.full((resamples.number, len(SHARES)), np.nan)
    if not len(log_p_z) or not resamples.admits(clusters):
        return Quantiles(nothing[0], nothing)
    order = np.argsort(-log_p_z, kind="stable")

    def figures(times: Floats) -> Floats:
        return np.array([_at_shares(log_p_z[order], row[order], shares) for row in times])

    replicates = resamples.replicate(clusters, figures)
    values = np.where(shares * len(log_p_z) < 1, np.nan, replicates.values)
    return Quantiles(values, replicates.samples)


def _at_shares(likely: Floats, weights: Floats, shares: Floats) -> Floats:
    """ln p_z (descending, (N,)) at which so large shares of the weights are reached."""
    reached = np.cumsum(weights)
    wanted = np.ceil(shares * reached[-1] - 1e-9)
    return np.asarray(likely[np.searchsorted(reached, wanted)])


def sweep_sampling(
    data: Part,
    controls: Part | None,
    attacks: tuple[str, ...],
    scores: ScoreSettings,
    resamples: Resamples,
) -> Piece:
    """(n,p) curves of every attack on the model, and the samples that shares of windows take."""
    sampler = f"Sampled at temperature {scores.temperature:g} among the {scores.top_k} likeliest."
    found = {
        (attack, role): quantiles(*_known(part, attack), resamples)
        for attack in attacks
        for role, part in _parts(data, controls)
    }
    tables = [
        _curves_table(data, controls, attacks, sampler, resamples),
        _until_table(found, sampler, resamples),
    ]
    plots = [
        _attacks_plot(data, controls, attacks, sampler, resamples),
        _probabilities_plot(data, controls, sampler, resamples),
    ]
    findings = [
        _words(data, controls, attack, found[attack, "data"], resamples) for attack in attacks
    ]
    return Piece(findings, _notes(data), tables, plots)


def _parts(data: Part, controls: Part | None) -> list[tuple[str, Part]]:
    return [("data", data)] + ([("controls", controls)] if controls is not None else [])


def _known(part: Part, attack: str) -> tuple[Floats, Ints]:
    log_p_z = part.score("log_p_z", attack)
    known = ~np.isnan(log_p_z)
    return log_p_z[known], part.clusters[known]


def _share(part: Part, attack: str, n: float, p: float, resamples: Resamples) -> Estimate:
    log_p_z, clusters = _known(part, attack)
    return resamples.rate(np.asarray(discoverable(log_p_z, n, p) == 1), clusters)


def _curves_table(
    data: Part, controls: Part | None, attacks: tuple[str, ...], sampler: str, resamples: Resamples
) -> FigureTable:
    rows: list[list[Cell]] = []
    for attack in attacks:
        for role, part in _parts(data, controls):
            for n in (10**power for power in range(_DECADES + 1)):
                found = [_share(part, attack, n, p, resamples) for p in PROBABILITIES]
                rows.append([attack, role, n, *found])
    return FigureTable(
        name="samples",
        title="Samples: what comes out of n",
        says=(
            "Share of windows whose suffix comes out at least once of n samples with probability "
            f"p or more: (n,p)-discoverable extraction (Hayes et al. 2024). {sampler}"
        ),
        columns=[Column("attack", "text"), Column("windows", "text"), Column("n", "count")]
        + [Column(f"p = {p:g}", "share") for p in PROBABILITIES],
        rows=rows,
    )


def _until_table(
    found: Mapping[tuple[str, str], Quantiles], sampler: str, resamples: Resamples
) -> FigureTable:
    asked = [(share, p) for share in SHARES for p in _COUNTED]
    rows = [
        [attack, role, *(one.samples(*each, resamples) for each in asked)]
        for (attack, role), one in found.items()
    ]
    return FigureTable(
        name="samples-until",
        title="Samples until a share of the windows comes out",
        says=(
            "Least number of samples of each window with which so many of the windows come out "
            "with probability p. n/a, or an end that is n/a: no number of samples does it, "
            f"for a token of the suffix is not among the sampler's; or too few windows. {sampler}"
        ),
        columns=[Column("attack", "text"), Column("windows", "text")]
        + [Column(f"{100 * share:g} %, p = {p:g}", "number") for share, p in asked],
        rows=rows,
    )


def _samples() -> list[float]:
    return [10 ** (step / _PER_DECADE) for step in range(_DECADES * _PER_DECADE + 1)]


def _line(
    part: Part, attack: str, p: float, name: str, colour: str, resamples: Resamples, dash: str = "-"
) -> Line:
    at = [float(math.floor(n)) for n in _samples()]
    shares = [_share(part, attack, n, p, resamples) for n in at]
    line = Line.of(name, colour, at, shares, dash=dash)
    if dash != "-" or p != _SHOWN:
        return replace(line, low=None, high=None)
    return with_few_bars(line, [step % _PER_DECADE == 0 for step in range(len(at))])


def _attacks_plot(
    data: Part, controls: Part | None, attacks: tuple[str, ...], sampler: str, resamples: Resamples
) -> Plot:
    lines = [_line(data, attack, _SHOWN, attack, attack, resamples) for attack in attacks]
    if controls is not None:
        names = [f"{attack}, controls" for attack in attacks]
        lines += [
            _line(controls, attack, _SHOWN, name, attack, resamples, ":")
            for attack, name in zip(attacks, names, strict=True)
        ]
    return Plot(
        name="samples",
        title="Extraction against samples, by attack",
        says=f"Windows that come out of n samples with probability 0.5 or more. {sampler}",
        x=Axis("samples n", logarithmic=True),
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _probabilities_plot(
    data: Part, controls: Part | None, sampler: str, resamples: Resamples
) -> Plot:
    pairs = list(zip(PROBABILITIES, _COLOURS, strict=True))
    lines = [_line(data, "none", p, f"p = {p:g}", colour, resamples) for p, colour in pairs]
    if controls is not None:
        lines += [
            _line(controls, "none", p, "controls", "series-3", resamples, ":")
            for p in PROBABILITIES
        ]
    return Plot(
        name="samples-by-probability",
        title="Extraction against samples, by probability",
        says=f"The plain prefix alone (none). {sampler}",
        x=Axis("samples n", logarithmic=True),
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _words(
    data: Part, controls: Part | None, attack: str, quantile: Quantiles, resamples: Resamples
) -> str:
    """What one attack's curves say."""
    most = 10**_DECADES
    some = _share(data, attack, 1000, _SHOWN, resamples).parts("share")[0]
    many = f"{_share(data, attack, most, _SHOWN, resamples):share}"
    greedy = resamples.rate(data.exact(attack), data.clusters).parts("share")[0]
    said = (
        f"Samples, {attack}: {some} of the windows come out within 1,000, {many} within {most:,}, "
        f"with probability {_SHOWN:g} or more; greedy decoding gets {greedy}"
    )
    if controls is not None:
        said += f". Controls within {most:,}: "
        said += f"{_share(controls, attack, most, _SHOWN, resamples):share}"
    needed = []
    for share in SHARES:
        found = quantile.samples(share, _SHOWN, resamples)
        if found is not None:
            n = "no number" if found.value is None else f"{_round(found.value)}{_ends(found)}"
            needed.append(f"for {100 * share:g} % of the windows {n}")
    return f"{said}. Needed: {'; '.join(needed)}." if needed else f"{said}."


def _ends(found: Estimate) -> str:
    low, high = ("no number" if end is None else _round(end) for end in (found.low, found.high))
    return f" ({low} to {high})"


def _round(n: float) -> str:
    """Three digits: the likelihood of a single window is behind it."""
    return f"{float(f'{n:.3g}'):,.0f}" if n < 1e6 else f"{n:.1e}"


def _notes(data: Part) -> Sequence[str]:
    notes = [
        "Samples are counted for each window alone, from its probability: none was drawn. Ten "
        "thousand windows take ten thousand times as many."
    ]
    if len(data) < 1 / min(SHARES):
        notes.append(
            f"{100 * min(SHARES):g} % of {len(data):,} windows is less than one: not counted."
        )
    return notes
