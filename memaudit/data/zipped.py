"""The one file of records in a zip archive, unpacked block by block.

Knows archives. Knows nothing of text. Like other packed files, an archive may unpack to so much.
"""

from __future__ import annotations

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from memaudit.data.packing import (
    BLOCK,
    START,
    Note,
    check_unpacked,
    refuse_document,
    unpacked_blocks,
)
from memaudit.errors import DataError
from memaudit.system.files import open_regular

_ZIP = b"PK\x03\x04"
_RECORDS, _TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv"), (".txt",)
"""Endings of the files that are read from an archive; of texts if there are no records."""
_WORKBOOK = "xl/workbook.xml"


def is_zip(path: Path) -> bool:
    """Return True if a file is a zip archive by its first bytes; Office documents are, too."""
    with open_regular(path) as file:
        return file.read(len(_ZIP)) == _ZIP


def name_in_zip(path: Path) -> str:
    """Return the name of the one data file in an archive.

    Raises DataError if there is no such file, or several.
    """
    with opened_zip(path) as archive:
        names = archive.namelist()
    if _WORKBOOK in names:
        raise DataError(f"{path}: is an Excel workbook; rename it to end in .xlsx")
    hidden = (".", "_")
    files = [name for name in names if not PurePosixPath(name).name.startswith(hidden)]
    for endings in (_RECORDS, _TEXTS):
        data = [name for name in files if name.lower().endswith(endings)]
        if len(data) == 1:
            return data[0]
        if data:
            break
    count = f"{len(data):,} files" if data else "no file"
    raise DataError(
        f"{path}: is a zip archive or an Office document with {count} of records; give an archive "
        "with one, unpack it, or export it as .csv"
    )


def blocks_of(path: Path, note: Note) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks, unpacked if it is packed in any way.

    The first block has at least START bytes, if the file has. Raises as `unpacked_blocks` does.
    """
    if not is_zip(path):
        yield from unpacked_blocks(path, note)
        return
    name, total = name_in_zip(path), 0
    if path.suffix.lower() != ".zip":
        note(path, "unpacked as zip, although its name does not say so")
    with opened_zip(path) as archive, archive.open(name) as file:
        while block := file.read(BLOCK if total else START):
            if not total:
                refuse_document(path, block)
            total += len(block)
            check_unpacked(path, total)
            yield block


@contextlib.contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises DataError if it is damaged or encrypted."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: the zip data is cut off or corrupt; copy it again") from None
    except (NotImplementedError, RuntimeError):  # another method, or a password
        raise DataError(
            f"{path}: is encrypted or packed in a way that is not read; unpack it"
        ) from None
