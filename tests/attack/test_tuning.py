from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, VOCABULARY, build_model, build_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memaudit.attack.extraction import Extractor
from memaudit.attack.facts import FEW_TO_SELECT, NO_PROMPT
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.generator import Generator
from memaudit.attack.memory import MemoryState
from memaudit.attack.passes import window_weighted
from memaudit.attack.prompts import (
    ConstantPrompt,
    DynamicPrompt,
    FittedPrompt,
    NoPrompt,
    first_vectors,
    trained_rows,
)
from memaudit.attack.tuning import Fit, Tuner, TuningData, rate_factor
from memaudit.config.settings import (
    ConstantSettings,
    DynamicSettings,
    ScoreSettings,
    TuningSettings,
)
from memaudit.data.windows import PADDING
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint

P, S, V = 5, 6, 3
SHORT: dict[str, Any] = {
    "num_virtual_tokens": V,
    "epochs": 2,
    "min_steps": 0,
    "batch_size": 8,
    "precision": "float32",  # whatever the processor has, for comparing with float64
}


def make_checkpoint(architecture: str = "gpt2") -> Checkpoint:
    return Checkpoint(
        model=build_model(architecture).requires_grad_(False),
        tokenizer=build_tokenizer(),
        name=architecture,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def make_data(seed: int = 0) -> TuningData:
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, VOCABULARY, (26, P + S)).astype(np.int32)
    return TuningData(ids[:20], ids[20:])


def torch_rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_prompt(checkpoint: Checkpoint, settings: TuningSettings, seed: int = 0) -> FittedPrompt:
    rng = np.random.default_rng(seed)
    first = first_vectors(checkpoint, V, rng)
    if isinstance(settings, ConstantSettings):
        return ConstantPrompt(settings, first, torch_rng(seed))
    assert isinstance(settings, DynamicSettings)
    rows = None
    if settings.embedding == "trained":
        prefixes = torch.as_tensor(make_data().fit_ids[:, :P]).long()
        rows = trained_rows(checkpoint.embed, prefixes, checkpoint.vocabulary)
    generator = Generator(
        checkpoint.embed,
        settings,
        prefix_tokens=P,
        first_vectors=first,
        scale=float(first.std()),
        rows=rows,
        rng=torch_rng(seed),
    )
    return DynamicPrompt(settings, generator, torch_rng(seed))


def make_tuner(checkpoint: Checkpoint, settings: TuningSettings) -> Tuner:
    return Tuner(checkpoint, Extractor(checkpoint, P, ScoreSettings(), 8), settings)


def fit(settings: TuningSettings, checkpoint: Checkpoint | None = None, seed: int = 0) -> Fit:
    checkpoint = checkpoint or make_checkpoint()
    prompt = make_prompt(checkpoint, settings, seed)
    return make_tuner(checkpoint, settings).fit(prompt, make_data(), np.random.default_rng(seed))


def test_too_few_windows_to_select_on_take_no_prompt() -> None:
    settings = ConstantSettings(**SHORT)
    checkpoint, data = make_checkpoint(), make_data()
    for least, is_enough in ((6, True), (7, False)):
        prompt, advance = make_prompt(checkpoint, settings), mock.Mock()
        few = replace(data, least_select=least)
        done = make_tuner(checkpoint, settings).fit(prompt, few, np.random.default_rng(0), advance)
        assert (done.record.stop_reason == FEW_TO_SELECT) == (not is_enough)
        assert advance.called == is_enough
        assert len(done.record.epochs) == (3 if is_enough else 1)
    assert isinstance(done.prompt, NoPrompt)
    assert done.record.chosen == NO_PROMPT
    torch.testing.assert_close(prompt.state_dict(), make_prompt(checkpoint, settings).state_dict())


