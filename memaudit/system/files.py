"""Writing files whole or not at all, opening untrusted ones, and hashing them.

Knows the file system. Knows nothing of what files hold.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from memaudit.errors import RunError, UsageError

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_KERNEL = ("/proc", "/sys")
"""File systems whose files are made up while they are read, some without an end."""
_TEMPORARY = re.compile(r"\.[A-Za-z0-9._-]{1,40}-[0-9a-f]{16}\.memaudit")


def write_whole(path: Path, chunks: Iterable[bytes], dir_fd: int | None = None) -> None:
    """Write to a temporary file and rename it, so that ``path`` is never half written.

    dir_fd: folder that a relative ``path`` is in; a link is replaced, not followed.

    Raises OSError if writing fails; an existing file is then unchanged.
    """
    temporary = path.with_name(f".{path.name[:40]}-{secrets.token_hex(8)}.memaudit")
    handle = os.open(temporary, _NEW, 0o600, dir_fd=dir_fd)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=dir_fd)
        raise


def is_temporary(name: str) -> bool:
    """Return True for the name of a file that `write_whole` has not finished."""
    return _TEMPORARY.fullmatch(name) is not None


def write_new(path: Path, content: bytes, dir_fd: int | None = None) -> None:
    """Create a file that only its owner can read; ``dir_fd`` as in `write_whole`.

    Raises OSError if the path exists, even as a link, or if writing fails.
    """
    with os.fdopen(os.open(path, _NEW, 0o600, dir_fd=dir_fd), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else, without waiting for a writer.

    A pipe, a device or a file of the kernel may have no end, or wait for ever.

    Raises OSError, also for anything but a regular file.
    """
    handle = os.open(path, _READ)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_dev in _kernel_devices():
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bounded(path: Path, most: int, named: str) -> bytes:
    """Read a regular file of up to ``most`` bytes. Raises UsageError, beginning with ``named``."""
    try:
        if path.exists() and not path.is_file():  # a pipe would block
            raise UsageError(f"{named}: not a regular file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"{named}: cannot be read ({error.strerror})") from None
    if len(content) > most:
        raise UsageError(f"{named}: larger than {most >> 20} MiB")
    return content


def _kernel_devices() -> set[int]:
    devices = set()
    for folder in _KERNEL:
        with contextlib.suppress(OSError):
            if os.path.ismount(folder):
                devices.add(Path(folder).stat().st_dev)
    return devices


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a RunError that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
