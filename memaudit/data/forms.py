"""The fields that make a sample, and advice for records that have different fields.

Knows field names and the usual forms of fine-tuning data. Must not know files. Quotes a name only
if it cannot be audited text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

FORMS = {"text": ("text",), "prefix + suffix": ("prefix", "suffix"), "messages": ("messages",)}
"""Forms of a record's text, and the fields of each."""

_MAX_NAMES = 8
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,31}", re.ASCII)
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
    ("inputs", "targets"),
    ("source", "target"),
)
_TEXTS = ("content", "document", "body", "page_content", "raw_content", "passage", "sentence")
_OTHERS = ("conversations", "conversation", "instruction", "chosen", "rejected", "dialog", "system")
_USUAL = frozenset((*_TEXTS, *_OTHERS, *(name for pair in _PAIRS for name in pair)))
"""Words that in the first line of a table can only be column names."""


def has_form(names: Iterable[str]) -> bool:
    """Return True if columns with these names can make a sample."""
    columns = set(names)
    return any(set(form) <= columns for form in FORMS.values())


def missing_form(fields: Mapping[str, Any]) -> str:
    """Explain why a record cannot be used. Quotes only usual names: a field's name may be text."""
    fields = {name: value for name, value in fields.items() if value is not None}
    described = _described(fields)
    if fields and not described.startswith(" (it has "):
        count = f"{len(fields):,} field{'s' * (len(fields) > 1)}"
        described = f" (it has {count} of other names){described}"
    return f"has no field text, prefix + suffix, or messages{described}"


def missing_columns(names: Iterable[str]) -> str:
    """Explain why a table cannot be used. Quotes only usual names: the header may be data."""
    fields = dict.fromkeys(names)
    return f"no column text, prefix + suffix, or messages{_described(fields)}"


def _described(fields: Mapping[str, Any]) -> str:
    """List the fields of usual names, and give advice."""
    quotable = [name for name in fields if name.strip().lower() in _USUAL]
    listed = ", ".join(quotable[:_MAX_NAMES])
    if (more := len(fields) - len(quotable[:_MAX_NAMES])) and listed:
        listed = f"{listed} and {more} more"
    advice = _form_advice(fields) or _renaming(fields)
    return f" (it has {listed})" * bool(listed) + f"; {advice}" * bool(advice)


def _form_advice(fields: Mapping[str, Any]) -> str:
    """Return advice for a record of another usual form; empty if the form is unknown."""
    for name in ("conversations", "conversation"):
        if name in fields:
            return _about_conversations(name, fields[name])
    if "prompt" in fields and "chosen" in fields:
        if isinstance(fields["prompt"], list) or isinstance(fields["chosen"], list):
            return "this is a preference pair: give prompt and chosen as one list, messages"
        return "this is a preference pair: rename prompt to prefix, and chosen to suffix"
    if "instruction" in fields and ("output" in fields or "response" in fields):
        answer = "output" if "output" in fields else "response"
        return (
            "this is the Alpaca form: give the prompt that the model was trained with as prefix, "
            f"and {answer} as suffix"
        )
    for question, answer in _PAIRS:
        if question in fields and answer in fields:
            if isinstance(fields[question], list):
                return f"join {question} and {answer} into one list, messages"
            return f"rename {question} to prefix, and {answer} to suffix"
    return ""


def _about_conversations(name: str, value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, dict) and "from" in first:
        return (
            f"{name} with from and value is the ShareGPT form: give messages with role and "
            "content, human as user and gpt as assistant"
        )
    return f"rename {name} to messages, each with role and content"


def _renaming(fields: Mapping[str, Any]) -> str:
    """Return advice for field names that differ in case or blanks, or that usually hold text."""
    for form in FORMS.values():
        if set(form) <= {name.strip().lower() for name in fields}:
            return f"write {' and '.join(form)} in lower case, without blanks"
    texts = [name for name in _TEXTS if name in fields]
    return f"rename {texts[0]} to text" if len(texts) == 1 else ""


def other_format(line: str) -> str | None:
    """Return what a text file really is by its first line, with advice; None if it is text."""
    bare = line.strip()
    if bare[:1] in ("{", "[") and _holds_records(bare):
        return "holds JSON, not plain text; rename it to end in .jsonl or .json"
    for delimiter in ("\t", ",", ";"):
        names = [name.strip().strip('"') for name in bare.split(delimiter)]
        if len(names) > 1 and has_form(names) and all(map(_NAME.fullmatch, names)):
            return "begins with the header of a table; rename it to end in .csv or .tsv"
    return None


def _holds_records(line: str) -> bool:
    """Return True if a line is one or more records of a known form, or opens a JSON document."""
    if line in ("[", "[{", "{"):
        return True
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return False
    first = document[0] if isinstance(document, list) and document else document
    return isinstance(first, dict) and (has_form(first) or bool(_form_advice(first)))
