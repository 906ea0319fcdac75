"""Detectors: which categories are looked for, how, and which cannot be.

Knows the packages that detect better than a plain rule does, and what stands in for them where
they are not installed. Nothing is fetched. Knows nothing of windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from memaudit.errors import UsageError
from memaudit.sensitive import shapes
from memaudit.sensitive.shapes import Span

Category = Literal["key", "email", "account", "card", "phone", "name", "address"]
CATEGORIES: tuple[Category, ...] = (
    *("key", "email", "account", "card", "phone"),
    *("name", "address"),
)
"""Every category, in the order in which they claim text: what a number is, is said once."""

NO_DETECTOR: dict[Category, str] = {
    "name": "no rule tells names from other words; sensitive.entity_model can",
    "address": "no rule tells addresses from other text; a sensitive.entity_model may",
}
"""Categories that no rule finds, and why."""

_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")


@dataclass(frozen=True)
class Detector:
    """How one category is found."""

    category: Category
    method: str
    """In words, with the version of the package that was used."""
    find: Callable[[Sequence[str]], Sequence[Iterable[Span]]]
    """Where in each text such things stand, in the order of the text."""


def make_detectors(region: str, *, packages: bool = True) -> tuple[Detector, ...]:
    """A detector for each category that can be looked for, in the order of `CATEGORIES`.

    region: country (ISO 3166, two letters) as whose national form a phone number is read.
    packages: whether packages are used where they are installed.
    """
    installed = _installed if packages else lambda _: None
    return (
        _by_rule("key", "known forms of keys, tokens, private keys, URL passwords", shapes.keys),
        _by_rule("email", "form of the address", shapes.emails),
        _accounts(installed("python-stdnum")),
        _by_rule("card", "network, length and Luhn check digit", shapes.cards),
        _phones(installed("phonenumbers"), region),
    )


def check_region(region: str) -> None:
    """Raise UsageError for a country that phonenumbers, where it is installed, does not know."""
    if _installed("phonenumbers") is None:
        return
    from phonenumbers import SUPPORTED_REGIONS

    if region not in SUPPORTED_REGIONS:
        raise UsageError(
            f"sensitive.region = {region}: phonenumbers knows no such country; write it as US or DE"
        )


def _installed(package: str) -> str | None:
    """Its version, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _by_rule(category: Category, method: str, rule: Callable[[str], Iterable[Span]]) -> Detector:
    return Detector(category, method, lambda texts: [tuple(rule(text)) for text in texts])


def _accounts(found: str | None) -> Detector:
    if found is None:
        return _by_rule("account", "IBAN: form and check digits (mod 97)", shapes.ibans)
    method = f"IBAN: country's structure and check digits (python-stdnum {found})"
    return _by_rule("account", method, _ibans_by_country)


def _phones(found: str | None, region: str) -> Detector:
    if found is None:
        method = "form: international with +, or North American in groups"
        return _by_rule("phone", method, shapes.phones)
    method = f"numbering plans: international, national of {region} (phonenumbers {found})"
    return _by_rule("phone", method, partial(_phones_by_plan, region=region))


def _ibans_by_country(text: str) -> Iterator[Span]:
    from stdnum import iban  # here, because it is optional

    for found in shapes.iban_candidates(text):
        for end in shapes.group_ends(found[0]):
            if iban.is_valid(found[0][:end]):
                yield Span(found.start(), found.start() + end)
                break


def _phones_by_plan(text: str, region: str) -> Iterator[Span]:
    if not _SEVEN_DIGITS.search(text):
        return
    from phonenumbers import Leniency, PhoneNumberMatcher  # here: optional, and slow to load

    grouped = PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING)
    as_written = {(found.start, found.end) for found in grouped}
    for found in PhoneNumberMatcher(text, region):
        # Without a +, a bare run of digits may be any number, and a date such as 2013.05.02 10
        # has the digits of a phone number, but not its groups.
        national = not found.raw_string.startswith("+")
        if national and (found.raw_string.isdigit() or (found.start, found.end) not in as_written):
            continue
        yield Span(found.start, found.end)
