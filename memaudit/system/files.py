"""Writing files whole or not at all, and hashing them.

Knows the file system. Knows nothing of what files hold.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memaudit.errors import RunError


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write to a temporary file and rename it, so that ``path`` is never half written.

    Raises OSError if writing fails; an existing file is then unchanged.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_new(path: Path, content: bytes) -> None:
    """Create a file that only its owner can read.

    Raises OSError if the path exists, even as a link, or if writing fails.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def claim_folder(folder: Path) -> str | None:
    """Restrict a folder to its owner; return the reason, in words, if it must not be used.

    Another user who owns the folder could replace the files written to it, and a link may point
    anywhere. Raises OSError.
    """
    if folder.is_symlink():
        return "is a link; give the folder itself"
    if not hasattr(os, "geteuid"):  # the platform has no owners
        folder.chmod(0o700)
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return "belongs to another user; use a folder of your own, or a new one inside it"
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
