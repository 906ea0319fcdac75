"""Comparison of two audits of the same samples: what was gained, what was lost, is it chance?

Knows baselines, clusters and the exact sign test. Knows nothing of files, samples or reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from memaudit.data.fingerprints import shorten_fingerprint
from memaudit.errors import FAILED, INCONCLUSIVE
from memaudit.gate.baseline import Baseline, overlap_of
from memaudit.gate.overlap import Overlap

ANY = "any"
"""All attacks on the model together: a sample that at least one of them extracts."""

Outcome = Literal["regression", "none", "inconclusive"]
_EXIT_CODES: dict[Outcome, int] = {
    "none": 0,
    "regression": FAILED,
    "inconclusive": INCONCLUSIVE,
}


@dataclass(frozen=True)
class Change:
    """One attack, on the samples that both audits have."""

    attack: str
    """Its name, or `ANY`."""
    new: int
    """Samples extracted now and not before."""
    lost: int
    """Samples extracted before and not now."""
    unchanged: int
    """Samples extracted both times."""
    neither: int
    """Samples extracted neither time."""
    worse: int
    """Near-duplicate clusters with more new samples than lost ones."""
    better: int
    """Near-duplicate clusters with more lost samples than new ones."""
    p_value: float
    """Exact McNemar test, two-sided, samples as independent; 1 if nothing changed."""
    clustered_p_value: float
    """Exact sign test, two-sided, of clusters worse against better; 1 if there are none."""
    adjusted: float
    """Larger p-value times the number of changes tested, up to 1 (Bonferroni); 1 if the two tests
    disagree on the direction."""

    @property
    def before(self) -> int:
        """Samples extracted before."""
        return self.unchanged + self.lost

    @property
    def now(self) -> int:
        """Samples extracted now."""
        return self.unchanged + self.new


@dataclass(frozen=True)
class ChangedSample:
    """A sample that is extracted by other attacks than before."""

    fingerprint: str
    before: tuple[str, ...]
    """Attacks that extracted it before; may be empty."""
    now: tuple[str, ...]
    """Attacks that extract it now; may be empty."""


@dataclass(frozen=True)
class Comparison:
    """A run compared with a baseline."""

    baseline: Baseline
    run: Baseline
    overlap: Overlap
    new_only_run: tuple[ChangedSample, ...]
    """Samples only in the run that an attack extracts, in the order of the run's file."""
    changes: tuple[Change, ...]
    """Change of each attack, weakest first; then of `ANY` if there are several attacks."""
    changed: tuple[ChangedSample, ...]
    """Samples that changed, in the order of the run's file."""
    outcome: Outcome
    reason: str
    """Reason for the outcome, in a sentence."""
    confidence: float
    """Confidence level of the tests."""

    @property
    def exit_code(self) -> int:
        """0 without a regression, 1 with one, 4 if inconclusive."""
        return _EXIT_CODES[self.outcome]

    @property
    def new(self) -> tuple[ChangedSample, ...]:
        """Samples that some attack extracts now and none did before."""
        return tuple(sample for sample in self.changed if not sample.before)

    @property
    def lost(self) -> tuple[ChangedSample, ...]:
        """Samples that no attack extracts any longer."""
        return tuple(sample for sample in self.changed if not sample.now)


def compare(
    baseline: Baseline,
    run: Baseline,
    clusters: Mapping[str, int],
    *,
    confidence: float,
    max_new: int | None = None,
    void: str = "",
) -> Comparison:
    """Pair the samples of both audits by fingerprint and judge what changed.

    Samples may have been added to the data or removed from it; both are counted.

    A regression is an attack, or all attacks together, with significantly more samples new than
    lost at ``confidence``; or more new samples than ``max_new`` allows. A change is significant if
    the exact McNemar test over samples and the exact sign test over near-duplicate clusters agree:
    twenty copies of one text are one change.

    The outcome is inconclusive if there are too few clusters for any change to be significant, if
    more samples are new than lost in too few clusters, if more than half of the baseline's samples
    were removed, or if an added sample is extracted. With ``max_new`` no test is needed; it also
    counts the added samples that are extracted, as nobody has accepted them.

    ``void``: why the run means nothing, so an unchanged result proves nothing; else empty.

    ``clusters``: fingerprint to cluster, for all samples of the run.

    The caller has checked that both audits are comparable (`require_comparable`).
    """
    shared, added = _split(baseline, run)
    changed = tuple(
        ChangedSample(fingerprint, before, now)
        for fingerprint in shared
        if (before := baseline.extracted.get(fingerprint, ()))
        != (now := run.extracted.get(fingerprint, ()))
    )
    changes = _changes(baseline, run, shared, clusters)
    new_only_run = tuple(
        ChangedSample(fingerprint, (), run.extracted[fingerprint])
        for fingerprint in added
        if fingerprint in run.extracted
    )
    cluster_count = len({clusters[fingerprint] for fingerprint in shared})
    overlap, added_new = overlap_of(baseline, run.fingerprints), len(new_only_run)
    outcome, reason = _judge(changes, cluster_count, 1 - confidence, max_new, overlap, added_new)
    if void and outcome == "none":
        outcome, reason = "inconclusive", f"The run means nothing. {void}"
    return Comparison(
        baseline=baseline,
        run=run,
        overlap=overlap,
        new_only_run=new_only_run,
        changes=changes,
        changed=changed,
        outcome=outcome,
        reason=reason,
        confidence=confidence,
    )


