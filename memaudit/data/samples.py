"""Samples of a data file, record by record: ``Sample``, or ``Skipped`` with its reason.

Knows file formats, field names and line numbers. Must not know tokenizers, windows or models,
and never puts text of the data into an error or a reason.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from memaudit.data.charsets import has_wide_letters, is_unicode
from memaudit.data.forms import FORMS, missing_form
from memaudit.data.packing import Note
from memaudit.data.raw_files import ignore_note
from memaudit.data.records import (
    FORMATS,
    Record,
    distinct_fields,
    kind_of,
    read_records,
    sha256_of,
)
from memaudit.errors import DataError

LONGEST_ID = 4096
"""Characters of the longest path that a file can have. A longer id names nothing."""
_AHEAD = 1000
"""Records that are searched for a good one before ``--skip-bad-lines`` is advised."""
_TOO_DEEP = "[nested too deep]"
_OWN_FIELDS = frozenset({"id", "group", "text", "prefix", "suffix", "messages"})


@dataclass(frozen=True)
class Sample:
    """One good record: it has exactly one of text, prefix with suffix, and messages."""

    sample_id: str
    """The record's ``id``, or its line if there is none or it exceeds LONGEST_ID; in a folder, the
    file's path in it."""
    line: int
    """Line on which the record starts, from 1; in parquet its row; in a folder always 1."""
    text: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    """A chat: messages with ``role`` and ``content``, the last one the assistant's."""
    group: str | None = None
    """Samples of one group belong together: they share a cluster."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """All other columns, passed through; values that are not strings become compact JSON."""

    @property
    def characters(self) -> int:
        """Characters of its text, in whatever form."""
        parts = [self.text, self.prefix, self.suffix]
        parts += [part for message in self.messages or () for part in message.values()]
        return sum(len(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Skipped:
    """A record that gives no window."""

    sample_id: str
    line: int
    """Line of the record, see ``Sample``."""
    reason: str
    """Reason, in words that quote nothing of the record."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Other columns, see ``Sample``; empty if the record could not be parsed."""


@dataclass(frozen=True)
class DataSummary:
    """Outcome of a first full pass over the data."""

    path: Path
    sha256: str
    """Hash of a file's bytes; of a folder, of the sorted paths of its files and their hashes."""
    rows: int
    """Records read, good or bad."""
    bad: int
    """Records that cannot be used."""
    notes: tuple[str, ...] = ()
    """Files read as something other than their names promise, a sentence each."""


class _BadRecord(Exception):
    """The record cannot be used; the message is the reason."""


def read_samples(
    path: Path, *, skip_bad_lines: bool, note: Note = ignore_note
) -> Iterator[Sample | Skipped]:
    """Stream the records of a file or folder, in file order.

    Blank lines are no records. A ``.json`` array is held in memory, the other formats are not.
    note: takes notes of files read as something other than their names promise.

    Raises:
        DataError: at the call if the path cannot be read; while iterating, at a bad record,
            unless ``skip_bad_lines`` makes it a ``Skipped``; always if nothing that follows could
            be trusted (a broken archive, array or header, another encoding), or if there is no
            record.
    """
    return _judged(path, read_records(path, note), skip_bad_lines)


def check_samples(path: Path, *, skip_bad_lines: bool) -> DataSummary:
    """Read everything once, so that input errors come before a model is loaded.

    Raises:
        DataError: as ``read_samples``; also if not a single record can be used.
    """
    rows = bad = 0
    first: Skipped | None = None
    notes = _Notes(path)
    for item in read_samples(path, skip_bad_lines=skip_bad_lines, note=notes.add):
        rows += 1
        if isinstance(item, Skipped):
            bad += 1
            first = first or item
    if first is not None and rows == bad:
        raise DataError(
            f"{path}:{first.line}: {first.reason}; none of the {rows} records can be used"
        )
    if 2 * bad > rows:
        notes.add(path, f"{bad:,} of {rows:,} records cannot be used")
    return DataSummary(path, sha256_of(path), rows, bad, notes.sentences())


