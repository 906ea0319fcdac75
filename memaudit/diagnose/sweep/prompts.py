"""What the fitted prompts show: findings and notes; `fit_tables` has the tables.

Knows results of fits. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.section import Section
from memaudit.diagnose.sweep.fit_tables import (
    Results,
    checks_table,
    convergence_plot,
    convergence_table,
    fits_table,
    lengths_plot,
    plan_checks,
)
from memaudit.diagnose.sweep.fits import RANDOM, Fits, Ground, Result
from memaudit.diagnose.sweep.view import differs_from_zero
from memaudit.report.wording import p_value
from memaudit.score.estimate import percent, points
from memaudit.score.resample import Resamples


def sweep_fits(fits: Fits, resamples: Resamples, disclosure: Disclosure) -> Section:
    """Compare the fitted variants."""
    if fits.run is None:
        return Section([f"Fits: {fits.reason}."], fits.notes)
    own, run, ground = fits.own, fits.run, fits.run.ground
    clusters, controls, known = ground.data.clusters, ground.controls, run.known_elsewhere
    if controls is not None and not disclosure.admits("controls of fits", controls.clusters):
        controls = None
    if known is not None and not (known.any() and disclosure.covers(clusters[known])):
        known = None
    results = Results(
        none=run.none,
        fitted=run.fitted,
        clusters=clusters,
        control_clusters=None if controls is None else controls.clusters,
        known_elsewhere=known,
        resamples=resamples,
    )
    return Section(
        _findings(results, run.lengths, own),
        [*fits.notes, *_notes(run.config, ground, results)],
        [
            checks_table(results, plan_checks(results, own)),
            fits_table(results),
            convergence_table(results, own),
        ],
        [lengths_plot(results), convergence_plot(results, own)],
    )


def _findings(results: Results, lengths: Sequence[int], own: int) -> list[str]:
    findings = [_against_constant(results, own)]
    findings += [saturation(results, name, lengths) for name in ("dynamic", "constant")]
    varied = {fit.name for fit in results.fitted} - {"constant", "dynamic", RANDOM}
    comparisons = 1 + len(varied)
    findings.append(_starts(results, own, comparisons))
    findings += [_versus(results, name, own, comparisons) for name in sorted(varied)]
    return findings


def _rate(results: Results, name: str, virtual: int) -> str:
    return f"{results.rate(results.fits_of(name, virtual)[0]):share}"


def _difference(
    results: Results, first: Sequence[Result], second: Sequence[Result], comparisons: int = 1
) -> str:
    """Return a difference and its verdict, corrected for ``comparisons`` (Bonferroni)."""
    change = results.change(first, second)
    p = results.p_value(first, second)
    significant = differs_from_zero(change, p) and p < 0.05 / comparisons
    verdict = "" if significant else "no significant difference, "
    return f"{verdict}{change:points points}, {p_value(p)}"


def _against_constant(results: Results, own: int) -> str:
    dynamic, constant = results.fits_of("dynamic", own), results.fits_of("constant", own)
    seeds = f"mean of {len(dynamic)} seeds" if len(dynamic) > 1 else "one seed"
    none = f"{results.rate(results.none):share}"
    all_lengths = _difference(
        results, results.fits_of("dynamic", None), results.fits_of("constant", None)
    )
    sentence = (
        f"Dynamic against constant, equal budget, mean of all V: {all_lengths}. At V = {own} "
        f"({seeds}): {_difference(results, dynamic, constant)}; of {len(results.clusters):,} "
        f"windows the plain prefix extracts {none}, constant {_rate(results, 'constant', own)}, "
        f"dynamic {_rate(results, 'dynamic', own)} (seed 0)."
    )
    if results.known_elsewhere is not None:
        known = results.known_elsewhere
        rates = [np.mean([fit.exact[known].mean() for fit in side]) for side in (constant, dynamic)]
        sentence += (
            f" Of the {int(known.sum())} windows that a further model extracts and this one does "
            f"not, constant extracts {percent(float(rates[0]))}, dynamic "
            f"{percent(float(rates[1]))}."
        )
    hits = [fit.controls for fit in dynamic + constant if fit.controls is not None]
    if hits and results.control_clusters is not None:
        union = np.asarray(np.any(hits, axis=0))
        rate = f"{results.resamples.rate(union, results.control_clusters):share}"
        sentence += (
            f" Together these {len(hits)} fits extract {int(union.sum()):,} of "
            f"{len(union):,} controls: {rate}."
        )
    return sentence


def saturation(results: Results, name: str, lengths: Sequence[int]) -> str:
    """Return a sentence on the V from which no larger V extracts significantly more."""
    fits = [results.fits_of(name, virtual)[:1] for virtual in lengths]
    if len(fits) < 2:
        return f"Virtual tokens, {name}: only one V was fitted."
    enough = next(
        at for at in range(len(fits)) if not _extracts_more(results, fits[at], fits[at + 1 :])
    )
    ends = f"V = {lengths[0]} to {lengths[-1]}: {_difference(results, fits[-1], fits[0])}"
    if enough == len(fits) - 1:
        return f"Virtual tokens, {name}: no saturation up to V = {lengths[-1]} ({ends})."
    best = max(float(fit[0].exact.mean()) for fit in fits)
    return (
        f"Virtual tokens, {name}: from V = {lengths[enough]} "
        f"({_rate(results, name, lengths[enough])}) on no larger V extracts significantly more "
        f"(the highest {percent(best)}; {ends}). "
        f"Seed 0 only; the intervals of what a larger V adds end at "
        f"{points(_highest_gain(results, fits[enough:]))} points."
    )


def _highest_gain(results: Results, fits: Sequence[list[Result]]) -> float:
    """Return the highest upper end of the later fits' gains over the first fit."""
    changes = [results.change(fit, fits[0]) for fit in fits[1:]]
    # If no window differs, the bound is the exact upper bound of a rate of 0.
    none_differ = results.resamples.rate(
        np.zeros(len(results.clusters), dtype=bool), results.clusters
    )
    ends = [none_differ.high if change.high is None else change.high for change in changes]
    return max(end for end in ends if end is not None)


