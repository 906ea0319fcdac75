"""The sweep with fits: what is fitted, and what comes of it in words.

Knows the order of things. Knows neither how a prompt is fitted nor how a table is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.sweep.checks import (
    checks_table,
    convergence_plot,
    convergence_table,
    fits_table,
    lengths_plot,
    plan_checks,
)
from memaudit.diagnose.sweep.figures import (
    Piece,
    apart_from_zero,
    as_bools,
)
from memaudit.diagnose.sweep.fits import Fitted, Ground, Laboratory, Usable, choose_ground
from memaudit.diagnose.sweep.results import Result, Results
from memaudit.diagnose.sweep.variants import RANDOM, Variant, plan_variants
from memaudit.errors import DataError
from memaudit.report.wording import p_value
from memaudit.score.estimate import percent, points
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Ints


@dataclass(frozen=True)
class Limits:
    """How much is fitted."""

    windows: int
    """That are fitted and scored on, at most."""
    seeds: int
    """Fits of each kind of start."""
    seed: int
    """Of the draw of the windows."""


def sweep_fits(
    subject: Subject,
    usable: Usable,
    limits: Limits,
    elsewhere: Bools | None,
    progress: Progress,
    resamples: Resamples,
) -> Piece:
    """Fit every variant, and hold them beside each other.

    elsewhere: (N,) windows that a further model gives away and the audited one does not.
    """
    own = subject.config.dynamic.num_virtual_tokens
    lengths, notes = usable.lengths, usable.notes
    if own not in lengths:
        return Piece([f"Fits: the model does not take the run's own V = {own}."], notes)
    try:
        ground = choose_ground(subject, limits.windows, limits.seed)
    except DataError as error:
        return Piece([f"Fits: none was made, for {error}."], notes)
    if not _may_be_told(ground, subject.disclosure):
        return Piece(["Fits: none was made, for their windows are too few for figures."], notes)
    variants = plan_variants(subject.config, lengths, limits.seeds)
    plain, fitted = Laboratory(subject, ground, progress).run(variants)
    results = Results(
        none=_result(Variant("none", "constant", 0, 0, subject.config), plain),
        fitted=[_result(*pair) for pair in zip(variants, fitted, strict=True)],
        clusters=ground.data.clusters,
        control_clusters=_control_clusters(ground, subject.disclosure),
        elsewhere=_there(elsewhere, ground, subject.disclosure),
        resamples=resamples,
    )
    return Piece(
        _findings(results, lengths, own),
        [*notes, *_notes(subject, ground, results)],
        [
            checks_table(results, plan_checks(results, own)),
            fits_table(results),
            convergence_table(results, own, RANDOM),
        ],
        [lengths_plot(results), convergence_plot(results, own, RANDOM)],
    )


def _result(variant: Variant, fitted: Fitted) -> Result:
    return Result(
        name=variant.name,
        virtual_tokens=variant.virtual_tokens,
        seed=variant.seed,
        exact=fitted.exact,
        nll=fitted.nll,
        controls=fitted.controls,
        records=fitted.records,
        seconds=fitted.seconds,
    )


def _may_be_told(ground: Ground, disclosure: Disclosure) -> bool:
    """Whether there may be figures of all windows, and of those that each fold selects by."""
    clusters = ground.data.clusters
    groups = {"windows of fits": clusters}
    for number, fold in enumerate(ground.folds):
        groups[f"windows that fold {number} selects by"] = clusters[fold.select]
    return disclosure.admits_all(groups)


def _control_clusters(ground: Ground, disclosure: Disclosure) -> Ints | None:
    """Clusters of the controls; None without controls that there may be figures of."""
    if ground.controls is None or not disclosure.admits(
        "controls of fits", ground.controls.clusters
    ):
        return None
    return ground.controls.clusters


def _there(elsewhere: Bools | None, ground: Ground, disclosure: Disclosure) -> Bools | None:
    if elsewhere is None or not elsewhere[ground.rows].any():
        return None
    if not disclosure.covers(ground.data.clusters[elsewhere[ground.rows]]):
        return None
    return np.asarray(elsewhere[ground.rows])


def _findings(results: Results, lengths: Sequence[int], own: int) -> list[str]:
    findings = [_against_constant(results, own)]
    findings += [saturation(results, name, lengths) for name in ("dynamic", "constant")]
    others = {one.name for one in results.fitted} - {"constant", "dynamic", RANDOM}
    looked = 1 + len(others)
    findings.append(_starts(results, own, looked))
    findings += [_versus(results, name, own, looked) for name in sorted(others)]
    return findings


def _rate(results: Results, name: str, virtual: int) -> str:
    return f"{results.resamples.rate(results.of(name, virtual)[0].exact, results.clusters):share}"


def _told(
    results: Results, first: Sequence[Result], second: Sequence[Result], looked: int = 1
) -> str:
    """A difference, and whether it is one; looked: at how many like it (Bonferroni)."""
    change = results.change(first, second)
    p = results.p_value(first, second)
    apart = apart_from_zero(change, p) and p < 0.05 / looked
    verdict = "" if apart else "no difference can be told, "
    return f"{verdict}{change:points points}, {p_value(p)}"


def _against_constant(results: Results, own: int) -> str:
    dynamic, constant = results.of("dynamic", own), results.of("constant", own)
    seeds = f"mean of {len(dynamic)} seeds" if len(dynamic) > 1 else "one seed"
    none = f"{results.resamples.rate(results.none.exact, results.clusters):share}"
    every = _told(results, results.of("dynamic", None), results.of("constant", None))
    sentence = (
        f"Dynamic against constant, equal budget, mean of all V: {every}. At V = {own} ({seeds}): "
        f"{_told(results, dynamic, constant)}; of {len(results.clusters):,} windows the plain "
        f"prefix extracts {none}, constant {_rate(results, 'constant', own)}, dynamic "
        f"{_rate(results, 'dynamic', own)} (seed 0)."
    )
    if results.elsewhere is not None:
        there = results.elsewhere
        found = [np.mean([one.exact[there].mean() for one in side]) for side in (constant, dynamic)]
        sentence += (
            f" Of the {int(there.sum())} windows that a further model gives away and this one does "
            f"not, constant brings back {percent(float(found[0]))}, dynamic "
            f"{percent(float(found[1]))}."
        )
    hits = [one.controls for one in dynamic + constant if one.controls is not None]
    if hits and results.control_clusters is not None:
        union = as_bools(np.any(hits, axis=0))
        rate = f"{results.resamples.rate(union, results.control_clusters):share}"
        sentence += (
            f" One or another of these {len(hits)} fits extracts {int(union.sum()):,} of "
            f"{len(union):,} controls: {rate}."
        )
    return sentence


def saturation(results: Results, name: str, lengths: Sequence[int]) -> str:
    """From which V on no larger one extracts more, as far as can be told."""
    fits = [results.of(name, virtual)[:1] for virtual in lengths]
    if len(fits) < 2:
        return f"Virtual tokens, {name}: one V alone was fitted."
    enough = next(at for at in range(len(fits)) if not _any_more(results, fits[at], fits[at + 1 :]))
    ends = f"V = {lengths[0]} to {lengths[-1]}: {_told(results, fits[-1], fits[0])}"
    if enough == len(fits) - 1:
        return f"Virtual tokens, {name}: no saturation up to V = {lengths[-1]} ({ends})."
    best = max(float(fit[0].exact.mean()) for fit in fits)
    return (
        f"Virtual tokens, {name}: from V = {lengths[enough]} "
        f"({_rate(results, name, lengths[enough])}) on no larger V tried extracts more that can be "
        f"told (the highest {percent(best)}; {ends}). "
        f"Seed 0 alone; the intervals of what a larger V adds end at "
        f"{points(_most(results, fits[enough:]))} points."
    )


def _most(results: Results, fits: Sequence[list[Result]]) -> float:
    """The highest upper end of what the later fits extract more than the first of them."""
    changes = [results.change(fit, fits[0]) for fit in fits[1:]]
    # Where no window differs, as many may as an exact bound of none allows.
    same = results.resamples.rate(np.zeros(len(results.clusters), dtype=bool), results.clusters)
    ends = [same.high if one.high is None else one.high for one in changes]
    return max(end for end in ends if end is not None)


def _any_more(results: Results, one: Sequence[Result], larger: Sequence[list[Result]]) -> bool:
    """Whether a larger V extracts more: its difference is above 0, allowing for all looked at."""
    return any(
        results.change(fit, one).above(0) and results.p_value(fit, one) < 0.05 / len(larger)
        for fit in larger
    )


def _starts(results: Results, own: int, looked: int) -> str:
    identity, random = results.of("dynamic", own), results.of(RANDOM, own)
    ways = [("identity", identity), ("random", random)]
    ranges = [
        f"{name} {100 * min(rates):.1f} to {100 * max(rates):.1f} %"
        for name, seeds in ways
        if (rates := [float(one.exact.mean()) for one in seeds])
    ]
    losses = [
        f"{name} {np.mean([one.before for one in seeds]):.3f} to "
        f"{np.mean([one.best for one in seeds]):.3f}"
        for name, seeds in ways
    ]
    epochs = [f"{np.mean([one.converged for one in seeds]):.1f}" for _, seeds in ways]
    return (
        f"Identity against random start: {_told(results, identity, random, looked)}; over "
        f"{len(identity)} seeds {', '.join(ranges)}. Select NLL before and at best: "
        f"{', '.join(losses)}; within 1 % of its best after {epochs[0]} and {epochs[1]} epochs."
    )


def _versus(results: Results, name: str, own: int, looked: int) -> str:
    base = name.partition(",")[0]
    told = _told(results, results.of(name, own), results.of(base, own), looked)
    return f"{name[0].upper()}{name[1:]}, against {base}, V = {own}: {told}."


def _notes(subject: Subject, ground: Ground, results: Results) -> list[str]:
    dynamic = subject.config.dynamic
    records = results.fitted[0].records
    notes = [
        f"The fits have fewer windows than the run's own ({records[0].fit_windows:,} trained on in "
        "the first fold), so their rates are below it and hold for the comparison.",
        f"Dynamic as the run has it: mapping {dynamic.mapping}, embedding {dynamic.embedding}, "
        f"low rank {dynamic.low_rank}; constant with the same epochs and windows and its own "
        "learning rate. Neither was tuned again for each V. A difference of starts, depths or "
        "low-rank changes is called one only if it would be with as many as were tried.",
    ]
    own = len(results.of("dynamic", dynamic.num_virtual_tokens))
    notes.append(
        "Intervals and p-values of the fits draw windows anew and hold for the prompts as fitted: "
        f"how much other seeds would change is not in them. V = {dynamic.num_virtual_tokens} was "
        f"fitted with {own} seed{'s' if own > 1 else ''}, every other V with one."
    )
    if not ground.same_folds:
        notes.append("The folds of these fits were made anew; they are not those of the run.")
    if ground.controls is None:
        notes.append("The run had no controls: what a prompt writes by itself is not known.")
    return notes
