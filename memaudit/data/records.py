"""Records of a data file, each with its file and line.

Knows file formats, encodings and how each of them counts its lines. Must not know which fields
make a sample, beyond the names that a header has to have, and quotes nothing of the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memaudit.data.charsets import OtherEncoding, check_line, check_utf8, is_unicode
from memaudit.data.csv_rows import NOT_UTF8, csv_rows
from memaudit.data.fields import FieldTwice, distinct_fields, kind_of
from memaudit.data.forms import USUAL, Naming, other_format
from memaudit.data.hub_data import describe_hub, hub_rows, hub_sha256, hub_size, is_on_hub
from memaudit.data.packing import PACKED_ENDINGS, Note, check_rows
from memaudit.data.parquet_rows import parquet_rows
from memaudit.data.raw_files import (
    LONGEST,
    LONGEST_ARRAY,
    ignore_note,
    read_lines,
    read_whole,
)
from memaudit.data.xlsx_rows import xlsx_rows
from memaudit.data.zipped import name_in_zip
from memaudit.errors import DataError
from memaudit.system.files import file_sha256

FORMATS = (
    ".jsonl or .ndjson, .json (an array), .csv, .tsv or .txt, each also .gz, .bz2, .xz, .zst or "
    ".zip, .parquet, .xlsx, a folder of .txt and .md, or hf://owner/name"
)
"""Formats that can be read, as error messages name them."""

_BLANK = re.compile(r"[ \t\n\r]*")
_RECORD_ENDINGS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx", ".zip")
_TEXT_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_TWICE = "an object names a field twice"


@dataclass(frozen=True)
class Record:
    """One record as its format gives it, before its fields are looked at."""

    source: Path
    """File that the record is in."""
    line: int
    """Line on which it starts, from 1; in parquet its row; in a folder's file always 1."""
    fields: Mapping[str, Any]
    """Values by name, as far as the record could be parsed."""
    problem: str | None = None
    """Reason why it cannot be used; None if it was read well."""


def read_records(path: Path, note: Note = ignore_note, naming: Naming = USUAL) -> Iterator[Record]:
    """Stream the records of a file or folder, in file order.

    Blank lines are no records. A ``.json`` array is held in memory, the other formats are not.
    note: takes notes of files read as something other than their names promise. naming: the names
    of fields that the user gave, for headers.

    Raises:
        DataError: at the call if there is no reader for the path; while iterating, if nothing
            that follows could be trusted: a broken archive, array or header.
    """
    return _guarded(path, _reader(path, note, naming))


def sha256_of(path: Path) -> str:
    """Hash a file's bytes; of a folder, the sorted paths of its files, each with its own hash; of a
    data set on the hub, its rows.

    Raises:
        DataError: if the path cannot be read.
    """
    whole = hashlib.sha256()
    if is_on_hub(path):
        return hub_sha256(path)
    with _readable(path):
        if path.is_dir():
            for member in _text_files(path):
                name = os.fsencode(member.relative_to(path).as_posix())
                whole.update(name + b"\0" + bytes.fromhex(sha256_of(member)))
            return whole.hexdigest()
        return file_sha256(path)


def size_of(path: Path) -> int:
    """Bytes of a file as it lies on disk, or of all files of a folder.

    Raises:
        DataError: if the path cannot be read.
    """
    if is_on_hub(path):
        return hub_size(path)
    with _readable(path):
        files = _text_files(path) if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)


def _guarded(path: Path, records: Iterator[Record]) -> Iterator[Record]:
    with _readable(path):
        yield from records


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn failures of the disk into a ``DataError``."""
    try:
        yield
    except MemoryError:
        raise DataError(f"{path}: does not fit in memory; split it into smaller files") from None
    except OSError as error:
        where = error.filename or path
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None


def _reader(path: Path, note: Note, naming: Naming) -> Iterator[Record]:
    """Return the reader for the path's ending; it is chosen at once and reads lazily."""
    if is_on_hub(path):
        return _hub_records(path, note)
    with _readable(path):
        if path.is_dir():
            return _folder_rows(path, _text_files(path), note)
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give {FORMATS}")
        if not path.is_file():
            raise DataError(f"{path}: not a regular file; give {FORMATS}")
    with _readable(path):
        name = _bare_name(path)
    if path.name.lower().endswith(".parquet"):
        return _parquet_rows(path)
    if path.name.lower().endswith(".xlsx"):
        return _workbook_rows(path, note, naming)
    readers: dict[str, Callable[[Path, Note], Iterator[Record]]] = {
        **dict.fromkeys((".jsonl", ".ndjson"), _jsonl_rows),
        ".json": _json_rows,
        **dict.fromkeys((".csv", ".tsv"), partial(_table_rows, naming=naming)),
        ".txt": _txt_rows,
    }
    for ending, reader in readers.items():
        if name.endswith(ending):
            return reader(path, note)
    raise DataError(f"{path}: unknown kind of file; give {FORMATS}")


