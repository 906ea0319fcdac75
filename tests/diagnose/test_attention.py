"""Concentration of attention, on a model whose queries and keys are set by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, Architecture
from conftest import COMMON
from estimates import known, width
from subjects_layers import (
    assert_same_weights,
    checkpoint_of,
    hooks,
    ids,
    logits,
    matrix_checkpoint,
    subject_of,
    weights,
)

from memaudit.diagnose.attention.measure import (
    Windows,
    concentration,
    eager_attention,
    find_layers,
    visible,
)
from memaudit.diagnose.attention.report import _Pair
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples

P, S, D = 8, 6, 32
LURE = 7
"""The token that attention of block 0 falls on, wherever it stands."""
PLACE = 3
GROUP = 24
SETTINGS = AttentionSettings.model_validate({"run": "run", "windows": 20})


@pytest.fixture
def lured() -> Any:
    """Attention of block 0 rests on `LURE` if it was seen, else on all positions alike; that of
    block 1 always rests on all alike.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(
            GPT2Config(**COMMON, n_embd=D, n_layer=2, n_head=2, n_positions=32)
        ).requires_grad_(False)
        signs = torch.tensor([1.0, -1.0]).repeat(D // 2 - 1)
        for row in model.transformer.wte.weight:
            row[2:] = signs[torch.randperm(D - 2)]
            row[:2] = 0
        model.transformer.wte.weight[LURE] = 0
        model.transformer.wte.weight[LURE, :2] = torch.tensor([5.0, -5.0])
    model.transformer.wpe.weight.zero_()
    for block in model.transformer.h:
        for part in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_proj):
            part.weight.zero_()
            part.bias.zero_()
    attention = model.transformer.h[0].attn.c_attn  # (D,3D): queries, keys, values
    for head in range(2):
        attention.bias[head * D // 2] = 30.0
        attention.weight[0, D + head * D // 2] = 1.0
    attention.weight[:, 2 * D :] = torch.eye(D)
    model.transformer.h[0].attn.c_proj.weight.copy_(torch.eye(D) / 10)
    return model


def subject(model: Any, *, extracted: int = GROUP, controls: bool = True, **more: Any) -> Subject:
    """Windows with the lure in their prefix, which are extracted, then as many without."""
    data = ids(2 * GROUP, P + S)
    data[data == LURE] += 1
    data[:GROUP, PLACE] = LURE
    others = ids(GROUP, P + S, seed=1)
    others[others == LURE] += 1
    return subject_of(
        checkpoint_of(model),
        data,
        [row < extracted for row in range(2 * GROUP)],
        others if controls else None,
        prefix=P,
        **more,
    )


def cells(diagnosis: Diagnosis, name: str) -> dict[Any, tuple[Any, ...]]:
    (table,) = [table for table in diagnosis.tables if table.name == f"attention-{name}"]
    return {row[0]: tuple(row[1:]) for row in table.rows}


def test_attention_is_found_where_it_is(lured: Any) -> None:
    tried = subject(lured)
    before, implementation = weights(tried.checkpoint), lured.config._attn_implementation
    diagnosis = diagnose("attention", tried, SETTINGS, Silent())
    assert_same_weights(tried.checkpoint, before)
    assert hooks(tried.checkpoint) == 0
    assert lured.config._attn_implementation == implementation == "sdpa"

    extracted, others, controls = (cell.value for cell in cells(diagnosis, "entropy")[0])
    assert extracted == pytest.approx(0.0, abs=1e-4)
    assert others == controls == pytest.approx(1.0, abs=1e-6)
    assert [cell.value for cell in cells(diagnosis, "entropy")[1]] == pytest.approx([1.0] * 3)
    seen = np.arange(P, P + S)  # positions that the predictors of the suffix see
    assert cells(diagnosis, "largest")[0][0].value == pytest.approx(1.0, abs=1e-4)
    assert cells(diagnosis, "largest")[0][1].value == pytest.approx((1 / seen).mean())
    assert cells(diagnosis, "first")[0][0].value == pytest.approx(0.0, abs=1e-4)
    assert cells(diagnosis, "first")[0][2].value == pytest.approx((1 / seen).mean())
    auc = cells(diagnosis, "auc")
    assert (auc[0][0].value, auc[0][0].high) == (1.0, 1.0)
    assert 0.8 < auc[0][0].low < 1.0
    assert auc[0][1].value == pytest.approx(0.5, abs=0.2)
    assert "attention is more concentrated in the former in block 0" in diagnosis.findings[0]
    assert "in 1 of 2 blocks" in diagnosis.findings[0]
    assert diagnosis.findings[1].startswith("The control")


def test_concentration_of_known_weights() -> None:
    """One head that looks at one of four places, one that looks at all; the last row only."""
    weights = torch.zeros(1, 2, 4, 4)
    weights[0, 0, 3, 2] = 1
    weights[0, 1, 3] = 0.25
    figures = concentration(weights, torch.tensor([4]))
    np.testing.assert_allclose(figures.numpy(), [[0.5, (1 + 0.25) / 2, 0.125]], rtol=1e-6)
    slides = torch.zeros(1, 1, 4, 4)
    slides[0, 0, 3, 2:] = 0.4  # two places are seen, alike, and a sink has taken a fifth
    np.testing.assert_allclose(
        concentration(slides, torch.tensor([2])).numpy(), [[1.0, 0.5, 0.0]], rtol=1e-6
    )


def test_a_window_is_read_alike_in_any_batch() -> None:
    """One that looks at two of four places alike is half as spread as it could be, alone or not."""
    narrow, wide = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.25)
    narrow[..., :2] = 0.5
    seen = torch.tensor([4])
    alone = concentration(narrow, seen)
    assert alone[0, 0].item() == pytest.approx(0.5)
    assert torch.equal(alone, concentration(torch.cat([wide, narrow]), seen)[1:])


def test_what_a_position_sees_is_found_on_a_trial(lured: Any) -> None:
    tried = subject(lured)
    with eager_attention(tried.checkpoint):
        layers = find_layers(tried.checkpoint)
        seen = visible(tried.passes(), layers, P + S)
    assert [places.tolist() for places in seen.values()] == [list(range(1, P + S))] * 2


def test_intervals_for_all_layers_at_once_do_not_hang_on_one_resample() -> None:
    rng = np.random.default_rng(0)
    layers = 48
    first, second = (
        Windows(name, np.arange(60) + 60 * at, {"entropy": rng.normal(size=(60, layers))})
        for at, name in enumerate(("extracted", "not extracted"))
    )
    first.figures["entropy"][:, 7] -= 100.0  # wholly apart
    resamples = Resamples(0.95, 400, 0)
    alone = _Pair(first, second).aucs(resamples)
    together = _Pair(first, second).aucs(resamples, together=True)
    assert [joint.value for joint in alone] == [joint.value for joint in together]
    wider = [
        width(joint) / width(single)
        for at, (joint, single) in enumerate(zip(together, alone, strict=True))
        if at != 7
    ]
    assert 1.4 < np.mean(wider) < 2.0  # 3.2 deviations against 1.96
    assert together[7].high == 1.0
    assert known(together[7].low) > 0.8


def test_same_seed_same_result(lured: Any) -> None:
    first, second = (diagnose("attention", subject(lured), SETTINGS, Silent()) for _ in range(2))
    assert first == second


def test_hidden_windows_are_a_group_of_their_own(lured: Any) -> None:
    hidden = [row < GROUP for row in range(2 * GROUP)]
    tried = subject(lured, extracted=GROUP // 2, hidden=hidden)
    diagnosis = diagnose("attention", tried, SETTINGS, Silent())
    assert [column.name for column in diagnosis.tables[0].columns] == [
        "block", "extracted", "hidden", "not extracted", "controls",
    ]  # fmt: skip
    assert cells(diagnosis, "auc")[0][1].value == 1.0
    assert diagnosis.findings[1].startswith("Hidden windows against not extracted windows")


def test_without_controls(lured: Any) -> None:
    diagnosis = diagnose("attention", subject(lured, controls=False), SETTINGS, Silent())
    assert any("no controls" in note for note in diagnosis.notes)
    assert len(diagnosis.findings) == 1


@pytest.mark.parametrize(
    ("extracted", "opening"),
    [
        (0, "No window is extracted"),
        (1, "Too few windows are extracted to compare: 1 window in 1 near-duplicate cluster."),
        (2 * GROUP, "Extracted windows against controls"),
    ],
)
def test_odd_numbers_of_extracted_windows(lured: Any, extracted: int, opening: str) -> None:
    diagnosis = diagnose("attention", subject(lured, extracted=extracted), SETTINGS, Silent())
    assert diagnosis.findings[0].startswith(opening)
    if extracted < 2:
        assert diagnosis.findings[1].startswith(
            "The control, controls against not extracted windows"
        )


def test_all_extracted_and_no_controls(lured: Any) -> None:
    tried = subject(lured, extracted=2 * GROUP, controls=False)
    diagnosis = diagnose("attention", tried, SETTINGS, Silent())
    assert diagnosis.findings == [
        "There is nothing to compare with: only one group of windows has figures."
    ]
    assert [plot.name for plot in diagnosis.plots] == ["attention-entropy", "attention-first"]


def test_one_cluster_says_nothing(lured: Any) -> None:
    tried = subject(lured, clusters=[0] * GROUP + list(range(1, GROUP + 1)))
    diagnosis = diagnose("attention", tried, SETTINGS, Silent())
    assert "20 windows in 1 near-duplicate cluster." in diagnosis.findings[0]


AUDITED = [one for one in MATRIX if one.refused is None]
NOTHING = {
    *("Mamba", "Mamba 2", "Falcon Mamba", "RWKV", "xLSTM"),
    "DeepSeek-V3",  # as tiny as it is here it has no groups of heads, which eager needs
}


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda cell: cell.name)
def test_every_architecture_or_a_refusal_by_name(architecture: Architecture) -> None:
    checkpoint = matrix_checkpoint(architecture)
    tried = subject_of(checkpoint, ids(6, 16), [False] * 6, ids(4, 16, seed=1), prefix=8)
    before, listening = weights(checkpoint), hooks(checkpoint)
    plain = logits(checkpoint, ids(2, 12))
    if architecture.name in NOTHING:
        with pytest.raises(TargetError, match=type(checkpoint.model).__name__):
            diagnose("attention", tried, SETTINGS, Silent())
    else:
        diagnosis = diagnose("attention", tried, SETTINGS, Silent())
        for row in cells(diagnosis, "entropy").values():
            assert all(0 < cell.value <= 1 + 1e-6 for cell in row)
    assert torch.equal(logits(checkpoint, ids(2, 12)), plain)
    assert_same_weights(checkpoint, before)
    assert hooks(checkpoint) == listening
