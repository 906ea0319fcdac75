from __future__ import annotations

from math import nan

import numpy as np
import pytest
from made_result import CONTROL_HITS, make_result
from small_run import small_run
from stored import read_back

from memaudit.config.settings import LADDER, GateSettings
from memaudit.report.reading import (
    NO_LIMIT,
    extracted_by,
    hits,
    lift_texts,
    passed_through,
    scored,
    strongest,
    verdict,
    worst_rows,
)
from memaudit.report.result import ScanResult


def worst(result: ScanResult, limit: int) -> list[int]:
    document, samples = read_back(result)
    return worst_rows(document, scored(samples, "data"), limit).tolist()


def extracted(result: ScanResult) -> int:
    document, samples = read_back(result)
    return int(hits(document, scored(samples, "data")).any(axis=0).sum())


def test_the_worst_windows_are_hit_by_most_attacks_then_matched_furthest():
    result = make_result(hits={"none": 1, "dynamic": 3}, controls=CONTROL_HITS)
    assert worst(result, 5) == [0, 1, 2, 39, 79]
    assert extracted(result) == 3


def test_windows_without_a_right_token_are_not_worst():
    result = make_result(n=3, hits={"none": 0, "copy": 3}, controls=None)
    assert worst(result, 10) == [2, 1]
    assert extracted(result) == 0
    assert worst(make_result(hits={"copy": 3}, controls=None), 10) == []


def test_a_window_that_is_extracted_is_worst_whatever_else_is_said_of_it():
    document, samples = read_back(make_result(n=3, hits={"none": 1}, controls=None))
    samples["longest_run_none"] = 0
    assert worst_rows(document, scored(samples, "data"), 10).tolist() == [0]


def test_worst_windows_of_equal_standing_go_by_nll():
    result = make_result(n=50, hits=dict.fromkeys(LADDER, 50))
    assert worst(result, 10) == np.arange(10).tolist()  # NLL rises with the window


@pytest.mark.parametrize(
    "chosen",
    [{"none": 3, "constant": 4, "dynamic": 4}, {"none": 1, "copy": 90}, {"none": 0}, {"copy": 3}],
)
def test_the_strongest_attack_is_the_one_of_the_headline(chosen):
    report, _ = read_back(make_result(hits=chosen, controls=None))
    best = strongest(report)
    if best is not None and best.attack != "none":
        assert f" {best.attack} alone brings out 1 that the prefix alone" in report.headline[1]
    assert (best is None) == (set(chosen) == {"copy"})


def test_who_extracts_a_window():
    document, samples = read_back(make_result(hits={"none": 1, "copy": 1, "dynamic": 2}))
    rows = scored(samples, "data").head(3).to_dict("records")
    assert [extracted_by(document, row) for row in rows] == ["all", "dynamic", "-"]


def test_the_columns_that_the_data_brought_along():
    assert passed_through(small_run()[1]) == ["dup", "<i>kind"]
    assert passed_through(small_run(reveal=["secret"])[1]) == ["dup", "<i>kind"]


def test_a_figure_that_is_not_there_is_said_to_be_missing():
    lift = small_run()[0].attacks[-1].lift
    assert lift is not None
    lift = lift.model_copy(update={"estimate": nan, "gained": 0, "p_value": nan})
    assert lift_texts(lift) == ("n/a", "0", "0", "n/a")


@pytest.mark.parametrize(
    ("max_exact", "controls", "word", "start"),
    [
        (0.1, CONTROL_HITS, "fail", "This run fails max-exact 10 %: dynamic extracted 2 of 4"),
        (0.9, CONTROL_HITS, "inconclusive", "This run is inconclusive on max-exact 90 %: "),
        (None, {"dynamic": 90}, "inconclusive", "This run is inconclusive on controls: "),
        (None, CONTROL_HITS, "none", NO_LIMIT),
        (None, None, "none", NO_LIMIT),
    ],
)
def test_the_verdict_is_that_of_the_worst_gate(max_exact, controls, word, start):
    document, _ = small_run(gate=GateSettings(max_exact=max_exact), controls=controls)
    assert verdict(document)[0] == word
    assert verdict(document)[1].startswith(start)


def test_a_run_passes_only_where_a_threshold_was_set():
    document, _ = read_back(make_result(n=2000, gate=GateSettings(max_exact=0.5)))
    assert verdict(document) == (
        "pass",
        "This run passes every limit that was set, and no other: max-exact 50 %.",
    )
