from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ARCHITECTURES, VOCABULARY, build_model, build_tokenizer
from torch import Tensor

from memaudit.attack import passes
from memaudit.attack.passes import (
    PlainAttention,
    TuningPasses,
    _plain_attention,
    half_precision_copy,
    tuning_dtype,
)
from memaudit.attack.prompts import ConstantPrompt, first_vectors
from memaudit.config.settings import ConstantSettings, TuningSettings
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.prepacking import can_prepack


def make_checkpoint(architecture: str = "gpt2") -> Checkpoint:
    return Checkpoint(
        model=build_model(architecture).requires_grad_(False),
        tokenizer=build_tokenizer(),
        name=architecture,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_copy_in_half_precision_leaves_the_target_as_it_is(architecture: str) -> None:
    checkpoint = make_checkpoint(architecture)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    half = half_precision_copy(checkpoint, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.model is not checkpoint.model
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in half.model.parameters())
    after = checkpoint.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    ours, theirs = (dict(model.named_buffers()) for model in (checkpoint.model, half.model))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    ties = [len(list(model.parameters())) for model in (checkpoint.model, half.model)]
    assert ties[0] == ties[1]  # weights that were shared still are


def test_no_copy_is_made_where_memory_would_get_short() -> None:
    checkpoint = make_checkpoint()
    size = 2 * sum(weight.numel() for weight in checkpoint.model.parameters())
    for free, copied in ((2 * size, True), (2 * size - 1, False)):
        with mock.patch.object(passes.psutil, "virtual_memory") as memory:
            memory.return_value.available = free
            assert (half_precision_copy(checkpoint, torch.bfloat16) is not checkpoint) == copied


@pytest.mark.skipif(not can_prepack(torch.bfloat16), reason="needs a CPU with bfloat16 products")
def test_a_copy_is_prepacked_where_there_is_room_for_one_each_way() -> None:
    checkpoint = replace(make_checkpoint(), prepacks=True)
    size = 2 * sum(weight.numel() for weight in checkpoint.model.parameters())
    for free, prepacked in ((6 * size, True), (6 * size - 1, False)):
        with mock.patch.object(passes.psutil, "virtual_memory") as memory:
            memory.return_value.available = free
            half = half_precision_copy(checkpoint, torch.bfloat16)
        assert half.dtype == torch.bfloat16
        assert any("forward" in vars(part) for part in half.model.modules()) == prepacked


def random_states(heads: int, shared: int, length: int, dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator().manual_seed(heads + length)
    shapes = [(2, heads, length, 8), (2, shared, length, 8), (2, shared, length, 8)]
    states = [torch.randn(shape, generator=rng).to(dtype) for shape in shapes]
    return [state.requires_grad_() for state in states]


def attend(states: list[Tensor], **options: Any) -> list[Tensor]:
    """Output of attention, and its gradients."""
    for state in states:
        state.grad = None
    query, key, value = states
    mixed = F.scaled_dot_product_attention(query, key, value, **options)
    torch.autograd.backward(mixed.float().sin().sum())
    return [mixed.detach(), *(state.grad for state in states if state.grad is not None)]


BAND = torch.ones(7, 7, dtype=torch.bool).tril() & ~torch.ones(7, 7, dtype=torch.bool).tril(-4)
ADDED = torch.zeros(2, 1, 7, 7).masked_fill(~BAND, torch.finfo(torch.float32).min)


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"is_causal": True, "scale": 0.7},
        {"attn_mask": BAND},
        {"attn_mask": ADDED},
    ],
)
def test_plain_attention_is_attention(shared: int, options: dict[str, Any]) -> None:
    states = random_states(4, shared, 7, torch.float32)
    options = options | ({} if shared == 4 else {"enable_gqa": True})
    stock = attend(states, **options)
    with PlainAttention():
        plain = attend(states, **options)
    for ours, stock_value in zip(plain, stock, strict=True):
        assert torch.allclose(ours, stock_value, rtol=1e-4, atol=1e-5)


def test_plain_attention_leaves_what_it_does_not_know_and_what_is_too_long() -> None:
    stock = F.scaled_dot_product_attention
    for length, dropout in ((7, 0.5), (600, 0.0)):
        query, key, value = (state.detach() for state in random_states(2, 2, length, torch.float32))
        with mock.patch.object(F, "scaled_dot_product_attention", wraps=stock) as used:
            passes._plain_attention(query, key, value, dropout_p=dropout)
        assert used.call_count == 1


