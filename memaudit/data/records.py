"""The data file, taken apart: one ``Record`` for each, with the file and line it came from.

Knows file formats, encodings and how each of them counts its lines. Must not know which fields
make a sample, beyond the names that a header has to have, and quotes nothing of what it reads.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memaudit.data.parquet_rows import parquet_rows
from memaudit.data.raw_files import LONGEST, LONGEST_ARRAY, RowLines, read_lines, read_whole
from memaudit.errors import DataError
from memaudit.file_hash import file_sha256

FORMATS = ".jsonl, .jsonl.gz, .json (an array), .csv, .parquet, .txt, or a folder of .txt and .md"
"""What can be read, as error messages name it."""

FORMS = {"text": ("text",), "prefix + suffix": ("prefix", "suffix"), "messages": ("messages",)}
"""The ways in which a record can give its text, and the fields of each."""

_BLANK = re.compile(r"[ \t\n\r]*")
_NOT_UTF8 = "not UTF-8 text"


@dataclass(frozen=True)
class Record:
    """One record as its format gives it, before its fields are looked at."""

    source: Path
    """The file it stands in."""
    line: int
    """Line on which it starts, from 1; in parquet its row; in a folder's file always 1."""
    fields: Mapping[str, Any]
    """What it holds, as far as it could be taken apart."""
    problem: str | None = None
    """Why it cannot be used; none where it was read well."""


def read_records(path: Path) -> Iterator[Record]:
    """Stream the records of a file or folder, in file order.

    Blank lines are no records. A ``.json`` array is held in memory, the other formats are not.

    Raises:
        DataError: at the call if there is no reader for the path; while iterating, where nothing
            that follows could be trusted: a broken archive, array or header.
    """
    return _guarded(path, _reader(path))


def sha256_of(path: Path) -> str:
    """Hash a file's bytes; of a folder, the sorted paths of its files, each with its own hash.

    Raises:
        DataError: if the path cannot be read.
    """
    whole = hashlib.sha256()
    with _readable(path):
        if path.is_dir():
            for member in _text_files(path):
                name = os.fsencode(member.relative_to(path).as_posix())
                whole.update(name + b"\0" + bytes.fromhex(sha256_of(member)))
            return whole.hexdigest()
        return file_sha256(path)


def is_unicode(value: str) -> bool:
    """Whether text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def kind_of(value: Any) -> str:
    """The kind of a value in words, for a message that must not quote it."""
    kinds = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}
    kinds |= {dict: "an object", int: "a number", float: "a number"}
    return kinds.get(type(value), f"of type {type(value).__name__}")


def _guarded(path: Path, records: Iterator[Record]) -> Iterator[Record]:
    with _readable(path):
        yield from records


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn failures of the disk or of the archive into a ``DataError``."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: the gzip data is cut off or corrupt; copy it anew") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit in memory; split it into smaller files") from None
    except OSError as error:
        where = error.filename or path
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None


def _reader(path: Path) -> Iterator[Record]:
    """The reader that fits the path's ending, chosen at once, read lazily."""
    with _readable(path):
        if path.is_dir():
            return _folder_rows(path, _text_files(path))
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; give {FORMATS}")
        if not path.is_file():
            raise DataError(f"{path}: not a regular file; give {FORMATS}")
    readers = {
        ".jsonl.gz": _jsonl_rows,
        ".jsonl": _jsonl_rows,
        ".json": _json_rows,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
        ".txt": _txt_rows,
    }
    for ending, reader in readers.items():
        if path.name.lower().endswith(ending):
            return reader(path)
    raise DataError(f"{path}: unknown kind of file; give {FORMATS}")