EVERY_PROMPT = [
    ConstantSettings(**SHORT),
    ConstantSettings(**SHORT, low_rank=2),
    DynamicSettings(**SHORT),
    DynamicSettings(**SHORT, mapping="naive", embedding="trained", initialisation="random"),
]


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "mamba"])
@pytest.mark.parametrize("settings", EVERY_PROMPT, ids=["constant", "low-rank", "queries", "naive"])
def test_tuning_leaves_the_target_as_it_was(architecture: str, settings: TuningSettings) -> None:
    checkpoint = make_checkpoint(architecture)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    prompt = make_prompt(checkpoint, settings)
    first = {name: tensor.clone() for name, tensor in prompt.state_dict().items()}
    loss = make_tuner(checkpoint, settings).fit(prompt, make_data(), np.random.default_rng(0))
    after = checkpoint.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(tensor.grad is None for tensor in checkpoint.model.parameters())
    assert not any(tensor.requires_grad for tensor in checkpoint.model.parameters())
    assert not checkpoint.model.training
    assert math.isfinite(loss.record.epochs[-1].loss)
    if loss.record.chosen not in (NO_PROMPT, "epoch 0"):
        assert any(
            not torch.equal(tensor, first[name]) for name, tensor in prompt.state_dict().items()
        )


@pytest.mark.parametrize("settings", EVERY_PROMPT, ids=["constant", "low-rank", "queries", "naive"])
def test_the_same_seed_gives_the_same_prompt(settings: TuningSettings) -> None:
    first, twin, other = fit(settings), fit(settings), fit(settings, seed=1)
    state, same = first.fitted.state_dict(), twin.fitted.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    different = other.fitted.state_dict()
    assert any(not torch.equal(state[name], different[name]) for name in state)
    np.testing.assert_array_equal(
        [epoch.loss for epoch in first.record.epochs], [epoch.loss for epoch in twin.record.epochs]
    )


def first_gradient(checkpoint: Checkpoint, precision: str) -> Tensor:
    """Flat gradient of a constant prompt's vectors on the first windows."""
    settings = ConstantSettings(**SHORT | {"precision": precision})
    prompt = make_prompt(checkpoint, settings)
    ids = torch.as_tensor(make_data().fit_ids[:8]).long()
    make_tuner(checkpoint, settings)._gradient.set_gradients(prompt, ids)
    assert isinstance(prompt, ConstantPrompt)
    assert prompt.vectors.grad is not None
    assert prompt.vectors.grad.dtype == torch.float32
    return prompt.vectors.grad.flatten()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_bfloat16_gives_the_direction_of_float32(architecture: str) -> None:
    checkpoint = make_checkpoint(architecture)
    exact, rough = (first_gradient(checkpoint, kind) for kind in ("float32", "bfloat16"))
    assert torch.cosine_similarity(exact, rough, dim=0) > 0.98
    assert not torch.equal(exact, rough)


def test_training_lowers_the_loss() -> None:
    record = fit(ConstantSettings(**SHORT | {"epochs": 6}, learning_rate=0.05)).record
    losses = [epoch.loss for epoch in record.epochs]
    assert math.isnan(losses[0])
    assert losses[-1] < losses[1]
    assert record.fit_windows == 20
    assert record.select_windows == 6
    assert record.trainable_parameters == V * 32
    assert record.stop_reason == "all 6 epochs done"


class Scripted:
    """An extractor that judges prompts by a script: exact windows and NLL, call by call."""

    prefix_tokens = P
    planned = 8

    def __init__(self, script: list[tuple[int, float]]) -> None:
        self.script = iter(script)
        self.memory = MemoryState()

    def verify(self, prompt: object, ids: Any) -> tuple[Any, Any]:
        exact, nll = next(self.script)
        return np.arange(len(ids)) < exact, np.full(len(ids), nll)


