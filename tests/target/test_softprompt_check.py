"""The check passes every ordinary causal model and refuses what would give a wrong audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from conftest import COMMON, GEMMA_LIKE, build_model, build_tokenizer

from memaudit.errors import TargetError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.softprompt_check import check_soft_prompts


def checkpoint_of(model: Any, dtype: torch.dtype = torch.float32) -> Checkpoint:
    model = model.to(dtype).eval().requires_grad_(False)
    return Checkpoint(model, build_tokenizer(), "tiny", torch.device("cpu"), dtype)


def test_every_architecture_passes_and_is_left_as_it_was(tiny_model: Any) -> None:
    checkpoint = checkpoint_of(tiny_model)
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    state = torch.get_rng_state()
    check_soft_prompts(checkpoint)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in tiny_model.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma", "llama"])
def test_half_precision_passes(architecture: str, dtype: torch.dtype) -> None:
    check_soft_prompts(checkpoint_of(build_model(architecture), dtype))


def per_layer(name: str) -> Any:
    """A tiny Gemma whose layers look up the token ids once more."""
    more = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": COMMON["vocab_size"]}
    if name == "Gemma3n":
        more |= {"num_kv_shared_layers": 0, "altup_num_inputs": 2, "laurel_rank": 4}
    if name == "Gemma4":
        more |= {"num_kv_shared_layers": 0, "global_head_dim": 8}
    config = getattr(transformers, f"{name}TextConfig")(**(GEMMA_LIKE | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    for key, value in model.named_parameters():
        if key.endswith("correct_output_scale"):  # zero at first, and then the look-up is unused
            torch.nn.init.ones_(value)
    return model


@pytest.mark.parametrize("name", ["Gemma3n", "Gemma4"])
def test_per_layer_embeddings_are_refused_by_name(name: str) -> None:
    with pytest.raises(TargetError, match=f"{name}ForCausalLM cannot be audited") as caught:
        check_soft_prompts(checkpoint_of(per_layer(name)))
    assert "\n" not in str(caught.value)


def test_bidirectional_model_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=COMMON["vocab_size"],
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        initializer_range=0.2,
    )
    with pytest.raises(TargetError, match="not causal"):
        check_soft_prompts(checkpoint_of(transformers.BertLMHeadModel(config)))


class Wrapped(torch.nn.Module):
    """A model whose forward is spoilt in one way."""

    def __init__(self, spoil: Callable[[Any, dict[str, Any]], Any]) -> None:
        super().__init__()
        self.inner = build_model("gpt2")
        self.spoil = spoil

    def get_input_embeddings(self) -> Any:
        return self.inner.get_input_embeddings()

    def forward(self, **inputs: Any) -> Any:
        return self.spoil(self.inner, inputs)


def refuses_vectors(model: Any, inputs: dict[str, Any]) -> Any:
    if "inputs_embeds" in inputs:
        raise TypeError("forward() got an unexpected keyword argument 'inputs_embeds'")
    return model(**inputs)


def scales_vectors(model: Any, inputs: dict[str, Any]) -> Any:
    if "inputs_embeds" in inputs:
        inputs["inputs_embeds"] = inputs["inputs_embeds"] * 2
    return model(**inputs)


def cuts_gradient(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**inputs)


def zeroes_gradient(model: Any, inputs: dict[str, Any]) -> Any:
    output = cuts_gradient(model, inputs)
    if "inputs_embeds" in inputs:
        output.logits = output.logits + inputs["inputs_embeds"].sum() * 0
    return output


def gives_nan(model: Any, inputs: dict[str, Any]) -> Any:
    output = model(**inputs)
    output.logits = output.logits * float("nan")
    return output


def sees_last_tokens_only(model: Any, inputs: dict[str, Any]) -> Any:
    """As a model with a window of one token would: what stands before it changes nothing."""
    name = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
    given = inputs[name]
    steps = given.reshape(-1, 1, *given.shape[2:])
    output = model(**{name: steps})
    output.logits = output.logits.reshape(*given.shape[:2], -1)
    return output


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (refuses_vectors, "refuses inputs_embeds"),
        (scales_vectors, "different logits"),
        (cuts_gradient, "no gradient"),
        (zeroes_gradient, "is zero"),
        (gives_nan, "not finite"),
        (sees_last_tokens_only, "change nothing"),
    ],
)
def test_each_fault_is_named(spoil: Callable[[Any, dict[str, Any]], Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        check_soft_prompts(checkpoint_of(Wrapped(spoil)))
