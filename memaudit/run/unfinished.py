"""An unfinished run on disk: the work done so far and the inputs it depends on.

Knows the folder ``unfinished`` inside a run folder. Each finished piece of work is one file,
written whole; ``run.json`` records the inputs. When the run is finished, memaudit removes the
folder and only the files that it wrote. Anybody may have changed the folder, so nothing in it is
code, all of it is signed, and whatever does not fit is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memaudit.attack.journal import Entry
from memaudit.data.project_key import ProjectKey
from memaudit.errors import RunError, UsageError
from memaudit.run.manifest import MANIFEST, is_plain_file, require_no_link
from memaudit.run.record import RunNotes, RunRecord
from memaudit.run.signature import check_notes, is_signed, sign_piece, signed_notes
from memaudit.system.files import disk_errors, write_new, write_whole
from memaudit.system.untrusted_json import read_json

UNFINISHED = "unfinished"
NOTES = "run.json"
LOCK = ".lock"
_LONGEST_NOTES = 8 << 20
_NAME = re.compile(r"[a-z0-9-]{1,200}")
_LONGEST_PIECE = 16 << 30
"""Bytes; a fit that trains the rows of a large vocabulary takes a few GiB."""
_ABOUT = "memaudit"
"""The only metadata key of a piece (several would be written in any order): its note, the groups
of facts that it depends on, and its signature."""
_OURS = re.compile(r"\.[A-Za-z0-9-]+\.(safetensors|json|csv|html|toml)-[a-z0-9_]+$")
"""Names that write_whole gives to unfinished files."""
_MARKER = ".memaudit"
_MARK = b"Made by memaudit, which removes this folder when the run is finished.\n"
"""Content of the marker; a folder of that name without it is not memaudit's."""


class Unfinished(RunRecord):
    """Journal and notes of one run folder. Create with ``begin`` or ``reopen``."""

    def __init__(self, run: Path, notes: RunNotes, key: ProjectKey) -> None:
        super().__init__(notes, str(run))
        self.run = run
        self._key = key
        self.folder = run / UNFINISHED
        self._lock = FileLock(self.folder / LOCK, timeout=0, mode=0o600)

    @classmethod
    def begin(
        cls,
        run: Path,
        notes: RunNotes,
        key: ProjectKey,
        fill: Callable[[Path], None] = lambda folder: None,
    ) -> Unfinished:
        """Start a run in a folder that holds none.

        key: signs the notes and all work. fill: copies finished work into the folder before the
        notes, which make it a run, are written.

        Raises UsageError where a folder of the name is not memaudit's, RunError where the disk
        refuses.
        """
        opened = cls(run, notes, key)
        with disk_errors(run):
            if os.path.lexists(opened.folder):  # stopped before its notes were written
                require_own(run)
                _empty(opened.folder)
            opened.folder.mkdir(mode=0o700)
            write_new(opened.folder / _MARKER, _MARK)
        try:
            opened._take()
            fill(opened.folder)
            opened._write()
        except BaseException:
            opened.remove()
            raise
        return opened

    @classmethod
    def reopen(cls, run: Path, key: ProjectKey, *, stopped: bool = True) -> Unfinished:
        """Resume an unfinished run. stopped: count it as a resumption.

        Raises UsageError where there is none, it is damaged, it was begun under another key, its
        notes were changed, or another process is using it; RunError where the disk refuses.
        """
        notes = read_notes(run)
        check_notes(str(run), notes, key)
        opened = cls(run, notes, key)
        opened._take()
        with disk_errors(run):
            for leftover in (*opened.folder.glob(".*-*"), *run.glob(".*-*")):
                if _OURS.match(leftover.name) and is_plain_file(leftover):
                    leftover.unlink(missing_ok=True)  # from an interrupted write
        opened._change(resumed=opened.notes.resumed + stopped)
        return opened

    def _take(self) -> None:
        with disk_errors(self.folder):
            require_no_link(self.folder / LOCK)
            try:
                self._lock.acquire()
            except Timeout:
                raise UsageError(f"{self.run}: another process is using this run") from None

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    @property
    def holds_work(self) -> bool:
        """True if any piece of work is finished."""
        return bool(find_work(self.folder))

    def remove(self) -> None:
        """Remove the folder of a run that is finished or has done nothing.

        Files that memaudit did not write stay. Raises RunError where removal fails, since the
        folder holds model output.
        """
        self.close()
        remove_leftovers(self.run)

    def complete(self) -> None:
        """Mark a shard as complete and record the names of its work."""
        self._change(work=tuple(path.stem for path in find_work(self.folder)))

    def read(self, name: str) -> Entry | None:
        """Return the entry stored under a name; None if there is none.

        Raises UsageError where it cannot be read, or is not what this run wrote under the name.
        """
        path = self._path(name)
        return read_piece(path, self.notes, self._key) if _exists(path) else None

    def keep(self, name: str, entry: Entry) -> None:
        """Write a piece of work whole, signed. Raises RunError where the disk refuses."""
        groups = tuple(self.notes.facts)
        signature = sign_piece(name, entry, self.notes, groups, self._key)
        about = json.dumps([entry.note, groups, signature])
        with disk_errors(self.run):
            write_whole(self._path(name), [save(dict(entry.arrays), metadata={_ABOUT: about})])

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name)
        return self.folder / f"{name}.safetensors"

    def _write(self) -> None:
        self.notes = signed_notes(self.notes, self._key)
        with disk_errors(self.run):
            text = self.notes.model_dump_json(indent=1) + "\n"
            write_whole(self.folder / NOTES, [text.encode()])


