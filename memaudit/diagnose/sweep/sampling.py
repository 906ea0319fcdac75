"""(n,p)-discoverable extraction: the number of samples until windows are extracted.

Knows the probability of each suffix under the sampler, from a finished run. Hayes et al. 2024
(arXiv 2410.19482): a window is extracted at least once in n samples with probability
1 - (1 - p_z)^n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.section import COLOURS, Section, heads
from memaudit.diagnose.subject import Part
from memaudit.diagnose.sweep.view import SHARE, View, with_few_bars
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, tails
from memaudit.score.sampling import queries
from memaudit.score.stats import Floats, Interval, Ints

PROBABILITIES = (0.1, 0.5, 0.9, 0.99)
"""p of the curves."""
SHARES = (0.5, 0.01, 0.001)
"""Shares of the windows for which the samples are counted."""
_TABLE_PROBABILITIES = (0.5, 0.9)
_PLOTTED = 0.5
"""p of the findings, and of the curves with intervals."""
_DECADES = 6
"""n goes from 1 to 10 to the power of this."""
_PER_DECADE = 4
_COLOURS = ("series-5", "series-1", "series-4", "series-2")


def discoverable(log_p_z: Floats, n: float, p: float) -> Floats:
    """Return 1 for windows (N,) extracted in n samples with probability p or more, else 0."""
    return (queries(log_p_z, p) <= n).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Likelihoods of the likeliest windows, with resamples for intervals."""

    log_p_z: Floats
    """(SHARES,) ln p_z of the window at each share; NaN for a share below one window."""
    resampled: Floats
    """(resamples,SHARES) ln p_z in resamples of whole clusters."""

    def samples(self, share: float, p: float, resamples: Resamples) -> Estimate | None:
        """Return the smallest n that extracts that share of the windows with probability p.

        A value or an end is None if no number of samples suffices. The result is None if the
        share is less than one window.
        """
        at = SHARES.index(share)
        if np.isnan(self.log_p_z[at]):
            return None
        tail, last = tails(resamples.confidence)[0], resamples.number - 1
        # The likelier the windows, the fewer the samples; each end is the value of one window.
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
    """Return the ln p_z, of (N,) descending, at which each share of the weights is reached."""
    reached = np.cumsum(weights)
    wanted = np.ceil(shares * reached[-1] - 1e-9)
    return np.asarray(likely[np.searchsorted(reached, wanted)])


def sweep_sampling(view: View, attacks: Sequence[str], scores: ScoreSettings) -> Section:
    """Return the (n,p) curves of every attack, and the samples needed per share of windows."""
    sampler = f"Sampled at temperature {scores.temperature:g} among the {scores.top_k} likeliest."
    quantiles_of = {
        (attack, role): quantiles(*_known(part, attack), view.resamples)
        for attack in attacks
        for role, part in view.parts.items()
    }
    findings = [_finding(view, attack, quantiles_of[attack, "data"]) for attack in attacks]
    return Section(
        findings,
        _notes(view.data),
        [
            _curves_table(view, attacks, sampler),
            _until_table(quantiles_of, sampler, view.resamples),
        ],
        [_attacks_plot(view, attacks, sampler), _probabilities_plot(view, sampler)],
    )


def _known(part: Part, attack: str) -> tuple[Floats, Ints]:
    log_p_z = part.score("log_p_z", attack)
    known = ~np.isnan(log_p_z)
    return log_p_z[known], part.clusters[known]


def _share(view: View, part: Part, attack: str, n: float, p: float) -> Estimate:
    log_p_z, clusters = _known(part, attack)
    return view.resamples.rate(np.asarray(discoverable(log_p_z, n, p) == 1), clusters)


def _curves_table(view: View, attacks: Sequence[str], sampler: str) -> FigureTable:
    return FigureTable(
        name="samples",
        title="Samples: extraction in n samples",
        says=(
            "Share of windows whose suffix occurs at least once in n samples with probability "
            f"p or more: (n,p)-discoverable extraction (Hayes et al. 2024). {sampler}"
        ),
        columns=[
            *(*heads("text", "attack", "windows"), *heads("count", "n")),
            *heads("share", *(f"p = {p:g}" for p in PROBABILITIES)),
        ],
        rows=[
            [attack, role, n, *(_share(view, part, attack, n, p) for p in PROBABILITIES)]
            for attack in attacks
            for role, part in view.parts.items()
            for n in (10**power for power in range(_DECADES + 1))
        ],
    )


