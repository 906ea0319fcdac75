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


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into a RunError that names the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror})") from error
