"""What the fitted variants say: one table of all, one of the checks, and two plots.

Knows verdicts of variants on the same windows, and how each fit went. Knows no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.sweep.results import Result, Results, spread, stability
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot


def fits_table(results: Results) -> FigureTable:
    """A row for ``none`` and for every variant and seed."""
    columns = [
        Column("prompt", "text"),
        Column("V", "count"),
        Column("seed", "count"),
        Column("extracted", "share"),
        Column("less none", "points"),
        Column("p", "p"),
        Column("gained", "count"),
        Column("lost", "count"),
        *([Column("known elsewhere", "share")] if results.elsewhere is not None else []),
        *([Column("controls", "share")] if results.control_clusters is not None else []),
        Column("suffix NLL", "nats"),
        Column("select NLL before", "nats"),
        Column("best", "nats"),
        Column("chosen epochs", "text"),
        Column("seconds", "number"),
    ]
    count = len(results.clusters)
    return FigureTable(
        name="fits",
        title="Prompts fitted, one thing varied at a time",
        says=(
            f"Each fitted in every fold on {count:,} windows, whole clusters drawn at random, and "
            "each window scored by a prompt that saw none of its near-duplicates. Gained: what "
            "the prompt extracts and the plain prefix does not; lost: the other way round. "
            "Constant has the budget of dynamic: the same fit windows and steps. NLL before and "
            "best: mean over the folds' select windows."
            + (
                " Known elsewhere: of the windows that a further model gives away and this one "
                "does not."
                if results.elsewhere is not None
                else ""
            )
        ),
        columns=columns,
        rows=[_row(results, one) for one in (results.none, *results.fitted)],
    )


def _row(results: Results, one: Result) -> list[Cell]:
    resamples, none = results.resamples, results.none
    fitted = bool(one.records)
    row: list[Cell] = [
        one.name,
        one.virtual_tokens,
        one.seed if fitted else None,
        resamples.rate(one.exact, results.clusters),
        results.change([one], [none]) if fitted else None,
        results.p_value([one], [none]) if fitted else None,
        int((one.exact & ~none.exact).sum()) if fitted else None,
        int((none.exact & ~one.exact).sum()) if fitted else None,
    ]
    if results.elsewhere is not None:
        there = results.elsewhere
        row.append(resamples.rate(one.exact[there], results.clusters[there]))
    if results.control_clusters is not None and one.controls is not None:
        row.append(resamples.rate(one.controls, results.control_clusters))
    row.append(resamples.mean(one.nll, results.clusters))
    row += [one.before, one.best, one.chosen] if fitted else [None, None, None]
    return [*row, one.seconds]


@dataclass(frozen=True)
class Check:
    """Two variants, held beside each other."""

    asked: str
    first: tuple[str, int | None]
    """Name and V; every V where it is None."""
    second: tuple[str, int | None]


def plan_checks(results: Results, own: int) -> list[Check]:
    """The comparisons that readers of the paper ask for, of the variants there are."""
    names = list(dict.fromkeys(one.name for one in results.fitted))
    lengths = sorted({one.virtual_tokens for one in results.fitted})
    checks = [Check("dynamic against constant, all V", ("dynamic", None), ("constant", None))]
    checks += [
        Check(f"dynamic against constant, V={virtual}", ("dynamic", virtual), ("constant", virtual))
        for virtual in lengths
    ]
    for name in names:
        if name not in ("constant", "dynamic"):
            base = name.partition(",")[0]
            checks.append(Check(f"{name}, against {base}", (name, own), (base, own)))
    for name in ("constant", "dynamic"):
        for less, more in itertools.pairwise(lengths):
            checks.append(Check(f"{name}, V={more} against {less}", (name, more), (name, less)))
    return checks


def checks_table(results: Results, checks: Sequence[Check]) -> FigureTable:
    """One row for each check."""
    return FigureTable(
        name="checks",
        title="Checks",
        says=(
            "Two prompts on the same windows, each the mean over its seeds; the difference is "
            "paired, with an interval over clusters. Of more seeds than one, or of all V, the ends "
            "beside a figure are the lowest and the highest. NLL: the best on select. Converged: "
            "the first epoch whose NLL there is within 1 % of the best, mean over folds and seeds. "
            "Of so many rows one in twenty has p below 0.05 where there is nothing."
        ),
        columns=[
            Column("check", "text"),
            Column("seeds", "text"),
            Column("first", "share"),
            Column("second", "share"),
            Column("difference", "points"),
            Column("p", "p"),
            Column("NLL, first", "nats"),
            Column("NLL, second", "nats"),
            Column("converged, first", "number"),
            Column("converged, second", "number"),
        ],
        rows=[_check_row(results, check) for check in checks],
    )


def _check_row(results: Results, check: Check) -> list[Cell]:
    first, second = results.of(*check.first), results.of(*check.second)
    return [
        check.asked,
        f"{len(first)}, {len(second)}",
        stability(first),
        stability(second),
        results.change(first, second),
        results.p_value(first, second),
        spread([one.best for one in first]),
        spread([one.best for one in second]),
        spread([one.converged for one in first]),
        spread([one.converged for one in second]),
    ]


def lengths_plot(results: Results) -> Plot:
    """Exact rate against V."""
    lines = []
    lengths = sorted({one.virtual_tokens for one in results.fitted})
    at = [float(virtual) for virtual in lengths]
    for name in ("constant", "dynamic"):
        rates = [
            results.resamples.rate(results.of(name, v)[0].exact, results.clusters) for v in lengths
        ]
        lines.append(Line.of(name, name, at, rates, marker="o"))
    level = float(results.none.exact.mean())
    lines.append(Line("none", "none", at, [level] * len(at), dash="--"))
    if results.control_clusters is not None:
        hit = [results.of("dynamic", v)[0].controls for v in lengths]
        levels = [float(one.mean()) if one is not None else float("nan") for one in hit]
        lines.append(Line("controls, dynamic", "series-3", at, levels, dash=":", marker="o"))
    return Plot(
        name="virtual-tokens",
        title="Extraction against virtual tokens",
        says="V free vectors, or a generator of V, fitted with the same budget; seed 0.",
        x=Axis("virtual tokens V", logarithmic=True, ticks=at, names=[str(v) for v in lengths]),
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def convergence_plot(results: Results, own: int, random: str) -> Plot:
    """Select NLL by epoch of both starts, and of ``constant``."""
    lines = []
    shown = (("dynamic", "identity", "series-1"), (random, "random", "series-2"))
    for name, said, colour in (*shown, ("constant", "constant", "series-6")):
        seeds = results.of(name, own)
        epochs = min(len(record.epochs) for one in seeds for record in one.records)
        curves = np.array([_by_epoch(one, epochs) for one in seeds])  # (seeds, epochs)
        at = [float(epoch) for epoch in range(epochs)]
        ends = (curves.min(axis=0).tolist(), curves.max(axis=0).tolist())
        lines.append(Line(said, colour, at, curves.mean(axis=0).tolist(), *ends, marker="o"))
    return Plot(
        name="convergence",
        title="Convergence: identity against random start",
        says=(
            f"NLL of the select windows by epoch, V={own}, mean over folds and seeds; bars from "
            "the lowest to the highest seed. Epoch 0 is before the first step."
        ),
        x=Axis("epoch"),
        y=Axis("select NLL, nats/token"),
        lines=lines,
    )


def convergence_table(results: Results, own: int, random: str) -> FigureTable:
    """The figures of that plot, as far as every fit went."""
    kinds = [results.of(name, own) for name in ("dynamic", random, "constant")]
    epochs = min(len(record.epochs) for kind in kinds for one in kind for record in one.records)
    curves = [np.array([_by_epoch(one, epochs) for one in kind]) for kind in kinds]
    return FigureTable(
        name="convergence",
        title="Select NLL by epoch",
        says=f"V={own}; mean over folds and seeds, and the lowest and highest of the seeds.",
        columns=[Column("epoch", "count")]
        + [Column(name, "nats") for name in ("identity", "random", "constant")],
        rows=[
            [epoch, *(spread(curve[:, epoch].tolist()) for curve in curves)]
            for epoch in range(epochs)
        ],
    )


def _by_epoch(one: Result, epochs: int) -> list[float]:
    curves = [[epoch.select_nll for epoch in record.epochs[:epochs]] for record in one.records]
    return [float(value) for value in np.mean(curves, axis=0)]
