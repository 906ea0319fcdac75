"""manifest.json: the SHA-256 of every file of a run folder, written last and read back.

Knows the manifest's form and trusts none of it when reading. A manifest proves that nothing
changed since it was written, but not who wrote it: that takes a signature over it.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memaudit import __version__
from memaudit.errors import UsageError
from memaudit.system.files import file_sha256, open_regular

MANIFEST = "manifest.json"
_LONGEST = 1 << 20
"""Bytes; a manifest of a hundred files takes ten thousand."""
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """Files of a run folder when it was finished."""

    files: dict[str, str]
    """File name to SHA-256."""
    sha256: str
    """SHA-256 of the manifest itself."""
    not_made: tuple[str, ...] = ()
    """Files that every run has but that could not be made for this one."""


def to_manifest(folder: Path, not_made: Iterable[str] = ()) -> str:
    """Return the manifest of every file in the folder, as text. Raises OSError.

    not_made: files that every run has but that could not be made for this one.
    """
    files = {
        path.name: file_sha256(path)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST and not path.name.startswith(".") and path.is_file()
    }
    tool = {"name": "memaudit", "version": __version__}
    lacking = {"not_made": list(not_made)} if not_made else {}
    document = {"schema_version": 1, "tool": tool, "files": files, **lacking}
    return json.dumps(document, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises UsageError where it has no valid one."""
    path = folder / MANIFEST
    try:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such run folder; give one that memaudit scan wrote")
        if not is_plain_file(path):
            raise UsageError(f"{folder}: holds no finished run (no {MANIFEST})")
        with open_regular(path) as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    document = _document(content) if len(content) <= _LONGEST else None
    if document is None:
        raise UsageError(f"{path}: is not a memaudit manifest; it was changed or cut off")
    not_made = tuple(map(str, document.get("not_made", ())))
    return Manifest(document["files"], hashlib.sha256(content).hexdigest(), not_made)


def require_recorded(folder: Path, names: Iterable[str]) -> None:
    """Raise UsageError where a file does not match its hash in the folder's manifest."""
    known = read_manifest(folder).files
    for name in names:
        path = folder / name
        try:
            unchanged = is_plain_file(path) and known.get(name) == file_sha256(path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        if not unchanged:
            raise UsageError(
                f"{folder}: {name} does not match its hash in {MANIFEST}, so this run cannot be "
                f"trusted; check with memaudit verify {folder}, or scan again"
            )


def _document(content: bytes) -> dict[str, Any] | None:
    """Parse a manifest; None where the content is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not files or document.get("schema_version") != 1:
        return None
    for name, digest in files.items():
        if not _NAME.fullmatch(name) or not isinstance(digest, str):
            return None
        if not _SHA256.fullmatch(digest):
            return None
    checked: dict[str, Any] = document
    return checked if isinstance(checked.get("not_made", []), list) else None


def is_plain_file(path: Path) -> bool:
    """True for a file that is no link, pipe or device. Raises OSError other than for absence."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
