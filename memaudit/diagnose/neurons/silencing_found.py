"""Sets of units whose silencing stops an extraction, and what they were compared with: the result.

W stands for the extracted windows that are looked at, I for those with a set, J for windows of
another group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memaudit.diagnose.neurons.unit_search import FoundSet
from memaudit.diagnose.neurons.units import Units
from memaudit.score.stats import Bools, Floats, Ints

Goal = Literal["stopped", "erased"]
"""One suffix token wrong, so that greedy decoding no longer returns it; a good part of them."""
Ranking = Literal["weakest", "every", "size", "random"]
"""Units by their effect on the least sure tokens or on all, by their distance from their level, and
by lot."""
EFFECT_FOR: dict[Goal, Ranking] = {"stopped": "weakest", "erased": "every"}
"""The ranking that sets for a goal are searched along."""
Kind = Literal["found", "random"]
"""The set that was found, and one of as many random units of the same blocks."""
Group = Literal["extracted", "controls", "data"]
"""On whom the cost is measured: extracted windows of other clusters; controls; or, where there are
none, data that no attack extracts."""


@dataclass(frozen=True, eq=False)
class Cost:
    """What silencing the sets of I windows does to J windows of a group."""

    rise: Floats
    """(I,J) of the suffix NLL, nats/token; NaN where the two are of one cluster."""
    lost: Floats
    """(I,J) whether a suffix token is wrong, 0 or 1; NaN likewise."""
    reached: Floats
    """(I,J) whether the goal is reached for this window too, 0 or 1; NaN likewise."""
    clusters: Ints
    """(J,)."""
    before: float
    """Mean suffix NLL with nothing silenced, nats/token."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one goal."""

    goal: Goal
    need: int
    """Suffix tokens that have to be wrong."""
    sets: Sequence[FoundSet]
    """(W)."""
    wrong: Ints
    """(W,) suffix tokens that are wrong under the window's own set; 0 where none was found."""
    random: Floats
    """(I,) share of the random sets of as many units of the same blocks that reach the goal too,
    for the I windows with a set."""
    largest: Bools
    """(I,) whether as many units that are furthest from their mean do."""
    costs: Mapping[tuple[Group, Kind], Cost]
    disclosed: bool = True
    """Whether the windows with a set are enough for figures of them."""

    @property
    def found(self) -> Ints:
        """(I,) the windows with a set."""
        return np.flatnonzero([one.stopped for one in self.sets])


@dataclass(frozen=True, eq=False)
class Silencing:
    """What came out."""

    units: Units
    clusters: Ints
    """(W,) all different."""
    unlike: int
    """Windows that the run says are extracted and that do not come out in a pass made here."""
    most: int
    """Units of a set, at most."""
    lengths: Ints
    """Units that were silenced from the head of each ranking: 1, 2, 4, ..."""
    wrong: Mapping[Ranking, Ints]
    """(W,lengths) suffix tokens that are wrong then."""
    outcomes: Sequence[Outcome]
    other: str
    """What the units' means were taken over."""
