"""The fields that make a sample, and advice for records that have different fields.

Knows field names and the usual forms of fine-tuning data. Must not know files. Quotes a name only
if it cannot be audited text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from memaudit.config.settings import Pairs, WindowSettings
from memaudit.data.fields import BadRecord

NATIVE = {"text": ("text",), "prefix + suffix": ("prefix", "suffix"), "messages": ("messages",)}
"""Forms of memaudit's own, and the fields of each. They win over every other form."""
CONVERSATIONS = ("conversations", "conversation")
"""Fields that hold messages under another name."""
INSTRUCTION = "instruction"
COMPLETION = ("prompt", "completion")
"""The pair that is trained as it is, not as turns of a chat, if both are strings."""
REPETITIONS = "dup"
"""Column that counts how often a text was trained on; it is kept if the data have it."""

_MAX_NAMES = 8
_NAME = re.compile(r"[A-Za-z_][\w.-]{0,31}", re.ASCII)
PAIRS = (
    (INSTRUCTION, "output"),
    (INSTRUCTION, "response"),
    COMPLETION,
    ("prompt", "response"),
    ("prompt", "output"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
    ("inputs", "targets"),
)
"""Fields of a question and its answer."""
FORMS = {
    **NATIVE,
    **{name: (name,) for name in CONVERSATIONS},
    **{f"{question} + {answer}": (question, answer) for question, answer in PAIRS},
}
"""Forms of a record's text, and the fields that each needs, in the order in which they win."""
INPUTS = ("input", "context")
"""Fields with what an instruction is about."""
SYSTEMS = ("system", "system_prompt")
"""Fields with the system turn before a question."""
_TEXTS = ("content", "document", "body", "page_content", "raw_content", "passage", "sentence")
_OTHERS = ("chosen", "rejected", "dialog", "source", "target", *INPUTS, *SYSTEMS)
_USUAL = frozenset((*_TEXTS, *_OTHERS, *(name for form in FORMS.values() for name in form)))
"""Words that in the first line of a table can only be column names."""


@dataclass(frozen=True)
class Naming:
    """The names of fields that the user gave, and how questions and answers become text."""

    text: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    pairs: Pairs = "auto"
    keep: frozenset[str] | None = frozenset({REPETITIONS})
    """Other columns that samples keep; None keeps all."""

    @property
    def forms(self) -> Mapping[str, tuple[str, ...]]:
        """Forms to look for: the given fields alone, if there are any."""
        if self.text is not None:
            return {"text": (self.text,)}
        if self.prefix is not None or self.suffix is not None:
            return {"prefix + suffix": (self.prefix or "prefix", self.suffix or "suffix")}
        return FORMS

    @property
    def is_given(self) -> bool:
        """True if the user named fields."""
        return self.forms is not FORMS


USUAL = Naming()
"""No names given."""


def naming_of(settings: WindowSettings) -> Naming:
    """Return the names of fields that settings give."""
    fields = (settings.text_field, settings.prefix_field, settings.suffix_field)
    return Naming(*fields, settings.pairs, frozenset((*settings.keep_columns, REPETITIONS)))


def form_of(fields: Mapping[str, Any], naming: Naming = USUAL) -> str:
    """Return which form a record has; null counts as absent. Raises BadRecord."""
    forms = naming.forms
    native = {form: names for form, names in forms.items() if naming.is_given or form in NATIVE}
    present = [
        form
        for form, names in native.items()
        if any(fields.get(name) is not None for name in names)
    ]
    if not present:
        others = (
            form
            for form, names in forms.items()
            if form not in native and all(fields.get(name) is not None for name in names)
        )
        if form := next(others, None):
            return form
        raise BadRecord(missing_form(fields, naming))
    if len(present) > 1:
        raise BadRecord(f"has both {present[0]} and {present[1]}, where only one can be meant")
    absent = [name for name in forms[present[0]] if fields.get(name) is None]
    if absent:
        raise BadRecord(f"has no field {absent[0]}, which {' + '.join(forms[present[0]])} needs")
    return present[0]


def has_form(names: Iterable[str], naming: Naming = USUAL) -> bool:
    """Return True if columns with these names can make a sample."""
    columns = set(names)
    return any(set(form) <= columns for form in naming.forms.values())


def missing_form(fields: Mapping[str, Any], naming: Naming = USUAL) -> str:
    """Explain why a record cannot be used. Quotes only usual names: a field's name may be text."""
    fields = {name: value for name, value in fields.items() if value is not None}
    described = _described(fields, naming)
    if fields and not described.startswith(" (it has "):
        count = f"{len(fields):,} field{'s' * (len(fields) > 1)}"
        described = f" (it has {count} of other names){described}"
    return f"has no field {_needed(naming)}{described}"


def missing_columns(names: Iterable[str], naming: Naming = USUAL) -> str:
    """Explain why a table cannot be used. Quotes only usual names: the header may be data."""
    return f"no column {_needed(naming)}{_described(dict.fromkeys(names), naming)}"


def _needed(naming: Naming) -> str:
    if naming.is_given:
        return " + ".join(*naming.forms.values())
    return "text, prefix + suffix, or messages"


def _described(fields: Mapping[str, Any], naming: Naming) -> str:
    """List the fields of usual names, and give advice."""
    quotable = [name for name in fields if name.strip().lower() in _USUAL]
    listed = ", ".join(quotable[:_MAX_NAMES])
    if (more := len(fields) - len(quotable[:_MAX_NAMES])) and listed:
        listed = f"{listed} and {more} more"
    advice = "" if naming.is_given else _form_advice(fields) or _renaming(fields)
    return f" (it has {listed})" * bool(listed) + f"; {advice}" * bool(advice)


def _form_advice(fields: Mapping[str, Any]) -> str:
    """Return advice for a record of another usual form; empty if the form is unknown."""
    if "prompt" in fields and "chosen" in fields:
        if isinstance(fields["prompt"], list) or isinstance(fields["chosen"], list):
            return "this is a preference pair: give prompt and chosen as one list, messages"
        return "this is a preference pair: pass --prefix-field prompt --suffix-field chosen"
    if "source" in fields and "target" in fields:
        return "pass --prefix-field source --suffix-field target"
    return ""


def _renaming(fields: Mapping[str, Any]) -> str:
    """Return advice for field names that differ in case or blanks, or that usually hold text."""
    for form in NATIVE.values():
        if set(form) <= {name.strip().lower() for name in fields}:
            return f"write {' and '.join(form)} in lower case, without blanks"
    texts = [name for name in _TEXTS if name in fields]
    return f"pass --text-field {texts[0]}" if len(texts) == 1 else ""


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