def _until_table(
    quantiles_of: Mapping[tuple[str, str], Quantiles], sampler: str, resamples: Resamples
) -> FigureTable:
    pairs = [(share, p) for share in SHARES for p in _TABLE_PROBABILITIES]
    return FigureTable(
        name="samples-until",
        title="Samples until a share of the windows is extracted",
        says=(
            "Smallest number of samples per window that extracts this share of the windows with "
            "probability p. n/a, for a value or an end: no number of samples suffices, because "
            "the sampler never picks a token of the suffix; or there are too few windows. "
            f"{sampler}"
        ),
        columns=[
            *heads("text", "attack", "windows"),
            *heads("number", *(f"{100 * share:g} %, p = {p:g}" for share, p in pairs)),
        ],
        rows=[
            [attack, role, *(quantile.samples(*pair, resamples) for pair in pairs)]
            for (attack, role), quantile in quantiles_of.items()
        ],
    )


def _line(
    view: View, part: Part, attack: str, p: float, name: str, colour: str, dash: str = "-"
) -> Line:
    steps = range(_DECADES * _PER_DECADE + 1)
    at = [float(math.floor(10 ** (step / _PER_DECADE))) for step in steps]
    shares = [_share(view, part, attack, n, p) for n in at]
    line = Line.of(name, colour, at, shares, dash=dash)
    if dash != "-" or p != _PLOTTED:
        return replace(line, low=None, high=None)
    return with_few_bars(line, [step % _PER_DECADE == 0 for step in steps])


def _attacks_plot(view: View, attacks: Sequence[str], sampler: str) -> Plot:
    lines = [
        _line(view, part, attack, _PLOTTED, name, attack, dash)
        for part, ending, dash in ((view.data, "", "-"), (view.controls, ", controls", ":"))
        if part is not None
        for attack in attacks
        for name in (f"{attack}{ending}",)
    ]
    return Plot(
        name="samples",
        title="Extraction against samples, by attack",
        says=f"Windows extracted in n samples with probability 0.5 or more. {sampler}",
        x=Axis("samples n", logarithmic=True),
        y=SHARE,
        lines=lines,
    )


def _probabilities_plot(view: View, sampler: str) -> Plot:
    lines = [
        _line(view, view.data, "none", p, f"p = {p:g}", colour)
        for p, colour in zip(PROBABILITIES, _COLOURS, strict=True)
    ]
    if view.controls is not None:
        lines += [
            _line(view, view.controls, "none", p, "controls", COLOURS["controls"], ":")
            for p in PROBABILITIES
        ]
    return Plot(
        name="samples-by-probability",
        title="Extraction against samples, by probability",
        says=f"The plain prefix alone (none). {sampler}",
        x=Axis("samples n", logarithmic=True),
        y=SHARE,
        lines=lines,
    )


def _finding(view: View, attack: str, quantile: Quantiles) -> str:
    """Return a finding on one attack's curves."""
    data, largest = view.data, 10**_DECADES
    some = _share(view, data, attack, 1000, _PLOTTED).parts("share")[0]
    many = f"{_share(view, data, attack, largest, _PLOTTED):share}"
    greedy = view.rate(data, data.exact(attack)).parts("share")[0]
    sentence = (
        f"Samples, {attack}: {some} of the windows are extracted within 1,000, {many} within "
        f"{largest:,}, with probability {_PLOTTED:g} or more; greedy decoding extracts {greedy}"
    )
    if view.controls is not None:
        sentence += f". Controls within {largest:,}: "
        sentence += f"{_share(view, view.controls, attack, largest, _PLOTTED):share}"
    needed = []
    for share in SHARES:
        samples = quantile.samples(share, _PLOTTED, view.resamples)
        if samples is not None:
            n = "no number" if samples.value is None else f"{_round(samples.value)}{_ends(samples)}"
            needed.append(f"for {100 * share:g} % of the windows {n}")
    return f"{sentence}. Needed: {'; '.join(needed)}." if needed else f"{sentence}."


def _ends(samples: Estimate) -> str:
    low, high = ("no number" if end is None else _round(end) for end in (samples.low, samples.high))
    return f" ({low} to {high})"


def _round(n: float) -> str:
    """Round to three digits, since the figure rests on a single window's likelihood."""
    return f"{float(f'{n:.3g}'):,.0f}" if n < 1e6 else f"{n:.1e}"


def _notes(data: Part) -> Sequence[str]:
    notes = [
        "Samples are computed from each window's probability; nothing was sampled. They are "
        "counted per window: ten thousand windows take ten thousand times as many."
    ]
    if len(data) < 1 / min(SHARES):
        notes.append(
            f"{100 * min(SHARES):g} % of {len(data):,} windows is less than one window, so it is "
            "not counted."
        )
    return notes
