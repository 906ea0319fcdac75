"""Detectors of the categories of sensitive content.

Knows the packages that detect better than a plain rule, and the rules used if they are not
installed. Fetches nothing. Knows nothing of windows.
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
"""All categories, in the order in which they claim text, so that a number is counted once."""

NO_DETECTOR: dict[Category, str] = {
    "name": "no rule tells names from other words; sensitive.entity_model can",
    "address": "no rule tells addresses from other text; a sensitive.entity_model may",
}
"""Reason for each category that no rule can find."""

_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")


@dataclass(frozen=True)
class Detector:
    """Detector of one category."""

    category: Category
    method: str
    """Description, with the version of the package used."""
    find: Callable[[Sequence[str]], Sequence[Iterable[Span]]]
    """Returns the spans of the category's items in each text, in text order."""


def make_detectors(region: str, *, packages: bool = True) -> tuple[Detector, ...]:
    """Make a detector for each category that rules or packages find, in order of `CATEGORIES`.

    region: country (ISO 3166, two letters) whose national phone number format is used.
    packages: use packages if they are installed.
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
    """Raise UsageError for a country unknown to phonenumbers, if that package is installed."""
    if _installed("phonenumbers") is None:
        return
    from phonenumbers import SUPPORTED_REGIONS

    if region not in SUPPORTED_REGIONS:
        raise UsageError(
            f"sensitive.region = {region}: phonenumbers does not know this country; write it as "
            "US or DE"
        )


def _installed(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _by_rule(category: Category, method: str, rule: Callable[[str], Iterable[Span]]) -> Detector:
    return Detector(category, method, lambda texts: [tuple(rule(text)) for text in texts])


def _accounts(stdnum_version: str | None) -> Detector:
    if stdnum_version is None:
        return _by_rule("account", "IBAN: form and check digits (mod 97)", shapes.ibans)
    method = f"IBAN: country's structure and check digits (python-stdnum {stdnum_version})"
    return _by_rule("account", method, _ibans_by_country)


def _phones(phonenumbers_version: str | None, region: str) -> Detector:
    if phonenumbers_version is None:
        method = "form: international with +, or North American in groups"
        return _by_rule("phone", method, shapes.phones)
    package = f"phonenumbers {phonenumbers_version}"
    method = f"numbering plans: international, national of {region} ({package})"
    return _by_rule("phone", method, partial(_phones_by_plan, region=region))


def _ibans_by_country(text: str) -> Iterator[Span]:
    from stdnum import iban  # optional

    for match in shapes.iban_candidates(text):
        for end in shapes.group_ends(match[0]):
            if iban.is_valid(match[0][:end]):
                yield Span(match.start(), match.start() + end)
                break


def _phones_by_plan(text: str, region: str) -> Iterator[Span]:
    if not _SEVEN_DIGITS.search(text):
        return
    from phonenumbers import Leniency, PhoneNumberMatcher  # optional, and slow to load

    strict = PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING)
    grouped = {(match.start, match.end) for match in strict}
    for match in PhoneNumberMatcher(text, region):
        # Without a +, a bare run of digits may be any number, and a date such as 2013.05.02 10
        # has the digits of a phone number, but not its groups.
        national = not match.raw_string.startswith("+")
        if national and (match.raw_string.isdigit() or (match.start, match.end) not in grouped):
            continue
        yield Span(match.start, match.end)
