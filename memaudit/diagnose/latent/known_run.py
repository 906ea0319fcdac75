"""Windows that another finished run extracted, and so known to have been in the model.

Knows two runs' tables. Knows nothing of models. N is the number of windows of this run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memaudit.data.project_key import VARIABLE
from memaudit.errors import UsageError
from memaudit.report.model import Report
from memaudit.report.reading import column, figures
from memaudit.run.load import StoredRun, read_run
from memaudit.score.stats import Bools

_PLACE = ("sample_id", "line", "window")


def known_windows(folder: Path, run: StoredRun, rows: pd.DataFrame) -> Bools:
    """(N,) whether ``none`` extracts each window in the run of ``folder``.

    rows: (N) rows of ``samples.csv`` of this run. Windows are matched by fingerprint if both runs
    made them under one key, else by their place in the same file.

    Raises:
        UsageError: there is no such run, or some of the windows are not in it.
    """
    try:
        other = read_run(folder)
    except UsageError as error:
        raise UsageError(f"--known {error}") from None
    if other.report.hashes.results == run.report.hashes.results:
        raise UsageError(f"--known {folder}: is this run itself; name one of another checkpoint")
    if "none" not in other.attacks:
        raise UsageError(f"--known {folder}: attack none was not run there; name another run")
    theirs = other.scored("data")
    keys = ["fingerprint"]
    if run.report.fingerprints != other.report.fingerprints:  # made under another key
        keys = _same_file(folder, run, other)
    extracted = figures(theirs, column("exact", "none")) == 1
    by_name = dict(zip(_names(theirs, keys), extracted.tolist(), strict=True))
    wanted = _names(rows, keys)
    if missing := sum(name not in by_name for name in wanted):
        raise UsageError(
            f"--known {folder}: {missing:,} of {len(wanted):,} windows of this run are not in it; "
            "name a run on the same data, windows and tokenizer"
        )
    return np.array([by_name[name] for name in wanted], dtype=bool)


def _same_file(folder: Path, run: StoredRun, other: StoredRun) -> list[str]:
    """Return the columns that name a window in both runs; both must cut the same file alike."""
    alike = (
        _counts(other.report) == _counts(run.report)
        and other.report.settings["windows"] == run.report.settings["windows"]
        and _tokenizer(other.report) == _tokenizer(run.report)
    )
    if not alike:
        raise UsageError(
            f"--known {folder}: its fingerprints were made under another key, and file, windows or "
            "tokenizer differ, so windows cannot be matched; scan both under one key "
            f"({VARIABLE})"
        )
    return list(_PLACE)


def _counts(report: Report) -> dict[str, Any]:
    """Return the counts of the audited file, which do not depend on the key."""
    return report.data.model_dump(exclude={"path", "hmac_sha256", "key_id"})


def _tokenizer(report: Report) -> str | None:
    """Return the digest of ``tokenizer.json``, if there is one."""
    return report.target.fingerprint.get("tokenizer.json")


def _names(rows: pd.DataFrame, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(rows[list(keys)].itertuples(index=False, name=None))
