"""A folder held open, so that it stays the same whatever its path comes to name.

Knows descriptors of folders. Knows nothing of what lies in a folder.

Whoever owns a folder further up can swap this one for a link at any moment. What is written,
locked or removed relative to the descriptor stays in the folder that was checked. If the platform
has no such descriptors (Windows), paths are used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
import weakref
from collections.abc import Iterable
from pathlib import Path

from memaudit.errors import RunError, UsageError
from memaudit.system.files import NO_LINK, write_new, write_whole

_HAS_DESCRIPTORS = os.open in os.supports_dir_fd and hasattr(os, "geteuid")
_POLL_SECONDS = 0.05


class OwnFolder:
    """A folder of this user, open. Made by `open` or `claim`, and within one by `make`, `enter`."""

    def __init__(self, path: Path, within: OwnFolder | None = None) -> None:
        self.path = path
        self._descriptor: int | None = None
        if _HAS_DESCRIPTORS:
            flags = os.O_RDONLY | os.O_DIRECTORY | NO_LINK
            place = path if within is None else within._at(path.name)
            above = None if within is None else within._descriptor
            self._descriptor = os.open(place, flags, dir_fd=above)
            weakref.finalize(self, os.close, self._descriptor).atexit = False

            if os.fstat(self._descriptor).st_uid != os.geteuid():
                raise UsageError(
                    f"{path}: belongs to another user; use a folder of your own, or a new one "
                    "inside it"
                )

    @classmethod
    def open(cls, path: Path) -> OwnFolder:
        """Open a folder, without a change to it.

        Raises UsageError for a link, which may point anywhere, and for a folder of another user,
        who could replace the files in it; OSError if it cannot be opened.
        """
        if path.is_symlink():
            raise UsageError(f"{path}: is a link; give the folder itself")
        return cls(path)

    @classmethod
    def claim(cls, path: Path) -> OwnFolder:
        """Open a folder and restrict it to its owner. Raises as `open`."""
        folder = cls.open(path)
        folder.restrict()
        return folder

    def restrict(self) -> None:
        """Let nobody but its owner open the folder. Raises OSError."""
        if self._descriptor is None:
            self.path.chmod(0o700)
        else:
            os.fchmod(self._descriptor, 0o700)

    def make(self, name: str) -> OwnFolder:
        """Create a folder in this one and open it. Raises OSError."""
        os.mkdir(self._at(name), 0o700, dir_fd=self._descriptor)
        return self.enter(name)

    def enter(self, name: str) -> OwnFolder:
        """Open a folder in this one. Raises as `open`."""
        if stat.S_ISLNK(self._mode(name)):
            raise UsageError(f"{self.path / name}: is a link; give the folder itself")
        return OwnFolder(self.path / name, self)

    def names(self) -> list[str]:
        """Return the sorted names of all that lies in the folder. Raises OSError."""
        return sorted(os.listdir(self.path if self._descriptor is None else self._descriptor))

    def is_file(self, name: str) -> bool:
        """Return True for a file that is no link, pipe or device. Raises OSError."""
        return stat.S_ISREG(self._mode(name))

    def is_folder(self, name: str) -> bool:
        """Return True for a folder that is no link. Raises OSError."""
        return stat.S_ISDIR(self._mode(name))

    def _mode(self, name: str) -> int:
        """Return the mode, of a link its own; 0 if nothing has the name."""
        try:
            status = os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return status.st_mode

    def read(self, name: str, limit: int) -> bytes:
        """Return up to ``limit`` bytes of a file. Raises OSError."""
        handle = os.open(self._at(name), os.O_RDONLY | NO_LINK, dir_fd=self._descriptor)
        with os.fdopen(handle, "rb") as file:
            return file.read(limit)

    def write_whole(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file whole or not at all. Raises OSError."""
        write_whole(self._at(name), chunks, self._descriptor)

    def write_new(self, name: str, content: bytes) -> None:
        """Create a file. Raises OSError if the name exists."""
        write_new(self._at(name), content, self._descriptor)

    def remove(self, name: str) -> None:
        """Remove a file or an empty folder, unless it is gone already. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            if self.is_folder(name):
                os.rmdir(self._at(name), dir_fd=self._descriptor)
            else:
                os.unlink(self._at(name), dir_fd=self._descriptor)

    def require_in_place(self) -> None:
        """Raise RunError if the path no longer names this folder."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self.path.lstat()):
                return
        raise RunError(
            f"{self.path}: was moved or replaced while it was written to; the files are where the "
            "folder is now, so choose a place that other users cannot change"
        )

    def lock(self, name: str, patience: float = 0.0) -> Lock | None:
        """Lock a file of this name, which is created if needed, against other processes.

        Returns None if another process holds it for longer than ``patience`` seconds. Raises
        UsageError for a link, a hard link or anything but a file, which are left as they are;
        OSError if it cannot be opened.
        """
        end = time.monotonic() + patience
        while (lock := self._try_lock(name)) is None and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return lock

    def _try_lock(self, name: str) -> Lock | None:
        fault = UsageError(f"{self.path / name}: is not a regular file; remove it")
        flags = os.O_RDWR | os.O_CREAT | NO_LINK | getattr(os, "O_NONBLOCK", 0)
        try:
            handle = os.open(self._at(name), flags, 0o600, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EMLINK):
                raise fault from None
            raise
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise fault
            # Its last holder may have removed the file after it was opened here.
            if _lock_handle(handle) and os.fstat(handle).st_nlink == 1:
                lock = Lock(handle)
                handle = -1
                return lock
            return None
        finally:
            if handle >= 0:
                os.close(handle)

    def _at(self, name: str) -> Path:
        return Path(name) if self._descriptor is not None else self.path / name


class Lock:
    """A lock on an open file."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        """Let another process have it; a second call does nothing."""
        if self._handle is not None:
            _unlock_handle(self._handle)
            os.close(self._handle)
            self._handle = None


if sys.platform == "win32":
    import msvcrt

    def _lock_handle(handle: int) -> bool:
        with contextlib.suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            return True
        return False

    def _unlock_handle(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock_handle(handle: int) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def _unlock_handle(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)
