"""The gate on what fine-tuning leaked: samples out of the target and not out of the reference."""

from __future__ import annotations

import numpy as np
import pytest

from memaudit.config.settings import GateSettings, ScoreSettings
from memaudit.gate.thresholds import GateVerdict, judge
from memaudit.score.summary import rate_of


def judged(k: int, n: int, limit: float, gate_on: str = "upper") -> GateVerdict:
    rng = np.random.default_rng(0)
    rate = rate_of(np.arange(n) < k, np.arange(n), ScoreSettings(bootstrap=200), rng)
    settings = GateSettings.model_validate({"max_leaked": limit, "gate_on": gate_on})
    (verdict,) = judge([], settings, None, rate)
    return verdict


@pytest.mark.parametrize(
    ("k", "n", "gate_on", "verdict", "reason"),
    [
        (
            *(3, 100, "upper", "fail"),
            "3 of 100 samples (3 %) are extracted from the model and not from the reference, "
            "more than the 1 % allowed.",
        ),
        (
            *(0, 100, "upper", "inconclusive"),
            "0 of 100 samples (0 %) are extracted from the model and not from the reference, but "
            "at 95 % confidence the share may be 3.62 %, above the 1 % allowed; 368 samples "
            "without near-duplicates would pass with no hit.",
        ),
        (
            *(0, 100, "estimate", "pass"),
            "0 of 100 samples (0 %) are extracted from the model and not from the reference, "
            "within the 1 % allowed.",
        ),
        (
            *(0, 1000, "upper", "pass"),
            "0 of 1,000 samples (0 %) are extracted from the model and not from the reference, at "
            "most 0.368 % at 95 % confidence, within the 1 % allowed.",
        ),
    ],
)
def test_the_share_or_its_upper_end_is_judged(
    k: int, n: int, gate_on: str, verdict: str, reason: str
) -> None:
    found = judged(k, n, 0.01, gate_on)
    assert (found.name, found.threshold, found.attack) == ("max-leaked", 0.01, "")
    assert (found.verdict, found.reason) == (verdict, reason)
    assert found.estimate == k / n


def test_without_a_reference_there_is_nothing_to_judge() -> None:
    (verdict,) = judge([], GateSettings(max_leaked=0.1))
    assert verdict.verdict == "inconclusive"
