"""Findings and notes on the silenced units, and their figures with intervals.

Knows sets of units and their effects. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.neurons.silencing import Cost, Goal, Group, Kind, Outcome, Silencing
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats

GOALS: dict[Goal, str] = {"stopped": "one token wrong", "erased": "erased"}
UNSELECTIVE = 0.5
"""Share of other extracted windows lost above which a set is not selective."""
GROUPS: dict[Group, str] = {
    "extracted": "other extracted windows",
    "controls": "controls",
    "data": "data that no attack extracts",
}


@dataclass(frozen=True, eq=False)
class Figures:
    """Figures of the silenced units, with intervals."""

    silencing: Silencing
    resamples: Resamples

    @property
    def reported(self) -> list[Outcome]:
        """Outcomes with enough windows to report."""
        return [
            outcome
            for outcome in self.silencing.outcomes
            if len(outcome.with_set) and outcome.disclosed
        ]

    def share(self, hits: Bools) -> Estimate:
        """Return the share of windows (I,), no two of one cluster."""
        return self.resamples.rate(hits, np.arange(len(hits)))

    def mean_share(self, shares: Floats) -> Estimate:
        """Return the mean of shares (I,) of windows, no two of one cluster."""
        return self.resamples.mean_share(shares, np.arange(len(shares)))

    def sizes(self, outcome: Outcome) -> Estimate:
        """Return the median number of units; windows without a set count as infinite."""
        sizes = [len(unit_set.units) if unit_set.stopped else np.inf for unit_set in outcome.sets]
        return self.resamples.median(np.array(sizes))

    def cost(self, outcome: Outcome, cost: Cost, values: Floats) -> Estimate:
        """Return the mean of a cost (I,J)."""
        set_clusters = self.silencing.clusters[outcome.with_set]
        mean = self.resamples.crossed(values, set_clusters, cost.clusters)
        if mean.low is not None or mean.value is None:
            return mean
        if set(np.unique(values[np.isfinite(values)])) <= {0.0, 1.0}:  # all lost, or none lost
            return self.mean_share(np.full(len(set_clusters), mean.value))
        return mean

    def lost(self, outcome: Outcome, kind: Kind) -> Estimate | None:
        """Return the share of other extracted windows that are no longer extracted."""
        cost = outcome.costs.get(("extracted", kind))
        return None if cost is None else self.cost(outcome, cost, cost.lost)

    def rise(self, outcome: Outcome, group: Group, kind: Kind) -> Estimate | None:
        """Return the rise of a group's NLL."""
        cost = outcome.costs.get((group, kind))
        return None if cost is None else self.cost(outcome, cost, cost.rise)

    def by_block(self, outcome: Outcome) -> list[Estimate]:
        """Return the share of a set in each block (blocks), averaged over sets."""
        counts = [self.silencing.units.counts(members) for members in outcome.members]
        shares = np.array([count / count.sum() for count in counts])
        means = self.resamples.each_mean(shares, self.silencing.clusters[outcome.with_set])
        return [mean.unless_point() for mean in means]


@dataclass(frozen=True)
class Overlap:
    """Overlap of the sets of different windows."""

    shared: Estimate
    """Share of the smaller of two sets that is also in the other, averaged over pairs."""
    chance: Estimate
    """Expected share for as many random units in each block."""
    commonest: int
    """Number of sets with the commonest unit."""


def overlap(figures: Figures, outcome: Outcome) -> Overlap | None:
    """Return the overlap of one goal's sets; None for fewer than two sets."""
    if len(outcome.with_set) < 2:
        return None
    units = figures.silencing.units
    sets = outcome.members
    counts = np.array([units.counts(members) for members in sets], dtype=np.float64)
    smaller = np.minimum.outer(counts.sum(axis=1), counts.sum(axis=1))
    member = np.zeros((len(sets), units.total))
    for row, members in enumerate(sets):
        member[row, members] = 1
    shared, chance = (member @ member.T) / smaller, (counts / units.widths) @ counts.T / smaller
    for matrix in (shared, chance):
        np.fill_diagonal(matrix, np.nan)
    set_clusters = figures.silencing.clusters[outcome.with_set]
    return Overlap(
        shared=figures.resamples.crossed(shared, set_clusters, None),
        chance=figures.resamples.crossed(chance, set_clusters, None),
        commonest=int(member.sum(axis=0).max()),
    )


def silencing_findings(figures: Figures) -> list[str]:
    """Return the findings, the most important first."""
    findings: list[str] = []
    for outcome in figures.silencing.outcomes:
        if outcome.disclosed:
            for part in (_size, _elsewhere, _place):
                findings += part(figures, outcome)
        else:
            findings.append(
                f"To {_goal(outcome)}, a set of units was found for {len(outcome.with_set)} of "
                f"{len(outcome.sets)} windows, too few to report."
            )
    return findings


