"""The diagnoses of a run folder, as files: read back, and put there beside the run.

Knows file names, and that a run folder whose files are not as its manifest says is not added to.
What is read back is trusted no more than the run itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memaudit.errors import UsageError
from memaudit.report.diagnosis import DIAGNOSES, DiagnosisName, DiagnosisRecord
from memaudit.report.diagnosis_json import diagnosis_text, read_diagnosis
from memaudit.report.page import to_html
from memaudit.report.plots import line_picture
from memaudit.run.load import PAGE, StoredRun, read_report
from memaudit.run.manifest import (
    MANIFEST,
    is_plain_file,
    read_manifest,
    require_recorded,
    to_manifest,
)
from memaudit.system.files import disk_errors, file_sha256
from memaudit.system.own_folder import OwnFolder
from memaudit.system.untrusted_json import read_json

_LONGEST = 32 << 20
"""Bytes of a diagnosis; a large one has a hundredth of that."""
_PATIENCE = 60.0
"""Seconds; writing takes two."""


def file_of(name: DiagnosisName) -> str:
    """What a run folder calls a diagnosis."""
    return f"diagnose-{name}.json"


def read_one(run: StoredRun, name: DiagnosisName) -> DiagnosisRecord | None:
    """One diagnosis of a run; None where it has none.

    Raises UsageError where the file is no diagnosis, one of another run, or not the one that the
    run's manifest names.
    """
    record = load_one(run, name)
    if record is not None:
        require_recorded(run.folder, [file_of(name)])
    return record


def load_one(run: StoredRun, name: DiagnosisName) -> DiagnosisRecord | None:
    """The same, whether or not the manifest names it."""
    path = run.folder / file_of(name)
    try:
        if not is_plain_file(path):
            return None
        document = read_json(path, _LONGEST)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        record = read_diagnosis(document)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; diagnose again") from None
    if record.diagnosis.name != name or record.run_results != run.document["hashes"]["results"]:
        raise UsageError(f"{path}: belongs to another run; diagnose again")
    return record


def read_all(run: StoredRun) -> tuple[DiagnosisRecord, ...]:
    """Every diagnosis of a run, in the order of the page. Raises as :func:`read_one`."""
    return tuple(record for name in DIAGNOSES if (record := read_one(run, name)) is not None)


def require_unchanged(folder: Path, name: DiagnosisName) -> None:
    """Raise UsageError where a run folder is not as its manifest says, for the new one that a
    diagnosis needs would hide it. What is written anew with it, the page too, may be anything.
    """
    anew = {PAGE, file_of(name)}
    known = read_manifest(folder).files
    with disk_errors(folder):
        OwnFolder.open(folder)
    for path in sorted(folder.iterdir()):
        new = path.name not in known and path.name not in anew
        if new and not path.name.startswith((".", MANIFEST)) and not _is_picture(path.name, name):
            raise UsageError(
                f"{folder}: holds {path.name}, which was not recorded; take it away, or diagnose "
                "that again if it was cut off"
            )
    for file, recorded in known.items():
        if file in anew or _is_picture(file, name):
            continue
        path = folder / file
        try:
            same = is_plain_file(path) and file_sha256(path) == recorded
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        if not same:
            raise UsageError(
                f"{folder}: {file} is not as it was recorded; look with memaudit verify {folder}"
            )


def is_signed(folder: Path) -> bool:
    """Whether a signature of the manifest lies beside it."""
    return any(path.name.startswith(f"{MANIFEST}.") for path in folder.iterdir())


def write_diagnosis(run: StoredRun, record: DiagnosisRecord) -> None:
    """Put a diagnosis into its run's folder, in place of an earlier one: the document, a PNG of
    each plot, the page, and a manifest of all.

    Raises UsageError as :func:`require_unchanged`, RunError where the disk refuses.
    """
    folder, name = run.folder, record.diagnosis.name
    pictures = {
        f"diagnose-{name}-{plot.name}.png": line_picture(plot.title, plot.lines, plot.x, plot.y)
        for plot in record.diagnosis.plots
    }
    with disk_errors(folder), _alone(folder) as own:
        require_unchanged(folder, name)
        if read_report(folder) != run.document:
            raise UsageError(f"{folder}: holds another run now; diagnose again")
        own.require_in_place()
        own.write_whole(file_of(name), [diagnosis_text(record).encode()])
        for file, content in pictures.items():
            own.write_whole(file, [content])
        for file in own.names():
            if _is_picture(file, name) and file not in pictures:
                own.remove(file)
        held = (load_one(run, other) for other in DIAGNOSES)  # the manifest comes after the page
        page = to_html(run.document, run.samples, tuple(filter(None, held)))
        own.write_whole(PAGE, [page.encode()])
        own.write_whole(MANIFEST, [to_manifest(folder).encode()])
        own.require_in_place()


@contextmanager
def _alone(folder: Path) -> Iterator[OwnFolder]:
    """Hold the folder open while nobody else writes a manifest.

    Raises UsageError where somebody does for long, and where the folder is a link or another
    user's.
    """
    own = OwnFolder.claim(folder)
    lock = own.lock(".lock", _PATIENCE)
    if lock is None:
        raise UsageError(f"{folder}: another process is writing to it; diagnose again")
    try:
        yield own
        own.remove(".lock")
    finally:
        lock.release()


def _is_picture(file: str, name: DiagnosisName) -> bool:
    return re.fullmatch(rf"diagnose-{name}-[a-z0-9-]+\.png", file) is not None