def _extracts_more(
    results: Results, base: Sequence[Result], larger: Sequence[list[Result]]
) -> bool:
    """Return True if a larger V extracts significantly more (Bonferroni over larger V)."""
    return any(
        results.change(fit, base).above(0) and results.p_value(fit, base) < 0.05 / len(larger)
        for fit in larger
    )


def _starts(results: Results, own: int, comparisons: int) -> str:
    identity, random = results.fits_of("dynamic", own), results.fits_of(RANDOM, own)
    starts = [("identity", identity), ("random", random)]
    ranges = [
        f"{name} {100 * min(rates):.1f} to {100 * max(rates):.1f} %"
        for name, seeds in starts
        if (rates := [float(fit.exact.mean()) for fit in seeds])
    ]
    losses = [
        f"{name} {np.mean([fit.before for fit in seeds]):.3f} to "
        f"{np.mean([fit.best for fit in seeds]):.3f}"
        for name, seeds in starts
    ]
    epochs = [f"{np.mean([fit.converged for fit in seeds]):.1f}" for _, seeds in starts]
    return (
        f"Identity against random start: {_difference(results, identity, random, comparisons)}; "
        f"over {len(identity)} seeds {', '.join(ranges)}. Select NLL before and at best: "
        f"{', '.join(losses)}; within 1 % of the best after {epochs[0]} and {epochs[1]} epochs."
    )


def _versus(results: Results, name: str, own: int, comparisons: int) -> str:
    base = name.partition(",")[0]
    difference = _difference(
        results, results.fits_of(name, own), results.fits_of(base, own), comparisons
    )
    return f"{name[0].upper()}{name[1:]}, against {base}, V = {own}: {difference}."


def _notes(config: ScanConfig, ground: Ground, results: Results) -> list[str]:
    dynamic = config.dynamic
    records = results.fitted[0].records
    notes = [
        f"The fits use fewer windows than the run ({records[0].fit_windows:,} in the first fold), "
        "so their rates are lower and serve for comparison only.",
        f"Dynamic uses the run's settings: mapping {dynamic.mapping}, embedding "
        f"{dynamic.embedding}, low rank {dynamic.low_rank}; constant uses the same epochs and "
        "windows and its own learning rate. Neither was tuned for each V. The verdicts on starts, "
        "depths and low-rank changes are corrected for the number of comparisons.",
    ]
    own = len(results.fits_of("dynamic", dynamic.num_virtual_tokens))
    notes.append(
        "Intervals and p-values of the fits resample windows and hold for these prompts; they do "
        f"not include the variation between seeds. V = {dynamic.num_virtual_tokens} was "
        f"fitted with {own} seed{'s' if own > 1 else ''}, every other V with one."
    )
    if not ground.same_folds:
        notes.append("These fits use new folds, not the run's folds.")
    if ground.controls is None:
        notes.append("The run had no controls, so what a prompt produces by itself is not known.")
    return notes
