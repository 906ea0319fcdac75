"""The search finds the units that are needed, and says so where it did not try enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from memaudit.diagnose.neurons.unit_search import UnitSet, run_searches, search_smallest
from memaudit.score.stats import Bools, Ints


def search(
    needed: Sequence[set[int]], *, units: int = 100, limit: int = 64, trials: int = 100
) -> list[UnitSet]:
    """One search for each, in the order 0, 1, 2, ..., which stops once all needed are silenced."""
    order = np.arange(units)
    tried: list[int] = []

    def trial(numbers: Ints, sets: Sequence[Ints]) -> Bools:
        assert len(numbers) == len(sets) == len(set(numbers.tolist()))
        tried.append(len(sets))
        return np.array(
            [needed[at] <= set(some.tolist()) for at, some in zip(numbers, sets, strict=True)]
        )

    unit_sets = run_searches([search_smallest(order, limit, trials) for _ in needed], trial)
    assert not tried or tried[0] == len(needed), "all go on side by side"
    return unit_sets


@pytest.mark.parametrize("needed", [{0}, {5}, {3, 7}, {0, 40, 41}, {63}, set(range(20))])
def test_exactly_the_needed_units_are_found(needed: set[int]) -> None:
    (unit_set,) = search([needed], trials=1000)
    assert set(unit_set.units.tolist()) == needed
    assert unit_set.stopped
    assert unit_set.minimal
    assert unit_set.first == max(needed) + 1


def test_what_lies_beyond_the_most_is_not_found() -> None:
    near, far = search([{63}, {64}])
    assert near.stopped
    assert not far.stopped
    assert not far.minimal
    assert len(far.units) == far.first == 0


def test_an_order_without_units_finds_nothing() -> None:
    (unit_set,) = search([{1}], units=0)
    assert not unit_set.stopped


def test_trials_that_run_out_leave_a_set_that_stops_it() -> None:
    needed = set(range(0, 60, 3))
    (unit_set,) = search([needed], trials=5)
    assert unit_set.stopped
    assert not unit_set.minimal
    assert needed < set(unit_set.units.tolist())


def test_either_of_two_is_enough() -> None:
    """Not what the bisection takes for granted: a longer set that does not stop it."""

    def trial(numbers: Ints, sets: Sequence[Ints]) -> Bools:
        return np.array([(3 in some and 1 not in some) or 9 in some for some in sets])

    (unit_set,) = run_searches([search_smallest(np.arange(32), 32, 100)], trial)
    assert unit_set.stopped
    assert unit_set.units.tolist() in ([3], [9])
