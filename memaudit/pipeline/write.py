"""Write a finished audit: the run folder and its files.

Knows file names, and that no partial file may look complete. Knows nothing of how results are
made. ``report.json`` is written after the files it refers to: a folder without it holds no
finished run. Then comes the page, which only shows the other files, and last ``manifest.json``
with the hash of every other file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from memaudit.attack.prompt_files import file_name, to_bytes
from memaudit.config.settings import RUNS, ScanConfig
from memaudit.config.sources import to_toml
from memaudit.data.project_key import ProjectKey
from memaudit.errors import RunError, UsageError
from memaudit.pipeline.scan import ScanOutcome
from memaudit.report.build import to_report
from memaudit.report.page import to_html
from memaudit.report.tables import iter_samples, iter_windows
from memaudit.run.load import PAGE, REPORT
from memaudit.run.manifest import MANIFEST, to_manifest
from memaudit.run.record import RunNotes
from memaudit.run.tables import SAMPLES, WINDOWS, read_windows
from memaudit.run.unfinished import NOTES, UNFINISHED, Unfinished, is_own
from memaudit.system.files import disk_errors
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


def write_run(own: OwnFolder, outcome: ScanOutcome, key: ProjectKey | None = None) -> None:
    """Write every file of a finished run. key: the project key, which seals the manifest.

    The page is rendered from the report and windows as stored, so that it can be rendered again.
    Raises RunError if the disk fails, if the folder is no longer where it was, or, after all other
    files and the manifest are written, if the page cannot be rendered.
    """
    result, folder = outcome.result, own.path
    with disk_errors(folder):
        for fold in outcome.prompts:
            own.write_whole(file_name(fold.fold), [to_bytes(fold)])
        own.write_whole("config.toml", [to_toml(result.config).encode()])
        own.write_whole(SAMPLES, (row.encode() for row in iter_samples(result)))
        own.write_whole(WINDOWS, (row.encode() for row in iter_windows(result)))
        report = to_report(result)
        own.write_whole(REPORT, [report.text().encode()])
        try:
            page = to_html(report, read_windows(folder / WINDOWS)).encode()
        except Exception as error:  # no failure of the page may cost hours of work
            _write_manifest(own, key, not_made=[PAGE])
            raise RunError(
                f"{folder}: the run is complete, but {PAGE} could not be made "
                f"({type(error).__name__}); try memaudit report {folder} --format html"
            ) from error
        own.write_whole(PAGE, [page])
        _write_manifest(own, key)
        own.require_in_place()


def _write_manifest(own: OwnFolder, key: ProjectKey | None, not_made: Sequence[str] = ()) -> None:
    own.write_whole(MANIFEST, [to_manifest(own.path, not_made, key).encode()])


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
    if model.exists():
        inside = folder.resolve()
        root = model.resolve() if model.is_dir() else model.resolve().parent
        if root == Path.cwd() and not model.is_dir():
            return  # a model file in the working directory has no folder of its own
        if inside == root or root in inside.parents:
            raise UsageError(f"--out {folder}: lies inside the model's folder; choose another")
