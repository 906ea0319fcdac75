"""Read a finished run from its folder: the report's document and a row for each window.

Knows the files' form and trusts none of it: content that was changed, cut off or forged either
fits the report's model and the columns, or is refused in one line. Knows nothing of how a run is
made or judged. Loads no torch, so commands that only read runs answer at once.
"""

from __future__ import annotations

import csv
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from memaudit import __version__
from memaudit.data.fingerprints import FINGERPRINT
from memaudit.data.project_key import ProjectKey
from memaudit.data.windows import MOST_COLUMNS
from memaudit.errors import UnsealedRunWarning, UsageError
from memaudit.report.frameworks import NOTE as FRAMEWORKS_NOTE
from memaudit.report.gate_reading import gates_fault, rejudge
from memaudit.report.hashes import results_hash
from memaudit.report.model import Report
from memaudit.report.origin_reading import origins_agree
from memaudit.report.reading import column
from memaudit.report.recompute import (
    PARTS,
    ImpossibleTableError,
    figures_fault,
    recompute,
    settings_fault,
)
from memaudit.report.samples_csv import COLUMNS, TEXTS, unescape
from memaudit.report.wording import LIMITS, SCHEMA_VERSION, neutral, shorten
from memaudit.run.manifest import require_recorded
from memaudit.run.seal import key_at_hand, seal_doubt
from memaudit.system.files import open_regular
from memaudit.system.untrusted_json import MAX_DIGITS, read_json

REPORT = "report.json"
SAMPLES = "samples.csv"
PAGE = "report.html"

_LONGEST_REPORT = 16 << 20
"""Bytes; the report of a large audit takes a twentieth of that."""
_LONGEST_SAMPLES = 4 << 30
"""Bytes; ten million windows without text take about 2.5 GiB."""
_LONGEST_HEADER = 1 << 20
"""Bytes of the first line of ``samples.csv``."""
_MAX_COLUMNS = len(COLUMNS) + len(TEXTS) + 2 * MOST_COLUMNS
"""Columns of ``samples.csv``: data and controls may each pass their own through."""

_FIXED = {"limits": LIMITS, "frameworks_note": FRAMEWORKS_NOTE}
"""Sentences that are the same in every report."""
_IMPOSSIBLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors that values cause which no scan writes."""
_TEXTS = ("role", "sample_id", "fingerprint", "status", "reason", "categories")
_WHOLE = ("schema_version", "line")
_MAYBE_WHOLE = ("window", "cluster", "fold", "prefix_tokens", "suffix_tokens")
_COUNTED = ("exact_", "matched_", "longest_run_", "reference_exact_")
_CHANGED = "is not a table that a scan writes; it was changed or cut off, so scan again"
_DTYPES = {
    **dict.fromkeys(_TEXTS, "str"),
    **dict.fromkeys(_WHOLE, "int64"),
    **dict.fromkeys(_MAYBE_WHOLE, "Int64"),
}
"""Type of each column of the contract. Unlisted columns are an attack's counts (``Int64``, blank
where it did not run) or figures (``float64``)."""


@dataclass(frozen=True, eq=False)
class StoredRun:
    """A finished run as read from its folder."""

    folder: Path
    report: Report
    """``report.json``. Its strings may hold anything: neutralise them before showing them."""
    samples: pd.DataFrame
    """``samples.csv`` in file order: the contract's columns, then those passed through. Whole
    numbers are ``int64``, or ``Int64`` where a skipped row or an attack that did not run leaves
    them blank; figures are ``float64``. The rest is text with the escapes for spreadsheets removed
    (control characters stay visible escapes), empty where there is none."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Attacks that were run, weakest first."""
        return tuple(attack.attack for attack in self.report.attacks)

    def scored(self, role: str) -> pd.DataFrame:
        """Return the scored rows of a role, ``data`` or ``control``: one for each window."""
        samples = self.samples
        return samples[(samples["role"] == role) & (samples["status"] == "scored")]


