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
from memaudit.sensitive import context, shapes
from memaudit.sensitive.categories import (
    ALL,
    CATEGORIES,
    NO_DETECTOR,
    SECRETS,
    TITLES,
)
from memaudit.sensitive.categories import Category as Category
from memaudit.sensitive.patterns import without_overlaps
from memaudit.sensitive.shapes import Span

Kind = Literal["rule", "package", "model", "recognizers", "presidio", "secrets"]
"""Source of a detector."""
Find = Callable[[Sequence[str]], Sequence[Iterable[Span]]]

_USERS = -0.5
"""Place of the user's own categories: after the listed secrets, before all others."""
_SEVEN_DIGITS = re.compile(r"(?:\d\D{0,3}){7}")


@dataclass(frozen=True)
class Detector:
    """Detector of one category."""

    category: Category
    kind: Kind
    method: str
    """Description, with the version of the package used."""
    find: Find
    """Returns the spans of the category's items in each text, in text order."""

    @property
    def title(self) -> str:
        """Plural of the category, for people."""
        return TITLES[self.category]


def make_detectors(region: str, *, packages: bool = True) -> tuple[Detector, ...]:
    """Make a detector for each category that rules or packages find, in order of `CATEGORIES`.

    region: country (ISO 3166, two letters) whose national phone number format is used.
    packages: use packages if they are installed.
    """
    installed = _installed if packages else lambda _: None
    beside = "form, beside a word for it in English, German, French, Spanish or Italian"
    return (
        _by_rule("key", "known forms of keys, tokens, private keys, URL passwords", shapes.keys),
        _by_rule("email", "form of the address", shapes.emails),
        _accounts(installed("python-stdnum")),
        _by_rule("card", "network, length and Luhn check digit", shapes.cards),
        _by_rule("birth-date", f"date's {beside}", context.birth_dates),
        _by_rule("code", f"digits' {beside}", context.codes),
        _by_rule("record-number", f"number's {beside}", context.record_numbers),
        _phones(installed("phonenumbers"), region),
    )


def choose_detectors(
    detectors: Iterable[Detector], chosen: Sequence[Category]
) -> tuple[Detector, ...]:
    """Return the detectors of the chosen categories, one for each, in the order of claims.

    What the user brings is searched whatever is chosen. Raises UsageError for a category without a
    detector.
    """
    by_category = _by_category(detectors)
    unknown = [name for name in chosen if name != ALL and name not in by_category]
    if unknown:
        reason = NO_DETECTOR.get(unknown[0])
        raise UsageError(
            f"sensitive.categories: {unknown[0]}: {reason}"
            if reason
            else f"sensitive.categories: no detector for {unknown[0]}; choose from "
            f"{', '.join([ALL, *sorted(by_category)])}"
        )
    return join_detectors(
        detector
        for category, group in by_category.items()
        for detector in group
        if ALL in chosen or category in chosen or detector.kind in ("recognizers", "secrets")
    )


def join_detectors(detectors: Iterable[Detector]) -> tuple[Detector, ...]:
    """Return one detector for each category, in the order in which they claim text."""
    order = {category: place for place, category in enumerate(CATEGORIES, -1)}  # SECRETS has -1
    joined = map(_joined, _by_category(detectors).values())
    return tuple(sorted(joined, key=lambda detector: order.get(detector.category, _USERS)))


def _by_category(detectors: Iterable[Detector]) -> dict[Category, list[Detector]]:
    by_category: dict[Category, list[Detector]] = {}
    for detector in detectors:
        by_category.setdefault(detector.category, []).append(detector)
    return by_category


def not_searched(detectors: Iterable[Detector]) -> dict[Category, str]:
    """Return the built-in categories that none of the detectors searches for, with the reason."""
    searched = {detector.category for detector in detectors}
    return {
        category: NO_DETECTOR.get(category, "sensitive.categories leaves it out")
        for category in CATEGORIES
        if category not in searched and category != SECRETS
    }


def _joined(detectors: Sequence[Detector]) -> Detector:
    """Return one detector for all of a category's."""
    first, *others = detectors
    if not others:
        return first

    def find(texts: Sequence[str]) -> list[list[Span]]:
        each = [detector.find(texts) for detector in detectors]
        return [
            without_overlaps(span for spans in row for span in spans)
            for row in zip(*each, strict=True)
        ]

    methods = "; ".join(dict.fromkeys(detector.method for detector in detectors))
    return Detector(first.category, detectors[-1].kind, methods, find)


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
    return Detector(category, "rule", method, lambda texts: [tuple(rule(text)) for text in texts])


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
