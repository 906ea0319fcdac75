"""Samples of a data file, record by record: ``Sample``, or ``Skipped`` with its reason.

Knows file formats, field names and line numbers. Must not know tokenizers, windows or models,
and never puts text of the data into an error or a reason.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from memaudit.data.conversations import Turn, texts_in
from memaudit.data.fields import BadRecord
from memaudit.data.forms import USUAL, Naming
from memaudit.data.packing import Note
from memaudit.data.prompts import Content, read_content
from memaudit.data.raw_files import ignore_note
from memaudit.data.records import FORMATS, Record, read_records, sha256_of
from memaudit.errors import DataError

LONGEST_ID = 4096
"""Characters of the longest path that a file can have. A longer id names nothing."""
_AHEAD = 1000
"""Records that are searched for a good one before ``--skip-bad-lines`` is advised."""
_MOST_NAMES = 10_000
"""Names of columns that are counted; JSON lines may each have their own."""
_TOO_DEEP = "[nested too deep]"


@dataclass(frozen=True)
class Sample:
    """One good record: it has exactly one of text, prefix with suffix, and messages."""

    sample_id: str
    """The record's ``id``, or its line if there is none or it exceeds LONGEST_ID; in a folder, the
    file's path in it. With ``#`` and the turn's number, from 1, if a chat has several assistant
    turns."""
    line: int
    """Line on which the record starts, from 1; in parquet its row; in a folder always 1."""
    text: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    messages: tuple[Turn, ...] | None = None
    """A chat: messages with ``role`` and ``content``, the last one the assistant's."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools that the chat offers."""
    group: str | None = None
    """Samples of one group belong together: they share a cluster."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Other columns that the user keeps; values that are not strings become compact JSON."""

    @property
    def characters(self) -> int:
        """Characters of its text, in whatever form."""
        parts = [self.text, self.prefix, self.suffix]
        parts += texts_in([*(self.messages or ()), *self.tools])
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
    """What was read as something other than its name says, a sentence each."""
    columns: Mapping[str, int] = field(default_factory=dict)
    """Samples that have each other column, kept or not."""


def read_samples(
    path: Path, *, skip_bad_lines: bool, note: Note = ignore_note, naming: Naming = USUAL
) -> Iterator[Sample | Skipped]:
    """Stream the records of a file or folder, in file order.

    Blank lines are no records. A ``.json`` array is held in memory, the other formats are not.
    note: takes notes of files read as something other than their names promise, and of fields taken
    as something other than their names say. naming: the names of fields that the user gave.

    Raises:
        DataError: at the call if the path cannot be read; while iterating, at a bad record,
            unless ``skip_bad_lines`` makes it a ``Skipped``; always if nothing that follows could
            be trusted (a broken archive, array or header, another encoding), or if there is no
            record.
    """
    return _judged(path, read_records(path, note, naming), skip_bad_lines, naming, note)


def check_samples(path: Path, *, skip_bad_lines: bool, naming: Naming = USUAL) -> DataSummary:
    """Read everything once, so that input errors come before a model is loaded.

    Raises:
        DataError: as ``read_samples``; also if not a single record can be used.
    """
    rows = bad = 0
    first: Skipped | None = None
    notes = _Notes(path)
    columns: Counter[str] = Counter()
    naming = replace(naming, keep=None)
    for item in read_samples(path, skip_bad_lines=skip_bad_lines, note=notes.add, naming=naming):
        rows += 1
        columns.update(name for name in item.extra if name in columns or len(columns) < _MOST_NAMES)
        if isinstance(item, Skipped):
            bad += 1
            first = first or item
    if first is not None and rows == bad:
        raise DataError(
            f"{path}:{first.line}: {first.reason}; none of the {rows} records can be used"
        )
    if 2 * bad > rows:
        notes.add(path, f"{bad:,} of {rows:,} records cannot be used")
    return DataSummary(path, sha256_of(path), rows, bad, notes.sentences(), columns)


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
    path: Path, records: Iterator[Record], skip_bad_lines: bool, naming: Naming, note: Note
) -> Iterator[Sample | Skipped]:
    record, has_good = None, False
    noted: set[tuple[Path, str]] = set()
    for record in records:
        try:
            content, samples = _samples(record, naming)
            new = {(record.source, words) for words in content.notes} - noted
            for source, words in sorted(new):
                note(source, words)
            noted |= new
            yield from samples
            has_good = True
        except BadRecord as problem:
            if not skip_bad_lines:
                helps = has_good or _has_good(islice(records, _AHEAD), naming)
                advice = "; mend it or pass --skip-bad-lines" if helps else ""
                raise DataError(f"{record.source}:{record.line}: {problem}{advice}") from None
            # It is not known which of its fields is the text, so none is passed through.
            yield Skipped(_sample_id(record), record.line, str(problem), {})
    if record is None:
        raise DataError(f"{path}: holds no records; give {FORMATS} with at least one")


def _has_good(records: Iterable[Record], naming: Naming) -> bool:
    """Return True if a record can be used, among those that can be read."""
    with contextlib.suppress(DataError):
        for record in records:
            with contextlib.suppress(BadRecord):
                _samples(record, naming)
                return True
    return False


def _samples(record: Record, naming: Naming) -> tuple[Content, list[Sample]]:
    """Return what a record holds, and its samples: one, or one for each audited turn of a chat.

    The turns of a chat belong together, so they are a group.
    """
    if record.problem is not None:
        raise BadRecord(record.problem)
    content = read_content(record.fields, naming)
    whole = Sample(
        sample_id=_sample_id(record),
        line=record.line,
        text=content.text,
        prefix=content.prefix,
        suffix=content.suffix,
        tools=content.tools,
        group=_as_text(record.fields.get("group")) or None,
        extra=_extra(record, content.fields, naming.keep),
    )
    if content.chat is None:
        return content, [whole]
    turns, audited = content.chat.turns, content.chat.audited
    replies = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    if len(replies) == 1:
        return content, [replace(whole, messages=turns[: audited[0] + 1])]
    group = whole.group or f"chat {record.line} of {record.source}"
    return content, [
        replace(
            whole,
            sample_id=f"{whole.sample_id}#{1 + replies.index(place)}",
            messages=turns[: place + 1],
            group=group,
        )
        for place in audited
    ]


def _sample_id(record: Record) -> str:
    given = _as_text(record.fields.get("id"))
    return given if 0 < len(given) <= LONGEST_ID else str(record.line)


def _extra(record: Record, own: frozenset[str], keep: frozenset[str] | None) -> Mapping[str, str]:
    """Return the columns to keep that are neither text nor memaudit's own; None keeps all."""
    others = (key for key in record.fields if key not in own and key not in ("id", "group"))
    return {
        name: _as_text(record.fields[key])
        for key, name in ((key, _as_text(key)) for key in others)
        if keep is None or name in keep
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
