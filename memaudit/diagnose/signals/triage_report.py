"""Savings of scanning the riskiest windows first: gains with intervals, tables, plots, findings.

Knows predictions, labels, clusters, and the tokens that scanning a window takes. Knows no model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.section import Section, count_clusters, heads
from memaudit.diagnose.signals.triage import ALL, Forecast, Predictions, Target, Triage
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.report.wording import level
from memaudit.score.estimate import Estimate, percent
from memaudit.score.ranking import Ranking
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Bools, Floats, Ints

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Riskiest shares of the windows in the tables."""
REACHES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Shares of the extracted windows to find."""
CURVE = tuple(np.geomspace(0.01, 1, 21).tolist())
"""Riskiest shares in the plot."""
ALONE, PERMUTED = "log p of the prefix alone", "all signals, labels permuted"


@dataclass(frozen=True, eq=False)
class Gains:
    """Gains of scanning the riskiest of N windows first."""

    reached: list[Estimate]
    """(G) share of all positives that lie in the riskiest x of the windows, for each x."""
    precision: list[Estimate]
    """(G) share of positives among these windows."""
    needed: list[Estimate]
    """(R) share of the windows to scan for each share of the positives."""
    average_precision: Estimate
    area: Estimate
    """AUC."""


def area_above(
    scores: Floats, rival: Floats, positive: Bools, clusters: Ints, resamples: Resamples
) -> Estimate:
    """Return the AUC of scores (N,) minus a rival's (N,), on the same resamples of clusters."""

    def gap(times: Floats) -> Floats:
        first, second = (Ranking.of(values, positive, times).area() for values in (scores, rival))
        return (first - second)[:, None]

    return resamples.replicate(clusters, gap).estimates()[0]


def gains(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    shares: Floats,
    reaches: Floats,
    resamples: Resamples,
) -> Gains:
    """Return the gains of scores (N,), higher for riskier windows, at ``shares`` and ``reaches``.

    Intervals resample whole clusters and leave the scores as they are. If all or no positives are
    among the riskiest, or all or none of the riskiest are positive, they are the exact bound over
    their clusters (`stats.agreeing`). More windows hold no fewer positives, so a lower bound also
    holds for larger shares. ``shares`` is (G,).
    """

    def figures(times: Floats) -> Floats:
        ranking = Ranking.of(scores, positive, times)
        recall = ranking.recall(shares)
        size = shares * ranking.windows[:, -1:]
        precision = recall * ranking.positives[:, -1:] / size
        single = np.stack([ranking.average_precision(), ranking.area()], axis=1)
        return np.hstack([recall, precision, ranking.needed(reaches), single])

    estimates = resamples.replicate(clusters, figures).estimates()
    size = len(shares)
    reached = [_bounded(estimate, positive, clusters, resamples) for estimate in estimates[:size]]
    order = np.argsort(-scores, kind="stable")
    precision = []
    for estimate, share in zip(estimates[size : 2 * size], shares.tolist(), strict=True):
        riskiest = np.zeros(len(scores), dtype=bool)
        riskiest[order[: max(1, math.ceil(share * len(scores)))]] = True
        precision.append(_bounded(estimate, riskiest, clusters, resamples))
    return Gains(rising(reached, shares), precision, estimates[2 * size : -2], *estimates[-2:])


def _bounded(estimate: Estimate, among: Bools, clusters: Ints, resamples: Resamples) -> Estimate:
    """Return the exact interval if all windows ``among`` (N,) agree; a bootstrap has no width."""
    if estimate.value is None or 1e-9 < estimate.value < 1 - 1e-9:
        return estimate
    hits = np.full(int(among.sum()), estimate.value > 0.5)
    return Estimate.of(estimate.value, resamples.clustered(hits, clusters[among]))


