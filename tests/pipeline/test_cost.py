from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model, build_tokenizer

from memaudit.attack.extraction import Extractor
from memaudit.config.settings import ScanConfig, ScoreSettings, TuningSettings
from memaudit.data.folds import Fold
from memaudit.data.windows import PADDING
from memaudit.pipeline.estimate import (
    Pace,
    Shape,
    extracting_attacks,
    fit_seconds,
    fitted_attacks,
    measure_pace,
)
from memaudit.target.checkpoint import Checkpoint

P, S = 8, 6


@pytest.mark.parametrize(
    ("attacks", "start", "fitted"),
    [
        (["none", "copy", "dynamic-hard"], "constant", set()),
        (["constant"], "constant", {"constant"}),
        (["none", "dynamic"], "constant", {"constant", "dynamic"}),
        (["none", "dynamic"], "vocabulary", {"dynamic"}),
    ],
)
def test_the_estimate_counts_every_fit(attacks: Any, start: Any, fitted: set[str]) -> None:
    values = {"attacks": attacks, "dynamic": {"start": start}}
    config = ScanConfig(model="m", data=Path("d.jsonl"), **values)
    assert fitted_attacks(config) == fitted


@pytest.mark.parametrize(("share", "asked"), [(1.0, {"dynamic"}), (0.5, {"none", "dynamic"})])
def test_ranking_the_fit_windows_takes_an_extraction(share: float, asked: set[str]) -> None:
    values: dict[str, Any] = {"attacks": ["copy", "dynamic"], "dynamic": {"fit_share": share}}
    config = ScanConfig(model="m", data=Path("d.jsonl"), **values)
    assert extracting_attacks(config) == asked


def test_a_step_is_a_pass_and_its_way_back() -> None:
    shape = Shape(body=100, head=30)
    assert shape.forward(7, 2) == 2 * 100 * 7 + 2 * 30 * 2
    assert shape.step(7, 2) == 2 * shape.forward(7, 2)


def make_extractor(batch_size: int = 4) -> Extractor:
    checkpoint = Checkpoint(
        model=build_model("gpt2").requires_grad_(False),
        tokenizer=build_tokenizer(),
        name="gpt2",
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return Extractor(checkpoint, P, ScoreSettings(), batch_size)


def test_extraction_is_a_pass_and_the_tokens_and_steps_of_decoding() -> None:
    extractor = make_extractor()
    # A tenth of a second for each token, and a second for each step of a group.
    pace = Pace(extractor, verification=0.1 * (P + S - 1), step=1.0, prefix=P, suffix=S)
    group = extractor.decode_batch_size(P + S - 1)
    assert group == 512
    verified = 10 * 0.1 * (P + S - 1)
    assert pace.extraction(10, 0) == pytest.approx(verified + (S - 1) * (1.0 + 10 * 0.1))
    longer = pace.extraction(10, 3) - pace.extraction(10, 0)
    assert longer == pytest.approx(10 * 3 * 0.1)
    twice = pace.extraction(2 * group, 0) - 2 * pace.extraction(group, 0)
    assert twice == pytest.approx(0)
    # Where nothing is carried on, each of a window's steps goes over all its tokens.
    extractor.decoding = replace(extractor.decoding, reuses_state=False)
    without_state = pace.extraction(10, 0) - verified
    assert without_state == pytest.approx((S - 1) * (1.0 + 10 * 0.1 * (P + S - 1)))


def test_a_fit_is_its_epochs_and_the_looks_at_select() -> None:
    pace = Pace(make_extractor(), verification=1.3, step=1.0, prefix=P, suffix=S)
    settings = TuningSettings(
        num_virtual_tokens=5, epochs=3, min_steps=0, batch_size=4, fit_share=0.5
    )
    fold = Fold(np.arange(40), np.arange(40, 50), np.arange(50, 60))
    looks = (3 + 2) * 10 * (1.3 + 5 * 0.1)
    assert fit_seconds(settings, fold, 2.0, pace) == pytest.approx(3 * 20 * 2.0 + looks)


@pytest.mark.parametrize(
    ("changed", "windows", "patience"),
    [
        ({}, 8000, 5),
        ({}, 144, 6),  # nine steps an epoch: a quarter of 200 steps are six of them
        ({}, 14, 50),
        ({"min_steps": 0}, 14, 5),
        ({"patience": None}, 14, None),
    ],
)
def test_few_data_are_given_steps_to_get_better(
    changed: dict[str, Any], windows: int, patience: int | None
) -> None:
    assert TuningSettings(**changed).patience_for(windows) == patience


def test_the_pace_is_measured() -> None:
    ids = np.random.default_rng(0).integers(3, 300, (6, P + S)).astype(np.int32)
    pace = measure_pace(make_extractor(), ids)
    assert pace.verification > 0
    assert pace.step >= 0
    assert (pace.prefix, pace.suffix) == (P, S)


def test_a_pass_costs_the_tokens_that_prefixes_have() -> None:
    """Half the windows have short prefixes, so the mean window has fewer tokens than P+S."""
    ids = np.random.default_rng(0).integers(3, 300, (6, P + S)).astype(np.int32)
    ids[::2, : P - 2] = PADDING
    pace = measure_pace(make_extractor(), ids)
    assert pace.prefix == (P + 2) / 2
    assert pace.token == pytest.approx(pace.verification / ((P + 2) / 2 + S - 1))
