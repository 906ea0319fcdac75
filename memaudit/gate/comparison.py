"""Two audits of the same windows, compared: what came in, what went, and whether that is chance.

Knows baselines, clusters and the exact sign test. Knows nothing of files, samples or reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from memaudit.gate.baseline import Baseline

ANY = "any"
"""Stands for all attacks on the model together: a window that at least one of them extracts."""

Outcome = Literal["regression", "none", "inconclusive"]
_EXIT_CODES: dict[Outcome, int] = {"none": 0, "regression": 1, "inconclusive": 4}


@dataclass(frozen=True)
class Change:
    """One attack, on the windows that both audits have."""

    attack: str
    """Its name, or `ANY`."""
    new: int
    """Windows extracted now and not before."""
    gone: int
    """Windows extracted before and not now."""
    kept: int
    """Windows extracted both times."""
    neither: int
    """Windows extracted neither time."""
    worse: int
    """Near-duplicate clusters of which more windows came in than went."""
    better: int
    """Clusters of which more went than came in."""
    p_value: float
    """Exact McNemar test, two-sided, windows as independent; 1 where nothing changed."""
    clustered_p_value: float
    """Exact sign test, two-sided, of clusters worse against better; 1 where there are none."""
    adjusted: float
    """The larger p-value times the number of changes tested, at most 1 (Bonferroni); 1 where one
    test finds more and the other not."""

    @property
    def before(self) -> int:
        """Windows extracted before."""
        return self.kept + self.gone

    @property
    def now(self) -> int:
        """Windows extracted now."""
        return self.kept + self.new


@dataclass(frozen=True)
class ChangedWindow:
    """A window that other attacks extract than before."""

    fingerprint: str
    before: tuple[str, ...]
    """Attacks that extracted it before; empty where none did."""
    now: tuple[str, ...]
    """Attacks that extract it now; empty where none does."""


@dataclass(frozen=True)
class Comparison:
    """A run held against a baseline."""

    baseline: Baseline
    run: Baseline
    windows: int
    """In both."""
    only_baseline: int
    """Windows of the baseline that the run does not have."""
    only_run: int
    """Windows of the run that the baseline does not have."""
    new_only_run: int
    """Of them, those that an attack extracts."""
    changes: tuple[Change, ...]
    """Of each attack, weakest first; then, where there are several, of `ANY`."""
    changed: tuple[ChangedWindow, ...]
    """Windows that changed, in the order of the run's file."""
    outcome: Outcome
    reason: str
    """Why, in a sentence."""
    confidence: float
    """Of the tests."""

    @property
    def exit_code(self) -> int:
        """0 without a regression, 1 with one, 4 where it cannot be told."""
        return _EXIT_CODES[self.outcome]

    @property
    def new(self) -> tuple[ChangedWindow, ...]:
        """Windows that come out now and did not before, by whichever attack."""
        return tuple(window for window in self.changed if not window.before)

    @property
    def gone(self) -> tuple[ChangedWindow, ...]:
        """Windows that no attack extracts any longer."""
        return tuple(window for window in self.changed if not window.now)


def compare(
    baseline: Baseline,
    run: Baseline,
    clusters: Mapping[str, int],
    *,
    confidence: float,
    max_new: int | None = None,
    void: str = "",
) -> Comparison:
    """Pair the windows of both by fingerprint and judge what changed.

    A regression is an attack, or all together, by which significantly more windows came in than
    went, at ``confidence``; or more windows new than ``max_new`` allows. Significant is what the
    exact McNemar test over windows and the exact sign test over near-duplicate clusters both find:
    twenty copies of one text are one change. Where the clusters are too few for any change to be
    significant, or those that changed are and more came in than went, nothing is decided, unless
    ``max_new`` is given: a count needs no test. It counts the run's windows that the baseline does
    not have too, and passes only where both have the same.

    ``void``: why the run means nothing, so that nothing newly extracted shows nothing; empty where
    it means something.

    ``clusters``: fingerprint to cluster, of all windows of the run. ``run`` has to know all its
    windows. The two have to be on the same terms, and a baseline that does not know its windows on
    the same windows: whoever calls has seen to that.
    """
    assert run.fingerprints is not None
    theirs = set(run.fingerprints if baseline.fingerprints is None else baseline.fingerprints)
    shared = [fingerprint for fingerprint in run.fingerprints if fingerprint in theirs]
    changed = tuple(
        ChangedWindow(fingerprint, before, now)
        for fingerprint in shared
        if (before := baseline.extracted.get(fingerprint, ()))
        != (now := run.extracted.get(fingerprint, ()))
    )
    changes = _changes(baseline, run, shared, clusters)
    apart = _Apart(
        only_baseline=len(theirs) - len(shared),
        only_run=len(run.fingerprints) - len(shared),
        new=len(run.extracted.keys() - theirs),
    )
    drawn = len({clusters[fingerprint] for fingerprint in shared})
    outcome, reason = _judge(changes, drawn, 1 - confidence, max_new, apart)
    if void and outcome == "none":
        outcome, reason = "inconclusive", f"The run means nothing. {void}"
    return Comparison(
        baseline=baseline,
        run=run,
        windows=len(shared),
        only_baseline=apart.only_baseline,
        only_run=apart.only_run,
        new_only_run=apart.new,
        changes=changes,
        changed=changed,
        outcome=outcome,
        reason=reason,
        confidence=confidence,
    )