def rising(estimates: list[Estimate], shares: Floats) -> list[Estimate]:
    """Make lower bounds never fall from a share (G,) to a larger share; share 1 has bound 1."""
    bounded, low = list(estimates), 0.0
    for place in np.argsort(shares, kind="stable").tolist():
        estimate = estimates[place]
        if estimate.value is None or estimate.low is None:
            continue
        low = 1.0 if shares[place] >= 1 else max(low, min(estimate.low, estimate.value))
        bounded[place] = Estimate(estimate.value, low, estimate.high)
    return bounded


@dataclass(frozen=True, eq=False)
class Verdict:
    """Judgement of the predictors for one target."""

    forecast: Forecast
    above: Mapping[str, Estimate]
    """AUC of each fitted predictor minus that of the signal alone."""
    gains: Mapping[str, Gains]

    @property
    def target(self) -> Target:
        """Extraction that was predicted."""
        return self.forecast.target

    @property
    def best(self) -> Predictions:
        """Predictions from all signals."""
        return self.forecast.predictions[ALL]


def judge(forecast: Forecast, windows: Triage, resamples: Resamples) -> Verdict:
    """Judge every predictor, the signal alone, and the predictor of permuted labels."""
    labels, clusters = forecast.target.labels, windows.clusters
    risks = {name: (predicted.risk, labels) for name, predicted in forecast.predictions.items()}
    above = {
        name: area_above(risk, windows.alone, labels, clusters, resamples)
        for name, (risk, _) in risks.items()
    }
    risks[ALONE] = (windows.alone, labels)
    if forecast.permuted is not None:
        by_chance, permuted = forecast.permuted
        risks[PERMUTED] = (by_chance.risk, permuted)
    shares, reaches = np.array([*SHARES, *CURVE]), np.array(REACHES)
    judged = {
        name: gains(risk, truth, clusters, shares=shares, reaches=reaches, resamples=resamples)
        for name, (risk, truth) in risks.items()
    }
    return Verdict(forecast, above, judged)


def describe_triage(windows: Triage, verdicts: Sequence[Verdict], resamples: Resamples) -> Section:
    """Return the tables and plots of all targets with a predictor, and what these save."""
    return Section(
        [cost_finding(verdicts[0], windows)],
        [],
        [
            *(triage_table(verdict, windows, resamples) for verdict in verdicts),
            *(needed_table(verdicts), predictors_table(verdicts)),
            calibration_table(verdicts, windows, resamples),
        ],
        [triage_plot(verdict) for verdict in verdicts],
    )


def predictors_table(verdicts: Sequence[Verdict]) -> FigureTable:
    """Table of every predictor and both controls."""
    tenth = SHARES.index(0.1)
    rows: list[list[Cell]] = [
        [
            f"{verdict.target.name}: {name}",
            gains.area,
            verdict.above.get(name),
            gains.average_precision,
            gains.reached[tenth],
        ]
        for verdict in verdicts
        for name, gains in verdict.gains.items()
    ]
    return FigureTable(
        "predictors",
        "Predictors of extraction",
        "The predictor of each window was fitted without its cluster. By chance, the area under "
        "the ROC curve is 0.5, and average precision is the share of windows that are extracted "
        f"({'; '.join(_base(verdict) for verdict in verdicts)}).",
        [
            *heads("text", "extracted by: predictor"),
            *heads("number", "AUC", "AUC above log p alone", "average precision"),
            *heads("share", "found in the riskiest 10 %"),
        ],
        rows,
    )


def _base(verdict: Verdict) -> str:
    return f"{verdict.target.wording} {percent(float(verdict.target.labels.mean()))}"


