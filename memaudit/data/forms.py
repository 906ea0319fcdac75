"""The fields that make a sample, and the words for records that have others.

Knows names of fields, and the forms that data for fine-tuning usually has. Must not know files, and
shows a name only where it cannot be a piece of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

FORMS = {"text": ("text",), "prefix + suffix": ("prefix", "suffix"), "messages": ("messages",)}
"""The ways in which a record can give its text, and the fields of each."""

_MOST_SHOWN = 8
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
"""Names of columns, and of nothing else that stands in the first line of a table."""


def has_form(names: Iterable[str]) -> bool:
    """Whether columns of these names can make a sample."""
    given = set(names)
    return any(set(form) <= given for form in FORMS.values())


def missing_form(fields: Mapping[str, Any]) -> str:
    """Why a record without a form cannot be used: which fields it has, and what to rename."""
    fields = {name: value for name, value in fields.items() if value is not None}
    shown = [name for name in fields if _NAME.fullmatch(name)]
    return f"has no field text, prefix + suffix, or messages{_described(fields, shown)}"


def missing_columns(names: Iterable[str]) -> str:
    """The same of a table's header, which may be a row of values: only usual names are shown."""
    fields = dict.fromkeys(names)
    shown = [name for name in fields if name.strip().lower() in _USUAL]
    return f"no column text, prefix + suffix, or messages{_described(fields, shown)}"


def _described(fields: Mapping[str, Any], shown: list[str]) -> str:
    """Which fields there are, as far as they can be shown, and the advice that helps."""
    listed = ", ".join(shown[:_MOST_SHOWN])
    if (more := len(fields) - len(shown[:_MOST_SHOWN])) and listed:
        listed = f"{listed} and {more} more"
    advice = _form_advice(fields) or _renaming(fields)
    return f" (it has {listed})" * bool(listed) + f"; {advice}" * bool(advice)


def _form_advice(fields: Mapping[str, Any]) -> str:
    """What to do with a record of another usual form; nothing where it is of none."""
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
    for asked, answer in _PAIRS:
        if asked in fields and answer in fields:
            if isinstance(fields[asked], list):
                return f"join {asked} and {answer} into one list, messages"
            return f"rename {asked} to prefix, and {answer} to suffix"
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
    """The field that only a letter or a blank keeps from being one of ours, or that holds text."""
    for form in FORMS.values():
        meant = {name.strip().lower(): name for name in fields}
        if set(form) <= set(meant):
            return f"write {' and '.join(form)} in small letters, without blanks"
    texts = [name for name in _TEXTS if name in fields]
    return f"rename {texts[0]} to text" if len(texts) == 1 else ""


def other_format(line: str) -> str | None:
    """What a plain text really is, by its first line, and what to do; None where it is text."""
    bare = line.strip()
    if bare[:1] in ("{", "[") and _holds_records(bare):
        return "holds JSON, not plain text; let its name end in .jsonl or .json"
    for delimiter in ("\t", ",", ";"):
        names = [name.strip().strip('"') for name in bare.split(delimiter)]
        if len(names) > 1 and has_form(names) and all(map(_NAME.fullmatch, names)):
            return "begins with the header of a table; let its name end in .csv or .tsv"
    return None


def _holds_records(line: str) -> bool:
    """Whether a line is a record of a known form, or several, or opens a document of them."""
    if line in ("[", "[{", "{"):
        return True
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return False
    first = document[0] if isinstance(document, list) and document else document
    return isinstance(first, dict) and (has_form(first) or bool(_form_advice(first)))
