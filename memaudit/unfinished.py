"""A run that is not finished, on disk: what has been done of it, and what it depends on.

Knows the folder ``unfinished`` inside a run folder. Each finished piece of work is a file of its
own, written whole; ``run.json`` says what they hang on. The folder goes when the run is finished.
It may have been changed by anybody: nothing in it is code, and what does not fit is refused.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memaudit.attack.journal import Entry
from memaudit.errors import RunError, UsageError
from memaudit.manifest import MANIFEST, is_plain_file
from memaudit.run_record import RunNotes, RunRecord
from memaudit.untrusted_json import read_json
from memaudit.whole_files import disk_errors, write_whole

UNFINISHED = "unfinished"
NOTES = "run.json"
LOCK = ".lock"
_LONGEST_NOTES = 8 << 20
_NAME = re.compile(r"[a-z0-9-]{1,200}")
_LONGEST_PIECE = 16 << 30
"""Bytes; a fit that trains the rows of a large vocabulary has a few GiB."""
_NOTE = "note"
_OURS = re.compile(r"\.[A-Za-z0-9-]+\.(safetensors|json|csv|html|toml)-[a-z0-9_]+$")
"""What write_whole calls a file that it has not finished."""


class Unfinished(RunRecord):
    """The journal of one run folder, and the notes beside it. Made by ``begin`` or ``reopen``."""

    def __init__(self, run: Path, notes: RunNotes) -> None:
        super().__init__(notes, str(run))
        self.run = run
        self.folder = run / UNFINISHED
        self._lock = FileLock(self.folder / LOCK, timeout=0, mode=0o600)

    @classmethod
    def begin(
        cls, run: Path, notes: RunNotes, fill: Callable[[Path], None] = lambda folder: None
    ) -> Unfinished:
        """Start one in a run folder that holds no run.

        fill: puts work that is done already into the folder; the notes, without which it is no
        run, are written after it. Raises RunError where the disk refuses.
        """
        opened = cls(run, notes)
        with disk_errors(run):
            if opened.folder.exists():  # stopped before it had its notes
                shutil.rmtree(opened.folder)
            opened.folder.mkdir(mode=0o700)
        try:
            opened._take()
            fill(opened.folder)
            opened._write()
        except BaseException:
            opened.remove()
            raise
        return opened

    @classmethod
    def reopen(cls, run: Path, *, stopped: bool = True) -> Unfinished:
        """Go on with one; stopped: whether it had been, which is counted.

        Raises UsageError where there is none, where it is damaged, or where another process is at
        it; RunError where the disk refuses.
        """
        opened = cls(run, read_notes(run))
        opened._take()
        with disk_errors(run):
            for leftover in (*opened.folder.glob(".*-*"), *run.glob(".*-*")):
                if _OURS.match(leftover.name) and is_plain_file(leftover):
                    leftover.unlink(missing_ok=True)  # of a write that was cut off
        opened._change(resumed=opened.notes.resumed + stopped)
        return opened

    def _take(self) -> None:
        with disk_errors(self.folder):
            try:
                self._lock.acquire()
            except Timeout:
                raise UsageError(f"{self.run}: another process is at work on this run") from None

    def close(self) -> None:
        """Let another process have it."""
        self._lock.release()

    @property
    def holds_work(self) -> bool:
        """Whether any piece of work is finished."""
        return bool(find_work(self.folder))

    def remove(self) -> None:
        """Take the folder away: the run is finished, or nothing was done.

        Raises RunError where that is not possible: what lies there is not for everybody.
        """
        self.close()
        remove_leftovers(self.run)

    def complete(self) -> None:
        """Note that all of a shard is done, and what that is."""
        self._change(work=tuple(path.stem for path in find_work(self.folder)))

    def read(self, name: str) -> Entry | None:
        """What was kept under a name. Raises UsageError where it cannot be read."""
        path = self._path(name)
        try:
            if not is_plain_file(path):
                return None
            if path.stat().st_size > _LONGEST_PIECE:
                raise UsageError(f"{path}: is larger than any that is written; scan anew")
            with safe_open(path, framework="np") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                note = (file.metadata() or {}).get(_NOTE, "")
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{path}: cannot be read ({type(error).__name__}); remove it and resume again"
            ) from None
        return Entry(arrays, note)

    def keep(self, name: str, entry: Entry) -> None:
        """Write a piece of work whole. Raises RunError where the disk refuses."""
        content = save(dict(entry.arrays), metadata={_NOTE: entry.note})
        with disk_errors(self.run):
            write_whole(self._path(name), [content])

    def _path(self, name: str) -> Path:
        assert _NAME.fullmatch(name)
        return self.folder / f"{name}.safetensors"

    def _write(self) -> None:
        with disk_errors(self.run):
            text = self.notes.model_dump_json(indent=1) + "\n"
            write_whole(self.folder / NOTES, [text.encode()])


def read_notes(run: Path) -> RunNotes:
    """The notes of an unfinished run.

    Raises UsageError where the folder holds none, where it is finished, or where they are damaged.
    """
    path = run / UNFINISHED / NOTES
    try:
        if not run.is_dir():
            raise UsageError(f"{run}: no such run folder")
        if (run / UNFINISHED).is_symlink():
            raise UsageError(
                f"{run / UNFINISHED}: is a link; a run is gone on with in its own folder"
            )
        if not is_plain_file(path):
            raise UsageError(f"{run}: holds no unfinished run that could be gone on with")
        document = read_json(path, _LONGEST_NOTES)
        return RunNotes.model_validate(document)
    except ValidationError:
        raise UsageError(f"{path}: is damaged; scan anew") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def find_work(folder: Path) -> list[Path]:
    """The files of finished pieces of work in a folder of an unfinished run, sorted."""
    return sorted(
        path
        for path in folder.glob("*.safetensors")
        if _NAME.fullmatch(path.stem) and is_plain_file(path)
    )


def is_finished(run: Path) -> bool:
    """Whether the run folder holds a run that was finished."""
    with contextlib.suppress(OSError):
        return is_plain_file(run / MANIFEST)
    return False


def remove_leftovers(run: Path) -> None:
    """Take away what was done of a run that is finished. Raises RunError where it stays."""
    folder = run / UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() or folder.is_symlink():
        raise RunError(f"{folder}: could not be removed; remove it, it holds what the model said")
