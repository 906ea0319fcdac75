"""Windows of given ids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.data.windows import Windows


def windows_of(ids: NDArray[Any], prefix: int, **changes: Any) -> Windows:
    """Cut ids (N,P+S) after ``prefix`` tokens, each of a sample of its own.

    changes: other fields of the windows.
    """
    count = len(ids)
    windows = Windows(
        ids=ids.astype(np.int32),
        longest_prefix=prefix,
        sample=np.arange(count),
        line=np.arange(1, count + 1),
        window=np.zeros(count, dtype=np.int64),
        sample_tokens=np.full(count, ids.shape[1]),
        new_tokens=np.full(count, ids.shape[1] - prefix),
        sample_id=tuple(map(str, range(count))),
        group=(None,) * count,
        extra=({},) * count,
        skipped=(),
        boundary_shifts=0,
        columns=(),
        samples=count,
    )
    return replace(windows, **changes)


def chain(rows: list[list[int]], prefix: int, suffix: int, step: int) -> Windows:
    """Slide windows over each of the rows."""
    parts, sample, new = [], [], []
    for number, row in enumerate(rows):
        starts = list(range(prefix, len(row) - suffix + 1, step))
        parts += [row[start - prefix : start + suffix] for start in starts]
        sample += [number] * len(starts)
        new += [suffix] + [step] * (len(starts) - 1)
    changes = {"sample": np.array(sample), "new_tokens": np.array(new)}
    return windows_of(np.array(parts), prefix, **changes)
