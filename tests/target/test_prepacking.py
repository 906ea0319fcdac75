from __future__ import annotations

import copy
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from conftest import ARCHITECTURES, build_model, build_tokenizer
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from memaudit.config.settings import TargetSettings
from memaudit.errors import UsageError
from memaudit.target import prepacking
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.prepacking import can_prepack, choose_prepacking, prepack, prepacked_copy

pytestmark = pytest.mark.skipif(not can_prepack(torch.float32), reason="needs an x86 CPU")
HALF = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(not can_prepack(torch.bfloat16), reason="no products in bfloat16"),
)


def linear_layers(dtype: torch.dtype) -> dict[str, nn.Module]:
    transposed = Conv1D(6, 10)
    nn.init.normal_(transposed.weight)
    nn.init.normal_(transposed.bias)
    layers = {"bias": nn.Linear(10, 6), "plain": nn.Linear(10, 6, bias=False), "conv": transposed}
    return {name: layer.to(dtype).requires_grad_(False) for name, layer in layers.items()}


def outputs_and_gradient(layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer gives, in float64, and the gradient of its inputs."""
    leaf = inputs.clone().requires_grad_()
    outputs = layer(leaf)
    torch.autograd.backward(outputs.double().sin().sum())
    assert leaf.grad is not None
    return outputs.detach().double(), leaf.grad.double()


@pytest.mark.parametrize("kind", ["bias", "plain", "conv"])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_prepacked_layer_computes_the_same(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = linear_layers(dtype)[kind]
    rows = torch.randn(4, 7, 10).to(dtype)
    for inputs in (rows, rows[:, ::2], rows[0], rows[:0], rows.transpose(0, 1)):
        exact = outputs_and_gradient(layer.double(), inputs.double().contiguous())
        layer.to(dtype)
        prepacked = copy.deepcopy(layer)
        prepack(prepacked, backward=True)
        found = outputs_and_gradient(prepacked, inputs)
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        for mine, its in zip(found, exact, strict=True):
            torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance)


def test_inputs_are_taken_in_any_format_as_under_autocast() -> None:
    layer = linear_layers(torch.float32)["bias"]
    prepack(layer, backward=True)
    outputs, gradient = outputs_and_gradient(layer, torch.ones(3, 10, dtype=torch.float64))
    assert outputs.shape == (3, 6)
    assert gradient.dtype == torch.float64


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_copy_shares_the_weights_and_leaves_the_model_as_it_is(architecture: str) -> None:
    model = build_model(architecture).requires_grad_(False)
    copied = prepacked_copy(model)
    assert copied is not None
    ours, theirs = ([weight.data_ptr() for weight in one.parameters()] for one in (model, copied))
    assert ours == theirs
    assert not any("forward" in vars(part) for part in model.modules())
    plain = [part for part in copied.modules() if type(part) in (nn.Linear, Conv1D)]
    assert plain
    assert all("forward" in vars(part) for part in plain)


def test_a_copy_of_a_prepacked_layer_shares_what_is_prepacked() -> None:
    layer = linear_layers(torch.float32)["bias"]
    prepack(layer)
    copied = copy.deepcopy(layer, {id(weight): weight for weight in layer.parameters()})
    mine, its = (vars(one)["forward"] for one in (layer, copied))
    assert its.forth is mine.forth
    assert (mine.layer, its.layer) == (layer, copied)


@pytest.mark.parametrize("kind", ["bias", "plain", "conv"])
def test_a_weight_that_is_another_by_now_is_used(kind: str) -> None:
    """As by adapters that put theirs in its place for a pass, and by models that rescale theirs."""
    layer = linear_layers(torch.float32)[kind]
    copied = prepacked_copy(layer)
    assert copied is not None
    inputs = torch.randn(3, 10)
    layer.get_parameter("weight").mul_(2)  # the copy's as well: they share it
    torch.testing.assert_close(copied(inputs), layer(inputs))
    other = prepacked_copy(layer)
    assert other is not None
    parametrize.register_parametrization(other, "weight", Doubled())
    twice = type(layer).forward(layer, inputs)
    if layer.bias is not None:
        twice = twice - layer.bias
    expected = 2 * twice + (0 if layer.bias is None else layer.bias)
    torch.testing.assert_close(other(inputs), expected)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_an_adapter_of_a_parameter_is_heard() -> None:
    """It changes a linear layer's weight itself, while a pass lasts."""
    base = build_model("llama").requires_grad_(False)
    adapter = LoraConfig(target_modules=[], target_parameters=["q_proj.weight"], r=2)
    model = get_peft_model(base, adapter).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    copied = prepacked_copy(model)
    assert copied is not None
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        adapted, found = model(ids).logits, copied(ids).logits
        with model.disable_adapter():
            plain = model(ids).logits
    assert not torch.allclose(adapted, plain, atol=1e-2)
    torch.testing.assert_close(found, adapted, rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_be_copied_is_left() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert prepacked_copy(model) is None


def test_a_lack_of_memory_is_none_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with (
        mock.patch.object(prepacking, "_reordered", side_effect=MemoryError),
        pytest.raises(MemoryError),
    ):
        prepacked_copy(model)


def test_weights_are_prepacked_where_they_are_small_beside_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = nn.Linear(16, 16, bias=False)
    whole = SimpleNamespace(total=8 * 4 * 16 * 16)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: whole)

    def choose(
        asked: str = "auto",
        *,
        model: nn.Module = layer,
        dtype: torch.dtype = torch.float32,
        quantized: bool = False,
    ) -> str | None:
        choice = choose_prepacking(asked, model, dtype, quantized=quantized)
        return None if choice is None else choice.value

    assert choose() == "prepacked"
    assert choose("no") == "as stored"
    whole.total -= 1
    assert choose() == "as stored"
    assert choose("yes") == "prepacked"
    impossible: list[dict[str, Any]] = [
        {"model": nn.Linear(16, 16, bias=False, device="meta")},
        {"dtype": torch.float16},
        {"quantized": True},
    ]
    for changes in impossible:
        assert choose(**changes) is None
        assert choose("no", **changes) is None
        with pytest.raises(UsageError, match=r"prepack = yes: needs an x86 CPU"):
            choose("yes", **changes)


def test_only_formats_that_the_processor_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, can in (({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda has=capabilities: has, raising=False
        )
        assert can_prepack(torch.bfloat16) == can
        assert can_prepack(torch.float32)
    monkeypatch.setattr(prepacking.platform, "machine", lambda: "arm64")
    assert not can_prepack(torch.float32)


def test_a_loaded_target_says_what_was_chosen(tmp_path: Path) -> None:
    build_model("llama").save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    checkpoint = load_checkpoint(str(tmp_path), TargetSettings(device="cpu"))
    assert checkpoint.choices["weights"].value == "prepacked"
    assert checkpoint.prepacked.model is not checkpoint.model
    stored = load_checkpoint(str(tmp_path), TargetSettings(device="cpu", prepack="no"))
    assert stored.choices["weights"].reason == "asked for"
    assert stored.prepacked is stored