def triage_table(verdict: Verdict, windows: Triage, resamples: Resamples) -> FigureTable:
    """Table of what scanning only the riskiest windows finds and costs."""
    own, rows = verdict.gains[ALL], []
    for place, share in enumerate(SHARES):
        cells: list[Cell] = [own.reached[place], own.precision[place]]
        for name in (ALONE, PERMUTED):
            cells.append(verdict.gains[name].reached[place] if name in verdict.gains else None)
        cells.append(_flagged(verdict, windows, share, resamples))
        rows.append([level(share), *cells, _cost(verdict, windows, share)])
    return FigureTable(
        f"triage-{verdict.target.name}",
        f"Scanning the riskiest windows: {verdict.target.wording}",
        "The share of all extracted windows that lies in the riskiest windows, the share of the "
        "riskiest that is extracted, the first share by the log p of the prefix alone and with "
        "permuted labels, and the share of controls that is as risky. Tokens: those of triage and "
        "of scanning the riskiest windows by the plain prefix, as a share of scanning all windows; "
        f"they exclude the full scan of {len(windows.scan_cost):,} windows that the predictor was "
        "fitted on.",
        [
            *heads("text", "riskiest"),
            *heads("share", "found", "extracted of them", "found by log p", "found, permuted"),
            *heads("share", "controls as risky", "tokens"),
        ],
        rows,
    )


def _threshold(risk: Floats, share: float) -> float:
    """Return the lowest risk in the riskiest ``share`` of the windows."""
    return float(np.sort(risk)[::-1][math.ceil(share * len(risk)) - 1])


def _flagged(
    verdict: Verdict, windows: Triage, share: float, resamples: Resamples
) -> Estimate | None:
    risk = verdict.best.elsewhere
    if not len(risk):
        return None
    hits = np.asarray(risk >= _threshold(verdict.best.risk, share))
    return resamples.rate(hits, windows.control_clusters)


def _cost(verdict: Verdict, windows: Triage, share: float) -> float:
    risk, cost = verdict.best.risk, windows.scan_cost
    first = np.argsort(-risk, kind="stable")[: math.ceil(share * len(risk))]
    return float((windows.prefix_cost.sum() + cost[first].sum()) / cost.sum())


def needed_table(verdicts: Sequence[Verdict]) -> FigureTable:
    """Table of the share to scan for each share to find."""
    rows: list[list[Cell]] = []
    for place, reach in enumerate(REACHES):
        cells = [verdict.gains[name].needed[place] for verdict in verdicts for name in (ALL, ALONE)]
        rows.append([level(reach), *cells])
    names = _named(verdicts, "all signals", "log p alone")
    return FigureTable(
        "needed",
        "Share of windows to scan",
        "The share of the windows, the riskiest first, to scan for this share of all extracted "
        "windows. By chance, the two shares are equal.",
        [*heads("text", "to be found"), *heads("share", *names)],
        rows,
    )


def calibration_table(
    verdicts: Sequence[Verdict], windows: Triage, resamples: Resamples
) -> FigureTable:
    """Table of predicted and observed shares, the riskiest windows first."""
    ends = (0.0, *SHARES, 1.0)
    rows: list[list[Cell]] = []
    for start, end in itertools.pairwise(ends):
        cells: list[Cell] = []
        for verdict in verdicts:
            order = np.argsort(-verdict.best.risk, kind="stable")
            first, last = (math.ceil(edge * len(order)) for edge in (start, end))
            bin_ = order[first:last]
            cells += _calibrated(verdict, windows.clusters, bin_, resamples)
        rows.append([f"{100 * start:g}–{100 * end:g} %", *cells])
    names = _named(verdicts, "predicted", "extracted")
    return FigureTable(
        "calibration",
        "Calibration of the predictor",
        "Mean predicted probability and share of the windows that are extracted, from the "
        "riskiest windows to the safest; "
        + "; ".join(_brier(verdict) for verdict in verdicts)
        + f". Empty below {LEAST_CLUSTERS} clusters.",
        [*heads("text", "windows by risk"), *heads("share", *names)],
        rows,
    )


def _named(verdicts: Sequence[Verdict], *names: str) -> list[str]:
    return [f"{verdict.target.name}: {name}" for verdict in verdicts for name in names]


