"""The folder of a new run: where it is, and that it is empty, private and not the model's.

Knows settings and the file system. Loads no torch, so that a folder is refused at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from memaudit.config.settings import RUNS, ScanConfig
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import NOTES, UNFINISHED, Unfinished, is_own
from memaudit.system.own_folder import OwnFolder

_TRIAL = ".writable"


def choose_folder(config: ScanConfig, now: datetime | None = None) -> Path:
    """Return the run folder: ``--out``, or ``memaudit-runs/<time>-<model>/``. Creates nothing.

    Raises UsageError if it lies inside the model's folder or is no folder, and if
    ``memaudit-runs`` is a link or belongs to another user.
    """
    try:
        if config.out is None:
            _check_runs()
            stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model).name or config.model)
            folder = _unused(RUNS / f"{stamp}-{name.strip('.-') or 'model'}")
        else:
            folder = config.out
        for model in filter(None, (config.model, config.reference)):
            _refuse_model_folder(folder, Path(os.path.expanduser(model)))
        if folder.exists() and not folder.is_dir():
            raise _is_taken(folder)
    except OSError as error:
        place = RUNS if config.out is None else config.out
        raise UsageError(f"--out {place}: no such place ({error.strerror})") from error
    return folder


def check_folder(config: ScanConfig) -> None:
    """Raise UsageError if the folder that ``--out`` names cannot become a new run's."""
    folder = choose_folder(config)
    try:
        if os.path.lexists(folder):
            _refuse_used(OwnFolder.open(folder))
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be read ({error.strerror})") from None


def _check_runs() -> None:
    if os.path.lexists(RUNS):
        try:
            OwnFolder.open(RUNS)
        except UsageError as error:
            raise UsageError(f"{error}, with --out") from None


def _is_taken(folder: Path) -> UsageError:
    return UsageError(f"--out {folder}: exists and is not an empty folder; choose another")


def make_folder(folder: Path) -> tuple[list[Path], OwnFolder]:
    """Create the run folder, private to its owner, before hours are spent on its content.

    Also returns the created folders, innermost first. Raises UsageError if it cannot be created or
    written to, is a link, belongs to another user or is not empty.
    """
    try:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own = OwnFolder.open(folder)
        _refuse_used(own)
        own.restrict()
        own.write_new(_TRIAL, b"")
        own.remove(_TRIAL)
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror}); choose another"
        ) from error
    return created, own


def begin_run(
    folder: Path,
    notes: RunNotes,
    key: ProjectKey,
    fill: Callable[[Unfinished], None] = lambda unfinished: None,
) -> tuple[list[Path], Unfinished]:
    """Create the run folder and start the run in it; see `make_folder` and `Unfinished.begin`.

    Also returns the created folders; on an error they are removed again.
    """
    created, own = make_folder(folder)
    try:
        return created, Unfinished.begin(own, notes, key, fill)
    except BaseException:
        remove_empty(created)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty; they are ordered innermost first."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _refuse_used(own: OwnFolder) -> None:
    """Raise UsageError if it holds more than the remains of a scan that was stopped as it began."""
    names = own.names()
    if UNFINISHED in names and (own.path / UNFINISHED / NOTES).exists():
        raise UsageError(f"--out {own.path}: holds an unfinished run; use --resume {own.path}")
    if names and not (names == [UNFINISHED] and is_own(own)):
        raise _is_taken(own.path)


def _unused(folder: Path) -> Path:
    """Return the folder, with a number appended if the name exists."""
    number, name = 2, folder
    while name.exists():
        name, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return name


def _refuse_model_folder(folder: Path, model: Path) -> None:
    inside, root = folder.resolve(), model_folder(model)
    if root is not None and (inside == root or root in inside.parents):
        raise UsageError(f"--out {folder}: lies inside the model's folder; choose another")


def model_folder(model: Path) -> Path | None:
    """Return the folder of a local model; None for one on the hub, or beside the user's own files.

    A model file in the working directory has no folder of its own.
    """
    if not model.exists():
        return None
    root = model.resolve() if model.is_dir() else model.resolve().parent
    return None if root == Path.cwd() and not model.is_dir() else root
