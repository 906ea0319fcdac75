"""Blocks of every architecture, and exact removal of their parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import MATRIX, Architecture
from conftest import build_model
from silenced_units import silenced
from subjects_layers import (
    assert_same_weights,
    checkpoint_of,
    hooks,
    ids,
    logits,
    matrix_checkpoint,
    weights,
)
from transformers.pytorch_utils import Conv1D

from memaudit.diagnose.anatomy.blocks import (
    Block,
    find_blocks,
    hidden_states,
    unit_inputs,
    without_attention,
    without_feed_forward,
)
from memaudit.errors import TargetError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import quiet_transformers

AUDITED = [one for one in MATRIX if one.refused is None]
NO_ATTENTION = {
    *("Mamba", "Mamba 2", "Falcon Mamba", "RWKV", "xLSTM"),
    *("MiniMax", "Jamba", "Zamba2", "Bamba", "Granite 4", "LFM2", "Qwen3-Next"),
    *("Qwen3.5, with images", "RecurrentGemma"),
}
"""Architectures with blocks without an attention pattern (state-space, recurrent, convolutional or
linear). All but the first five also have a block with one."""
NO_FEED_FORWARD = {"Mamba", "Mamba 2", "Falcon Mamba", "RWKV", "Zamba2"}
FUSED = {
    *("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "GPT-OSS", "DeepSeek-V2", "DeepSeek-V3"),
    *("Llama 4", "MiniMax", "Jamba", "Granite 4", "Qwen3-Next", "xLSTM"),
}
"""Experts in one parameter, in some blocks at least. xLSTM's units are all zero at first."""


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda architecture: architecture.name)
def test_every_architecture_is_taken_apart(architecture: Architecture) -> None:
    checkpoint = matrix_checkpoint(architecture)
    tokens = ids(2, 24)
    plain, before = logits(checkpoint, tokens), weights(checkpoint)
    listening = hooks(checkpoint)
    blocks = find_blocks(checkpoint)
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert torch.equal(logits(checkpoint, tokens), plain)
    with_attention = [block for block in blocks if block.attention is not None]
    assert (len(with_attention) < len(blocks)) == (architecture.name in NO_ATTENTION)
    with_feed_forward = [block for block in blocks if block.has_feed_forward]
    assert (len(with_feed_forward) < len(blocks)) == (architecture.name in NO_FEED_FORWARD)
    assert any(block.feed_forward for block in blocks) == (architecture.name in FUSED)
    for block in with_attention:
        assert_attention_goes(checkpoint, block, tokens, plain)
    for block in with_feed_forward:
        with without_feed_forward(block):
            ablated = logits(checkpoint, tokens)
        if architecture.name != "xLSTM":
            assert not torch.allclose(ablated, plain, atol=1e-3)
    assert_units_reach(checkpoint, blocks, tokens, plain)
    assert torch.equal(logits(checkpoint, tokens), plain)
    assert_same_weights(checkpoint, before)
    assert hooks(checkpoint) == listening


def assert_attention_goes(
    checkpoint: Checkpoint, block: Block, tokens: torch.Tensor, plain: torch.Tensor
) -> None:
    """Assert that the first position is unchanged without attention, and later ones are not."""
    with without_attention(block):
        ablated = logits(checkpoint, tokens)
    torch.testing.assert_close(ablated[:, 0], plain[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ablated[:, 1:], plain[:, 1:], atol=1e-3)


def assert_units_reach(
    checkpoint: Checkpoint, blocks: tuple[Block, ...], tokens: torch.Tensor, plain: torch.Tensor
) -> None:
    """Assert that blocks with units record them, and that silenced units are zero."""
    with unit_inputs(blocks) as units, hidden_states(blocks) as states:
        logits(checkpoint, tokens)
        inputs = {number: tensor.clone() for number, tensor in units.items()}
        assert all(tensor.shape[:2] == tokens.shape for tensor in states.values())
    for block in blocks:
        assert (block.number in inputs) == bool(block.down)
        if block.down:
            assert inputs[block.number].shape == (*tokens.shape, block.units)
            everything = {block.number: range(block.units)}
            with silenced(blocks, everything), unit_inputs(blocks) as units:
                logits(checkpoint, tokens)
                assert not units[block.number].any()


def test_attention_replaced_is_output_of_value_of_norm() -> None:
    """Compare with W_O W_V LN(x) + b computed by hand, for grouped queries."""
    checkpoint = checkpoint_of(build_model("llama"))
    blocks = find_blocks(checkpoint)
    layer = checkpoint.model.model.layers[1]
    tokens = ids(2, 9)
    with hidden_states(blocks) as states, without_attention(blocks[1]):
        logits(checkpoint, tokens)
        x, output = states[0], states[1]
    value = layer.self_attn.v_proj(layer.input_layernorm(x)).view(2, 9, 2, 1, 8)
    mixed = x + layer.self_attn.o_proj(value.expand(2, 9, 2, 2, 8).reshape(2, 9, 32))
    right = mixed + layer.mlp(layer.post_attention_layernorm(mixed))
    torch.testing.assert_close(output, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "opt", "gpt_neox", "gemma2", "falcon"])