def _calibrated(verdict: Verdict, clusters: Ints, rows: Ints, resamples: Resamples) -> list[Cell]:
    if count_clusters(clusters[rows]) < LEAST_CLUSTERS:
        return [None, None]
    hits = verdict.target.labels[rows]
    return [float(verdict.best.risk[rows].mean()), resamples.rate(hits, clusters[rows])]


def _brier(verdict: Verdict) -> str:
    """Brier score: mean squared error of the predicted probabilities (Brier 1950)."""
    labels = verdict.target.labels.astype(np.float64)
    score = float(np.square(verdict.best.risk - labels).mean())
    plain = float(labels.mean() * (1 - labels.mean()))
    return f"Brier score {verdict.target.wording}: {score:.3f} (base rate alone: {plain:.3f})"


def triage_plot(verdict: Verdict) -> Plot:
    """Plot the share found over the share scanned."""
    lines = [
        _line(verdict, ALL, "predictor", "series-1"),
        _line(verdict, ALONE, "log p of the prefix alone", "series-6"),
    ]
    if PERMUTED in verdict.gains:
        lines.append(_line(verdict, PERMUTED, "labels permuted", "series-3", "--"))
    lines.append(Line("chance", "series-3", CURVE, CURVE, dash=":"))
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    parts = (0, 0.2, 0.4, 0.6, 0.8, 1)
    return Plot(
        f"triage-{verdict.target.name}",
        f"Scanning the riskiest windows: {verdict.target.wording}",
        "The share of all extracted windows that lies in the riskiest windows.",
        Axis("scanned, share of the windows", True, ticks, [level(tick) for tick in ticks]),
        Axis("found", ticks=parts, names=[level(part) for part in parts], low=0, high=1.02),
        lines,
    )


def _line(verdict: Verdict, name: str, label: str, colour: str, dash: str = "-") -> Line:
    reached = verdict.gains[name].reached[len(SHARES) :]
    return Line.of(label, colour, CURVE, reached, dash=dash)


def triage_findings(verdict: Verdict) -> list[str]:
    """State how well triage works."""
    own, wording = verdict.gains[ALL], verdict.target.wording
    at = {share: place for place, share in enumerate(SHARES)}
    need = own.needed[REACHES.index(0.95)]
    controls = ""
    if PERMUTED in verdict.gains:
        controls = f"with permuted labels {verdict.gains[PERMUTED].area}, "
    controls += f"by the log p of the prefix alone {verdict.gains[ALONE].area}"
    above = verdict.above[ALL]
    gain = f"the predictor adds {above:.3f}"
    if not above.above(0):
        gain += ", which may be chance"
    return [
        f"Triage, {wording}: the riskiest 10 % of the windows hold "
        f"{own.reached[at[0.1]]:share} of the extracted windows, the riskiest 50 % hold "
        f"{own.reached[at[0.5]]:share}; finding 95 % of them takes a scan of {need:share} of the "
        "windows.",
        f"Predicted from the prefix alone, {wording}: AUC {own.area}, {controls}; {gain}.",
    ]


def cost_finding(verdict: Verdict, windows: Triage) -> str:
    """State the tokens that triage saves, by the risks of this verdict."""
    whole, prefixes = float(windows.scan_cost.mean()), windows.prefix_cost
    tokens = f"{prefixes.mean():,.0f}{' on average' if np.ptp(prefixes) else ''}"
    shares = [percent(_cost(verdict, windows, share)) for share in (0.1, 0.5)]
    return (
        f"A pass over a prefix takes {tokens} tokens; scanning a window by the "
        f"plain prefix takes {whole:,.0f} on average. After a full scan of "
        f"{len(windows.scan_cost):,} windows to fit it, triage and a scan of the riskiest 10 % of "
        f"further windows take {shares[0]} of the tokens of scanning them all; with the riskiest "
        f"50 %, {shares[1]}. Triage is paid once, whatever attacks follow."
    )