class _Notes:
    """Notes on the files of a path, each once for however many files it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, int] = {}
        self._first: dict[str, Path] = {}

    def add(self, path: Path, words: str) -> None:
        """Take a note on a file: the end of a sentence that begins with its name."""
        self._files[words] = self._files.get(words, 0) + 1
        self._first.setdefault(words, path)

    def sentences(self) -> tuple[str, ...]:
        """Return the notes, a sentence each."""
        return tuple(
            f"{self._first[words].name}: {words}."
            if count == 1
            else f"{self._path.name}: {count:,} files: {words}."
            for words, count in self._files.items()
        )


def _judged(
    path: Path, records: Iterator[Record], skip_bad_lines: bool
) -> Iterator[Sample | Skipped]:
    record, has_good = None, False
    for record in records:
        try:
            yield _sample(record)
            has_good = True
        except _BadRecord as problem:
            if not skip_bad_lines:
                helps = has_good or _has_good(islice(records, _AHEAD))
                advice = "; mend it or pass --skip-bad-lines" if helps else ""
                raise DataError(f"{record.source}:{record.line}: {problem}{advice}") from None
            # It is not known which of its fields is the text, so none is passed through.
            yield Skipped(_sample_id(record), record.line, str(problem), {})
    if record is None:
        raise DataError(f"{path}: holds no records; give {FORMATS} with at least one")


def _has_good(records: Iterable[Record]) -> bool:
    """Return True if a record can be used, among those that can be read."""
    with contextlib.suppress(DataError):
        for record in records:
            with contextlib.suppress(_BadRecord):
                _sample(record)
                return True
    return False


def _sample(record: Record) -> Sample:
    if record.problem is not None:
        raise _BadRecord(record.problem)
    fields = record.fields
    form = _form(fields)
    return Sample(
        sample_id=_sample_id(record),
        line=record.line,
        text=_string(fields, "text") if form == "text" else None,
        prefix=_string(fields, "prefix") if form == "prefix + suffix" else None,
        suffix=_string(fields, "suffix") if form == "prefix + suffix" else None,
        messages=_messages(fields["messages"]) if form == "messages" else None,
        group=_as_text(fields.get("group")) or None,
        extra=_extra(record),
    )


def _form(fields: Mapping[str, Any]) -> str:
    """Return which of the three forms the record has; null counts as absent."""
    present = [
        form for form, names in FORMS.items() if any(fields.get(name) is not None for name in names)
    ]
    if not present:
        raise _BadRecord(missing_form(fields))
    if len(present) > 1:
        raise _BadRecord(f"has both {present[0]} and {present[1]}, where only one can be meant")
    absent = [name for name in FORMS[present[0]] if fields.get(name) is None]
    if absent:
        raise _BadRecord(f"has no field {absent[0]}, which {present[0]} needs")
    return present[0]


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise _BadRecord(f"field {name} is {kind_of(value)}, not a string")
    if not is_unicode(value):
        raise _BadRecord(f"field {name} holds half a surrogate pair, which is not Unicode text")
    if value and not value.strip("\0"):
        raise _BadRecord(f"field {name} holds nothing but NUL characters")
    if has_wide_letters(value):
        raise _BadRecord(f"field {name} is UTF-16 that was read as another encoding")
    return value


def _messages(value: Any) -> tuple[Mapping[str, str], ...]:
    if isinstance(value, str):  # CSV has no lists: a cell holds them as JSON
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value, object_pairs_hook=distinct_fields)
    if not isinstance(value, list):
        raise _BadRecord(f"field messages is {kind_of(value)}, not a list")
    messages = tuple(_message(number, message) for number, message in enumerate(value, 1))
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise _BadRecord("messages must be at least two, the last one with role assistant")
    return messages


def _message(number: int, value: Any) -> Mapping[str, str]:
    """Return a message with only the fields that a template may render."""
    if not isinstance(value, dict):
        raise _BadRecord(f"message {number} is {kind_of(value)}, not an object")
    if "from" in value and "value" in value and "role" not in value:
        raise _BadRecord(f"message {number} has from and value; rename them to role and content")
    for name in ("role", "content"):
        if not isinstance(value.get(name), str):
            raise _BadRecord(
                f"message {number}: {name} is {kind_of(value.get(name))}, not a string"
                f"{_about_content(value) if name == 'content' else ''}"
            )
    for part in value.values():
        if part and isinstance(part, (list, dict)):
            raise _BadRecord(
                f"message {number} has a field beside role and content, which is not text"
            )
    return {name: _string(value, name) for name, part in value.items() if isinstance(part, str)}


def _about_content(message: Mapping[str, Any]) -> str:
    """Return advice on a message whose content is no string; empty if there is none."""
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return "; a turn that only calls a tool has no text: leave the chat out, or write the call"
    parts = content if isinstance(content, list) else []
    if parts and all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
        return "; join its text parts into one string"
    return ""


def _sample_id(record: Record) -> str:
    given = _as_text(record.fields.get("id"))
    return given if 0 < len(given) <= LONGEST_ID else str(record.line)


def _extra(record: Record) -> Mapping[str, str]:
    return {
        _as_text(name): _as_text(value)
        for name, value in record.fields.items()
        if name not in _OWN_FIELDS
    }


def _as_text(value: Any) -> str:
    """Return a value of a column that is passed through, as text that can be written as UTF-8."""
    if value is None:
        return ""
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        except RecursionError:  # it was read a frame or two further up
            value = _TOO_DEEP
    return str(value.encode("utf-8", "backslashreplace").decode("utf-8"))
