"""Results of the fitted variants on the same windows: comparisons, tables and plots.

Knows verdicts and fit records. Knows no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.section import heads
from memaudit.diagnose.sweep.fits import RANDOM, Result
from memaudit.diagnose.sweep.view import SHARE
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Interval, Ints, paired_clustered, paired_exact


@dataclass(frozen=True, eq=False)
class Results:
    """Scores of all variants on the same windows."""

    none: Result
    fitted: Sequence[Result]
    clusters: Ints
    """(n,)."""
    control_clusters: Ints | None
    known_elsewhere: Bools | None
    """(n,) windows that a further model extracts and the audited model does not."""
    resamples: Resamples

    def fits_of(self, name: str, virtual: int | None) -> list[Result]:
        """Return every seed of a variant with this V; without a V, seed 0 of every V."""
        named = [fit for fit in self.fitted if fit.name == name]
        if virtual is None:
            return [fit for fit in named if fit.seed == 0]
        return [fit for fit in named if fit.virtual_tokens == virtual]

    def rate(self, fit: Result) -> Estimate:
        """Return the exact rate of one fit."""
        return self.resamples.rate(fit.exact, self.clusters)

    def change(self, first: Sequence[Result], second: Sequence[Result]) -> Estimate:
        """Return the paired difference of exact rates, first less second, means over seeds."""
        return self.resamples.change(_mean_hits(first), _mean_hits(second), self.clusters)

    def p_value(self, first: Sequence[Result], second: Sequence[Result]) -> float:
        """Return p of a sign-flip test over clusters; for single seeds at least McNemar's p."""
        counts = [np.sum([fit.exact for fit in side], axis=0) for side in (first, second)]
        lengths = (len(second), len(first))  # scale the sums to equal numbers of seeds
        a, b = (count * length for count, length in zip(counts, lengths, strict=True))
        clustered = paired_clustered(
            a, b, self.clusters, self.resamples.number, self.resamples.rng()
        )
        if len(first) == len(second) == 1:
            return max(clustered, paired_exact(first[0].exact, second[0].exact).p_value)
        return clustered


def stability(seeds: Sequence[Result]) -> Estimate:
    """Return the seeds' mean exact rate, with the lowest and the highest as ends."""
    return spread([float(fit.exact.mean()) for fit in seeds])


