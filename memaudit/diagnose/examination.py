"""Running a diagnosis: examine(method, settings, ...) -> Examined.

Knows the order: open the run, run the method, record it. Knows no single method.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from memaudit import __version__
from memaudit.attack.campaign import Progress
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.diagnose.subject import Subject, open_subject
from memaudit.report.diagnosis import Diagnosis, DiagnosisRecord
from memaudit.run.load import StoredRun
from memaudit.run.record import Stopwatch
from memaudit.system.environment import describe_libraries, describe_machine
from memaudit.target.numerics import describe_accelerator

Asked = TypeVar("Asked", bound=DiagnoseSettings)
Method = Callable[[Subject, Asked, Progress], Diagnosis]


class Examined(NamedTuple):
    """Run, and the record of a diagnosis of it."""

    run: StoredRun
    record: DiagnosisRecord


def examine(method: Method[Asked], settings: Asked, command: str, progress: Progress) -> Examined:
    """Open a run and diagnose it; write nothing."""
    started = _now()
    seconds: dict[str, float] = {}

    def add_seconds(stage: str, spent: float) -> None:
        seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)

    watch = Stopwatch(progress, add_seconds)
    with watch.stage("taking up the run", 1):
        subject = open_subject(settings)
    diagnosis = method(subject, settings, watch)
    subject.checkpoint.require_unchanged()
    record = DiagnosisRecord(
        version=__version__,
        run_results=subject.report.hashes.results,
        target=subject.report.target.name,
        command=command,
        started=started,
        finished=_now(),
        seconds=seconds,
        libraries=describe_libraries("scikit-learn"),
        machine=describe_machine() | describe_accelerator(subject.checkpoint.device),
        diagnosis=subject.disclosure.apply(diagnosis),
    )
    return Examined(subject.run, record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
