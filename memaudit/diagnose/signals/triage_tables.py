"""What a predictor of extraction saves, as tables, a plot and sentences.

Knows what predictors foretold, and what scanning a window costs in tokens. Knows no model.
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
from memaudit.report.wording import (
    level,
)
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Floats, Ints


def predictors_table(verdicts: Sequence[Verdict]) -> FigureTable:
    """Every predictor and both controls beside one another."""
    tenth = SHARES.index(0.1)
    rows: list[list[Cell]] = [
        [
            f"{verdict.target.name}: {name}",
            one.area,
            verdict.above.get(name),
            one.average_precision,
            one.reached[tenth],
        ]
        for verdict in verdicts
        for name, one in verdict.gains.items()
    ]
    return FigureTable(
        "predictors",
        "Predictors of extraction",
        "Each window is foretold by a predictor fitted without its cluster. The area under the "
        "ROC curve is 0.5 by chance; average precision is by chance the share of windows that "
        f"are extracted ({'; '.join(_base(verdict) for verdict in verdicts)}).",
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
    return f"{verdict.target.says} {percent(float(verdict.target.labels.mean()))}"


def triage_table(verdict: Verdict, windows: Population, resamples: Resamples) -> FigureTable:
    """What scanning only the riskiest windows finds, and what it costs."""
    own, rows = verdict.gains[ALL], []
    for place, share in enumerate(SHARES):
        cells: list[Cell] = [own.reached[place], own.precision[place]]
        for name in (ALONE, PERMUTED):
            cells.append(verdict.gains[name].reached[place] if name in verdict.gains else None)
        cells.append(_flagged(verdict, windows, share, resamples))
        rows.append([level(share), *cells, _cost(verdict, windows, share)])
    return FigureTable(
        f"triage-{verdict.target.name}",
        f"Scanning the riskiest windows: {verdict.target.says}",
        "What part of all extracted windows is among the riskiest, what part of those is "
        "extracted, the same part found by the log p of the prefix alone and with permuted labels, "
        "the share of controls that is as risky, and the tokens that go through the model for "
        "triage and for scanning those windows by the plain prefix, as a share of scanning all. "
        f"Tokens leave out that {len(windows.scan_cost):,} windows were scanned in full first, to "
        "fit the predictor.",
        [
            Column("riskiest", "text"),
            *(Column(name, "share") for name in ("found", "extracted of them")),
            *(Column(name, "share") for name in ("found by log p", "found, permuted")),
            *(Column(name, "share") for name in ("controls as risky", "tokens")),
        ],
        rows,
    )


def _threshold(risk: Floats, share: float) -> float:
    """The risk of the last of the riskiest ``share`` of the windows."""
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
    """How much has to be scanned to find so much."""
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
        "What has to be scanned",
        "The riskiest part of the windows that has to be scanned for such a part of all extracted "
        "ones to be among them; chance would need as large a part.",
        [Column("to be found", "text"), *heads],
        rows,
    )


def calibration_table(
    verdicts: Sequence[Verdict], windows: Population, resamples: Resamples
) -> FigureTable:
    """What was foretold and what came, from the riskiest windows on."""
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
        for name in ("foretold", "extracted")
    ]
    return FigureTable(
        "calibration",
        "Foretold and found",
        "Mean of the foretold probabilities and share of the windows that are extracted, from the "
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
    """Brier score: mean squared error of the foretold probabilities (Brier 1950)."""
    labels = verdict.target.labels.astype(np.float64)
    score = float(np.square(verdict.best.risk - labels).mean())
    plain = float(labels.mean() * (1 - labels.mean()))
    return f"Brier score {verdict.target.says} {score:.3f}, of the plain rate {plain:.3f}"


def triage_plot(verdict: Verdict) -> Plot:
    """The curve of what is found, over what is scanned."""
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
        f"Scanning the riskiest windows: {verdict.target.says}",
        "The part of all extracted windows that is among the riskiest ones.",
        Axis("scanned, share of the windows", True, ticks, [level(tick) for tick in ticks]),
        Axis("found", ticks=parts, names=[level(part) for part in parts], low=0, high=1.02),
        lines,
    )


def _line(verdict: Verdict, name: str, shown: str, colour: str, dash: str = "-") -> Line:
    found = verdict.gains[name].reached[len(SHARES) :]
    return Line.of(shown, colour, CURVE, found, dash=dash)


def triage_findings(verdict: Verdict) -> list[str]:
    """What a user can do with it, in sentences."""
    own, says = verdict.gains[ALL], verdict.target.says
    at = {share: place for place, share in enumerate(SHARES)}
    need = own.needed[REACHES.index(0.95)]
    controls = ""
    if PERMUTED in verdict.gains:
        controls = f"with permuted labels {verdict.gains[PERMUTED].area}, "
    controls += f"by the log p of the prefix alone {verdict.gains[ALONE].area}"
    above = verdict.above[ALL]
    gain = f"the predictor adds {above:.3f}"
    if not above.above(0):
        gain += ", which may be nothing"
    return [
        f"Triage, {says}: the riskiest 10 % of the windows hold "
        f"{own.reached[at[0.1]]:share} of the extracted ones, the riskiest 50 % hold "
        f"{own.reached[at[0.5]]:share}; for 95 % of them {need:share} of the windows "
        "have to be scanned.",
        f"Foretold from the prefix alone, {says}: AUC {own.area}, {controls}; {gain}.",
    ]


def cost_finding(verdict: Verdict, windows: Population) -> str:
    """What triage saves, in tokens; by the risks of this verdict."""
    whole = float(windows.scan_cost.mean())
    shares = [percent(_cost(verdict, windows, share)) for share in (0.1, 0.5)]
    return (
        f"A pass over a prefix takes {windows.prefix_cost:,} tokens, scanning a window by the "
        f"plain prefix {whole:,.0f} on average: after "
        f"{len(windows.scan_cost):,} windows were scanned in full to fit it, triage with the "
        f"riskiest 10 % of further ones takes {shares[0]} of the tokens of scanning them all, with "
        f"the riskiest 50 % {shares[1]}. Triage is paid for once, whatever "
        "attacks follow on the riskiest."
    )
