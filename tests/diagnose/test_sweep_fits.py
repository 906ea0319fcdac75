"""Tables and findings of fitted variants, from verdicts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from memaudit.attack.facts import Epoch, FitRecord
from memaudit.diagnose.sweep.fit_tables import (
    Results,
    checks_table,
    convergence_table,
    fits_table,
    plan_checks,
)
from memaudit.diagnose.sweep.fits import RANDOM, Result
from memaudit.diagnose.sweep.prompts import saturation
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

N = 400


def record(losses: list[float]) -> FitRecord:
    epochs = tuple(Epoch(at, 1.0, 0, loss) for at, loss in enumerate(losses))
    return FitRecord("epoch 2", epochs, "all done", 10, 100, 20, "float32")


def result(name: str, virtual: int, hits: int, seed: int = 0, start: int = 0) -> Result:
    """Extracts so many windows from one on."""
    exact = np.zeros(N, dtype=bool)
    exact[start : start + hits] = True
    fits: tuple[FitRecord, ...] = ()
    if name != "none":
        fits = (record([3.0, 2.0, 1.0, 1.005]), record([2.0, 1.008, 1.0, 1.0]))
    controls = np.zeros(50, dtype=bool)
    return Result(name, virtual, seed, exact, np.full(N, 1.5), controls, fits, 1.0)


def results(fitted: list[Result]) -> Results:
    return Results(
        result("none", 0, 20), fitted, np.arange(N), np.arange(50), None, Resamples(0.95, 200, 0)
    )


def make_results(by_length: dict[int, int]) -> Results:
    fitted = [result("constant", v, hits) for v, hits in by_length.items()]
    fitted += [result("dynamic", v, hits, start=5) for v, hits in by_length.items()]
    fitted += [result(RANDOM, 5, 30, seed) for seed in (0, 1)]
    fitted += [result("dynamic", 5, by_length[5] + 10, 1), result("dynamic, depth 2", 5, 40)]
    return results(fitted)


@pytest.mark.parametrize(
    ("by_length", "sentence_part"),
    [
        ({1: 20, 5: 60, 20: 61}, "from V = 5 "),
        ({1: 60, 5: 60, 20: 60}, "from V = 1 "),
        ({1: 20, 5: 60, 20: 100}, "no saturation up to V = 20"),
    ],
)
def test_saturation_is_seen_where_it_was_put(by_length: dict[int, int], sentence_part: str) -> None:
    sentence = saturation(make_results(by_length), "constant", list(by_length))
    assert sentence_part in sentence
    assert ("adds end at +" in sentence) == ("no saturation" not in sentence)


def test_a_check_is_the_difference_of_the_mean_over_seeds() -> None:
    compared = make_results({1: 20, 5: 60, 20: 61})
    rows = {row[0]: row for row in checks_table(compared, plan_checks(compared, 5)).rows}
    start = rows["dynamic, random start, against dynamic"]
    assert start[1] == "2, 2"
    assert isinstance(start[4], Estimate)
    assert start[4].value == pytest.approx((30 - 65) / N)
    assert start[3] == Estimate(pytest.approx(65 / N), 60 / N, 70 / N)  # type: ignore[arg-type]
    every = rows["dynamic against constant, all V"]
    assert isinstance(every[4], Estimate)
    assert every[4].value == 0
    assert every[1] == "3, 3"
    alone = rows["dynamic against constant, V=1"]
    assert isinstance(alone[4], Estimate)
    assert alone[4].value == 0
    assert alone[5] == 1.0  # five lost, five gained
    longer = rows["constant, V=5 against 1"]
    assert isinstance(longer[5], float)
    assert longer[5] < 0.01
    assert set(rows) >= {"dynamic, depth 2, against dynamic", "dynamic, V=20 against 5"}


def test_gained_and_lost_are_counted_against_none() -> None:
    compared = make_results({1: 20, 5: 60, 20: 61})
    table = fits_table(compared)
    names = [column.name for column in table.columns]
    row = next(row for row in table.rows if list(row[:3]) == ["dynamic", 1, 0])
    assert (row[names.index("gained")], row[names.index("lost")]) == (5, 5)
    assert row[names.index("select NLL before")] == 2.5
    assert row[names.index("best")] == 1.0
    assert row[names.index("chosen epochs")] == "2, 2"


def test_convergence_is_the_first_epoch_close_to_the_best() -> None:
    fit = result("dynamic", 5, 10)
    assert fit.converged == 1.5  # epochs 2 and 1
    table = convergence_table(make_results({1: 20, 5: 60, 20: 61}), 5)
    assert [row[1].value for row in table.rows if isinstance(row[1], Estimate)] == pytest.approx(
        [2.5, 1.504, 1.0, 1.0025]
    )
