"""An unfinished run on disk: the work done so far and the inputs it depends on.

Knows the folder ``unfinished`` inside a run folder. Each finished piece of work is one file,
written whole; ``run.json`` records the inputs. When the run is finished, memaudit removes the
folder and only the files that it wrote: a piece of work is removed if this process wrote it or its
signature fits, whatever its name. Anybody may have changed the folder, so nothing in it is code,
all of it is signed, and whatever does not fit is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memaudit.attack.journal import Entry
from memaudit.data.project_key import ProjectKey
from memaudit.errors import RunError, UsageError
from memaudit.run.manifest import is_plain_file
from memaudit.run.record import RunNotes, RunRecord
from memaudit.run.signature import check_notes, is_signed, sign_piece, signed_notes
from memaudit.system.files import disk_errors, is_temporary
from memaudit.system.own_folder import Lock, OwnFolder
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
_MARKER = ".memaudit"
_MARK = b"Made by memaudit, which removes this folder when the run is finished.\n"
"""Content of the marker; a folder of that name without it is not memaudit's."""


class Unfinished(RunRecord):
    """Journal and notes of one run folder. Create with ``begin`` or ``reopen``."""

    def __init__(self, run: OwnFolder, work: OwnFolder, notes: RunNotes, key: ProjectKey) -> None:
        super().__init__(notes, str(run.path))
        self.run = run.path
        self.folder = work.path
        self.run_folder, self._work = run, work
        self._key = key
        self._lock: Lock | None = None
        self._own: set[str] = set()
        """Names of the pieces that this process wrote, or read and found signed."""

    @classmethod
    def begin(
        cls,
        run: OwnFolder,
        notes: RunNotes,
        key: ProjectKey,
        fill: Callable[[Unfinished], None] = lambda unfinished: None,
    ) -> Unfinished:
        """Start a run in a folder that holds none.

        key: signs the notes and all work. fill: copies finished work into the folder before the
        notes, which make it a run, are written.

        Raises UsageError where a folder of the name is not memaudit's, RunError where the disk
        refuses.
        """
        with disk_errors(run.path):
            if os.path.lexists(run.path / UNFINISHED):  # stopped before it had its notes
                _clear_remains(run, notes, key)
            opened = cls(run, run.make(UNFINISHED), notes, key)
            opened._work.write_new(_MARKER, _MARK)
        try:
            opened._take()
            fill(opened)
            opened._write()
        except BaseException:
            opened.remove()
            raise
        return opened

    @classmethod
    def reopen(cls, path: Path, key: ProjectKey, *, stopped: bool = True) -> Unfinished:
        """Resume an unfinished run. stopped: count it as a resumption.

        Raises UsageError where there is none, it is damaged, it was begun under another key, its
        notes were changed, its folder is a link or belongs to another user, or another process is
        using it; RunError where the disk refuses.
        """
        notes = read_notes(path)
        check_notes(str(path), notes, key)
        with disk_errors(path):
            run = OwnFolder.claim(path)
            opened = cls(run, run.enter(UNFINISHED), notes, key)
        opened._take()
        with disk_errors(path):
            for folder in (opened._work, run):
                for name in filter(is_temporary, folder.names()):
                    folder.remove(name)  # from an interrupted write
        opened._change(resumed=opened.notes.resumed + stopped)
        return opened

    def _take(self) -> None:
        with disk_errors(self.folder):
            self._lock = self._work.lock(LOCK)
        if self._lock is None:
            raise UsageError(f"{self.run}: another process is using this run")

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    @property
    def holds_work(self) -> bool:
        """True if any piece of work is finished."""
        return bool(find_work(self.folder))

    def remove(self) -> list[str]:
        """Remove the folder of a run that is finished or has done nothing.

        Return the names of the files that stay because memaudit did not write them. Raises RunError
        where removal fails, since the folder holds model output.
        """
        self.close()
        return _remove_work(self.run_folder, self._is_own)

    def _is_own(self, name: str) -> bool:
        if name in (NOTES, *self._own):
            return True
        return _is_signed_piece(self.folder / name, self.notes, self._key)

    def complete(self) -> None:
        """Mark a shard as complete and record the names of its work."""
        self._change(work=tuple(path.stem for path in find_work(self.folder)))

    def read(self, name: str) -> Entry | None:
        """Return the entry stored under a name; None if there is none.

        Raises UsageError where it cannot be read, or is not what this run wrote under the name.
        """
        path = self._path(name)
        if not _exists(path):
            return None
        entry = read_piece(path, self.notes, self._key)
        self._own.add(path.name)
        return entry

    def keep(self, name: str, entry: Entry) -> None:
        """Write a piece of work whole, signed. Raises RunError where the disk refuses."""
        groups = tuple(self.notes.facts)
        signature = sign_piece(name, entry, self.notes, groups, self._key)
        about = json.dumps([entry.note, groups, signature])
        self.keep_as_it_is(name, [save(dict(entry.arrays), metadata={_ABOUT: about})])

    def keep_as_it_is(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write the file of a piece that is signed already. Raises RunError if the disk refuses."""
        file = self._path(name).name
        with disk_errors(self.run):
            self._work.write_whole(file, chunks)
        self._own.add(file)

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name)
        return self.folder / f"{name}.safetensors"

    def _write(self) -> None:
        self.notes = signed_notes(self.notes, self._key)
        with disk_errors(self.run):
            text = self.notes.model_dump_json(indent=1) + "\n"
            self._work.write_whole(NOTES, [text.encode()])


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


def is_own(run: OwnFolder) -> bool:
    """True if memaudit made the run's folder of unfinished work: it has the marker or is empty.

    Raises OSError.
    """
    if not run.is_folder(UNFINISHED):
        return False
    work = run.enter(UNFINISHED)
    names = work.names()
    if not work.is_file(_MARKER):
        return not names  # stopped while it was being created
    mark = work.read(_MARKER, len(_MARK) + 1)
    return mark == _MARK or (not mark and names == [_MARKER])


def remove_leftovers(path: Path, key: ProjectKey | None) -> list[str]:
    """Remove the unfinished work of a finished run; return the names of the files that stay.

    key: what is not signed under it stays; None for no key.

    Raises UsageError where the run folder is a link or another user's, RunError where something
    cannot be removed.
    """
    if not os.path.lexists(path / UNFINISHED):
        return []
    notes: RunNotes | None = None
    with contextlib.suppress(UsageError):
        if key is not None:
            written = read_notes(path)
            check_notes(str(path), written, key)
            notes = written

    def is_signed_file(name: str) -> bool:
        if notes is None or key is None:
            return False
        return name == NOTES or _is_signed_piece(path / UNFINISHED / name, notes, key)

    with disk_errors(path):
        run = OwnFolder.claim(path)
    return _remove_work(run, is_signed_file)


def _clear_remains(run: OwnFolder, notes: RunNotes, key: ProjectKey) -> None:
    """Remove the files of an interrupted start. Raises UsageError where others are there."""
    folder = run.path / UNFINISHED
    foreign = _remove_work(run, lambda name: _is_signed_piece(folder / name, notes, key))
    if os.path.lexists(folder):
        place = folder / foreign[0] if foreign else folder
        raise UsageError(f"{place}: was not created by memaudit; move it away, or name another run")


def _remove_work(run: OwnFolder, is_signed_file: Callable[[str], bool]) -> list[str]:
    """Remove memaudit's files, and the folder if it is then empty; return the names of the rest.

    Raises RunError where something cannot be removed.
    """
    try:
        if not is_own(run):
            return []
        work = run.enter(UNFINISHED)
        written = [name for name in work.names() if _is_written(work, name, is_signed_file)]
        foreign = [name for name in work.names() if name not in written]
        # Without the notes no signature can be checked, and without the marker nothing is removed.
        last = (LOCK, NOTES, _MARKER)
        for name in sorted(written, key=lambda name: last.index(name) if name in last else -1):
            if name != _MARKER or not foreign:
                work.remove(name)
        if not foreign:
            run.remove(UNFINISHED)
    except OSError:
        raise RunError(
            f"{run.path / UNFINISHED}: could not be removed; delete it yourself, as it holds model "
            "output"
        ) from None
    return foreign


def _is_written(work: OwnFolder, name: str, is_signed_file: Callable[[str], bool]) -> bool:
    """True if memaudit wrote the file, judged by more than its name."""
    if not work.is_file(name):
        return False
    if name == LOCK:
        return not work.read(LOCK, 1)
    return name == _MARKER or is_temporary(name) or is_signed_file(name)


def _is_signed_piece(path: Path, notes: RunNotes, key: ProjectKey) -> bool:
    with contextlib.suppress(UsageError):
        if path.suffix == ".safetensors" and _NAME.fullmatch(path.stem):
            read_piece(path, notes, key)
            return True
    return False