def test_bfloat16_is_used_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, half = torch.float32, torch.bfloat16
    checkpoint = make_checkpoint()
    assert tuning_dtype("bfloat16", checkpoint) == half
    assert tuning_dtype("float32", checkpoint) == whole
    for has in ({"avx512_bf16": True}, {"amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert tuning_dtype("auto", checkpoint) == half
        assert tuning_dtype("auto", replace(checkpoint, device=torch.device("mps"))) == whole
        half_precision_copy = replace(checkpoint, dtype=torch.float16)
        assert tuning_dtype("auto", half_precision_copy) == torch.float16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert tuning_dtype("auto", checkpoint) == whole
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # older PyTorch
    assert tuning_dtype("auto", checkpoint) == whole


def passes_of(checkpoint: Checkpoint, precision: str = "float32") -> TuningPasses:
    return TuningPasses(checkpoint, 5, TuningSettings(precision=precision, num_virtual_tokens=3))


def saved_and_gradient(passes: TuningPasses, checkpoint: Checkpoint) -> tuple[int, Tensor]:
    """Bytes saved for the backward pass besides the weights, and the prompt's gradient."""
    first = first_vectors(checkpoint, 3, np.random.default_rng(0))
    prompt = ConstantPrompt(ConstantSettings(), first, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(1)
    ids = torch.as_tensor(rng.integers(3, VOCABULARY, (4, 11)))
    weights = {weight.untyped_storage().data_ptr() for weight in checkpoint.model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            saved[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        nll = passes.window_nll(prompt, ids)
        total = sum(saved.values())
    torch.autograd.backward(nll.sum())
    assert prompt.vectors.grad is not None
    return total, prompt.vectors.grad


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_recomputing_keeps_less_and_gives_the_same_gradient(architecture: str) -> None:
    checkpoint = make_checkpoint(architecture)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    passes = passes_of(checkpoint)
    saved, gradient = saved_and_gradient(passes, checkpoint)
    assert passes.recompute()
    fewer, same = saved_and_gradient(passes, checkpoint)
    assert fewer < saved
    assert torch.allclose(gradient, same, rtol=1e-4, atol=1e-6)
    assert not passes.recompute()  # it does so already
    after = checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    ours = [weight.data_ptr() for weight in checkpoint.model.parameters()]
    assert ours == [weight.data_ptr() for weight in passes._checkpoint.model.parameters()]
    assert not any("forward" in vars(part) for part in checkpoint.model.modules())


def test_recomputing_goes_through_the_same_attention() -> None:
    checkpoint = make_checkpoint("llama")
    plain, recomputed = (passes_of(checkpoint, "bfloat16") for _ in range(2))
    assert recomputed.recompute()
    with mock.patch.object(passes, "_plain_attention", wraps=_plain_attention) as used:
        _, gradient = saved_and_gradient(plain, checkpoint)
        once = used.call_count
        _, same = saved_and_gradient(recomputed, checkpoint)
    assert once == checkpoint.model.config.num_hidden_layers
    assert used.call_count == 3 * once  # forwards twice, the second time on the way back
    assert torch.equal(gradient, same)


@pytest.mark.skipif(not can_prepack(torch.bfloat16), reason="needs a CPU with bfloat16 products")
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_prepacked_weights_give_the_gradient_of_stored_ones(architecture: str) -> None:
    stored = make_checkpoint(architecture)
    prepacked = replace(stored, prepacks=True)
    passes = passes_of(prepacked, "bfloat16")
    assert any("forward" in vars(part) for part in passes._checkpoint.model.modules())
    _, expected = saved_and_gradient(passes_of(stored, "bfloat16"), stored)
    _, gradient = saved_and_gradient(passes, stored)
    assert F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.99
    torch.testing.assert_close(gradient.norm(), expected.norm(), rtol=0.05, atol=0)
    if passes.recompute():
        _, same = saved_and_gradient(passes, stored)
        assert torch.equal(same, gradient)


def test_a_target_of_other_blocks_cannot_recompute() -> None:
    checkpoint = replace(make_checkpoint(), model=torch.nn.Linear(2, 2))
    assert not passes_of(checkpoint).recompute()
