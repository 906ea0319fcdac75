"""Search for the smallest set of units that stops an extraction.

Knows an order of units and yes-or-no trials, and no models. A search is a generator that yields
sets to try and receives the outcomes, so that many searches share each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.score.stats import Bools, Ints

Search = Generator[Ints, bool, "UnitSet"]
"""Generator that yields sets of units (n,), receives whether each stops it, and returns a set."""
Trial = Callable[[Ints, Sequence[Ints]], Bools]
"""Function of search numbers (searches,) and a set for each; returns True if the set stops it."""


class UnitSet(NamedTuple):
    """Result of a search."""

    units: Ints
    """(n,) set that stopped it in a trial; empty if no set did."""
    stopped: bool
    minimal: bool
    """True if trials showed that every unit is needed."""
    first: int
    """Length of the shortest head of the order that stops it; 0 if none does."""


def search_smallest(order: Ints, limit: int, trials: int) -> Search:
    """Search the shortest head of an ``order`` of units that stops it, then leave units out.

    Heads of 1, 2, 4, ... up to ``limit`` units are tried, then the length is bisected. Then parts
    are left out in at most ``trials`` trials: halves first, single units last, from the end of the
    order (Zeller & Hildebrandt 2002). Every returned set was tried. Only the bisection assumes
    that a longer head stops whatever a shorter head stops.
    """
    limit = min(limit, len(order))
    fails, length = 0, 1
    while not (yield order[: min(length, limit)]):
        if length >= limit:
            return UnitSet(order[:0], stopped=False, minimal=False, first=0)
        fails, length = length, 2 * length
    length = min(length, limit)
    while length - fails > 1:
        middle = (fails + length) // 2
        if (yield order[:middle]):
            length = middle
        else:
            fails = middle
    units, minimal = yield from _leave_out(order[:length], trials)
    return UnitSet(units, stopped=True, minimal=minimal, first=length)


def _leave_out(units: Ints, trials: int) -> Generator[Ints, bool, tuple[Ints, bool]]:
    """Return a part of ``units`` that still stops it, and True if every unit of it is needed."""
    size, left_out_any = max(1, len(units) // 2), False
    while len(units) > 1:
        stop = len(units)
        while stop > 0:
            if not trials:
                return units, False
            trials -= 1
            start = max(0, stop - size)
            rest = np.concatenate([units[:start], units[stop:]])
            if len(rest) and (yield rest):
                units, left_out_any = rest, True
            stop = start
        if size == 1 and not left_out_any:
            break
        # Leaving out a unit may make another one dispensable: repeat single units until all
        # are needed.
        size, left_out_any = max(1, size // 2), False
    return units, True


def run_searches(searches: Sequence[Search], trial: Trial) -> list[UnitSet]:
    """Run all searches to their end, one trial of each per round."""
    results: dict[int, UnitSet] = {}
    pending: dict[int, Ints] = {}
    for number, search in enumerate(searches):
        _step(number, search, None, pending, results)
    while pending:
        numbers = np.array(sorted(pending), dtype=np.int64)
        outcomes = trial(numbers, [pending[number] for number in numbers])
        for number, outcome in zip(numbers.tolist(), outcomes.tolist(), strict=True):
            _step(number, searches[number], outcome, pending, results)
    return [results[number] for number in range(len(searches))]


def _step(
    number: int,
    search: Search,
    outcome: bool | None,
    pending: dict[int, Ints],
    results: dict[int, UnitSet],
) -> None:
    try:
        pending[number] = search.send(outcome)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as end:
        results[number] = end.value
        pending.pop(number, None)
