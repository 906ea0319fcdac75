"""The project's secret key: where it is, and how it is made if there is none yet.

Knows files and the environment, and nothing of the signed content. The key keeps fingerprints of
short secrets from being looked up: without it, nobody can tell whose they are.
It never goes into a report, a message or an error; its short id does.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from memaudit.errors import UsageError

VARIABLE = "MEMAUDIT_KEY"
"""The environment variable that holds the key itself, as the key file does."""
KEY_BYTES = 32
_FILE = "key"
_FILE_LABEL = b"memaudit file of records\n"
"""Label that separates signatures of files from all others of the key."""
_FORM = re.compile(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
_HOW = f"a key is {2 * KEY_BYTES} hexadecimal digits, as from: openssl rand -hex {KEY_BYTES}"

_NOT_COMPARABLE = (
    ", so the fingerprints of this run cannot be compared with another's; "
    f"set {VARIABLE} or --key-file."
)
_READABLE = (
    "The project's key file is open to other users of the machine, who can check guesses of what "
    "was audited with it, and sign what this project did not do; close it with chmod 600."
)


@dataclass(frozen=True)
class ProjectKey:
    """A key, and notes on it."""

    secret: bytes = field(repr=False)
    """32 random bytes."""
    is_temporary: bool = False
    """True for a key that ends with the process, so that nothing made with it can be compared with
    another run or checked later."""
    note: str = ""
    """Reason why the key could not be stored; empty for a stored key."""
    warning: str = ""
    """Warning of others who may have the key; empty if none are known."""

    @property
    def key_id(self) -> str:
        """Eight hexadecimal digits that name the key and reveal nothing else of it."""
        return self.sign(b"memaudit key id\n").hex()[:8]

    def sign(self, content: bytes) -> bytes:
        """Return the HMAC-SHA256 (RFC 2104) of the content: 32 bytes."""
        return hmac.digest(self.secret, content, "sha256")

    def sign_file(self, sha256: str) -> str:
        """Return the HMAC-SHA256 of the hexadecimal SHA-256 of a file's content.

        The SHA-256 itself would reveal a short file to anyone who hashes guesses of it.
        """
        return self.sign(_FILE_LABEL + bytes.fromhex(sha256)).hex()


def throwaway_key(note: str = "") -> ProjectKey:
    """Return a new key that is stored nowhere."""
    return ProjectKey(secrets.token_bytes(KEY_BYTES), is_temporary=True, note=note)


def find_key(key_file: Path | None, folder: Path | None) -> ProjectKey:
    """Return the key of ``key_file``, else of the environment, else of ``folder``.

    ``folder`` is the user's own for settings, None for a user without a home. On first use a key is
    made there that only its owner can read; if that is not possible, one that is thrown away after
    the run, with a note.

    Raises UsageError if a key was named or exists, and is not valid.
    """
    if key_file is not None:
        return _read(key_file, f"--key-file {key_file}")
    if given := os.environ.get(VARIABLE, "").strip():
        return _parsed(given, VARIABLE)
    if folder is None:
        return throwaway_key(f"No project key is kept, as there is no home folder{_NOT_COMPARABLE}")
    path = folder / _FILE
    try:
        if not path.exists():
            _make(path)
    except OSError as error:
        return throwaway_key(
            f"No project key could be kept in {folder} ({error.strerror}){_NOT_COMPARABLE}"
        )
    return _read(path, str(path))


def require_kept(key: ProjectKey, what: str) -> None:
    """Raise UsageError if the key ends with the process, so that nothing can be compared."""
    if key.is_temporary:
        raise UsageError(f"{what}: {key.note}")


def kept_key(key_file: Path | None, folder: Path | None) -> ProjectKey | None:
    """Return the key that `find_key` would find; None if there is none, without making one.

    Raises UsageError if a key was named or exists, and is not valid.
    """
    if key_file is None and not os.environ.get(VARIABLE, "").strip():
        try:
            if folder is None or not (folder / _FILE).is_file():
                return None
        except OSError:
            return None
    return find_key(key_file, folder)


def _read(path: Path, named: str) -> ProjectKey:
    try:
        if not path.is_file():
            raise UsageError(f"{named}: no such file; {_HOW}")
        with path.open("rb") as file:
            content = file.read(4 * KEY_BYTES)  # of anything longer the form will not fit
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise UsageError(f"{named}: cannot be read ({error.strerror})") from None
    key = _parsed(content.decode("ascii", "replace").strip(), named)
    shared = hasattr(os, "geteuid") and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
    return replace(key, warning=_READABLE) if shared else key


def _parsed(text: str, named: str) -> ProjectKey:
    if not _FORM.fullmatch(text):
        raise UsageError(f"{named}: holds no project key; {_HOW}")
    return ProjectKey(bytes.fromhex(text))


def _make(path: Path) -> None:
    """Make the file whole or not at all; if another process was faster, leave its key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
