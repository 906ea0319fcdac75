from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memaudit.config import ScanConfig
from memaudit.inspection import fitted_attacks


@pytest.mark.parametrize(
    ("attacks", "start", "fitted"),
    [
        (["none", "copy", "dynamic-hard"], "constant", set()),
        (["constant"], "constant", {"constant"}),
        (["none", "dynamic"], "constant", {"constant", "dynamic"}),
        (["none", "dynamic"], "vocabulary", {"dynamic"}),
    ],
)
def test_the_estimate_counts_every_fit(attacks: Any, start: Any, fitted: set[str]) -> None:
    values = {"attacks": attacks, "dynamic": {"start": start}}
    config = ScanConfig(model="m", data=Path("d.jsonl"), **values)
    assert fitted_attacks(config) == fitted
