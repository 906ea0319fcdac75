"""The smallest set of units that stops something, by trials: the search alone.

Knows an order of units and yes-or-no trials. Knows nothing of models: a search is a generator that
asks for trials of sets and is told their outcomes, so that those of many windows go on side by
side, one trial of each in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.score.stats import Bools, Ints

Search = Generator[Ints, bool, "FoundSet"]
"""Yields sets of units (n,), is sent whether silencing one stops it, and returns what it found."""
Trial = Callable[[Ints, Sequence[Ints]], Bools]
"""(searches,) their numbers, and a set of units for each -> (searches,) whether that stops it."""


class FoundSet(NamedTuple):
    """What a search came to."""

    units: Ints
    """(n,) a set that was seen to stop it; empty where none was found."""
    stopped: bool
    minimal: bool
    """Whether it was tried that no unit of it can be left out."""
    first: int
    """Units at the head of the order that stop it, before any was left out; 0 if none do."""


def search_smallest(order: Ints, most: int, trials: int) -> Search:
    """The shortest head of an ``order`` of units that stops it, less what it does not need.

    Heads of 1, 2, 4, ... up to ``most`` units are tried, then the shortest between the last two
    is found by bisection; then parts are left out, halves first and single units last, those that
    came last in the order before the others (Zeller & Hildebrandt 2002), in at most ``trials``
    trials. Every set that is returned was tried: that a longer head stops it where a shorter one
    does is assumed by the bisection only.
    """
    most = min(most, len(order))
    fails, length = 0, 1
    while not (yield order[: min(length, most)]):
        if length >= most:
            return FoundSet(order[:0], stopped=False, minimal=False, first=0)
        fails, length = length, 2 * length
    length = min(length, most)
    while length - fails > 1:
        middle = (fails + length) // 2
        if (yield order[:middle]):
            length = middle
        else:
            fails = middle
    units, minimal = yield from _leave_out(order[:length], trials)
    return FoundSet(units, stopped=True, minimal=minimal, first=length)


def _leave_out(units: Ints, trials: int) -> Generator[Ints, bool, tuple[Ints, bool]]:
    """A part of ``units`` that still stops it, and whether no single unit of it can be spared."""
    size, spared_any = max(1, len(units) // 2), False
    while len(units) > 1:
        stop = len(units)
        while stop > 0:
            if not trials:
                return units, False
            trials -= 1
            start = max(0, stop - size)
            rest = np.concatenate([units[:start], units[stop:]])
            if len(rest) and (yield rest):
                units, spared_any = rest, True
            stop = start
        if size == 1 and not spared_any:
            break
        # Once a unit is gone another may be spared that was needed before: single ones go round
        # until none was.
        size, spared_any = max(1, size // 2), False
    return units, True


def run_searches(searches: Sequence[Search], trial: Trial) -> list[FoundSet]:
    """Carry on all of them, a trial of each at a time, until every one has ended."""
    found: dict[int, FoundSet] = {}
    asked: dict[int, Ints] = {}
    for number, search in enumerate(searches):
        _step(number, search, None, asked, found)
    while asked:
        numbers = np.array(sorted(asked), dtype=np.int64)
        outcomes = trial(numbers, [asked[number] for number in numbers])
        for number, outcome in zip(numbers.tolist(), outcomes.tolist(), strict=True):
            _step(number, searches[number], outcome, asked, found)
    return [found[number] for number in range(len(searches))]


def _step(
    number: int,
    search: Search,
    outcome: bool | None,
    asked: dict[int, Ints],
    found: dict[int, FoundSet],
) -> None:
    try:
        asked[number] = search.send(outcome)  # type: ignore[arg-type]  # None starts a generator
    except StopIteration as end:
        found[number] = end.value
        asked.pop(number, None)