def _split(baseline: Baseline, run: Baseline) -> tuple[list[str], list[str]]:
    """Return the run's samples that the baseline has too, and those that were added."""
    before = set(map(shorten_fingerprint, baseline.fingerprints))
    shared: list[str] = []
    added: list[str] = []
    for fingerprint in run.fingerprints:
        (shared if shorten_fingerprint(fingerprint) in before else added).append(fingerprint)
    return shared, added


def fewest_changed(tests: int, alpha: float) -> int:
    """Return the fewest clusters that are significant if all change in one direction.

    n clusters have the two-sided p-value 2 / 2^n, adjusted for the number of ``tests``.
    """
    count = 1
    while tests * 2.0 ** (1 - count) > alpha:
        count += 1
    return count


def _changes(
    baseline: Baseline, run: Baseline, shared: Sequence[str], clusters: Mapping[str, int]
) -> tuple[Change, ...]:
    attacks = run.terms.attacks
    named = (*attacks, ANY) if len(attacks) > 1 else attacks
    return tuple(_change(attack, baseline, run, shared, clusters, len(named)) for attack in named)


def _change(
    attack: str,
    baseline: Baseline,
    run: Baseline,
    shared: Sequence[str],
    clusters: Mapping[str, int],
    tests: int,
) -> Change:
    def hit(side: Baseline, fingerprint: str) -> bool:
        attacks = side.extracted.get(fingerprint, ())
        return bool(attacks) if attack == ANY else attack in attacks

    pairs = [(hit(baseline, fingerprint), hit(run, fingerprint)) for fingerprint in shared]
    new, lost = pairs.count((False, True)), pairs.count((True, False))
    by_cluster: Counter[int] = Counter()
    for fingerprint, (before, now) in zip(shared, pairs, strict=True):
        by_cluster[clusters[fingerprint]] += now - before
    worse = sum(change > 0 for change in by_cluster.values())
    better = sum(change < 0 for change in by_cluster.values())
    p_value, clustered = _sign_test(new, lost), _sign_test(worse, better)
    agree = (new > lost) == (worse > better)  # else the tests point in opposite directions
    return Change(
        attack=attack,
        new=new,
        lost=lost,
        unchanged=pairs.count((True, True)),
        neither=pairs.count((False, False)),
        worse=worse,
        better=better,
        p_value=p_value,
        clustered_p_value=clustered,
        adjusted=min(1.0, tests * max(p_value, clustered)) if agree else 1.0,
    )


def _sign_test(more: int, less: int) -> float:
    """Return the two-sided p-value of changes in each direction; McNemar's test for samples."""
    return float(stats.binomtest(more, more + less).pvalue) if more + less else 1.0


def _judge(
    changes: Sequence[Change],
    clusters: int,
    alpha: float,
    max_new: int | None,
    overlap: Overlap,
    added: int,
) -> tuple[Outcome, str]:
    """Judge the changes. ``added``: number of extracted samples that only the run has."""
    fewest = fewest_changed(max(1, len(changes)), alpha)
    worse = [change for change in changes if change.new > change.lost]
    proven = [change for change in worse if change.adjusted <= alpha]
    if proven:
        strongest = min(proven, key=lambda change: change.adjusted)
        return "regression", f"{_describe(strongest)}: significantly more."
    new = (changes[-1].new if changes else 0) + added
    counted = f"{new:,} newly extracted{overlap.split(new, added)}"
    if max_new is not None and new > max_new and overlap.both:
        reason = f"{counted}, more than the {max_new:,} allowed. {overlap.fault}"
        return "regression", reason.rstrip()
    if not changes:
        return "inconclusive", "No attack on the model was run, so there is nothing to compare."
    if overlap.fault:
        return "inconclusive", overlap.fault
    if clusters < (fewest if max_new is None else 1):
        return "inconclusive", (
            f"The samples in both audits are in {clusters:,} clusters: with fewer than {fewest} no "
            "change can be distinguished from chance."
        )
    if max_new is not None:
        return "none", f"{counted}, within the {max_new:,} allowed."
    if few := [change for change in worse if change.worse + change.better < fewest]:
        largest = max(few, key=lambda change: change.new - change.lost)
        return "inconclusive", (
            f"{_describe(largest)}: too few to distinguish from chance, which takes {fewest} "
            "clusters; set with --max-new how many are too many."
        )
    if added:
        return "inconclusive", (
            f"{counted}: no earlier result can be compared with what was added; set with --max-new "
            "how many are too many."
        )
    return "none", _no_worse(changes, alpha)


def _no_worse(changes: Sequence[Change], alpha: float) -> str:
    """Say why there is no regression: nothing changed, it got better, or it may be chance."""
    if not any(change.new or change.lost for change in changes):
        return "The same attacks extract the same samples as before."
    proven = [change for change in changes if change.lost > change.new and change.adjusted <= alpha]
    if proven:
        return f"{_describe(min(proven, key=lambda change: change.adjusted))}: significantly fewer."
    largest = max(changes, key=lambda change: change.new - change.lost)
    return f"{_describe(largest)}: overall not significantly more."


def _describe(change: Change) -> str:
    who = "all attacks together" if change.attack == ANY else change.attack
    clusters = change.worse + change.better
    spread = ""
    if 0 < clusters < change.new + change.lost:
        spread = f", in {clusters:,} cluster{'' if clusters == 1 else 's'}"
    return (
        f"{who}: {change.new:,} newly extracted, {change.lost:,} no longer{spread} "
        f"(p = {change.adjusted:.2g})"
    )