def spread(values: Sequence[float]) -> Estimate:
    """Return the mean, with the lowest and highest as ends unless there is one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    return Estimate.of(mean, Interval(min(values), max(values)))


def _mean_hits(seeds: Sequence[Result]) -> Floats:
    return np.asarray(np.mean([fit.exact for fit in seeds], axis=0), dtype=np.float64)


def fits_table(results: Results) -> FigureTable:
    """Return a table with one row for ``none`` and one per variant and seed."""
    elsewhere = results.known_elsewhere is not None
    columns = [
        *(*heads("text", "prompt"), *heads("count", "V", "seed"), *heads("share", "extracted")),
        *(*heads("points", "less none"), *heads("p", "p"), *heads("count", "gained", "lost")),
        *(heads("share", "known elsewhere") if elsewhere else []),
        *(heads("share", "controls") if results.control_clusters is not None else []),
        *heads("nats", "suffix NLL", "select NLL before", "best"),
        *(*heads("text", "chosen epochs"), *heads("number", "seconds")),
    ]
    count = len(results.clusters)
    return FigureTable(
        name="fits",
        title="Prompts fitted, one thing varied at a time",
        says=(
            f"Each prompt is fitted in every fold on {count:,} windows, in whole clusters sampled "
            "at random. Each window is scored by a prompt that saw none of its near-duplicates. "
            "Gained: windows that only the prompt extracts. Lost: windows that only the plain "
            "prefix extracts. Constant has the budget of dynamic: the same fit windows and steps. "
            "NLL before and best: mean over the folds' select windows."
            + (
                " Known elsewhere: share of the windows that a further model extracts and the "
                "audited model does not."
                if elsewhere
                else ""
            )
        ),
        columns=columns,
        rows=[_row(results, fit) for fit in (results.none, *results.fitted)],
    )


def _row(results: Results, fit: Result) -> list[Cell]:
    resamples, none = results.resamples, results.none
    fitted = bool(fit.records)
    row: list[Cell] = [
        fit.name,
        fit.virtual_tokens,
        fit.seed if fitted else None,
        results.rate(fit),
        results.change([fit], [none]) if fitted else None,
        results.p_value([fit], [none]) if fitted else None,
        int((fit.exact & ~none.exact).sum()) if fitted else None,
        int((none.exact & ~fit.exact).sum()) if fitted else None,
    ]
    if results.known_elsewhere is not None:
        known = results.known_elsewhere
        row.append(resamples.rate(fit.exact[known], results.clusters[known]))
    if results.control_clusters is not None and fit.controls is not None:
        row.append(resamples.rate(fit.controls, results.control_clusters))
    row.append(resamples.mean(fit.nll, results.clusters))
    row += [fit.before, fit.best, fit.chosen] if fitted else [None, None, None]
    return [*row, fit.seconds]


@dataclass(frozen=True)
class Check:
    """A comparison of two variants."""

    question: str
    first: tuple[str, int | None]
    """Name and V; None for every V."""
    second: tuple[str, int | None]


def plan_checks(results: Results, own: int) -> list[Check]:
    """Return the comparisons that the fitted variants allow."""
    names = list(dict.fromkeys(fit.name for fit in results.fitted))
    lengths = sorted({fit.virtual_tokens for fit in results.fitted})
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
    """Return a table with one row per check."""
    return FigureTable(
        name="checks",
        title="Checks",
        says=(
            "Two prompts on the same windows, each the mean over its seeds. The difference is "
            "paired, with an interval over clusters. With several seeds, or all V, the ends beside "
            "a figure are the lowest and the highest. NLL: the best on the select windows. "
            "Converged: the first epoch whose select NLL is within 1 % of the best, mean over "
            "folds and seeds. Expect one row in twenty to have p below 0.05 by chance."
        ),
        columns=[
            *heads("text", "check", "seeds"),
            *heads("share", "first", "second"),
            *heads("points", "difference"),
            *heads("p", "p"),
            *heads("nats", "NLL, first", "NLL, second"),
            *heads("number", "converged, first", "converged, second"),
        ],
        rows=[_check_row(results, check) for check in checks],
    )


def _check_row(results: Results, check: Check) -> list[Cell]:
    first, second = results.fits_of(*check.first), results.fits_of(*check.second)
    return [
        check.question,
        f"{len(first)}, {len(second)}",
        stability(first),
        stability(second),
        results.change(first, second),
        results.p_value(first, second),
        spread([fit.best for fit in first]),
        spread([fit.best for fit in second]),
        spread([fit.converged for fit in first]),
        spread([fit.converged for fit in second]),
    ]


def lengths_plot(results: Results) -> Plot:
    """Plot the exact rate against V."""
    lines = []
    lengths = sorted({hits.virtual_tokens for hits in results.fitted})
    at = [float(virtual) for virtual in lengths]
    for name in ("constant", "dynamic"):
        rates = [results.rate(results.fits_of(name, v)[0]) for v in lengths]
        lines.append(Line.of(name, name, at, rates, marker="o"))
    level = float(results.none.exact.mean())
    lines.append(Line("none", "none", at, [level] * len(at), dash="--"))
    if results.control_clusters is not None:
        control_hits = [results.fits_of("dynamic", v)[0].controls for v in lengths]
        levels = [float(hits.mean()) if hits is not None else float("nan") for hits in control_hits]
        lines.append(Line("controls, dynamic", "series-3", at, levels, dash=":", marker="o"))
    return Plot(
        name="virtual-tokens",
        title="Extraction against virtual tokens",
        says="V free vectors or a generator of V vectors, fitted with the same budget; seed 0.",
        x=Axis("virtual tokens V", logarithmic=True, ticks=at, names=[str(v) for v in lengths]),
        y=SHARE,
        lines=lines,
    )


def convergence_plot(results: Results, own: int) -> Plot:
    """Plot the select NLL by epoch, for both starts and for ``constant``."""
    lines = []
    starts = (("dynamic", "identity", "series-1"), (RANDOM, "random", "series-2"))
    for name, label, colour in (*starts, ("constant", "constant", "series-6")):
        seeds = results.fits_of(name, own)
        epochs = min(len(record.epochs) for fit in seeds for record in fit.records)
        curves = np.array([_by_epoch(fit, epochs) for fit in seeds])  # (seeds, epochs)
        at = [float(epoch) for epoch in range(epochs)]
        ends = (curves.min(axis=0).tolist(), curves.max(axis=0).tolist())
        lines.append(Line(label, colour, at, curves.mean(axis=0).tolist(), *ends, marker="o"))
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


def convergence_table(results: Results, own: int) -> FigureTable:
    """Return the convergence plot's figures, for the epochs that every fit reached."""
    kinds = [results.fits_of(name, own) for name in ("dynamic", RANDOM, "constant")]
    epochs = min(len(record.epochs) for kind in kinds for fit in kind for record in fit.records)
    curves = [np.array([_by_epoch(fit, epochs) for fit in kind]) for kind in kinds]
    return FigureTable(
        name="convergence",
        title="Select NLL by epoch",
        says=f"V={own}; mean over folds and seeds, and the lowest and highest of the seeds.",
        columns=[*heads("count", "epoch"), *heads("nats", "identity", "random", "constant")],
        rows=[
            [epoch, *(spread(curve[:, epoch].tolist()) for curve in curves)]
            for epoch in range(epochs)
        ],
    )


def _by_epoch(fit: Result, epochs: int) -> list[float]:
    curves = [[epoch.select_nll for epoch in record.epochs[:epochs]] for record in fit.records]
    return [float(value) for value in np.mean(curves, axis=0)]