def fit_by_script(script: list[tuple[int, float]], **changes: Any) -> Fit:
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT | {"epochs": len(script) - 2} | changes)
    tuner = Tuner(checkpoint, Scripted(script), settings)  # type: ignore[arg-type]
    return tuner.fit(make_prompt(checkpoint, settings), make_data(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("script", "chosen"),
    [
        ([(0, 3.0), (0, 4.0), (2, 3.0), (1, 1.0)], "epoch 1"),  # exact windows come first
        ([(0, 3.0), (0, 4.0), (1, 3.0), (1, 2.0)], "epoch 2"),  # then the likelihood
        ([(0, 3.0), (1, 4.0), (1, 4.0), (0, 1.0)], "epoch 0"),  # the earliest of equals
        ([(3, 3.0), (0, 4.0), (2, 3.0), (1, 1.0)], NO_PROMPT),  # none is first in the script
        ([(0, 1.0), (0, 4.0), (0, 3.0), (0, 2.0)], NO_PROMPT),
    ],
)
def test_select_chooses_the_epoch_or_no_prompt(
    script: list[tuple[int, float]], chosen: str
) -> None:
    result = fit_by_script(script)
    assert result.record.chosen == chosen
    assert isinstance(result.prompt, NoPrompt) == (chosen == NO_PROMPT)
    assert isinstance(result.fitted, ConstantPrompt)
    assert [epoch.select_exact for epoch in result.record.epochs] == [e for e, _ in script[1:]]


def test_the_best_state_is_put_back() -> None:
    script = [(0, 3.0), (0, 3.0), (1, 3.0), (0, 3.0)]
    longer = fit_by_script(script)
    shorter = fit_by_script(script[:3], schedule="constant")
    assert longer.record.chosen == shorter.record.chosen == "epoch 1"
    longer = fit_by_script(script, schedule="constant", warmup=0.0)
    shorter = fit_by_script(script[:3], schedule="constant", warmup=0.0)
    longer_state, shorter_state = longer.fitted.state_dict(), shorter.fitted.state_dict()
    assert all(torch.equal(longer_state[name], shorter_state[name]) for name in longer_state)
    assert not any(parameter.requires_grad for parameter in longer.fitted.parameters())


def test_few_windows_are_gone_through_more_often() -> None:
    record = fit(ConstantSettings(**SHORT | {"min_steps": 10})).record  # 3 steps an epoch
    assert [epoch.epoch for epoch in record.epochs] == [0, 1, 2, 3, 4]


def test_patience_ends_the_training() -> None:
    script = [(0, 3.0), (0, 3.0), (1, 3.0), *[(0, 3.0)] * 5]
    record = fit_by_script(script, patience=2).record
    assert [epoch.epoch for epoch in record.epochs] == [0, 1, 2, 3]
    assert record.stop_reason == "no better on select for 2 epochs"


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT)
    prompt = ConstantPrompt(settings, torch.full((V, checkpoint.width), torch.nan), torch_rng(0))
    with pytest.raises(RunError, match="not finite"):
        make_tuner(checkpoint, settings).fit(prompt, make_data(), np.random.default_rng(0))


def gradients(halvings: int, limit: int | None = None) -> tuple[Any, float]:
    """Fit 20 windows; passes above the limit run out of memory and are halved."""
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT | {"batch_size": 20, "windows_per_pass": 20}, focus=0.2)
    tuner, prompt = make_tuner(checkpoint, settings), make_prompt(checkpoint, settings)
    for _ in range(halvings):
        tuner._gradient._memory.tuning.shrink()
    ids = torch.as_tensor(make_data().fit_ids).long()
    sizes = []

    def limited(checkpoint: Checkpoint, count: int, embedded: Tensor, **options: Any) -> Any:
        if limit is not None and len(embedded) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(embedded))
        return last_logits(checkpoint, count, embedded, **options)

    with mock.patch("memaudit.attack.forward.last_logits", limited):
        total = tuner._gradient.set_gradients(prompt, ids)
    assert sum(sizes) == len(ids)
    assert max(sizes) == min(20 >> halvings, 20 if limit is None else 5)
    return next(prompt.parameters()).grad, float(total)


