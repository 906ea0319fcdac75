"""Diagnoses in a run folder: read and write their files.

Knows file names. Adds nothing to a run folder whose files do not match its manifest. Trusts a
diagnosis no more than the run itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memaudit.data.project_key import VARIABLE
from memaudit.errors import UsageError
from memaudit.report.diagnosis import DIAGNOSES, DiagnosisName, DiagnosisRecord
from memaudit.report.diagnosis_json import diagnosis_text, parse_diagnosis
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
from memaudit.run.seal import key_at_hand, seal_doubt
from memaudit.system.files import disk_errors, file_sha256
from memaudit.system.own_folder import OwnFolder
from memaudit.system.untrusted_json import read_json

_LONGEST = 32 << 20
"""Bytes of a diagnosis; a large one takes a hundredth of that."""
_PATIENCE = 60.0
"""Seconds; writing takes two."""


def file_of(name: DiagnosisName) -> str:
    """Return the file name of a diagnosis."""
    return f"diagnose-{name}.json"


def read_diagnosis(run: StoredRun, name: DiagnosisName) -> DiagnosisRecord | None:
    """Read a diagnosis and check it against the manifest; None where the run has none.

    Raises UsageError where the file is no diagnosis, belongs to another run, or does not match
    the run's manifest.
    """
    record = load_diagnosis(run, name)
    if record is not None:
        require_recorded(run.folder, [file_of(name)])
    return record


def load_diagnosis(run: StoredRun, name: DiagnosisName) -> DiagnosisRecord | None:
    """Read a diagnosis without checking the manifest; None where the run has none."""
    path = run.folder / file_of(name)
    try:
        if not is_plain_file(path):
            return None
        document = read_json(path, _LONGEST)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        record = parse_diagnosis(document)
    except ValueError as error:
        raise UsageError(f"{path}: {error}; run the diagnosis again") from None
    if record.diagnosis.name != name or record.run_results != run.report.hashes.results:
        raise UsageError(f"{path}: belongs to another run; run the diagnosis again")
    return record


def read_diagnoses(run: StoredRun) -> tuple[DiagnosisRecord, ...]:
    """Read every diagnosis of a run, in the page's order. Raises as :func:`read_diagnosis`."""
    return tuple(record for name in DIAGNOSES if (record := read_diagnosis(run, name)) is not None)


def require_unchanged(folder: Path, name: DiagnosisName) -> None:
    """Raise UsageError where a run folder does not match its manifest.

    The new manifest that a diagnosis needs would hide the change. Files that the diagnosis
    rewrites, the page among them, are not checked.
    """
    rewritten = {PAGE, file_of(name)}
    known = read_manifest(folder).files
    with disk_errors(folder):
        OwnFolder.open(folder)
    for path in sorted(folder.iterdir()):
        new = path.name not in known and path.name not in rewritten
        if new and not path.name.startswith((".", MANIFEST)) and not _is_picture(path.name, name):
            raise UsageError(
                f"{folder}: holds {path.name}, which {MANIFEST} does not list; remove it, or run "
                "that "
                "diagnosis again if it was interrupted"
            )
    for file, recorded in known.items():
        if file in rewritten or _is_picture(file, name):
            continue
        path = folder / file
        try:
            unchanged = is_plain_file(path) and file_sha256(path) == recorded
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        if not unchanged:
            raise UsageError(
                f"{folder}: {file} does not match its hash in {MANIFEST}; check with memaudit "
                "verify "
                f"{folder}"
            )


def seal_at_risk(folder: Path) -> str | None:
    """Return why a diagnosis cannot be added to a run: its seal would be lost; None if it can be.

    Only the key that sealed a run can seal what is added.
    """
    seal, key = read_manifest(folder).seal, key_at_hand()
    if seal is None or (key is not None and key.key_id == seal.key_id):
        return None
    return (
        f"{folder}: is sealed by project key {seal.key_id}, and adding the diagnosis without it "
        f"would break the seal; set {VARIABLE} to that key to add it"
    )


def is_signed(folder: Path) -> bool:
    """True if a signature of the manifest is beside it."""
    return any(path.name.startswith(f"{MANIFEST}.") for path in folder.iterdir())


def pictures_of(record: DiagnosisRecord) -> dict[str, bytes]:
    """Return the PNG of each plot of a diagnosis, by file name."""
    return {
        f"diagnose-{record.diagnosis.name}-{plot.name}.png": line_picture(
            plot.title, plot.lines, plot.x, plot.y
        )
        for plot in record.diagnosis.plots
    }


def write_diagnosis(run: StoredRun, record: DiagnosisRecord) -> None:
    """Write a diagnosis into its run's folder, replacing an earlier one.

    Writes the document, a PNG of each plot, the page, and the manifest of all files.

    Raises UsageError as :func:`require_unchanged` and where the run would lose its seal, RunError
    where the disk refuses.
    """
    folder, name, key = run.folder, record.diagnosis.name, key_at_hand()
    pictures = pictures_of(record)
    with disk_errors(folder), _locked(folder) as own:
        require_unchanged(folder, name)
        if (reason := seal_at_risk(folder)) is not None:
            raise UsageError(reason)
        sealed = seal_doubt(folder, run.report, key) is None
        now, report = read_report(folder), run.report
        if (now.hashes, now.run, now.data) != (report.hashes, report.run, report.data):
            raise UsageError(f"{folder}: holds another run now; diagnose again")
        own.require_in_place()
        own.write_whole(file_of(name), [diagnosis_text(record).encode()])
        for file, content in pictures.items():
            own.write_whole(file, [content])
        for file in own.names():
            if _is_picture(file, name) and file not in pictures:
                own.remove(file)
        stored = (load_diagnosis(run, other) for other in DIAGNOSES)
        page = to_html(run.report, run.windows, tuple(filter(None, stored)))
        own.write_whole(PAGE, [page.encode()])
        manifest = to_manifest(folder, key=key if sealed else None)
        own.write_whole(MANIFEST, [manifest.encode()])
        own.require_in_place()


@contextmanager
def _locked(folder: Path) -> Iterator[OwnFolder]:
    """Hold the folder and its lock.

    Raises UsageError where another process keeps the lock too long, and where the folder is a link
    or belongs to another user.
    """
    own = OwnFolder.claim(folder)
    lock = own.lock(".lock", _PATIENCE)
    if lock is None:
        raise UsageError(f"{folder}: another process is writing to it; run the diagnosis again")
    try:
        yield own
        own.remove(".lock")
    finally:
        lock.release()


def _is_picture(file: str, name: DiagnosisName) -> bool:
    return re.fullmatch(rf"diagnose-{name}-[a-z0-9-]+\.png", file) is not None
