"""What is shown of a finished run: one format on stdout, others in files that the user names.

Knows the flags ``--format`` and ``--report``, and which files must not be written. Knows nothing of
what is in a format.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memaudit.errors import UsageError
from memaudit.system.home import expand_home

if TYPE_CHECKING:
    from memaudit.config.settings import ScanConfig

FORMATS = (
    *("table", "json", "csv", "jsonl", "parquet", "html", "brief"),
    *("markdown", "sarif", "junit", "github", "cyclonedx"),
)


class ReportFile(NamedTuple):
    """A format and the file to write it to."""

    format: str
    path: Path

    @property
    def flag(self) -> str:
        """The flag as given, for messages."""
        return f"--report {self.format}={self.path}"


@dataclass(frozen=True)
class Output:
    """Format on stdout, and the files to write."""

    format: str = "table"
    files: tuple[ReportFile, ...] = ()

    @classmethod
    def parse(cls, output_format: str, reports: Sequence[str] | None = None) -> Output:
        """Read the flags. Raises UsageError for a format or a file that cannot be written."""
        check_format(output_format)
        files = tuple(map(_parsed, reports or ()))
        taken: dict[Path, ReportFile] = {}
        for file in files:
            place = file.path.parent.resolve() / file.path.name
            if place in taken:
                raise UsageError(f"{file.flag}: {taken[place].format} goes to this file already")
            taken[place] = file
        return cls(output_format, files)

    def check_places(self, config: ScanConfig, run: Path | None) -> None:
        """Raise UsageError for a file among what the scan reads, or inside the run folder."""
        from memaudit.run.new_folder import model_folder

        names = filter(None, (config.model, config.reference))
        models = [Path(os.path.expanduser(name)) for name in names]
        inputs = [config.data, config.controls, config.generator, config.gate.baseline]
        given = [path for path in (*models, *inputs, config.key_file) if path is not None]
        for file in self.files:
            place = file.path.resolve()
            if run is not None and _is_inside(place, run):
                raise UsageError(f"{file.flag}: lies inside the run folder; choose another place")
            if any(_is_inside(place, folder) for folder in map(model_folder, models) if folder):
                raise UsageError(f"{file.flag}: lies inside the model's folder; choose another")
            if any(_is_inside(place, path) for path in given if os.path.exists(path)):
                raise UsageError(f"{file.flag}: is an input of this run; choose another file")


def check_format(output_format: str, flag: str = "--format") -> None:
    """Raise UsageError for an unknown format, before any work is done."""
    if output_format not in FORMATS:
        raise UsageError(
            f"{flag} {output_format}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )


def _parsed(given: str) -> ReportFile:
    name, equals, text = given.partition("=")
    if not equals or not text.strip():
        raise UsageError(f"--report {given}: write it as FORMAT=FILE, e.g. sarif=out.sarif")
    check_format(name, "--report")
    try:
        file = ReportFile(name, Path(expand_home(text)))
        folder = file.path.parent
        if not folder.is_dir():
            raise UsageError(f"{file.flag}: there is no folder {folder}; create it first")
        if os.path.lexists(file.path) and not file.path.is_file():
            raise UsageError(f"{file.flag}: is not a regular file; choose another")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{file.flag}: the folder cannot be written to; choose another")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--report {given}: cannot be written ({why})") from None
    return file


def _is_inside(place: Path, path: Path) -> bool:
    """True if a place is this file, or in this folder."""
    root = path.resolve()
    return place == root or root in place.parents


def flags(files: Iterable[ReportFile]) -> list[str]:
    """Return the words that ask for these files again."""
    return [word for file in files for word in ("--report", f"{file.format}={file.path}")]
