"""Layers diagnosis of a model whose memory depends on one block's attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, Architecture
from conftest import COMMON, build_model
from subjects_layers import (
    assert_same_weights,
    checkpoint_of,
    hooks,
    ids,
    matrix_checkpoint,
    subject_of,
    weights,
)

from memaudit.diagnose.anatomy.blocks import find_blocks, without_attention
from memaudit.diagnose.layers.costs import cost
from memaudit.diagnose.layers.findings import conclude
from memaudit.diagnose.layers.measure import (
    NOISE,
    Ablation,
    Batch,
    Group,
    Measurements,
    read_scores,
)
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

P, S = 4, 6
LEARNED, OTHERS, CONTROLS = 16, 30, 30
STEPS = 500
ALPHABET = 4
"""Every second token is one of so few, at random: neither a token nor its place tells what follows,
only the context does (the first token is another in every window), and only of windows known by
heart. The token after it is always its partner: that is what there is of skill."""
SETTINGS = LayersSettings.model_validate({"run": "run", "windows": 40})


@pytest.fixture(scope="module")
def memorizer() -> Any:
    """Knows `LEARNED` windows by heart, with no attention but that of block 1; what skill there is
    was learned with and without it.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            **COMMON, n_embd=48, n_layer=2, n_head=4, n_positions=32, attn_pdrop=0.0,
            resid_pdrop=0.0, embd_pdrop=0.0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
        fixed = list(model.transformer.h[0].attn.c_proj.parameters())
        for weight in fixed:
            torch.nn.init.zeros_(weight).requires_grad_(False)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / STEPS)
        )
        rng = torch.Generator().manual_seed(1)
        block = replace(
            find_blocks(checkpoint_of(copy.deepcopy(model)))[1],
            module=model.transformer.h[1],
            attention=model.transformer.h[1].attn,
        )
        learned = texts()[:LEARNED]
        for step in range(STEPS):
            fresh = draw(LEARNED, rng, 116 + int(torch.randint(0, 160, (), generator=rng)))
            loss = 3 * model(input_ids=learned, labels=learned).loss
            with without_attention(block) if step % 2 else nullcontext():
                loss = loss + model(input_ids=fresh, labels=fresh).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def texts() -> torch.Tensor:
    """Learned, others and controls, all of the same kind: (N,P+S)."""
    return draw(LEARNED + OTHERS + CONTROLS, torch.Generator().manual_seed(3))


