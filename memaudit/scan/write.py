"""A finished audit on disk: the run folder, its files and how they are written.

Knows file names and that nothing half-written may look whole. Knows nothing of how results come
about. ``report.json`` is written when all it speaks of is there: a folder without it holds no
finished run. The page, which only shows what the others hold, comes after it, and
``manifest.json``, with the hash of every other file, last.
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
from memaudit.report.page import to_html
from memaudit.report.report_json import to_json
from memaudit.report.samples_csv import iter_csv
from memaudit.run.load import PAGE, REPORT, SAMPLES, read_samples
from memaudit.run.manifest import MANIFEST, to_manifest
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import NOTES, UNFINISHED, Unfinished, is_own
from memaudit.scan.pipeline import ScanOutcome
from memaudit.system.files import claim_folder, disk_errors, write_whole


def choose_folder(config: ScanConfig, now: datetime | None = None) -> Path:
    """Where the run goes: ``--out``, or ``memaudit-runs/<time>-<model>/``. Nothing is made yet.

    Raises UsageError for a folder that holds something already, or lies inside the model's.
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
        taken = folder.exists() and (not folder.is_dir() or _holds_something(folder))
    except OSError as error:
        raise UsageError(f"--out {folder}: no such place ({error.strerror})") from error
    if taken and (folder / UNFINISHED / NOTES).exists():
        raise UsageError(f"--out {folder}: holds an unfinished run; go on with --resume {folder}")
    if taken:
        raise UsageError(f"--out {folder}: exists and is not an empty folder; name another")
    return folder


def make_folder(folder: Path) -> list[Path]:
    """Make the run folder, open to its owner alone, before hours are spent on what goes in it.

    Returns the folders that were not there before, innermost first. Raises UsageError where it
    cannot be made or written to.
    """
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fault = claim_folder(folder)
        if fault is None:
            handle, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
            os.close(handle)
            Path(name).unlink()
    except OSError as error:
        raise UsageError(
            f"--out {folder}: cannot be written ({error.strerror}); name another"
        ) from error
    if fault is not None:
        raise UsageError(f"--out {folder}: {fault}")
    return made


def begin_run(
    folder: Path,
    notes: RunNotes,
    key: ProjectKey,
    fill: Callable[[Path], None] = lambda folder: None,
) -> tuple[list[Path], Unfinished]:
    """Make the run folder, and start the run in it; see `make_folder` and `Unfinished.begin`.

    Returns the folders that were made, too; where anything is refused, none of them stays.
    """
    made = make_folder(folder)
    try:
        return made, Unfinished.begin(folder, notes, key, fill)
    except BaseException:
        remove_empty(made)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Take back those folders, innermost first, that nothing was written to."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def write_run(folder: Path, outcome: ScanOutcome) -> None:
    """Write every file of a finished run.

    The page is made of the two files that are read back later, so that it can be made again.
    Raises RunError where the disk refuses; and, once all else is written and under the manifest,
    where no page can be made.
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
        except Exception as error:  # whatever it is, hours of work do not hang on it
            _write_manifest(folder, not_made=[PAGE])
            raise RunError(
                f"{folder}: the run is whole, but {PAGE} could not be made "
                f"({type(error).__name__}); try memaudit report {folder} --format html"
            ) from error
        write_whole(folder / PAGE, [page])
        _write_manifest(folder)


def _write_manifest(folder: Path, not_made: Sequence[str] = ()) -> None:
    write_whole(folder / MANIFEST, [to_manifest(folder, not_made).encode()])


def _holds_something(folder: Path) -> bool:
    """Whether there is more in it than what a scan left that was stopped as it began."""
    held = list(folder.iterdir())
    if (folder / UNFINISHED / NOTES).exists() or any(path.name != UNFINISHED for path in held):
        return True
    return bool(held) and not is_own(folder)


def _unused(folder: Path) -> Path:
    """The folder, or with the first number that makes a name nobody has taken."""
    number, name = 2, folder
    while name.exists():
        name, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return name


def _refuse_model_folder(folder: Path, model: Path) -> None:
    if model.exists():
        inside = folder.resolve()
        root = model.resolve() if model.is_dir() else model.resolve().parent
        if root == Path.cwd() and not model.is_dir():
            return  # a file that lies where the user works makes no folder of its own
        if inside == root or root in inside.parents:
            raise UsageError(f"--out {folder}: lies inside the model's folder; name another")
