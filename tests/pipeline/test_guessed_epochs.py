"""The note on folds with too few windows to choose an epoch by."""

from __future__ import annotations

from memaudit.attack.facts import FitRecord
from memaudit.pipeline.scoring import guess_notes
from memaudit.report.result import FoldFit


def fit(fold: int, select_windows: int) -> FoldFit:
    return FoldFit("dynamic", fold, FitRecord("epoch 0", (), "", 1, 99, select_windows, "float32"))


def test_folds_with_few_select_windows_are_named() -> None:
    assert guess_notes([fit(0, 30), fit(1, 75)]) == []
    assert guess_notes([fit(0, 29), fit(1, 30), fit(2, 5)]) == [
        "The choice of epoch is a guess: fewer than 30 windows were left to choose it by (fold 0: "
        "29, fold 2: 5). More records, or a larger protocol.select_fraction, would help."
    ]
