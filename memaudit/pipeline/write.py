"""Write a finished audit: the run folder and its files.

Knows file names, and that no partial file may look complete. Knows nothing of how results are
made. ``report.json`` is written after the files it refers to: a folder without it holds no
finished run. Then comes the page, which only shows the other files, and last ``manifest.json``
with the hash of every other file.
"""

from __future__ import annotations

from collections.abc import Sequence

from memaudit.attack.prompt_files import file_name, to_bytes
from memaudit.config.sources import to_toml
from memaudit.data.project_key import ProjectKey
from memaudit.errors import RunError
from memaudit.pipeline.scan import ScanOutcome
from memaudit.report.build import to_report
from memaudit.report.page import to_html
from memaudit.report.tables import iter_samples, iter_windows
from memaudit.run.load import PAGE, REPORT
from memaudit.run.manifest import MANIFEST, to_manifest
from memaudit.run.tables import SAMPLES, WINDOWS, read_windows
from memaudit.system.files import disk_errors
from memaudit.system.own_folder import OwnFolder


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
