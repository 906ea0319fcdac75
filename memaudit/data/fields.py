"""Values of a record's fields: their kinds, checked strings and JSON inside a cell.

Must not know which fields make a sample. Quotes no value.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from memaudit.data.charsets import has_wide_letters, is_unicode


class BadRecord(Exception):
    """A record cannot be used; the message is the reason and quotes nothing of its text."""


class FieldTwice(ValueError):
    """An object has two values of one name, so it is not clear which is meant."""


def distinct_fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as a hook for the library. Raises FieldTwice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FieldTwice
    return fields


def kind_of(value: Any) -> str:
    """Return the kind of a value in words, for a message that must not quote it."""
    kinds = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
    kinds |= {dict: "an object", int: "a number", float: "a number", bytes: "bytes"}
    return kinds.get(type(value), f"of type {type(value).__name__}")


def string_of(fields: Mapping[str, Any], name: str) -> str:
    """Return a field that has to be text. Raises BadRecord."""
    value = fields[name]
    if not isinstance(value, str):
        raise BadRecord(f"field {name} is {kind_of(value)}, not a string")
    if not is_unicode(value):
        raise BadRecord(f"field {name} holds half a surrogate pair, which is not Unicode text")
    if value and not value.strip("\0"):
        raise BadRecord(f"field {name} holds nothing but NUL characters")
    if has_wide_letters(value):
        raise BadRecord(f"field {name} is UTF-16 that was read as another encoding")
    return value


def from_json(value: Any) -> Any:
    """Return what a string holds as JSON, as tables do that have no lists; else the value."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value, object_pairs_hook=distinct_fields)
    return value