def read_run(folder: Path, key: ProjectKey | None = None) -> StoredRun:
    """Read a run folder and check that it is what a scan wrote.

    key: the project key that the caller was given; None for the one at hand. Warns
    (UnsealedRunWarning) where that key did not seal the run.

    Raises UsageError, in one line, as :func:`load_run`, where a file does not match the manifest,
    or where settings, figures or gates do not follow from each other.
    """
    run = load_run(folder)
    require_recorded(folder, (REPORT, SAMPLES))
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
    file is not what a scan of this version writes, or where the two files do not belong together.
    """
    report = read_report(folder)
    samples = read_samples(folder / SAMPLES)
    run = StoredRun(folder, report, samples)
    _check_counts(run)
    return run


def find_settings_fault(run: StoredRun) -> str | None:
    """Describe how the settings contradict their hashes or the report; None where they do not."""
    try:
        return settings_fault(run.report)
    except _IMPOSSIBLE:
        return "the settings are not those that a scan writes"


def find_figures_fault(run: StoredRun) -> str | None:
    """Name a figure, or the headline, that does not follow from the samples; None if all do."""
    report = run.report
    try:
        recomputed = recompute(report, run.samples)
        fault = figures_fault(report, recomputed)
        if fault is not None or not _same_wording(report):
            return fault
        if report.headline != recomputed.headline(report):
            return "the headline does not follow from the figures"
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
    reasons = {(due.name, due.attack): due.reason for due in rejudge(report)}
    gates = tuple(
        gate.model_copy(update={"reason": reasons.get((gate.name, gate.attack), gate.reason)})
        for gate in report.gates
    )
    headline = recompute(report, run.samples).headline(report)
    worded = report.model_copy(update={"gates": gates, "headline": headline, **_FIXED})
    return replace(run, report=worded)


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
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such run folder; give one that memaudit scan wrote")
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


def read_samples(path: Path) -> pd.DataFrame:
    """Read ``samples.csv`` alone. Raises UsageError as :func:`read_run`."""
    try:
        if not path.is_file():
            raise UsageError(f"{path.parent}: holds no finished run (no {path.name})")
        names = _header(path)
        try:
            samples = _as_frame(path, names)
        except (ValueError, TypeError, OverflowError, Warning):  # pandas would quote a cell
            raise UsageError(_bad_cell(path, names)) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    for name in names:
        if name not in COLUMNS or name in _TEXTS:
            samples[name] = samples[name].map(unescape).astype("str")
    _check_values(path, samples)
    return samples.rename(columns=unescape)


def _header(path: Path) -> list[str]:
    """Read the names of the columns."""
    with open_regular(path) as file:
        line = file.readline(_LONGEST_HEADER)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        ended = file.read(1) == b"\n"
    if size > _LONGEST_SAMPLES:
        raise UsageError(f"{path}: is larger than the limit of {_LONGEST_SAMPLES >> 30} GiB")
    try:
        names = next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        raise UsageError(f"{path}: is not a samples.csv of memaudit") from None
    missing = [name for name in COLUMNS if name not in names]
    if len(missing) == len(COLUMNS) or not line.endswith(b"\n"):
        raise UsageError(f"{path}: is not a samples.csv of memaudit")
    if missing:
        raise UsageError(
            f"{path}: has no column {missing[0]}; another version of memaudit wrote it"
        )
    if len(names) > _MAX_COLUMNS or len(set(map(unescape, names))) < len(names) or not ended:
        raise UsageError(f"{path}: {_CHANGED}")
    return names


def _dtype(name: str) -> str:
    if name not in COLUMNS:
        return "str"
    return _DTYPES.get(name, "Int64" if name.startswith(_COUNTED) else "float64")


def _as_frame(path: Path, names: list[str]) -> pd.DataFrame:
    """Read every cell as its column's type; only blank cells count as missing."""
    dtypes: dict[Any, str] = {name: _dtype(name) for name in names}
    blank = {name: [""] for name, dtype in dtypes.items() if dtype != "str"}
    with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are too long
        warnings.simplefilter("error", RuntimeWarning)  # figures too large for a whole number
        return pd.read_csv(
            file, dtype=dtypes, na_values=blank, keep_default_na=False, index_col=False, engine="c"
        )


def _bad_cell(path: Path, names: list[str]) -> str:
    """Describe the first bad cell of a file that cannot be read as a table."""
    whole = f"{path}: {_CHANGED}"
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file, strict=True):
                if len(row) != len(names):
                    return f"{whole} (row {line})"
                for name, text in zip(names, row, strict=True) if line > 1 else ():
                    if not _fits(text, _dtype(name)):
                        return f"{path}: {neutral(name)} in row {line} is not a number; scan again"
                line += 1
    except (ValueError, csv.Error):
        pass
    return whole


def _fits(text: str, dtype: str) -> bool:
    if dtype == "str":
        return True
    if dtype == "float64":
        return pd.notna(pd.to_numeric(text or "0", errors="coerce"))
    digits = text.lstrip("-")
    return (digits.isdecimal() and len(digits) <= MAX_DIGITS) or (dtype == "Int64" and not text)


def _check_values(path: Path, samples: pd.DataFrame) -> None:
    """Refuse cells of the right type with values that no scan writes."""
    scored = samples["status"] == "scored"
    allowed = {
        "schema_version": samples["schema_version"] == SCHEMA_VERSION,
        "role": samples["role"].isin(["data", "control"]),
        "status": scored | (samples["status"] == "skipped"),
        "window": samples["window"].notna() | ~scored,
        "cluster": samples["cluster"].notna() | ~scored,
        "fingerprint": samples["fingerprint"].str.fullmatch(FINGERPRINT) | ~scored,
    }
    repeated = samples[scored].duplicated(["role", "fingerprint"])
    allowed["fingerprint"] &= ~repeated.reindex(samples.index, fill_value=False)
    for name in COLUMNS:
        if name.startswith(("exact_", "reference_exact_")):
            allowed[name] = samples[name].isin([0, 1]) | samples[name].isna()
        if name.startswith(("fractional_", "reference_fractional_")):
            allowed[name] = samples[name].between(0, 1) | samples[name].isna()
    for name, good in allowed.items():
        if not bool(good.all()):
            raise UsageError(f"{path}: column {name} holds values that no scan writes; scan again")


def _check_counts(run: StoredRun) -> None:
    """Refuse a table and a report whose counts differ."""
    for key, role in PARTS.items():
        rows, corpus = run.scored(role), getattr(run.report, key)
        agree = len(rows) == (corpus.windows if corpus else 0)
        for attack in run.report.attacks:
            part = attack if role == "data" else attack.controls
            exact = rows[column("exact", attack.attack)]
            counted = int(exact.notna().sum()), int(exact.sum())
            reported = (part.exact.n, part.exact.k) if part else (0, 0)
            agree = agree and counted == reported
        agree = agree and origins_agree(run.report, rows, key)
        if not agree:
            raise UsageError(
                f"{run.folder}: {SAMPLES} and {REPORT} disagree on the counts of the {key}; "
                "one of them was changed, so scan again"
            )
