"""Recognizers from a file in Presidio's YAML format.

Knows the format. Refuses what it does not understand, and quotes no pattern and no listed word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from memaudit.errors import UsageError
from memaudit.sensitive import presidio
from memaudit.sensitive.categories import CATEGORY_FORM, NATIONAL_ID, Category
from memaudit.sensitive.check_digits import check_of
from memaudit.sensitive.detectors import Detector
from memaudit.sensitive.patterns import CERTAIN, Pattern, Recognizer
from memaudit.system.files import read_bounded

LONGEST_FILE = 1 << 20
"""Bytes of the longest file of recognizers."""
_MOST = 1000
"""Most patterns in a file."""
_TOP = {"recognizers", "supported_languages", "global_regex_flags"}
_CUSTOM = {
    *("name", "type", "enabled", "supported_entity", "supported_entities"),
    *("supported_language", "supported_languages", "patterns", "context", "version"),
    *("deny_list", "deny_list_score", "country_code", "global_regex_flags"),
}
_PREDEFINED = {"name", "type", "enabled", "supported_language", "supported_languages", "context"}
_PATTERN = {"name", "regex", "score"}
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE
OWN_CATEGORIES: Mapping[str, Category] = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "account",
    "PERSON": "name",
    "LOCATION": "address",
    "ADDRESS": "address",
    "DATE_OF_BIRTH": "birth-date",
    "BIRTH_DATE": "birth-date",
}
"""Entities that are a category of memaudit's own."""
_BUILT_IN = {"EmailRecognizer", "PhoneRecognizer", "CreditCardRecognizer", "IbanRecognizer"}
"""Predefined recognizers for which memaudit has a detector of its own."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Safe loader without aliases, which can hold a million items in a line, or repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise _Fault("aliases (*name) are not understood", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            raise _Fault("a key stands twice", node.start_mark)
        return mapping


class _Fault(Exception):
    """The file is not understood; the message quotes no value."""

    def __init__(self, words: str, mark: Any = None) -> None:
        super().__init__(words if mark is None else f"line {mark.line + 1}: {words}")


class _Place(NamedTuple):
    """An item of the file, as messages name it."""

    words: str
    values: dict[str, Any]

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Return a value of the kind. Raises _Fault."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise _Fault(f"{self.words}: {key} has the wrong type")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """Return a list of strings that are not blank. Raises _Fault."""
        values = self.get(key, list, [])
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise _Fault(f"{self.words}: {key} has to be a list of words; write numbers in quotes")
        return tuple(values)


def read_recognizers(path: Path) -> tuple[Detector, ...]:
    """Read a file of recognizers, and return a detector for each category in it.

    Raises UsageError, in one line, for a file that cannot be read or is not understood.
    """
    try:
        content = _parsed(read_bounded(path, LONGEST_FILE, f"--recognizers {path}"))
        by_category: dict[Category, list[Recognizer]] = {}
        for category, recognizer in _recognizers(content, path.name):
            by_category.setdefault(category, []).append(recognizer)
    except _Fault as fault:
        raise UsageError(f"--recognizers {path}: {fault}") from None
    if not by_category:
        raise UsageError(f"--recognizers {path}: holds no recognizer that is enabled")
    return tuple(
        Detector(category, "recognizers", _method(group, path.name), recognizer.finder())
        for category, group in by_category.items()
        for recognizer in group
    )


def category_of(entity: str) -> Category:
    """Return the category of an entity, such as ``customer-id`` of CUSTOMER_ID. Raises _Fault."""
    category = OWN_CATEGORIES.get(entity, entity.lower().replace("_", "-"))
    if not re.fullmatch(CATEGORY_FORM, category):
        raise _Fault("supported_entity has to be of letters, digits and _, at most 40, as ORDER_ID")
    return category


def _method(recognizers: Iterable[Recognizer], file: str) -> str:
    return f"{', '.join(recognizer.name for recognizer in recognizers)} of {file}"


def _parsed(content: bytes) -> Any:
    try:
        return yaml.load(content, _Loader)  # a safe loader
    except yaml.YAMLError as error:  # its message quotes the line
        raise _Fault("not valid YAML", getattr(error, "problem_mark", None)) from None
    except (ValueError, RecursionError, TypeError, OverflowError):
        raise _Fault("not valid YAML") from None


def _recognizers(content: Any, file: str) -> Iterator[tuple[Category, Recognizer]]:
    flags, listed = 0, content
    if isinstance(content, dict):
        top = _place("the file", content, _TOP)
        flags, listed = top.get("global_regex_flags", int, 0), content.get("recognizers")
    if not isinstance(listed, list):
        raise _Fault("has to hold a list named recognizers")
    patterns = 0
    for number, values in enumerate(listed, 1):
        if isinstance(values, str):
            values = {"name": values, "type": "predefined"}
        if not isinstance(values, dict):
            raise _Fault(f"recognizer {number} is not a mapping")
        kind, name = values.get("type", "custom"), values.get("name")
        words = f"recognizer {name if isinstance(name, str) else number}"
        if kind not in ("custom", "predefined"):
            raise _Fault(f"{words}: type has to be custom or predefined")
        is_custom = kind == "custom"
        place = _place(words, values, _CUSTOM if is_custom else _PREDEFINED)
        name = place.get("name", str, f"recognizer {number}")
        if not place.get("enabled", bool, True):
            continue
        context = (*place.strings("context"), *_languages(place))
        if not is_custom:
            yield from _predefined(place, name, context, file)
            continue
        category, recognizer = _custom(place, name, context, flags)
        patterns += len(recognizer.patterns)
        if patterns > _MOST:
            raise _Fault(f"holds more than {_MOST:,} patterns")
        yield category, recognizer


def _place(words: str, values: dict[Any, Any], known: set[str]) -> _Place:
    for key in values:
        if key not in known:
            raise _Fault(f"{words}: {str(key)[:40]!r} is not understood")
    return _Place(words, values)


def _languages(place: _Place) -> Iterator[str]:
    """Yield the context words of each language; texts have no language here, so all count."""
    place.get("supported_language", str)
    for language in place.get("supported_languages", list, []):
        if isinstance(language, dict):
            part = _place(f"{place.words}, a language", language, {"language", "context"})
            yield from part.strings("context")
        elif not isinstance(language, str):
            raise _Fault(f"{place.words}: supported_languages has the wrong type")


def _predefined(
    place: _Place, name: str, context: tuple[str, ...], file: str
) -> Iterator[tuple[Category, Recognizer]]:
    if name in _BUILT_IN:
        return  # memaudit searches for these itself
    recognizer = presidio.predefined(name, f"--recognizers {file}")
    entity = presidio.entity_of(name)
    words = (*recognizer.context, *context)
    category = NATIONAL_ID if entity is None else category_of(entity)
    yield category, replace(recognizer, name=name, context=words, needs_context=False)


def _custom(
    place: _Place, name: str, context: tuple[str, ...], flags: int
) -> tuple[Category, Recognizer]:
    entities = place.strings("supported_entities")
    entity = place.get("supported_entity", str) or (entities[0] if len(entities) == 1 else None)
    if entity is None:
        raise _Fault(f"{place.words}: needs one supported_entity")
    try:
        category = category_of(entity)
    except _Fault as fault:
        raise _Fault(f"{place.words}: {fault}") from None
    patterns = tuple(_patterns(place))
    if words := place.strings("deny_list"):
        score = float(place.get("deny_list_score", (int, float), 1.0))
        listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        patterns += (Pattern("deny_list", rf"(?<!\w)(?:{listed})(?!\w)", score),)
    if not patterns:
        raise _Fault(f"{place.words}: needs patterns or a deny_list")
    check = check_of(entity)
    weak = all(pattern.score < CERTAIN for pattern in patterns)
    if weak and not context and check is None:
        raise _Fault(
            f"{place.words}: scores below {CERTAIN} count only beside a context word, and there is "
            "none; give context, or a higher score"
        )
    flags = place.get("global_regex_flags", int, flags)
    if flags & ~int(_FLAGS):
        raise _Fault(f"{place.words}: global_regex_flags {flags} are not understood")
    recognizer = Recognizer(name, patterns, context)
    if check is not None:
        recognizer = replace(recognizer, judge=check)
    return category, replace(recognizer, flags=flags) if flags else recognizer


def _patterns(place: _Place) -> Iterator[Pattern]:
    for number, values in enumerate(place.get("patterns", list, []), 1):
        if not isinstance(values, dict):
            raise _Fault(f"{place.words}: pattern {number} is not a mapping")
        part = _place(f"{place.words}, pattern {number}", values, _PATTERN)
        text, score = part.get("regex", str), part.get("score", (int, float))
        if not text or score is None or not 0 <= score <= 1:
            raise _Fault(f"{part.words}: needs a regex, and a score from 0 to 1")
        yield Pattern(part.get("name", str, f"{number}"), text, float(score))
