"""Read a finished run from its folder: the report and its tables.

Knows how the files belong together and trusts none of them: content that was changed, cut off or
forged either fits the report's model and the columns, or is refused in one line. Knows nothing of
how a run is made or judged. Loads no torch, so commands that only read runs answer at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from memaudit import __version__
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UnsealedRunWarning, UsageError
from memaudit.gate.thresholds import GateVerdict
from memaudit.report.frameworks import NOTE as FRAMEWORKS_NOTE
from memaudit.report.gate_reading import gates_fault, rejudge
from memaudit.report.hashes import results_hash
from memaudit.report.model import Gate, Report
from memaudit.report.model_parts import AnyAttack, Attack
from memaudit.report.reading import column, scored
from memaudit.report.recompute import (
    PARTS,
    figures_fault,
    recompute,
    settings_fault,
)
from memaudit.report.sample_checks import ImpossibleTableError
from memaudit.report.wording import LIMITS, SCHEMA_VERSION, neutral, shorten
from memaudit.run.manifest import require_folder, require_recorded
from memaudit.run.seal import key_at_hand, seal_doubt
from memaudit.run.tables import SAMPLES, WINDOWS, read_samples, read_windows
from memaudit.system.untrusted_json import read_json

REPORT = "report.json"
PAGE = "report.html"

_LONGEST_REPORT = 16 << 20
"""Bytes; the report of a large audit takes a twentieth of that."""
_FIXED = {"limits": LIMITS, "frameworks_note": FRAMEWORKS_NOTE}
"""Sentences that are the same in every report."""
_IMPOSSIBLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors that values cause which no scan writes."""


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A finished run as read from its folder."""

    folder: Path
    report: Report
    """``report.json``. Its strings may hold anything: neutralise them before showing them."""
    samples: pd.DataFrame
    """``samples.csv`` in file order (`run.tables`)."""
    windows: pd.DataFrame
    """``windows.csv`` in file order."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks that were run, weakest first."""
        return tuple(attack.attack for attack in self.report.attacks)

    def scored(self, role: str) -> pd.DataFrame:
        """Return the scored windows of a role, ``data`` or ``control``."""
        return scored(self.windows, role)

    def scored_samples(self, role: str) -> pd.DataFrame:
        """Return the samples of a role that have a window."""
        return scored(self.samples, role)


def read_run(folder: Path, key: ProjectKey | None = None) -> StoredRun:
    """Read a run folder and check that it is what a scan wrote.

    key: the project key that the caller was given; None for the one at hand. Warns
    (UnsealedRunWarning) where that key did not seal the run.

    Raises UsageError, in one line, as :func:`load_run`, where a file does not match the manifest,
    or where settings, figures or gates do not follow from each other.
    """
    run = load_run(folder)
    require_recorded(folder, (REPORT, SAMPLES, WINDOWS))
    key = key or key_at_hand()
    own = key is not None and key.is_temporary  # a scan without a stored key reads its own run
    if not own and (doubt := seal_doubt(folder, run.report, key)):
        warnings.warn(doubt, UnsealedRunWarning, stacklevel=2)
    if results_hash(run.report.document()) != run.report.hashes.results:
        raise UsageError(f"{folder / REPORT}: the figures were changed; scan again")
    for fault in (find_settings_fault(run), find_figures_fault(run), find_gates_fault(run)):
        if fault is not None:
            raise UsageError(
                f"{folder / REPORT}: {fault}; it was changed, or another version of memaudit wrote "
                "it, so scan again"
            )
    if find_wording_fault(run) is None:
        return run
    return _word_again(run)  # show no sentence that does not follow


def load_run(folder: Path) -> StoredRun:
    """Read a run folder, whoever wrote it.

    Raises UsageError, in one line, where the folder is missing or holds no finished run, where a
    file is not what a scan of this version writes, or where the files do not belong together.
    """
    report = read_report(folder)
    samples, windows = read_samples(folder / SAMPLES), read_windows(folder / WINDOWS)
    run = StoredRun(folder, report, samples, windows)
    _check_counts(run)
    return run


def find_settings_fault(run: StoredRun) -> str | None:
    """Describe how the settings contradict their hashes or the report; None where they do not."""
    try:
        return settings_fault(run.report)
    except _IMPOSSIBLE:
        return "the settings are not those that a scan writes"


