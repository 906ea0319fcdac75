"""Write a finished audit: the run folder and its files.

Knows file names, and that no partial file may look complete. Knows nothing of how results are
made. ``report.json`` is written after the files it refers to: a folder without it holds no
finished run. Then comes the page, which only shows the other files, and last ``manifest.json``
with the hash of every other file.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from memaudit.attack.prompt_files import file_name, to_bytes
from memaudit.config.settings import RUNS, ScanConfig
from memaudit.config.sources import to_toml
from memaudit.data.project_key import ProjectKey
from memaudit.errors import RunError, UsageError
from memaudit.pipeline.scan import ScanOutcome
from memaudit.report.page import to_html
from memaudit.report.report_json import to_json
from memaudit.report.samples_csv import iter_csv
from memaudit.run.load import PAGE, REPORT, SAMPLES, read_samples
from memaudit.run.manifest import MANIFEST, to_manifest
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import NOTES, UNFINISHED, Unfinished, is_own
from memaudit.system.files import claim_folder, disk_errors, write_whole


def choose_folder(config: ScanConfig, now: datetime | None = None) -> Path:
    """Return the run folder: ``--out``, or ``memaudit-runs/<time>-<model>/``. Creates nothing.

    Raises UsageError for a folder that is not empty, or lies inside the model's.
    """
    if config.out is None:
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(config.model).name or config.model)
        folder = _unused(RUNS / f"{stamp}-{name.strip('.-') or 'model'}")
    else:
        folder = config.out
    try:
        for model in filter(None, (config.model, config.reference)):
            _refuse_model_folder(folder, Path(os.path.expanduser(model)))
        taken = folder.exists() and (not folder.is_dir() or _is_used(folder))
    except OSError as error:
        raise UsageError(f"--out {folder}: no such place ({error.strerror})") from error
    if taken and (folder / UNFINISHED / NOTES).exists():
        raise UsageError(f"--out {folder}: holds an unfinished run; use --resume {folder}")
    if taken:
        raise UsageError(f"--out {folder}: exists and is not an empty folder; choose another")
    return folder


def make_folder(folder: Path) -> list[Path]:
    """Create the run folder, private to its owner, before hours are spent on its content.

    Returns the created folders, innermost first. Raises UsageError if it cannot be created or
    written to.
    """
    try:
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fault = claim_folder(folder)
        if fault is None:
            handle, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
            os.close(handle)
            Path(name).unlink()
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror}); choose another"
        ) from error
    if fault is not None:
        raise UsageError(f"--out {folder}: {fault}")
    return created


def begin_run(
    folder: Path,
    notes: RunNotes,
    key: ProjectKey,
    fill: Callable[[Path], None] = lambda folder: None,
) -> tuple[list[Path], Unfinished]:
    """Create the run folder and start the run in it; see `make_folder` and `Unfinished.begin`.

    Also returns the created folders; on an error they are removed again.
    """
    created = make_folder(folder)
    try:
        return created, Unfinished.begin(folder, notes, key, fill)
    except BaseException:
        remove_empty(created)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty; they are ordered innermost first."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_run(folder: Path, outcome: ScanOutcome) -> None:
    """Write every file of a finished run.

    The page is rendered from the report and samples as stored, so that it can be rendered again.
    Raises RunError if the disk fails, or, after all other files and the manifest are written, if
    the page cannot be rendered.
    """
    result = outcome.result
    with disk_errors(folder):
        for fold in outcome.prompts:
            write_whole(folder / file_name(fold.fold), [to_bytes(fold)])
        write_whole(folder / "config.toml", [to_toml(result.config).encode()])
        write_whole(folder / SAMPLES, (row.encode() for row in iter_csv(result)))
        document = to_json(result)
        write_whole(folder / REPORT, [document.encode()])
        try:
            page = to_html(json.loads(document), read_samples(folder / SAMPLES)).encode()
        except Exception as error:  # no failure of the page may cost hours of work
            _write_manifest(folder, not_made=[PAGE])
            raise RunError(
                f"{folder}: the run is complete, but {PAGE} could not be made "
                f"({type(error).__name__}); try memaudit report {folder} --format html"
            ) from error
        write_whole(folder / PAGE, [page])
        _write_manifest(folder)


def _write_manifest(folder: Path, not_made: Sequence[str] = ()) -> None:
    write_whole(folder / MANIFEST, [to_manifest(folder, not_made).encode()])


def _is_used(folder: Path) -> bool:
    """True if it holds more than the remains of a scan that was stopped as it began."""
    paths = list(folder.iterdir())
    if (folder / UNFINISHED / NOTES).exists() or any(path.name != UNFINISHED for path in paths):
        return True
    return bool(paths) and not is_own(folder)


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
