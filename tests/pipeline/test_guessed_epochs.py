"""The note on folds with too few windows to choose a prompt by."""

from __future__ import annotations

from pathlib import Path

from memaudit.attack.facts import FEW_TO_SELECT, NO_PROMPT, FitRecord
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.pipeline.scoring import fold_notes
from memaudit.report.result import FoldFit

CONFIG = ScanConfig(model="m", data=Path("d"))


def fit(attack: AttackName, fold: int, select_windows: int) -> FoldFit:
    reason = FEW_TO_SELECT if select_windows < 30 else "all 3 epochs done"
    return FoldFit(attack, fold, FitRecord(NO_PROMPT, (), reason, 1, 99, select_windows, "float32"))


def test_folds_with_few_select_windows_are_named() -> None:
    assert fold_notes(CONFIG, [fit("dynamic", 0, 30), fit("dynamic", 1, 75)]) == []
    fits = [fit(name, fold, 29 + fold) for name in ("constant", "dynamic") for fold in (0, 1)]
    assert fold_notes(CONFIG, fits) == [
        "constant and dynamic took no prompt in 1 of 2 folds, where the choice of an epoch would "
        "be a guess: fewer than 30 windows are left to choose it by (fold 0: 29). There, these "
        "attacks are the prefix alone. More records would help."
    ]
