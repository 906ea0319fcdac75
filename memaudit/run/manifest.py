"""manifest.json: the SHA-256 of every file of a run folder, written last and read back.

Knows the manifest's form and trusts none of it when reading. A manifest proves that nothing
changed since it was written, but not who wrote it: that takes its seal, made with the project key,
or a signature over it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from memaudit import __version__
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.report.hashes import canonical
from memaudit.system.files import file_sha256, open_regular

MANIFEST = "manifest.json"
_LONGEST = 1 << 20
"""Bytes; a manifest of a hundred files takes ten thousand."""
_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_SEAL_LABEL = "memaudit manifest 1"


class Seal(NamedTuple):
    """HMAC of a manifest under a project key."""

    key_id: str
    hmac_sha256: str


_NO_SEAL = {"key_id": "0" * 8, "hmac_sha256": "0" * 64}


@dataclass(frozen=True)
class Manifest:
    """Files of a run folder when it was finished."""

    files: dict[str, str]
    """File name to SHA-256."""
    sha256: str
    """SHA-256 of the manifest itself."""
    not_made: tuple[str, ...] = ()
    """Files that every run has but that could not be made for this one."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """The document without its seal, which is what the seal covers."""
    seal: Seal | None = None
    """None for a run that was made without a stored project key."""


def to_manifest(folder: Path, not_made: Iterable[str] = (), key: ProjectKey | None = None) -> str:
    """Return the manifest of every file in the folder, as text. Raises OSError.

    not_made: files that every run has but that could not be made for this one. key: the project key
    that seals it; None, or a key that ends with the process, leaves it without a seal.
    """
    files = {
        path.name: file_sha256(path)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST and not path.name.startswith(".") and path.is_file()
    }
    tool = {"name": "memaudit", "version": __version__}
    lacking = {"not_made": list(not_made)} if not_made else {}
    document = {"schema_version": 1, "tool": tool, "files": files, **lacking}
    if key is not None and not key.is_temporary:
        seal = {"key_id": key.key_id, "hmac_sha256": seal_digest(document, key)}
        document["seal"] = seal
    return json.dumps(document, indent=2) + "\n"


def seal_digest(content: Mapping[str, Any], key: ProjectKey) -> str:
    """Return the HMAC of a manifest without its seal, in hexadecimal digits."""
    return key.sign(f"{_SEAL_LABEL}\n{canonical(content)}".encode()).hex()


def require_folder(folder: Path) -> None:
    """Raise UsageError if there is no such folder."""
    try:
        there = folder.is_dir()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from None
    if not there:
        raise UsageError(f"{folder}: no such run folder; give one that memaudit scan wrote")


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises UsageError where it has no valid one."""
    path = folder / MANIFEST
    try:
        require_folder(folder)
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
    seal = document.pop("seal", None)
    return Manifest(
        document["files"],
        hashlib.sha256(content).hexdigest(),
        not_made,
        document,
        None if seal is None else Seal(seal["key_id"], seal["hmac_sha256"]),
    )


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
    if not _is_seal(document.get("seal", _NO_SEAL)):
        return None
    checked: dict[str, Any] = document
    return checked if isinstance(checked.get("not_made", []), list) else None


def _is_seal(seal: Any) -> bool:
    fields = seal if isinstance(seal, dict) else {}
    forms = {"key_id": _KEY_ID, "hmac_sha256": _SHA256}
    return fields.keys() == forms.keys() and all(
        isinstance(fields[name], str) and form.fullmatch(fields[name])
        for name, form in forms.items()
    )


def is_plain_file(path: Path) -> bool:
    """True for a file that is no link, pipe or device. Raises OSError other than for absence."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def is_finished(run: Path) -> bool:
    """True if the run folder holds a finished run."""
    with contextlib.suppress(OSError):
        return is_plain_file(run / MANIFEST)
    return False
