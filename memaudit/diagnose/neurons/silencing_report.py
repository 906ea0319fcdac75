"""What the sets of units are, as figures and in sentences.

Knows what was silenced and the form of a diagnosis. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.neurons.silencing_found import Cost, Goal, Group, Kind, Outcome, Silencing
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats

GOALS: dict[Goal, str] = {"stopped": "one token wrong", "erased": "erased"}
UNSELECTIVE = 0.5
"""Share of other extracted windows lost beyond which a set is not said to be of its own window."""
GROUPS: dict[Group, str] = {
    "extracted": "other extracted windows",
    "controls": "controls",
    "data": "data that no attack extracts",
}


@dataclass(frozen=True, eq=False)
class Figures:
    """Makes figures with intervals of what was silenced."""

    silencing: Silencing
    resamples: Resamples

    def share(self, hits: Bools) -> Estimate:
        """Return the share of windows (I,), no two of one cluster."""
        return self.resamples.rate(hits, np.arange(len(hits)))

    def mean_share(self, shares: Floats) -> Estimate:
        """Return the mean of shares (I,) of windows, no two of one cluster."""
        return self.resamples.mean_share(shares, np.arange(len(shares)))

    def sizes(self, outcome: Outcome) -> Estimate:
        """Return the median number of units; windows without a set count as more than any."""
        sizes = [len(one.units) if one.stopped else np.inf for one in outcome.sets]
        return self.resamples.median(np.array(sizes))

    def cost(self, outcome: Outcome, cost: Cost, values: Floats) -> Estimate:
        """Return the mean of a cost (I,J)."""
        own = self.silencing.clusters[outcome.found]
        mean = self.resamples.crossed(values, own, cost.clusters)
        if mean.low is not None or mean.value is None:
            return mean
        if set(np.unique(values[np.isfinite(values)])) <= {0.0, 1.0}:  # all lost, or none
            return self.mean_share(np.full(len(own), mean.value))
        return mean

    def lost(self, outcome: Outcome, kind: Kind) -> Estimate | None:
        """Share of other extracted windows that no longer come out."""
        cost = outcome.costs.get(("extracted", kind))
        return None if cost is None else self.cost(outcome, cost, cost.lost)

    def rise(self, outcome: Outcome, group: Group, kind: Kind) -> Estimate | None:
        """Of a group's NLL."""
        cost = outcome.costs.get((group, kind))
        return None if cost is None else self.cost(outcome, cost, cost.rise)

    def by_block(self, outcome: Outcome) -> list[Estimate]:
        """(blocks) the share of a set that is in each, on average over sets."""
        counts = [self.silencing.units.counts(outcome.sets[at].units) for at in outcome.found]
        shares = np.array([count / count.sum() for count in counts])
        means = self.resamples.each_mean(shares, self.silencing.clusters[outcome.found])
        return [mean.unless_point() for mean in means]


@dataclass(frozen=True)
class Overlap:
    """How much sets of different windows have in common."""

    shared: Estimate
    """Share of the smaller set of two that is in the other too, on average over pairs."""
    chance: Estimate
    """What it would be for as many random units of the same blocks."""
    most: int
    """Sets that the unit found most often is in."""


def overlap(figures: Figures, outcome: Outcome) -> Overlap | None:
    """Of the sets of one goal; None where there are fewer than two."""
    if len(outcome.found) < 2:
        return None
    units = figures.silencing.units
    sets = [outcome.sets[at].units for at in outcome.found]
    counts = np.array([units.counts(some) for some in sets], dtype=np.float64)
    smaller = np.minimum.outer(counts.sum(axis=1), counts.sum(axis=1))
    total = int(units.widths.sum())
    member = np.zeros((len(sets), total))
    for row, some in enumerate(sets):
        member[row, some] = 1
    shared, chance = (member @ member.T) / smaller, (counts / units.widths) @ counts.T / smaller
    for matrix in (shared, chance):
        np.fill_diagonal(matrix, np.nan)
    own = figures.silencing.clusters[outcome.found]
    return Overlap(
        shared=figures.resamples.crossed(shared, own, None),
        chance=figures.resamples.crossed(chance, own, None),
        most=int(member.sum(axis=0).max()),
    )


def silencing_findings(figures: Figures) -> list[str]:
    """The most important first."""
    return [
        sentence
        for outcome in figures.silencing.outcomes
        for sentence in (
            (*_size(figures, outcome), *_elsewhere(figures, outcome), *_place(figures, outcome))
            if outcome.disclosed
            else (_too_few(figures, outcome),)
        )
    ]


def _goal(figures: Figures, outcome: Outcome) -> str:
    if outcome.goal == "stopped":
        return "stop an extraction (one suffix token wrong)"
    return f"erase a suffix ({outcome.need} of its tokens wrong)"