def _jsonl_rows(path: Path) -> Iterator[Record]:
    for line, raw in enumerate(read_lines(path), 1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError:
            yield Record(path, line, {}, _NOT_UTF8)
        except json.JSONDecodeError as error:
            yield Record(path, line, {}, f"not valid JSON (column {error.colno})")
        except (ValueError, RecursionError):
            yield Record(path, line, {}, "JSON with a number too long or brackets too deep")
        else:
            yield _object_row(path, line, record)


def _object_row(path: Path, line: int, record: Any) -> Record:
    if isinstance(record, dict):
        return Record(path, line, record)
    return Record(path, line, {}, f"the record is {kind_of(record)}, not an object with fields")


def _json_rows(path: Path) -> Iterator[Record]:
    """The elements of one JSON array. After a broken element nothing can be trusted."""
    data = read_whole(path, LONGEST_ARRAY, "name one object per line .jsonl")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise DataError(f"{path}:{line}: {_NOT_UTF8}; convert it") from None
    at = _after_blank(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{path}:1: not a JSON array; name one object per line .jsonl")
    line, counted, end = 1, 0, at + 1
    while True:
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
    """The array element at a position, and the position after it."""
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", line)
        raise DataError(f"{path}:{line}: not valid JSON; mend the array") from None


def _after_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _csv_rows(path: Path) -> Iterator[Record]:
    """Comma-separated rows under a header line. Columns without a name are left out."""
    csv.field_size_limit(LONGEST)  # characters; the default is less than a long document
    lines = RowLines(path)
    reader = csv.reader(lines, strict=True)
    header = _csv_header(path, reader)
    while header:
        line = reader.line_num + 1
        lines.row_bytes = 0
        try:
            cells = next(reader, None)
        except csv.Error:
            yield Record(path, line, {}, "malformed CSV; look at its quotes")
            continue
        if cells is None:
            return
        if cells:  # a blank line has none
            yield _csv_row(path, line, header, cells)


def _csv_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    """The column names; none for an empty file."""
    try:
        header = next((cells for cells in reader if cells), [])
    except csv.Error:
        raise DataError(f"{path}:1: the header is malformed CSV; look at its quotes") from None
    if not is_unicode("".join(header)):
        raise DataError(f"{path}:1: {_NOT_UTF8}; convert it")
    named = [name for name in header if name]
    if len(named) != len(set(named)):
        raise DataError(f"{path}:1: the header names a column twice; rename one")
    if header and not any(set(names) <= set(named) for names in FORMS.values()):
        raise DataError(
            f"{path}:1: no column text, prefix + suffix, or messages, set off by commas"
        )
    return header


def _csv_row(path: Path, line: int, header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        return Record(path, line, {}, f"{len(cells)} cells under a header of {len(header)}")
    record: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if name}
    filled = [form for form in FORMS.values() if any(record.get(name) for name in form)]
    for form in FORMS.values():  # CSV has no null: an empty form beside a filled one is absent
        if filled and form not in filled:
            record = {name: cell for name, cell in record.items() if name not in form}
    return Record(path, line, record, None if is_unicode("".join(cells)) else _NOT_UTF8)


def _parquet_rows(path: Path) -> Iterator[Record]:
    for line, (fields, problem) in enumerate(parquet_rows(path), 1):
        yield Record(path, line, fields, problem)


def _txt_rows(path: Path) -> Iterator[Record]:
    for line, raw in enumerate(read_lines(path), 1):
        if raw.strip():
            yield _text_row(path, line, raw.rstrip(b"\r\n"), {})


def _folder_rows(folder: Path, files: list[Path]) -> Iterator[Record]:
    if not files:
        raise DataError(f"{folder}: the folder has no .txt or .md file")
    for file in files:
        raw = read_whole(file, LONGEST, "split it into several files")
        yield _text_row(file, 1, raw, {"id": file.relative_to(folder).as_posix()})


def _text_row(source: Path, line: int, raw: bytes, record: Mapping[str, Any]) -> Record:
    try:
        return Record(source, line, {**record, "text": raw.decode("utf-8")})
    except UnicodeDecodeError:
        return Record(source, line, record, _NOT_UTF8)


def _text_files(folder: Path) -> list[Path]:
    """Files of a folder and the folders in it, sorted by their path inside it."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (".txt", ".md")]
    return sorted(filter(Path.is_file, files), key=lambda path: path.relative_to(folder).as_posix())