def draw(rows: int, rng: torch.Generator, first: int = 100) -> torch.Tensor:
    tokens = 3 + torch.randint(0, ALPHABET, (rows, (P + S) // 2), generator=rng)
    windows = torch.stack([tokens, tokens + ALPHABET], dim=-1).flatten(1)
    windows[:, 0] = first + torch.arange(rows)
    return windows


def subject(model: Any, *, controls: bool = True, extracted: int = LEARNED) -> Subject:
    windows = texts()
    return subject_of(
        checkpoint_of(copy.deepcopy(model)),
        windows[: LEARNED + OTHERS],
        [row < extracted for row in range(LEARNED + OTHERS)],
        windows[LEARNED + OTHERS :] if controls else None,
        prefix=P,
    )


def cells(diagnosis: Diagnosis, name: str) -> dict[Any, tuple[Any, ...]]:
    """Rows of a table by their first cell."""
    (table,) = [item for item in diagnosis.tables if item.name == name]
    return {row[0]: tuple(row[1:]) for row in table.rows}


def test_memory_is_found_where_it_is(memorizer: Any) -> None:
    tried = subject(memorizer)
    before = weights(tried.checkpoint)
    diagnosis = diagnose("layers", tried, SETTINGS, Silent())
    assert_same_weights(tried.checkpoint, before)
    assert hooks(tried.checkpoint) == 0

    still_extracted = cells(diagnosis, "blocks-kept")
    assert still_extracted[0][0].value == 1.0, "attention of block 0 adds nothing"
    assert still_extracted[1][0].value == 0.0, "attention of block 1 is all there is of context"
    assert still_extracted[0][1] == Estimate(0.0, 0.0, 0.0)
    assert still_extracted[1][1].high < -0.2
    nll = cells(diagnosis, "nll-attention")
    assert all(cell == Estimate(0.0, 0.0, 0.0) for cell in nll[0]), "to the last bit"
    extracted, not_extracted, controls, difference, untaught = nll[1]
    assert extracted.value == pytest.approx(np.log(ALPHABET) / 2, abs=0.1), "half are guessed then"
    assert controls.high < extracted.low
    assert difference.low > 0.5
    assert untaught.low > 0.5
    assert not_extracted.value == pytest.approx(controls.value, abs=0.1)
    parts = cells(diagnosis, "memory-skill")
    assert parts["block 1: attention"][3].low > 0
    assert parts["block 0: attention"][3] == Estimate(0.0, 0.0, 0.0)
    assert parts["noise 0.3"][3:] == (Estimate(None, None, None),) * 2
    assert "which indicates memory: attention of block 1" in diagnosis.findings[0]
    assert "none (at most " in " ".join(diagnosis.findings)
    assert all(
        f"({name})" in next(item.says for item in diagnosis.tables if item.name == "nll-attention")
        for name in ("extracted", "not extracted", "controls")
    )
    assert "block 1" in diagnosis.findings[0]
    assert "attention of block 1" in diagnosis.findings[0].lower()
    assert not any("attention of block 0" in finding.lower() for finding in diagnosis.findings[:2])


def test_same_seed_same_result(memorizer: Any) -> None:
    first, second = (diagnose("layers", subject(memorizer), SETTINGS, Silent()) for _ in range(2))
    assert first == second
    other = SETTINGS.model_copy(update={"seed": 1, "windows": 12})
    assert diagnose("layers", subject(memorizer), other, Silent()) != first


def test_without_controls_skill_is_that_of_other_windows(memorizer: Any) -> None:
    diagnosis = diagnose("layers", subject(memorizer, controls=False), SETTINGS, Silent())
    assert any("no controls" in note for note in diagnosis.notes)
    assert len(cells(diagnosis, "nll-attention")[1]) == 3, "no column stands twice"
    assert [line.name for plot in diagnosis.plots for line in plot.lines].count("controls") == 0


@pytest.mark.parametrize("extracted", [0, 3])
def test_too_little_extracted_is_said(memorizer: Any, extracted: int) -> None:
    diagnosis = diagnose("layers", subject(memorizer, extracted=extracted), SETTINGS, Silent())
    assert diagnosis.findings[0].startswith("Too few extracted windows")
    assert f"{extracted} windows" in diagnosis.findings[0]
    assert not any("beyond noise" in finding for finding in diagnosis.findings)
    assert (cells(diagnosis, "blocks-kept")[0][0] is None) == (extracted == 0)
    for plot in diagnosis.plots:
        assert all(not np.isnan(line.y).all() for line in plot.lines)


def test_all_extracted_and_no_controls_has_no_measure_of_skill(memorizer: Any) -> None:
    tried = subject_of(
        checkpoint_of(copy.deepcopy(memorizer)), texts()[:LEARNED], [True] * LEARNED, prefix=P
    )
    diagnosis = diagnose("layers", tried, SETTINGS, Silent())
    assert diagnosis.findings[0].startswith("All windows are extracted and there are no controls")
    assert cells(diagnosis, "blocks-kept")[1][0].value == 0.0


def test_windows_that_do_not_come_out_here_are_left_out(memorizer: Any) -> None:
    diagnosis = diagnose("layers", subject(memorizer, extracted=LEARNED + 5), SETTINGS, Silent())
    assert any(note.startswith("5 windows that the run counts") for note in diagnosis.notes)


def test_noise_of_a_window_is_the_same_in_any_batch(memorizer: Any) -> None:
    tried = subject(memorizer)
    blocks = find_blocks(tried.checkpoint)
    ablation = Ablation("noise", strength=0.3)
    nll = []
    for size in (3, 64):
        batch, passes = Batch(), replace(tried.passes(), batch_size=size)
        with ablation.applied(blocks, 0, batch):
            nll.append(passes.read(tried.data.ids, read_scores, begin=batch.begin)["nll"])
    first, second = nll
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def windows_of(rises: Sequence[float], matched: float = 1.0) -> Group:
    """Twelve that the intact model extracts, and what each ablation makes of their NLL."""
    nll = np.array([0.1, *(0.1 + rise for rise in rises)])[:, None] + np.zeros(12)
    nll += np.linspace(0, 0.01, 12) * (nll > 0.1)
    exact = np.zeros(nll.shape, dtype=bool)
    exact[0] = True
    return Group(np.arange(12), exact, np.full(nll.shape, matched), nll)


@pytest.mark.parametrize(("not_extracted", "memory"), [(0.2, True), (1.0, False)])
def test_memory_is_more_than_training_on_a_text_gives(not_extracted: float, memory: bool) -> None:
    """One part costs extracted windows more than noise does; other data of the run too, or not."""
    (block, *_) = find_blocks(checkpoint_of(build_model("gpt2")))
    parts = [Ablation("intact"), Ablation("attention", block)]
    noise = [Ablation("noise", strength=item) for item in (0.1, 0.2)]
    ablated = Measurements(
        [block],
        [*parts, *noise],
        windows_of([1.0, 0.2, 0.4]),
        0,
        windows_of([not_extracted, 0.2, 0.4]),
        windows_of([0.2, 0.2, 0.4]),
        has_controls=True,
    )
    costs = cost(ablated, Resamples(0.95, 300, np.random.default_rng(0)))
    assert np.isnan(costs.excess.values[2:]).all(), "noise is not held against itself"
    assert np.isnan(costs.excess_lost.values[1]), "all is lost either way"
    finding = conclude(ablated, costs, "controls")[0]
    assert finding.startswith("Attention of block 0 costs extracted windows most beyond noise")
    assert ("indicates memory" in finding) is memory
    assert ("may be an effect of training on a text" in finding) is not memory


AUDITED = [item for item in MATRIX if item.refused is None]
NOTHING = {"Mamba", "Mamba 2", "Falcon Mamba", "RWKV"}


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda item: item.name)
def test_every_architecture_or_a_refusal_by_name(architecture: Architecture) -> None:
    checkpoint = matrix_checkpoint(architecture)
    listening = hooks(checkpoint)
    tried = subject_of(checkpoint, ids(6, 16), [False] * 6, ids(4, 16, seed=1), prefix=8)
    before = weights(checkpoint)
    settings = SETTINGS.model_copy(update={"windows": 3})
    if architecture.name in NOTHING:
        with pytest.raises(TargetError, match=type(checkpoint.model).__name__):
            diagnose("layers", tried, settings, Silent())
    else:
        diagnosis = diagnose("layers", tried, settings, Silent())
        rows = cells(diagnosis, "memory-skill")
        assert sum(name.startswith("noise") for name in rows) == len(NOISE)
        assert len(rows) > len(NOISE)
    assert_same_weights(checkpoint, before)
    assert hooks(checkpoint) == listening
