"""Every diagnosis keeps to the protocol: one function asks the model, the other only reports."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from subjects_groups import subject_of_groups

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.protocol import Method
from memaudit.progress import Silent
from memaudit.report.diagnosis import DIAGNOSES, DiagnosisName

SIZES = {"extracted": 24, "hidden": 24, "untouched": 40, "controls": 30}
BRIEF: dict[str, dict[str, Any]] = {
    "latent": {"draws": 2, "strength": 0.02},
    "neurons": {"trials": 2, "random_sets": 2},
    "sweep": {"prefix_lengths": (4, 8)},
}


@pytest.mark.parametrize("name", DIAGNOSES)
def test_a_report_asks_no_model_and_is_the_same_twice(
    name: DiagnosisName, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"memaudit.diagnose.{name}.settings")
    kind = getattr(module, f"{name.capitalize()}Settings")
    settings = kind.model_validate({"run": "run", **BRIEF.get(name, {})})
    subject = subject_of_groups(SIZES)
    method = Method.of(name)
    measured = method.measure(subject, settings, Silent())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a report asked the model")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    first, second = (
        method.report(measured, settings, subject.resamples(0), Disclosure()) for _ in range(2)
    )
    assert first == second
    assert first.name == name
    assert first.findings
    assert first.tables
