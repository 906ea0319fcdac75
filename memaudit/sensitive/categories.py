"""Categories of sensitive content: their names, plurals and order.

Knows no detector. Imports little, so that settings may use it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

CATEGORY_FORM = "^[a-z][a-z0-9-]{0,39}$"
Category = Annotated[str, Field(pattern=CATEGORY_FORM)]
"""Name of a kind of sensitive content: one of those below, or one that the user brings."""
ALL = "all"
"""Stands, in the settings, for every category that has a detector."""
SECRETS, NATIONAL_ID = "secrets", "national-id"


class _Titles(dict[str, str]):
    """Plurals of categories, for people; of a category that the user brings, made of its name."""

    def __missing__(self, category: str) -> str:
        words = category.replace("-", " ")
        return words if words.endswith("s") else f"{words}s"


TITLES = _Titles(
    {
        SECRETS: "listed secrets",
        "key": "keys and tokens",
        "email": "e-mail addresses",
        "account": "bank accounts (IBAN)",
        "card": "payment cards",
        "birth-date": "birth dates",
        "code": "PINs and codes",
        "record-number": "order, case and customer numbers",
        "phone": "phone numbers",
        NATIONAL_ID: "national ids and tax numbers",
        "name": "names",
        "address": "postal addresses",
    }
)
"""Category to its plural in tables and sentences."""

CATEGORIES: tuple[Category, ...] = tuple(TITLES)
"""The categories with a detector here, in the order in which they claim text, so that a number is
counted once. Categories that the user brings come first."""

NO_DETECTOR: dict[Category, str] = {
    NATIONAL_ID: "needs pip install 'memaudit-dsp[presidio]'",
    "name": "no rule tells names from other words; sensitive.entity_model can",
    "address": "no rule tells addresses from other text; a sensitive.entity_model may",
}
"""Reason for each category that no rule can find."""