def fewest_changed(tests: int, alpha: float) -> int:
    """The least number of clusters that, all changed one way, are significant in so many tests.

    n of them have the two-sided p-value 2 / 2^n.
    """
    count = 1
    while tests * 2.0 ** (1 - count) > alpha:
        count += 1
    return count


@dataclass(frozen=True)
class _Apart:
    """What only one side has: windows of each, and those of the run that are extracted."""

    only_baseline: int
    only_run: int
    new: int


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
    new, gone = pairs.count((False, True)), pairs.count((True, False))
    by_cluster: Counter[int] = Counter()
    for fingerprint, (before, now) in zip(shared, pairs, strict=True):
        by_cluster[clusters[fingerprint]] += now - before
    worse = sum(change > 0 for change in by_cluster.values())
    better = sum(change < 0 for change in by_cluster.values())
    p_value, clustered = _sign_test(new, gone), _sign_test(worse, better)
    agree = (new > gone) == (worse > better)  # else they tell of opposite changes
    return Change(
        attack=attack,
        new=new,
        gone=gone,
        kept=pairs.count((True, True)),
        neither=pairs.count((False, False)),
        worse=worse,
        better=better,
        p_value=p_value,
        clustered_p_value=clustered,
        adjusted=min(1.0, tests * max(p_value, clustered)) if agree else 1.0,
    )


def _sign_test(more: int, less: int) -> float:
    """Two-sided p-value of so many changes one way and the other; McNemar's where of windows."""
    return float(stats.binomtest(more, more + less).pvalue) if more + less else 1.0


def _judge(
    changes: Sequence[Change], clusters: int, alpha: float, max_new: int | None, apart: _Apart
) -> tuple[Outcome, str]:
    fewest = fewest_changed(max(1, len(changes)), alpha)
    worse = [change for change in changes if change.new > change.gone]
    proven = [change for change in worse if change.adjusted <= alpha]
    if proven:
        return "regression", f"{_told(min(proven, key=lambda c: c.adjusted))}: significantly more."
    new = (changes[-1].new if changes else 0) + apart.new
    if max_new is not None and new > max_new:
        return "regression", f"{_counted(new, apart)}, more than the {max_new:,} allowed."
    if not changes:
        return "inconclusive", "No attack on the model was run, so there is nothing to compare."
    if clusters < (fewest if max_new is None else 1):
        return "inconclusive", (
            f"The windows in both lie in {clusters:,} clusters: with fewer than {fewest} no change "
            "can be told from chance."
        )
    if max_new is not None:
        return _within(new, max_new, apart)
    if few := [c for c in worse if c.worse + c.better < fewest]:
        return "inconclusive", (
            f"{_told(max(few, key=lambda c: c.new - c.gone))}: too few to tell from chance, for "
            f"which it takes {fewest} clusters; say with --max-new how many are too many."
        )
    return "none", _no_worse(changes, alpha)


def _within(new: int, max_new: int, apart: _Apart) -> tuple[Outcome, str]:
    """Few enough are new, of the windows that can be compared."""
    if apart.only_baseline or apart.only_run:
        return "inconclusive", (
            f"{_counted(new, apart)}, within the {max_new:,} allowed, but {apart.only_run:,} "
            f"windows are only in the run and {apart.only_baseline:,} only in the baseline, so not "
            "all can be told; write a new baseline."
        )
    return "none", f"{_counted(new, apart)}, within the {max_new:,} allowed."


def _counted(new: int, apart: _Apart) -> str:
    inside = f", {apart.new:,} of them windows that only the run has" if apart.new else ""
    return f"{new:,} newly extracted{inside}"


def _no_worse(changes: Sequence[Change], alpha: float) -> str:
    """Why there is no regression: nothing changed, it got better, or it may be chance."""
    if not any(change.new or change.gone for change in changes):
        return "Every window comes out by the same attacks as before, or by none as before."
    proven = [c for c in changes if c.gone > c.new and c.adjusted <= alpha]
    if proven:
        return f"{_told(min(proven, key=lambda c: c.adjusted))}: significantly fewer."
    most = max(changes, key=lambda change: change.new - change.gone)
    return f"{_told(most)}: on the whole not significantly more."


def _told(change: Change) -> str:
    who = "all attacks together" if change.attack == ANY else change.attack
    clusters = change.worse + change.better
    spread = ""
    if 0 < clusters < change.new + change.gone:
        spread = f", in {clusters:,} cluster{'' if clusters == 1 else 's'}"
    return (
        f"{who}: {change.new:,} newly extracted, {change.gone:,} no longer{spread} "
        f"(p = {change.adjusted:.2g})"
    )
