"""The protocol of a diagnosis, and how one is run.

A diagnosis is a folder with two functions, each in the module of its name:

``measure`` asks the model. It chooses windows, lets the model read them, and returns plain figures
of each window in a frozen dataclass. Nothing else of a diagnosis sees a model.

``report`` turns these figures into sentences, tables and plots. It is pure: the same figures,
settings and seed give the same report, and it needs no model. Every interval comes from the
resamples given to it, and the disclosure must admit every group of windows before a figure of it
is written; that the disclosure notes the groups it refuses is the only trace of a report.

The settings of a diagnosis are in the module ``settings`` of its folder. This module knows the
order of the steps: open the run, measure, report, record. It knows no single diagnosis.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeVar

from memaudit import __version__
from memaudit.attack.journal import Progress
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.diagnose.subject import Subject, open_subject
from memaudit.report.diagnosis import Diagnosis, DiagnosisName, DiagnosisRecord
from memaudit.run.load import StoredRun
from memaudit.run.record import Stopwatch
from memaudit.score.resample import Resamples
from memaudit.system.environment import describe_libraries, describe_machine
from memaudit.target.numerics import describe_accelerator

Asked = TypeVar("Asked", bound=DiagnoseSettings, contravariant=True)
Measured = TypeVar("Measured", covariant=True)
Reported = TypeVar("Reported", contravariant=True)


class Measure(Protocol[Asked, Measured]):
    """``measure`` of a diagnosis."""

    def __call__(self, subject: Subject, settings: Asked, progress: Progress) -> Measured:
        """Ask the model about some windows of the run, and leave it as it was.

        Raises UsageError if the run or the settings do not fit, and TargetError if the model does
        not; both before long work.
        """


class Report(Protocol[Asked, Reported]):
    """``report`` of a diagnosis."""

    def __call__(
        self, measured: Reported, settings: Asked, resamples: Resamples, disclosure: Disclosure
    ) -> Diagnosis:
        """Return what the figures show; ask no model."""


class Method(NamedTuple):
    """A diagnosis."""

    measure: Measure[Any, Any]
    report: Report[Any, Any]

    @classmethod
    def of(cls, name: DiagnosisName) -> Method:
        """Import a diagnosis, and with it torch."""
        modules = (import_module(f"memaudit.diagnose.{name}.{part}") for part in cls._fields)
        return cls(
            *(getattr(module, part) for module, part in zip(modules, cls._fields, strict=True))
        )


class Examined(NamedTuple):
    """Run, and the record of a diagnosis of it."""

    run: StoredRun
    record: DiagnosisRecord


def diagnose(
    name: DiagnosisName, subject: Subject, settings: DiagnoseSettings, progress: Progress
) -> Diagnosis:
    """Diagnose an opened run; the result is not yet as it may be written (`Disclosure.apply`)."""
    method = Method.of(name)
    measured = method.measure(subject, settings, progress)
    with progress.stage(f"{name}: report", 1) as advance:
        diagnosis = method.report(
            measured, settings, subject.resamples(settings.seed), subject.disclosure
        )
        advance(1)
    return replace(diagnosis, notes=[*diagnosis.notes, *subject.length_notes()])


def examine(
    name: DiagnosisName, settings: DiagnoseSettings, command: str, progress: Progress
) -> Examined:
    """Open a run and diagnose it; write nothing."""
    started = _now()
    seconds: dict[str, float] = {}

    def add_seconds(stage: str, spent: float) -> None:
        seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)

    watch = Stopwatch(progress, add_seconds)
    with watch.stage("taking up the run", 1):
        subject = open_subject(settings)
    diagnosis = diagnose(name, subject, settings, watch)
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
