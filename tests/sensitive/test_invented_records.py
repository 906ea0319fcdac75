"""Precision and recall of the detectors on invented records: the floors of the documented table."""

from __future__ import annotations

import re

import pytest
from invented_records import EACH, OTHERS, PHRASES, invented_records, measure, table, texts_without
from settings_page import DOCS

from memaudit.sensitive import presidio

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

FLOORS = {"birth-date": 0.8, "code": 0.75, "record-number": 0.75}
"""Recall of what needs a word beside it; the others are found whole."""


def test_there_are_200_records_of_five_countries_and_1000_texts() -> None:
    records = invented_records()
    assert len(records) == EACH * len(PHRASES) == 200
    assert all(value in record.text for record in records for _, value in record.answers)
    assert len(texts_without()) == OTHERS == 1000


def test_precision_and_recall_with_the_packages() -> None:
    tallies = measure(extras=True)
    for category, tally in tallies.items():
        assert tally.there > 50, category
        if category == "national-id" and not presidio.is_installed():
            continue
        assert tally.precision >= 0.98, category
        assert tally.recall >= FLOORS.get(category, 0.75 if category == "national-id" else 0.98)
        assert tally.elsewhere == 0, category
    documented = [row for row in table(tallies).splitlines() if "national-id" not in row]
    page = (DOCS / "sensitive.md").read_text(encoding="utf-8")
    missing = [row for row in documented if row not in page]
    assert not missing, "run tests/support/invented_records.py and copy its second table"


def test_without_packages_phone_numbers_of_other_countries_are_missed() -> None:
    tallies = measure(extras=False)
    assert 0.4 < tallies["phone"].recall < 0.7
    assert tallies["phone"].precision == 1
    assert re.search(r"\| `phone` \| \d+ \| 1.00 \| 0\.\d\d \| 0 \|", table(tallies))
