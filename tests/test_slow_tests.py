"""The list of slow tests names tests that are there."""

from __future__ import annotations

import pytest
from conftest import SLOW

ROOT = SLOW.parents[1]
LISTED = [line for line in SLOW.read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_test_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8")
