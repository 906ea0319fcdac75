"""The small results, made by hand, that every format's tests show whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from made_result import make_result, make_windows
from stored import read_back

from memaudit.config.settings import GateSettings
from memaudit.data.samples import Skipped
from memaudit.report.model import Report
from memaudit.report.result import ScanResult

HOSTILE = (
    "=cmd()|*x*",
    "\x1b[31m<b>red</b>",
    "@me {{7*7}} http://a.b\n::error::x",
    "</script><script>alert(1)</script>",
)
SKIPPED = (Skipped("s9", 9, "12 tokens, the window needs 100"),)


def small_result(**settings: Any) -> ScanResult:
    """Four windows with ids that try to be something else, of which two are extracted."""
    chosen: dict[str, Any] = {
        "data": make_windows(4, ids=HOSTILE, skipped=SKIPPED, extra={"dup": "3", "<i>kind": "a&b"}),
        "hits": {"none": 1, "dynamic": 2},
        "gate": GateSettings(max_exact=0.1),
        "notes": ("A *note* with <b> & \x1b[31m.",),
    }
    return make_result(**{**chosen, **settings})


def small_run(**settings: Any) -> tuple[Report, pd.DataFrame]:
    """The same as it is read back from a run folder."""
    return read_back(small_result(**settings))


def expected(name: str) -> str:
    """What a format makes of `small_run`: a file of ``expected/``, read and judged by a person."""
    return (Path(__file__).parent / "expected" / name).read_text("utf-8")
