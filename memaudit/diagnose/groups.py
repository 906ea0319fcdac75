"""Windows sampled by group, read together and told apart again.

Knows a finished run and which windows are in which group. Knows no figure.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from memaudit.diagnose.passes import Found
from memaudit.diagnose.subject import Part, Subject
from memaudit.score.stats import Bools


def sample_groups(
    subject: Subject, masks: Mapping[str, Bools], limit: int, rng: np.random.Generator
) -> dict[str, Part]:
    """Sample at most ``limit`` windows of each group of the data, and of ``controls``, if any.

    masks: (N,) windows of the data in each group, by name.
    """
    parts = {name: subject.data.sample(limit, rng, mask) for name, mask in masks.items()}
    if subject.controls is not None:
        parts["controls"] = subject.controls.sample(limit, rng)
    return parts


def ids_of(parts: Mapping[str, Part]) -> NDArray[np.int32]:
    """Return the ids (N,P+S) of all groups, one after another."""
    return np.concatenate([part.ids for part in parts.values()])


def by_group(parts: Mapping[str, Part], figures: Found) -> dict[str, Found]:
    """Return the figures of `ids_of`, each (N,...), by group."""
    groups, start = {}, 0
    for name, part in parts.items():
        rows = slice(start, start + len(part))
        start += len(part)
        groups[name] = {figure: values[rows] for figure, values in figures.items()}
    return groups
