"""Which windows are compared: extracted, hidden, partly extracted, untouched, and controls.

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
class Look:
    """The N windows that are looked at token by token, of data first and then of controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    clusters: Ints
    """(N,)."""
    rows: Ints
    """(N,) where each stands in its part."""
    groups: NDArray[np.str_]
    """(N,) names of `GROUPS`."""
    fair: Bools
    """(N,) whether a window is of the extracted ones drawn, of those drawn from all that are not,
    or a control: what extracted is told apart from, mixed as in the data."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Bools) -> Look:
        """Return the windows where ``rows`` (N,) is true."""
        return Look(
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
    """(N,) the group of each window of the data; the first that it belongs to.

    Extracted: exactly, by ``none``. Hidden: exactly by another attack on the model, not by
    ``none``. Partly: ``none`` brings back the share ``partly`` of the suffix, or more.
    """
    fractional = part.score("fractional", "none") >= partly
    kinds = [part.extracted, part.hidden, fractional]
    return np.asarray(np.select(kinds, GROUPS[:3], GROUPS[3]))


def choose_look(subject: Subject, partly: float, most: int, rng: np.random.Generator) -> Look:
    """At most so many windows of each group, and as many of all that are not extracted."""
    data, controls = subject.data, subject.controls
    groups = label(data, partly)
    extracted = draw(groups == "extracted", most, rng)
    others = draw(groups != "extracted", most, rng)
    fair = np.concatenate([extracted, others])
    more = [draw(groups == group, most, rng) for group in ("hidden", "partly extracted")]
    rows = np.unique(np.concatenate([fair, *more]))
    parts = [(data, rows, groups[rows], np.isin(rows, fair))]
    if controls is not None:
        drawn = draw(np.ones(len(controls), dtype=bool), most, rng)
        names = np.full(len(drawn), "controls", dtype=groups.dtype)
        parts.append((controls, drawn, names, np.ones(len(drawn), dtype=bool)))
    look = Look(
        np.concatenate([part.ids[index] for part, index, _, _ in parts]),
        np.concatenate([part.clusters[index] for part, index, _, _ in parts]),
        np.concatenate([index for _, index, _, _ in parts]),
        np.concatenate([names for _, _, names, _ in parts]),
        np.concatenate([mixed for _, _, _, mixed in parts]),
    )
    disclosed = [
        group
        for group in look.present
        if subject.disclosure.admits(group, look.clusters[look.of(group)])
    ]
    return look.take(np.isin(look.groups, disclosed))