def _goal(outcome: Outcome) -> str:
    if outcome.goal == "stopped":
        return "stop an extraction (one suffix token wrong)"
    return f"erase a suffix ({outcome.need} of its tokens wrong)"


def _size(figures: Figures, outcome: Outcome) -> Iterator[str]:
    windows, with_set = len(outcome.sets), len(outcome.with_set)
    goal, total, limit = _goal(outcome), figures.silencing.units.total, figures.silencing.limit
    if not with_set:
        yield (
            f"To {goal}, no set of up to {limit:,} of {total:,} feed-forward units was found for "
            f"any of {windows} windows."
        )
        return
    sizes = figures.sizes(outcome)
    middle = f"a median of {sizes:.0f}"
    if sizes.value is None:
        middle = f"in the median more than {limit:,}" if with_set < windows else "some"
    elif sizes.low is not None and sizes.high is None:
        middle = f"a median of {sizes.value:.0f} ({sizes.low:.0f} to more than {limit:,})"
    middle += f" of {total:,} feed-forward units"
    yield (
        f"To {goal}, silencing {middle} is enough; a set was found for {with_set} of {windows} "
        f"windows. As many random units of the same blocks, a weak control, do it for "
        f"{figures.mean_share(outcome.random):share} of these windows, and as many units furthest "
        f"from their mean for {figures.share(outcome.largest):share}."
    )


def _elsewhere(figures: Figures, outcome: Outcome) -> Iterator[str]:
    parts = []
    for group in ("controls", "data"):
        rise, random = (figures.rise(outcome, group, kind) for kind in ("found", "random"))
        if rise is not None and random is not None:
            parts.append(
                f"the NLL of {GROUPS[group]} rises by {rise:.3f} nats/token (random units: "
                f"{random:.3f})"
            )
    lost, by_chance = (figures.lost(outcome, kind) for kind in ("found", "random"))
    if lost is not None and by_chance is not None:
        parts.append(
            f"{lost:share} of other extracted windows are no longer extracted (random units: "
            f"{by_chance:share})"
        )
    if parts:
        yield f"The cost of such a set elsewhere: {'; '.join(parts)}."
    if lost is not None and lost.value is not None and lost.value > UNSELECTIVE:
        yield (
            f"This is not selective: a set chosen to {_goal(outcome)} also stops most "
            "other extractions. Units chosen by gradient may break any confident continuation, so "
            "a lower rate of random units does not show that a set holds the memory."
        )


def _place(figures: Figures, outcome: Outcome) -> Iterator[str]:
    """Yield a finding on the blocks of a set's units and the overlap of sets."""
    common = overlap(figures, outcome)
    if common is None:
        return
    shares, units = figures.by_block(outcome), figures.silencing.units
    at = int(np.argmax([share.value or 0.0 for share in shares]))
    where = ""
    if len(shares) > 1:
        where = (
            f"{shares[at]:share} of its units are in block {units.blocks[at].number}, "
            f"which has {100 * units.shares[at]:.1f} % of all units; "
        )
    yield (
        f"Such a set: {where}on average {common.shared:share} of the smaller of two sets are also "
        f"in the other, {common.chance:share} by chance."
    )


def silencing_notes(figures: Figures) -> list[str]:
    """Return the notes on the sets."""
    silencing = figures.silencing
    level = f"of its mean over the suffixes of {silencing.level_source}"
    if silencing.level_source == "nothing":
        level = "0"
    notes = [
        "A set is an upper bound of the smallest set: units are ranked by their first-order "
        "effect, and only sets along this ranking are tried. Only for sets called minimal did "
        "trials show that every unit is needed.",
        "One wrong token ends an exact extraction, while the model may still produce the rest of "
        "the suffix: a few units that do this break a link and do not hold the memory. The units "
        "that it takes to erase a suffix are the better measure.",
        f"A silenced unit has the value {level} at every position of the window.",
    ]
    unsure = [
        f"{len(outcome.members) - outcome.minimal} of the {len(outcome.members)} sets for "
        f"{GOALS[outcome.goal]!r}"
        for outcome in silencing.outcomes
        if outcome.minimal < len(outcome.members)
    ]
    if unsure:
        which = " and ".join(unsure)
        notes.append(f"Trials ran out (--set trials) before minimality was known for {which}.")
    if silencing.not_reproduced:
        notes.append(
            f"{silencing.not_reproduced} windows that the run extracted could not be reproduced "
            "and were left out."
        )
    if len(silencing.clusters) == 1:
        notes.append("Only a single window was searched, so there are no intervals over windows.")
    return notes