def test_feed_forward_removed_leaves_the_rest(name: str) -> None:
    """Compare with the last projection's weights set to zero."""
    checkpoint = checkpoint_of(build_model(name))
    blocks = find_blocks(checkpoint)
    tokens = ids(2, 12)
    with without_feed_forward(blocks[0]):
        ablated = logits(checkpoint, tokens)
    (down,) = blocks[0].down
    for weight in down.parameters():
        weight.zero_()
    torch.testing.assert_close(ablated, logits(checkpoint, tokens), atol=1e-5, rtol=1e-5)


def test_silenced_is_a_column_of_zeros() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    blocks = find_blocks(checkpoint)
    tokens = ids(2, 12)
    means = [0.5, -1.0]
    with silenced(blocks, {0: [3, 7]}):
        zeroed = logits(checkpoint, tokens)
    with silenced(blocks, {0: [3, 7]}, {0: means}):
        meant = logits(checkpoint, tokens)
    (down,) = blocks[0].down
    assert isinstance(down, Conv1D)
    down.bias.add_(torch.tensor(means) @ down.weight[[3, 7]])
    down.weight[[3, 7]] = 0  # (M,D)
    torch.testing.assert_close(meant, logits(checkpoint, tokens), atol=1e-5, rtol=1e-5)
    down.bias.sub_(
        torch.tensor(means) @ build_model("gpt2").transformer.h[0].mlp.c_proj.weight[[3, 7]]
    )
    torch.testing.assert_close(zeroed, logits(checkpoint, tokens), atol=1e-5, rtol=1e-5)


def test_attention_that_adds_nothing_is_attention_still() -> None:
    model = build_model("gpt2")
    for weight in model.transformer.h[0].attn.c_proj.parameters():
        weight.data.zero_()
    checkpoint = checkpoint_of(model)
    blocks = find_blocks(checkpoint)
    assert [block.attention for block in blocks] == [layer.attn for layer in model.transformer.h]
    plain = logits(checkpoint, ids(2, 9))
    with without_attention(blocks[0]):
        assert torch.equal(logits(checkpoint, ids(2, 9)), plain)


def test_an_adapter_is_looked_through() -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        adapted = get_peft_model(
            build_model("llama"),
            LoraConfig(r=2, target_modules=["down_proj", "v_proj"], init_lora_weights=False),
        )
    checkpoint = checkpoint_of(adapted)
    blocks = find_blocks(checkpoint)
    layers = adapted.get_base_model().model.layers
    assert [block.down for block in blocks] == [(layer.mlp.down_proj,) for layer in layers]
    assert all(block.attention is not None for block in blocks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mamba"])
def test_half_precision_says_the_same(name: str, dtype: torch.dtype) -> None:
    def parts(model: Any) -> list[tuple[bool, int, bool]]:
        blocks = find_blocks(checkpoint_of(model))
        return [
            (block.attention is not None, block.units, block.has_feed_forward) for block in blocks
        ]

    assert parts(build_model(name).to(dtype)) == parts(build_model(name))


def test_a_model_without_blocks_is_refused_by_name() -> None:
    (gemma,) = [one for one in MATRIX if one.name == "Gemma 3n"]
    with pytest.raises(TargetError, match=r"tiny: Gemma3nForCausalLM cannot be taken apart"):
        find_blocks(matrix_checkpoint(gemma))