def read_piece(path: Path, notes: RunNotes, key: ProjectKey) -> Entry:
    """Read a piece of work of the run with these notes.

    Raises UsageError where it cannot be read, or was not written under this key, for this run and
    under its name.
    """
    try:
        if path.stat().st_size > _LONGEST_PIECE:
            raise UsageError(f"{path}: is larger than memaudit writes; start a new scan")
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            note, groups, signature = json.loads(
                (file.metadata() or {}).get(_ABOUT, '["", [], ""]')
            )
        entry = Entry(arrays, note)
        signed = is_signed(path.stem, entry, notes, groups, signature, key)
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UsageError(
            f"{path}: cannot be read ({type(error).__name__}); remove it and resume again"
        ) from None
    if not signed:
        raise UsageError(
            f"{path}: was changed or comes from another run: its signature does not match; remove "
            "it "
            "and resume again"
        )
    return entry


def _exists(path: Path) -> bool:
    """True if it is a plain file. Raises UsageError where the disk refuses to say."""
    try:
        return is_plain_file(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def read_notes(run: Path) -> RunNotes:
    """Read the notes of an unfinished run, which anybody may have written: see `check_notes`.

    Raises UsageError where the folder holds no unfinished run, or its notes are damaged.
    """
    path = run / UNFINISHED / NOTES
    try:
        if not run.is_dir():
            raise UsageError(f"{run}: no such run folder")
        if (run / UNFINISHED).is_symlink():
            raise UsageError(
                f"{run / UNFINISHED}: is a link; a run can only resume in its own folder"
            )
        if not is_plain_file(path):
            raise UsageError(f"{run}: holds no unfinished run to resume")
        document = read_json(path, _LONGEST_NOTES)
        return RunNotes.model_validate(document)
    except ValidationError:
        raise UsageError(f"{path}: is damaged; start a new scan") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def find_work(folder: Path) -> list[Path]:
    """Return the files of finished work in an unfinished run's folder, sorted."""
    return sorted(
        path
        for path in folder.glob("*.safetensors")
        if _NAME.fullmatch(path.stem) and is_plain_file(path)
    )


def is_finished(run: Path) -> bool:
    """True if the run folder holds a finished run."""
    with contextlib.suppress(OSError):
        return is_plain_file(run / MANIFEST)
    return False


def is_own(run: Path) -> bool:
    """True if memaudit made the run's folder of unfinished work: it has the marker or is empty.

    Raises OSError.
    """
    folder = run / UNFINISHED
    if folder.is_symlink() or not folder.is_dir():
        return False
    marker = folder / _MARKER
    if not is_plain_file(marker):
        return not any(folder.iterdir())  # stopped while it was being created
    with marker.open("rb") as file:
        mark = file.read(len(_MARK) + 1)
    return mark == _MARK or (not mark and len(list(folder.iterdir())) == 1)


def require_own(run: Path) -> None:
    """Raise UsageError where the folder is not memaudit's, or holds what memaudit did not write."""
    folder = run / UNFINISHED
    foreign = folder
    with contextlib.suppress(OSError):
        if is_own(run):
            foreign = next((path for path in folder.iterdir() if not _is_ours(path)), run)
    if foreign != run:
        raise UsageError(
            f"{foreign}: was not created by memaudit; move it away, or name another run"
        )


def remove_leftovers(run: Path) -> None:
    """Remove the unfinished work of a finished run; files that memaudit did not write stay.

    Raises RunError where a file cannot be removed.
    """
    folder = run / UNFINISHED
    try:
        if os.path.lexists(folder) and is_own(run):
            _empty(folder)
    except OSError:
        raise RunError(
            f"{folder}: could not be removed; delete it yourself, as it holds model output"
        ) from None


def _empty(folder: Path) -> None:
    """Remove memaudit's files, the marker last, and then the folder if it is empty."""
    for path in sorted(folder.iterdir()):
        if path.name != _MARKER and _is_ours(path):
            path.unlink(missing_ok=True)
    if all(path.name == _MARKER for path in folder.iterdir()):
        (folder / _MARKER).unlink(missing_ok=True)
        folder.rmdir()


def _is_ours(path: Path) -> bool:
    """True if memaudit writes files of that name here."""
    if not is_plain_file(path):
        return False
    piece = path.suffix == ".safetensors" and _NAME.fullmatch(path.stem)
    return path.name in (_MARKER, LOCK, NOTES) or bool(piece or _OURS.match(path.name))
