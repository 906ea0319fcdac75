"""Savings of a predictor of extraction, as tables, a plot and findings.

Knows predictions, and the tokens that scanning a window takes. Knows no model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.signals.triage_verdict import (
    ALL,
    ALONE,
    CURVE,
    PERMUTED,
    REACHES,
    SHARES,
    Population,
    Verdict,
)
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.report.wording import level
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Floats, Ints


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
            Column("extracted by: predictor", "text"),
            Column("AUC", "number"),
            Column("AUC above log p alone", "number"),
            Column("average precision", "number"),
            Column("found in the riskiest 10 %", "share"),
        ],
        rows,
    )


def _base(verdict: Verdict) -> str:
    return f"{verdict.target.wording} {percent(float(verdict.target.labels.mean()))}"


def triage_table(verdict: Verdict, windows: Population, resamples: Resamples) -> FigureTable:
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
            Column("riskiest", "text"),
            *(Column(name, "share") for name in ("found", "extracted of them")),
            *(Column(name, "share") for name in ("found by log p", "found, permuted")),
            *(Column(name, "share") for name in ("controls as risky", "tokens")),
        ],
        rows,
    )


def _threshold(risk: Floats, share: float) -> float:
    """Return the lowest risk in the riskiest ``share`` of the windows."""
    return float(np.sort(risk)[::-1][math.ceil(share * len(risk)) - 1])


def _flagged(
    verdict: Verdict, windows: Population, share: float, resamples: Resamples
) -> Estimate | None:
    risk = verdict.best.elsewhere
    if not len(risk):
        return None
    hits = np.asarray(risk >= _threshold(verdict.best.risk, share))
    return resamples.rate(hits, windows.control_clusters)


def _cost(verdict: Verdict, windows: Population, share: float) -> float:
    risk, cost = verdict.best.risk, windows.scan_cost
    first = np.argsort(-risk, kind="stable")[: math.ceil(share * len(risk))]
    triage = windows.prefix_cost * len(risk)
    return float((triage + cost[first].sum()) / cost.sum())


def needed_table(verdicts: Sequence[Verdict]) -> FigureTable:
    """Table of the share to scan for each share to find."""
    rows: list[list[Cell]] = []
    for place, reach in enumerate(REACHES):
        cells = [verdict.gains[name].needed[place] for verdict in verdicts for name in (ALL, ALONE)]
        rows.append([level(reach), *cells])
    heads = [
        Column(f"{verdict.target.name}: {name}", "share")
        for verdict in verdicts
        for name in ("all signals", "log p alone")
    ]
    return FigureTable(
        "needed",
        "Share of windows to scan",
        "The share of the windows, the riskiest first, to scan for this share of all extracted "
        "windows. By chance, the two shares are equal.",
        [Column("to be found", "text"), *heads],
        rows,
    )


def calibration_table(
    verdicts: Sequence[Verdict], windows: Population, resamples: Resamples
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
    heads = [
        Column(f"{verdict.target.name}: {name}", "share")
        for verdict in verdicts
        for name in ("predicted", "extracted")
    ]
    return FigureTable(
        "calibration",
        "Calibration of the predictor",
        "Mean predicted probability and share of the windows that are extracted, from the "
        "riskiest windows to the safest; "
        + "; ".join(_brier(verdict) for verdict in verdicts)
        + f". Empty below {LEAST_CLUSTERS} clusters.",
        [Column("windows by risk", "text"), *heads],
        rows,
    )


def _calibrated(verdict: Verdict, clusters: Ints, rows: Ints, resamples: Resamples) -> list[Cell]:
    if len(np.unique(clusters[rows])) < LEAST_CLUSTERS:
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


def cost_finding(verdict: Verdict, windows: Population) -> str:
    """State the tokens that triage saves, by the risks of this verdict."""
    whole = float(windows.scan_cost.mean())
    shares = [percent(_cost(verdict, windows, share)) for share in (0.1, 0.5)]
    return (
        f"A pass over a prefix takes {windows.prefix_cost:,} tokens; scanning a window by the "
        f"plain prefix takes {whole:,.0f} on average. After a full scan of "
        f"{len(windows.scan_cost):,} windows to fit it, triage and a scan of the riskiest 10 % of "
        f"further windows take {shares[0]} of the tokens of scanning them all; with the riskiest "
        f"50 %, {shares[1]}. Triage is paid once, whatever attacks follow."
    )
