"""Groups of windows: extracted, hidden, partly extracted, untouched, and controls.

Knows the scores of a finished run. Knows nothing of signals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memaudit.diagnose.subject import Part, Subject, draw
from memaudit.score.stats import Bools, Ints

GroupName = Literal["extracted", "hidden", "partly extracted", "untouched", "controls"]
GROUPS: tuple[GroupName, ...] = (
    *("extracted", "hidden", "partly extracted"),
    *("untouched", "controls"),
)
COLOURS: dict[GroupName, str] = {
    "extracted": "series-1",
    "hidden": "series-4",
    "partly extracted": "series-5",
    "untouched": "series-2",
    "controls": "series-3",
}


@dataclass(frozen=True, eq=False)
class Grouped:
    """N windows that are read token by token: first those of the data, then controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    clusters: Ints
    """(N,)."""
    rows: Ints
    """(N,) row of each in its part."""
    groups: NDArray[np.str_]
    """(N,) names of `GROUPS`."""
    fair: Bools
    """(N,) whether a window is in the sample of extracted windows, in the sample of all windows
    that are not, or a control. These compare extracted windows with the mix of the data."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Bools) -> Grouped:
        """Return the windows where ``rows`` (N,) is true."""
        return Grouped(
            self.ids[rows],
            self.clusters[rows],
            self.rows[rows],
            self.groups[rows],
            self.fair[rows],
        )

    def of(self, group: GroupName) -> Bools:
        """(N,) whether a window is of this group."""
        return np.asarray(self.groups == group)

    @property
    def present(self) -> tuple[GroupName, ...]:
        """Groups that have a window."""
        return tuple(group for group in GROUPS if self.of(group).any())


def label(part: Part, partly: float) -> NDArray[np.str_]:
    """(N,) first group that each window of the data belongs to.

    Extracted: exactly, by ``none``. Hidden: exactly by another attack on the model, not by
    ``none``. Partly: ``none`` returns at least the share ``partly`` of the suffix.
    """
    fractional = part.score("fractional", "none") >= partly
    kinds = [part.extracted, part.hidden, fractional]
    return np.asarray(np.select(kinds, GROUPS[:3], GROUPS[3]))


def choose_groups(subject: Subject, partly: float, limit: int, rng: np.random.Generator) -> Grouped:
    """Sample at most ``limit`` windows of each group, and as many of all not extracted."""
    data, controls = subject.data, subject.controls
    groups = label(data, partly)
    extracted = draw(groups == "extracted", limit, rng)
    rest = draw(groups != "extracted", limit, rng)
    fair = np.concatenate([extracted, rest])
    more = [draw(groups == group, limit, rng) for group in ("hidden", "partly extracted")]
    rows = np.unique(np.concatenate([fair, *more]))
    parts = [(data, rows, groups[rows], np.isin(rows, fair))]
    if controls is not None:
        sampled = draw(np.ones(len(controls), dtype=bool), limit, rng)
        names = np.full(len(sampled), "controls", dtype=groups.dtype)
        parts.append((controls, sampled, names, np.ones(len(sampled), dtype=bool)))
    grouped = Grouped(
        np.concatenate([part.ids[index] for part, index, _, _ in parts]),
        np.concatenate([part.clusters[index] for part, index, _, _ in parts]),
        np.concatenate([index for _, index, _, _ in parts]),
        np.concatenate([names for _, _, names, _ in parts]),
        np.concatenate([mixed for _, _, _, mixed in parts]),
    )
    disclosed = [
        group
        for group in grouped.present
        if subject.disclosure.admits(group, grouped.clusters[grouped.of(group)])
    ]
    return grouped.take(np.isin(grouped.groups, disclosed))