def find_figures_fault(run: StoredRun) -> str | None:
    """Name a figure, or the headline, that does not follow from the tables; None if all do."""
    report = run.report
    try:
        recomputed = recompute(report, run.windows, run.samples)
        fault = figures_fault(report, recomputed)
        if fault is not None or not _same_wording(report):
            return fault
        for field, sentence in recomputed.sentences(report).items():
            if getattr(report, field) != sentence:
                return f"the {field} does not follow from the figures"
        changed = (name for name, due in _FIXED.items() if getattr(report, name) != due)
        name = next(changed, None)
        return None if name is None else f"{name} was changed"
    except ImpossibleTableError as error:
        return str(error)
    except _IMPOSSIBLE:
        return "the figures cannot be recomputed: no scan writes these figures and settings"


def find_wording_fault(run: StoredRun) -> str | None:
    """Describe which sentences of another version's report this version writes otherwise."""
    if _same_wording(run.report):  # compared with the figures and the gates
        return None
    tool = run.report.tool.model_copy(update={"version": __version__})
    own = replace(run, report=run.report.model_copy(update={"tool": tool}))
    return find_figures_fault(own) or find_gates_fault(own)


def _word_again(run: StoredRun) -> StoredRun:
    """Return the run with the sentences that this version writes."""
    report = run.report
    reasons = {_identity(due): due.reason for due in rejudge(report)}
    gates = tuple(
        gate.model_copy(update={"reason": reasons.get(_identity(gate), gate.reason)})
        for gate in report.gates
    )
    sentences = recompute(report, run.windows, run.samples).sentences(report)
    worded = report.model_copy(update={"gates": gates, **sentences, **_FIXED})
    return replace(run, report=worded)


def _identity(gate: Gate | GateVerdict) -> tuple[str, str, str]:
    return gate.name, gate.category, gate.attack


def find_gates_fault(run: StoredRun) -> str | None:
    """Describe how the gates contradict the figures and settings; None where they do not."""
    try:
        return gates_fault(run.report)
    except _IMPOSSIBLE:
        return "the gates cannot be judged again: no scan writes these figures and settings"


def _same_wording(report: Report) -> bool:
    """True if this version of memaudit wrote the report, so that its sentences can be compared."""
    return report.tool.version == __version__


def read_report(folder: Path) -> Report:
    """Read ``report.json`` alone. Raises UsageError as :func:`read_run`."""
    path = folder / REPORT
    try:
        require_folder(folder)
        if not path.is_file():
            raise UsageError(f"{folder}: holds no finished run (no {REPORT})")
        document = read_json(path, _LONGEST_REPORT)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    return _parsed(path, document)


def _parsed(path: Path, document: Any) -> Report:
    tool = document.get("tool") if isinstance(document, dict) else None
    if not isinstance(tool, dict) or tool.get("name") != "memaudit":
        raise UsageError(f"{path}: is not a memaudit report")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        written = version if isinstance(version, int) else "unknown"
        raise UsageError(
            f"{path}: has schema version {written}, but this memaudit reads {SCHEMA_VERSION}; "
            "use the version that wrote it, or scan again"
        )
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = shorten(neutral(".".join(map(str, fault["loc"]))), 100)
        raise UsageError(
            f"{path}: {place} does not fit the schema ({fault['type']}); "
            "it was changed, or another version of memaudit wrote it"
        ) from None


def _check_counts(run: StoredRun) -> None:
    """Refuse tables and a report whose counts differ."""
    for key, role in PARTS.items():
        windows, samples = run.scored(role), run.scored_samples(role)
        corpus = getattr(run.report, key)
        counts = (corpus.windows, corpus.used) if corpus else (0, 0)
        agree = (len(windows), len(samples)) == counts
        attacks: list[Attack | AnyAttack] = [*run.report.attacks]
        for attack in [*attacks, run.report.any] if run.report.any else attacks:
            part = attack if role == "data" else attack.controls
            extracted = samples[column("extracted", attack.attack)]
            counted = int(extracted.notna().sum()), int(extracted.sum())
            agree = agree and counted == ((part.extracted.n, part.extracted.k) if part else (0, 0))
        if not agree:
            raise UsageError(
                f"{run.folder}: {SAMPLES}, {WINDOWS} and {REPORT} disagree on the counts of the "
                f"{key}; one of them was changed, so scan again"
            )