def _bare_name(path: Path) -> str:
    """Return a file's name in lower case, without the ending of a packed file.

    In an archive whose name ends in .zip alone, it is the name of the file inside.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        name = name.removesuffix(".zip")
        return name if name.endswith(_TEXT_ENDINGS) else name_in_zip(path).lower()
    return next((name.removesuffix(end) for end in PACKED_ENDINGS if name.endswith(end)), name)


def _jsonl_rows(path: Path, note: Note) -> Iterator[Record]:
    for line in read_lines(path, note):
        if not line.text.strip():
            continue
        if not line.is_valid:
            yield Record(path, line.number, {}, NOT_UTF8)
            continue
        try:
            record = json.loads(line.text, object_pairs_hook=distinct_fields)
        except json.JSONDecodeError as error:
            yield Record(path, line.number, {}, f"not valid JSON (column {error.colno})")
        except FieldTwice:
            yield Record(path, line.number, {}, _TWICE)
        except (ValueError, RecursionError):
            problem = "JSON with a number too long or brackets too deep"
            yield Record(path, line.number, {}, problem)
        else:
            yield _object_row(path, line.number, record)


def _object_row(path: Path, line: int, record: Any) -> Record:
    if isinstance(record, dict):
        return Record(path, line, record)
    return Record(path, line, {}, f"the record is {kind_of(record)}, not an object with fields")


def _json_rows(path: Path, note: Note) -> Iterator[Record]:
    """Yield the elements of a JSON array. After a broken element nothing can be trusted."""
    data = read_whole(path, LONGEST_ARRAY, "name one object per line .jsonl", note)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{line}: {NOT_UTF8}; convert it from the encoding that it is in, such as: "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    at = _after_blank(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{path}:1: not a JSON array; name one object per line .jsonl")
    line, counted, end = 1, 0, at + 1
    for number in itertools.count(1):
        check_rows(path, number)
        at = _after_blank(text, end)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]" and text[end - 1] == "[":
            break
        record, end = _element(path, text, at, line)
        yield _object_row(path, line, record)
        at = _after_blank(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise DataError(f"{path}:{line}: no comma or ] after this element of the array")
        end = at + 1
    if _after_blank(text, at + 1) != len(text):
        raise DataError(f"{path}: something follows the end of the array; give one array")


def _element(path: Path, text: str, at: int, line: int) -> tuple[Any, int]:
    """Return the array element at a position, and the position after it."""
    try:
        return json.JSONDecoder(object_pairs_hook=distinct_fields).raw_decode(text, at)
    except FieldTwice:
        raise DataError(f"{path}:{line}: {_TWICE}; rename one") from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", line)
        raise DataError(f"{path}:{line}: not valid JSON; mend the array") from None


def _after_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _table_rows(path: Path, note: Note, naming: Naming) -> Iterator[Record]:
    usual = "\t" if _bare_name(path).endswith(".tsv") else ","
    for line, fields, problem in csv_rows(path, usual, note, naming):
        yield Record(path, line, fields, problem)


def _parquet_rows(path: Path) -> Iterator[Record]:
    for line, (fields, problem) in enumerate(parquet_rows(path), 1):
        yield Record(path, line, fields, problem)


def _hub_records(path: Path, note: Note) -> Iterator[Record]:
    note(path, describe_hub(path))
    for line, fields in enumerate(hub_rows(path), 1):
        yield Record(path, line, fields)


def _workbook_rows(path: Path, note: Note, naming: Naming) -> Iterator[Record]:
    for line, fields, problem in xlsx_rows(path, note, naming):
        yield Record(path, line, fields, problem)


def _txt_rows(path: Path, note: Note) -> Iterator[Record]:
    is_first, has_cr = True, False
    for line in read_lines(path, note):
        text = line.text.rstrip("\r\n")
        if not text.strip():
            continue
        if is_first:
            _require_plain(path, text)
        if "\r" in text and not has_cr:
            note(path, f"took a CR within line {line.number} for text, as its lines end in LF")
            has_cr = True
        is_first = False
        if line.is_valid:
            yield Record(path, line.number, {"text": text})
        else:
            yield Record(path, line.number, {}, NOT_UTF8)


def _require_plain(path: Path, text: str) -> None:
    """Raise DataError if a text begins like a table or JSON, whose marks are not text."""
    if problem := other_format(text):
        raise DataError(f"{path}: {problem}")


def _folder_rows(folder: Path, files: list[Path], note: Note) -> Iterator[Record]:
    _look_beside(folder, files, note)
    for file in files:
        raw = read_whole(file, LONGEST, "split it into several files", note)
        given_id = {"id": file.relative_to(folder).as_posix()}
        text = raw.decode("utf-8", "surrogateescape")
        try:
            check_line(raw)
            check_utf8(raw.split(b"\n"))
        except OtherEncoding as problem:
            raise DataError(f"{file}: {problem}") from None
        _require_plain(file, text.lstrip().partition("\n")[0])
        if is_unicode(text):
            yield Record(file, 1, {**given_id, "text": text})
        else:
            yield Record(file, 1, given_id, NOT_UTF8)


def _look_beside(folder: Path, files: list[Path], note: Note) -> None:
    """Take a note of the files of a folder that are not read.

    Raises DataError if they are files of records: a data set with its README is no folder of texts.
    """
    read = set(files)
    unread = [
        path
        for path in folder.rglob("*")
        if path not in read
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    packed = tuple(ending + end for ending in _RECORD_ENDINGS for end in ("", *PACKED_ENDINGS))
    records = sorted(path for path in unread if path.name.lower().endswith(packed))
    if records:
        raise DataError(
            f"{folder}: holds {records[0].relative_to(folder)}, which a folder of texts is not "
            "read for; give that file, or a folder of .txt and .md alone"
        )
    if not files:
        raise DataError(f"{folder}: the folder has no .txt or .md file")
    if unread:
        note(folder, f"left out {len(unread):,} files that are neither .txt nor .md")


def _text_files(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, sorted by their path in it."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".txt", ".md")]
    return sorted(filter(Path.is_file, files), key=lambda path: path.relative_to(folder).as_posix())
