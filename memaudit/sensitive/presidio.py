"""National ids by the pattern recognizers of presidio-analyzer, without its language models.

Knows the package (an extra). Loads no model, fetches nothing, and leaves out the recognizers of
what memaudit finds itself: e-mail addresses, links, cards, accounts, phone numbers and dates.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from memaudit.errors import UsageError
from memaudit.sensitive.categories import NATIONAL_ID
from memaudit.sensitive.detectors import Detector
from memaudit.sensitive.patterns import Pattern, Recognizer, without_overlaps

INSTALL = "pip install 'memaudit-dsp[presidio]'"
_COUNTRIES = ".country_specific."
"""Part of the module's name that the recognizers of a country share."""
_LEFT_OUT = re.compile(
    "Plz|Postal|Postcode|Plate|Vehicle|Kfz|Handelsregister|Company|Organisation|Brn|Acn|Abn|Uen"
    "|Bsnr|Gstin|Vat|Bank|Routing|Claim|Referral|Prescription|Authorization|ProviderTax"
    "|UsLicense|UsHealthInsuranceMemberId|InPan"
)
"""Names of recognizers of places, vehicles, companies, banks and cases, whose forms are common, and
of three that mark software licences, compiler warnings and words of ten letters."""


def is_installed() -> bool:
    """Return True if presidio-analyzer is installed."""
    try:
        version("presidio-analyzer")
    except PackageNotFoundError:
        return False
    return True


def national_ids() -> Detector:
    """Return a detector of the national ids of every country that the package knows.

    Nearly all need a context word, even with the right check digits: numbers of eleven digits have
    them by chance too often.
    """
    recognizers = _of_persons()
    each = [_recognizer(kind).finder() for kind in recognizers]

    def find(texts: Any) -> list[Any]:
        rows = zip(*(finder(texts) for finder in each), strict=True)
        return [without_overlaps(span for spans in row for span in spans) for row in rows]

    package = f"presidio-analyzer {version('presidio-analyzer')}"
    method = f"{len(each)} recognizers of {len(_countries(recognizers))} countries ({package})"
    return Detector(NATIONAL_ID, "presidio", method, find)


def predefined(name: str, where: str) -> Recognizer:
    """Return a recognizer of the package by the name of its class. where: named in errors.

    Raises UsageError if the package is missing or has no such pattern recognizer.
    """
    if not is_installed():
        raise UsageError(f"{where}: recognizer {name} comes with presidio-analyzer; {INSTALL}")
    kind = dict(_classes()).get(name)
    if kind is None:
        raise UsageError(f"{where}: presidio-analyzer has no pattern recognizer {name}")
    return _recognizer(kind)


def entity_of(name: str) -> str | None:
    """Return the entity of a recognizer that `predefined` returns; None for a country's."""
    kind = dict(_classes())[name]
    return None if _COUNTRIES in kind.__module__ else str(kind().supported_entities[0])


def note() -> str:
    """Return a sentence that names the recognizers added."""
    names = [kind.__name__.removesuffix("Recognizer") for kind in _of_persons()]
    return f"National ids were searched for with presidio-analyzer: {', '.join(names)}."


def _classes() -> Iterator[tuple[str, Any]]:
    """Yield the package's pattern recognizers by name, without those that may fetch."""
    from presidio_analyzer import PatternRecognizer, predefined_recognizers  # optional, and slow

    for name, kind in inspect.getmembers(predefined_recognizers, inspect.isclass):
        if issubclass(kind, PatternRecognizer) and name != "EmailRecognizer":
            yield name, kind


def _of_persons() -> list[Any]:
    """Return the recognizers of numbers that a country gives to persons."""
    return [
        kind
        for name, kind in _classes()
        if _COUNTRIES in kind.__module__ and not _LEFT_OUT.search(name)
    ]


def _countries(recognizers: list[Any]) -> set[str]:
    return {kind.__module__.partition(_COUNTRIES)[2].partition(".")[0] for kind in recognizers}


def _recognizer(kind: Any) -> Recognizer:
    made = kind()

    def judge(item: str) -> bool | None:
        if made.invalidate_result(item):
            return False
        valid = made.validate_result(item)
        return None if valid is None else bool(valid)

    return Recognizer(
        name=f"presidio-analyzer's {kind.__name__}",
        patterns=tuple(Pattern(one.name, one.regex, one.score) for one in made.patterns),
        context=tuple(made.context or ()),
        judge=judge,
        flags=int(made.global_regex_flags or 0) or re.IGNORECASE,
        needs_context=True,
    )
