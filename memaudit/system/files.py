"""Files that are written whole or not at all.

Knows the file system. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memaudit.errors import RunError


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write beside the file and rename, so that the file is whole or not there.

    Raises OSError where the disk refuses; what was there before is there still.
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
    """Write a file that is not there yet, for its owner to read alone.

    Raises OSError where something of that name is there, be it a link, or where the disk refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def claim_folder(folder: Path) -> str | None:
    """Open a folder to its owner alone; the reason, in words, where it is not ours to do so with.

    A folder of another user stays in that user's hands, who may put other files in the place of
    those that are written there; a link may point anywhere. Raises OSError.
    """
    if folder.is_symlink():
        return "is a link; name the folder itself"
    if not hasattr(os, "geteuid"):  # no owners there
        folder.chmod(0o700)
        return None
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(opened).st_uid != os.geteuid():
            return "belongs to another user; name one of your own, or a new one inside it"
        os.fchmod(opened, 0o700)
    finally:
        os.close(opened)
    return None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a RunError that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