def test_where_one_window_does_not_fit_activations_are_recomputed() -> None:
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT)
    ids = torch.as_tensor(make_data().fit_ids[:2]).long()
    totals = []
    for enough in (True, False):
        tuner, prompt = make_tuner(checkpoint, settings), make_prompt(checkpoint, settings)

        def scarce(given: Checkpoint, *args: Any, enough: bool = enough, **options: Any) -> Any:
            if given.model is checkpoint.model and not enough:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return last_logits(given, *args, **options)

        with mock.patch("memaudit.attack.forward.last_logits", scarce):
            totals.append(float(tuner._gradient.set_gradients(prompt, ids)))
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)

    def never(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        mock.patch("memaudit.attack.forward.last_logits", never),
        pytest.raises(RunError, match="out of memory tuning on a single window"),
    ):
        tuner._gradient.set_gradients(prompt, ids)


def test_smaller_passes_add_up_to_the_same_gradient() -> None:
    whole, loss = gradients(0)
    for parts, total in (gradients(2), gradients(4), gradients(0, limit=7)):
        assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-6)
        assert total == pytest.approx(loss, rel=1e-5)


def test_a_single_window_that_does_not_fit_ends_the_run() -> None:
    with pytest.raises(RunError, match="single window"):
        gradients(0, limit=0)


@pytest.mark.parametrize("loss", ["aligned", "full"])
def test_the_loss_looks_at_the_suffix_or_at_all(loss: str) -> None:
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT, loss=loss)
    tuner, prompt = make_tuner(checkpoint, settings), make_prompt(checkpoint, settings)
    ids = torch.as_tensor(make_data().fit_ids).long()
    inputs = build_inputs(checkpoint, prompt, ids, P)
    with torch.no_grad():
        log_p = checkpoint.model(inputs_embeds=inputs).logits.double().log_softmax(dim=-1)
        tokens = range(P, P + S) if loss == "aligned" else range(P + S)
        rows = torch.arange(len(ids))
        lost = [-log_p[rows, V + place - 1, ids[:, place]] for place in tokens]
        expected = torch.stack(lost).mean(dim=0)
        nll = tuner.passes.window_nll(prompt, ids)
    assert torch.allclose(nll.double(), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["aligned", "full"])
def test_the_loss_of_a_short_prefix_does_not_hang_on_the_batch(loss: str) -> None:
    checkpoint = make_checkpoint()
    settings = ConstantSettings(**SHORT, loss=loss)
    tuner, prompt = make_tuner(checkpoint, settings), make_prompt(checkpoint, settings)
    ids = torch.as_tensor(make_data().fit_ids).long()
    for row in range(len(ids)):
        ids[row, : row % (P - 1)] = PADDING
    with torch.no_grad():
        together = tuner.passes.window_nll(prompt, ids)
        alone = [tuner.passes.window_nll(prompt, row[None]) for row in ids]
    assert torch.allclose(together, torch.cat(alone), rtol=1e-5)


@given(st.floats(0, 3), st.lists(st.floats(0, 12), min_size=1, max_size=5))
def test_the_weighted_gradient_is_each_window_s_times_its_weight(
    focus: float, losses: list[float]
) -> None:
    nll = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(window_weighted(nll, focus).sum(), nll)
    assert torch.allclose(gradient, torch.exp(-focus * nll.detach()))


def test_without_focus_the_loss_is_the_nll() -> None:
    nll: Tensor = torch.tensor([1.0, 2.0])
    assert window_weighted(nll, 0.0) is nll


def test_the_rate_rises_and_falls() -> None:
    linear = TuningSettings(schedule="linear", warmup=0.2)
    rates = [rate_factor(step, 10, linear) for step in range(10)]
    assert rates == pytest.approx([0.5, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    flat = TuningSettings(schedule="constant", warmup=0.0)
    assert [rate_factor(step, 10, flat) for step in range(10)] == [1.0] * 10


@given(st.integers(1, 500), st.floats(0, 0.99), st.sampled_from(["linear", "constant"]))
def test_the_rate_is_a_positive_share(steps: int, warmup: float, schedule: Any) -> None:
    settings = TuningSettings(schedule=schedule, warmup=warmup)
    rates = [rate_factor(step, steps, settings) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
