"""A diagnosis made by hand, which the tests of every format show."""

from __future__ import annotations

from typing import Any

from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import (
    Column,
    Diagnosis,
    DiagnosisName,
    DiagnosisRecord,
    FigureTable,
    Plot,
)
from memaudit.score.estimate import Estimate


def make_diagnosis(name: DiagnosisName = "layers", **changed: Any) -> Diagnosis:
    """Two tables, one of them drawn, with figures of every kind, some of them missing."""
    nan = float("nan")
    shares = FigureTable(
        "depth",
        "What is lost",
        "Share of extracted windows that no longer come out, by block.",
        [Column("block", "text"), Column("windows", "count"), Column("lost", "share")],
        [["0", 12_345, Estimate(0.25, 0.1, 0.5)], ["1", 4, Estimate(nan, None, None)]],
    )
    others = FigureTable(
        "others",
        "Figures of other kinds",
        "One of each.",
        [
            Column("what", "text"),
            *(Column(unit, unit) for unit in ("points", "nats", "number", "p")),
        ],
        [["a <b>", Estimate(0.125, -0.01, 0.2), 1.23456, 0.00123456, 0.0123], ["b", *[None] * 4]],
    )
    drawn = [
        Line("extracted", "series-1", [0, 1, 2], [25, nan, 50], [10, nan, 40], [50, nan, 60]),
        Line("controls", "series-3", [0, 1, 2], [0, 1, 2], dash=":", marker="o"),
    ]
    plot = Plot(
        "depth", "What is lost", "By block.", Axis("block"), Axis("windows, %", low=0), drawn
    )
    chosen: dict[str, Any] = {
        "about": "What happens without a block (somebody, 2025).",
        "findings": ["Block 0 matters: 25 % (10.0 to 50.0).", "The rest <i>does</i> not."],
        "notes": ["There are few windows."],
        "tables": [shares, others],
        "plots": [plot],
        "settings": {"windows": "1,000", "seed": "0"},
    }
    return Diagnosis(name, **{**chosen, **changed})


def make_record(run_results: str = "0" * 64, **changed: Any) -> DiagnosisRecord:
    """The same with all that is to be known of it."""
    return DiagnosisRecord(
        version="0.0.0",
        run_results=run_results,
        target="some/model",
        command="memaudit diagnose layers run",
        started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:05:05+00:00",
        seconds={"taking up the run": 1.5, "passes": 58.0},
        libraries={"torch": "2.13.0"},
        machine={"platform": "Linux"},
        diagnosis=make_diagnosis(**changed),
    )