def _too_few(figures: Figures, outcome: Outcome) -> str:
    return (
        f"To {_goal(figures, outcome)}, a set of units was found for {len(outcome.found)} of "
        f"{len(outcome.sets)} windows, too few for figures of them."
    )


def _size(figures: Figures, outcome: Outcome) -> Iterator[str]:
    windows, found = len(outcome.sets), len(outcome.found)
    goal, total = _goal(figures, outcome), int(figures.silencing.units.widths.sum())
    most = figures.silencing.most
    if not found:
        yield (
            f"To {goal}, no set of up to {most:,} of {total:,} feed-forward units was found for "
            f"any of {windows} windows."
        )
        return
    sizes = figures.sizes(outcome)
    middle = f"a median of {sizes:.0f}"
    if sizes.value is None:
        middle = f"in the median more than {most:,}" if found < windows else "some"
    elif sizes.low is not None and sizes.high is None:
        middle = f"a median of {sizes.value:.0f} ({sizes.low:.0f} to more than {most:,})"
    middle += f" of {total:,} feed-forward units"
    yield (
        f"To {goal}, silencing {middle} is enough; a set was found for {found} of {windows} "
        f"windows. As many random units of the same blocks, a weak opponent, do it for "
        f"{figures.mean_share(outcome.random):share} of them, as many units that are furthest "
        f"from their mean for {figures.share(outcome.largest):share}."
    )


def _elsewhere(figures: Figures, outcome: Outcome) -> Iterator[str]:
    parts = []
    for group in ("controls", "data"):
        found, random = (figures.rise(outcome, group, kind) for kind in ("found", "random"))
        if found is not None and random is not None:
            parts.append(
                f"the NLL of {GROUPS[group]} rises by {found:.3f} nats/token (random units: "
                f"{random:.3f})"
            )
    lost, by_chance = (figures.lost(outcome, kind) for kind in ("found", "random"))
    if lost is not None and by_chance is not None:
        parts.append(
            f"{lost:share} of other extracted windows no longer come out (random units: "
            f"{by_chance:share})"
        )
    if parts:
        yield f"The cost elsewhere of a set that does so: {'; '.join(parts)}."
    if lost is not None and lost.value is not None and lost.value > UNSELECTIVE:
        yield (
            f"So this is not selective: a set chosen to {_goal(figures, outcome)} ends most other "
            "extractions too. Units picked by gradient may break any confident continuation; "
            "that random ones do so less often is no sign that a set holds the memory."
        )


def _place(figures: Figures, outcome: Outcome) -> Iterator[str]:
    """Where the units of a set sit, and how far sets of different windows are the same."""
    common = overlap(figures, outcome)
    if common is None:
        return
    shares, units = figures.by_block(outcome), figures.silencing.units
    at = int(np.argmax([one.value or 0.0 for one in shares]))
    where = ""
    if len(shares) > 1:
        where = (
            f"{shares[at]:share} of its units are in block {units.blocks[at].number}, "
            f"which has {100 * units.widths[at] / units.widths.sum():.1f} % of all; "
        )
    yield (
        f"Of such a set {where}{common.shared:share} of the smaller of two are in the other "
        f"window's too, against {common.chance:share} by chance."
    )


def silencing_notes(figures: Figures) -> list[str]:
    """What a reader of the sets has to know."""
    silencing = figures.silencing
    notes = [
        "A set is an upper bound of the smallest: units are ranked by their effect to first order, "
        "and sets that this ranking does not lead to are not tried. That no unit of a set can be "
        "left out was tried only where it says minimal.",
        "One wrong token ends an exact extraction, and the rest of the suffix may still come out "
        "around it: few units that do so break a link, they do not hold the memory. What it takes "
        "to erase a suffix is the better measure of that.",
        f"A silenced unit gives {_level(silencing)} at every position of the window.",
    ]
    unsure = [
        f"{sum(not outcome.sets[at].minimal for at in outcome.found)} of the "
        f"{len(outcome.found)} sets for {GOALS[outcome.goal]!r}"
        for outcome in silencing.outcomes
        if any(not outcome.sets[at].minimal for at in outcome.found)
    ]
    if unsure:
        which = " and ".join(unsure)
        notes.append(f"Trials ran out (--set trials) before it was known for {which}.")
    if silencing.unlike:
        notes.append(
            f"{silencing.unlike} windows that the run says are extracted do not come out in a pass "
            "made here and were left out."
        )
    if len(silencing.clusters) == 1:
        notes.append("A single window was looked at, so that there are no intervals over windows.")
    return notes


def _level(silencing: Silencing) -> str:
    if silencing.other == "nothing":
        return "0"
    return f"its mean over the suffixes of {silencing.other}"
