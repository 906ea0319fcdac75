"""Whole scans of quantised targets, and what is refused of them."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GPT2_LIKE, LLAMA_LIKE, build_model, build_tokenizer, save_model
from scanned import figures, make_texts, run, write_samples

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt
from memaudit.config.settings import ScoreSettings, TargetSettings
from memaudit.errors import TargetError, UsageError
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.failures import quiet_transformers
from memaudit.target.quantization import PACKAGE_OF, Quantization, is_packed
from memaudit.target.softprompt_check import check_soft_prompts

pytestmark = pytest.mark.slow

WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}
METHODS = [
    pytest.param(
        method,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
        ),
    )
    for method, package in PACKAGE_OF.items()
]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)


def build(kind: str = "llama") -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            return GPT2LMHeadModel(GPT2Config(**(GPT2_LIKE | {"n_embd": 64}))).eval()
        config = LlamaConfig(**(LLAMA_LIKE | WIDE), num_key_value_heads=2)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(build(), build_tokenizer(), tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data") / "data.jsonl", make_texts(20, seed=1))


def load(folder: Path, method: str) -> Checkpoint:
    return load_checkpoint(str(folder), TargetSettings.model_validate({"quantize": method}))


def windows(count: int = 8, length: int = 14) -> Any:
    return np.random.default_rng(0).integers(3, 300, (count, length)).astype(np.int32)


@torch.inference_mode()
def decode_slowly(checkpoint: Checkpoint, ids: Any, prefix: int) -> Any:
    """Window by window and without a cache."""
    rows = []
    for row in torch.as_tensor(ids, dtype=torch.long):
        tokens = row[:prefix]
        while len(tokens) < len(row):
            logits = checkpoint.model(input_ids=tokens[None], use_cache=False).logits
            tokens = torch.cat([tokens, logits[0, -1].argmax()[None]])
        rows.append(tokens[prefix:].numpy())
    return np.array(rows)


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_target_is_scanned_by_every_attack(
    method: str, folder: Path, data: Path
) -> None:
    outcome = run(folder, data, target={"quantize": method})
    attacks = [result.attack for result in outcome.result.attacks]
    assert attacks == ["none", "copy", "dynamic-hard", "constant", "dynamic"]
    choice = outcome.result.target.choices["quantization"]
    assert choice.value == method
    assert PACKAGE_OF[method] in choice.reason
    assert outcome.result.target.parameters == build().num_parameters()
    assert {fit.record.precision for fit in outcome.result.fits} == {"float32"}
    assert all(fit.record.epochs[-1].loss > 0 for fit in outcome.result.fits)
    plain, quantised = figures(run(folder, data, attacks=["none"])), figures(outcome)
    assert not np.array_equal(plain["none.data.suffix_nll"], quantised["none.data.suffix_nll"])


@pytest.mark.parametrize("method", [m for m in METHODS if m.values[0] != "llm-int8"])
def test_extraction_equals_slow_decoding_of_the_quantised_target(method: str, folder: Path) -> None:
    checkpoint, ids = load(folder, method), windows()
    expected = decode_slowly(checkpoint, ids, 8)
    ids[::2, 8:] = expected[::2]  # so that every second window comes out
    for batch in (1, 3, 8):
        extractor = Extractor(checkpoint, 8, ScoreSettings(), batch)
        np.testing.assert_array_equal(extractor.extract(NoPrompt(), ids).continuation_ids, expected)


@needs_bitsandbytes
def test_where_inputs_are_rounded_verdicts_do_not_depend_on_the_batch(folder: Path) -> None:
    checkpoint, ids = load(folder, "llm-int8"), windows()
    assert checkpoint.precision == torch.bfloat16
    alone = Extractor(checkpoint, 8, ScoreSettings(), 1)
    ids[::2, 8:] = alone.extract(NoPrompt(), ids).continuation_ids[::2]
    exact, _ = alone.verify(NoPrompt(), ids)
    assert exact.any()
    for batch in (3, 8):
        together, _ = Extractor(checkpoint, 8, ScoreSettings(), batch).verify(NoPrompt(), ids)
        np.testing.assert_array_equal(together, exact)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_quantised_target(method: str, folder: Path) -> None:
    """Check after passes without a gradient, in which a CPU may repack weights."""
    checkpoint = load(folder, method)
    ids = torch.as_tensor(windows(1)[:, :8], dtype=torch.long)
    vectors = checkpoint.embed(ids).detach()
    with torch.inference_mode():
        checkpoint.model(inputs_embeds=vectors, use_cache=False)
    check_soft_prompts(checkpoint)
    whole = vectors.clone().requires_grad_()
    loss = checkpoint.model(inputs_embeds=whole, use_cache=False).logits.logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(loss, whole)
    other = vectors.clone().requires_grad_()
    theirs = build()(inputs_embeds=other, use_cache=False).logits.logsumexp(-1).sum()
    (expected,) = torch.autograd.grad(theirs, other)
    alike = torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0)
    assert alike > (0.5 if method == "nf4" else 0.95)


class NoWayBack(torch.autograd.Function):
    """A product of matrices whose kernel forgot the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.zeros(*gradients[0].shape[:-1], 64), None


def no_way_back(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = NoWayBack.apply(x, weight)
    return product


def without_gradient(folder: Path, *, whole: bool) -> Checkpoint:
    """A target called quantised of which every block, or its feed-forward part, has no gradient."""
    checkpoint = load_checkpoint(str(folder), TargetSettings())
    checkpoint = replace(checkpoint, quantization=Quantization("wonderful 3bit", "stored"))
    model = checkpoint.model.model
    if whole:
        norm = model.norm.forward
        model.norm.forward = lambda x: norm(x.detach())
        return checkpoint
    for layer in model.layers:
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.self_attn.v_proj):
            part.forward = partial(no_way_back, part.weight)
    return checkpoint


ADVICE = (
    r"it is quantised as wonderful 3bit: leave them out \(--attacks none,copy,dynamic-hard\), or "
    "audit it unquantised"
)


@pytest.mark.parametrize(
    ("whole", "fault"),
    [
        (True, "no gradient flows back to inputs_embeds"),
        (False, "the gradient that reaches inputs_embeds is wrong"),
    ],
)
def test_without_gradients_what_needs_them_is_refused_by_name(
    whole: bool, fault: str, folder: Path
) -> None:
    checkpoint = without_gradient(folder, whole=whole)
    with pytest.raises(TargetError, match=f"{fault}, and constant and dynamic need it; {ADVICE}"):
        check_soft_prompts(checkpoint)
    check_soft_prompts(checkpoint, gradients=False)


def test_attacks_that_need_no_gradient_go_on(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = without_gradient(folder, whole=True)
    monkeypatch.setattr("memaudit.pipeline.loading.load_checkpoint", lambda *given: cut)
    with pytest.raises(TargetError, match=ADVICE):
        run(folder, data)
    outcome = run(folder, data, attacks=["none", "copy", "dynamic-hard"])
    assert len(outcome.result.attacks) == 3


@needs_bitsandbytes
def test_a_kernel_that_cuts_the_gradient_is_found_out(folder: Path) -> None:
    """Imitate bitsandbytes with 4-bit weights on a CPU with bfloat16 instructions."""
    checkpoint = load(folder, "nf4")
    linear = [part for part in checkpoint.model.modules() if type(part).__name__ == "Linear4bit"]
    assert not any(getattr(part, "support_avx512bf16_for_cpu", False) for part in linear)
    from bitsandbytes.nn import modules

    if not getattr(modules, "has_avx512bf16", lambda: False)():
        pytest.skip("this processor has no bfloat16 instructions")
    for part in linear:
        part.support_avx512bf16_for_cpu = True
    with pytest.raises(TargetError, match="inputs_embeds is wrong, and constant and dynamic"):
        check_soft_prompts(checkpoint)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_that_is_stored_quantised_is_scanned(
    method: str, folder: Path, data: Path, tmp_path: Path
) -> None:
    checkpoint = load(folder, method)
    stored = save_model(checkpoint.model, checkpoint.tokenizer, tmp_path / "stored")
    outcome = run(stored, data)
    choice = outcome.result.target.choices["quantization"]
    assert choice.reason == "stored quantised"
    assert choice.value.startswith(PACKAGE_OF[method])
    once = figures(run(folder, data, target={"quantize": method}))
    for name, values in figures(outcome).items():
        if "none" in name:
            np.testing.assert_array_equal(values, once[name], err_msg=name)
    with pytest.raises(UsageError, match=f"--quantize {method}: .* is quantised already; leave it"):
        load(stored, method)


def stored_as(folder: Path, path: Path, quantised: object) -> Path:
    """The checkpoint with another word about how its weights are stored."""
    copied = save_model(build(), build_tokenizer(), path)
    config = json.loads((copied / "config.json").read_text("utf-8"))
    config["quantization_config"] = quantised
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return copied


def test_what_transformers_can_unpack_is_unpacked(folder: Path, data: Path, tmp_path: Path) -> None:
    """8-bit floating-point weights, each with a scale for its blocks."""
    from safetensors.torch import load_file, save_file

    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    stored = stored_as(folder, tmp_path / "fp8", fp8)
    weights = {}
    rounded = build()
    for name, weight in load_file(stored / "model.safetensors").items():
        weights[name] = weight
        if name.endswith("proj.weight"):
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
            rounded.get_parameter(name).data = weights[name].float() * scale
    save_file(weights, stored / "model.safetensors", metadata={"format": "pt"})
    outcome = run(stored, data)
    choice = outcome.result.target.choices["quantization"]
    assert choice.value == "fp8, unpacked"
    same = run(save_model(rounded, build_tokenizer(), tmp_path / "plain"), data)
    for name, values in figures(same).items():
        np.testing.assert_array_equal(values, figures(outcome)[name], err_msg=name)


@pytest.mark.parametrize(
    ("quantised", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "as gptq, which needs gptqmodel; pip install gptqmo"),
        ({"quant_method": "awq", "bits": 4}, "as awq, which needs gptqmodel; pip install gptqmode"),
        ({"quant_method": "aqlm"}, "cannot be loaded as aqlm here .*; audit it unquantised"),
        (
            {"quant_method": "wonder"},
            "as wonder, which transformers 5.* does not know; audit it un",
        ),
        ({"quant_method": "mxfp4"}, "holds scales of weights that mxfp4, unpacked does not use"),
        ({"quant_method": ["x"]}, "which transformers"),
        ({}, "quantised as unknown, which transformers"),
        ("x", "cannot be loaded"),
        (7, "cannot be loaded"),
    ],
)
def test_what_cannot_be_read_here_is_refused_by_name(
    quantised: object, message: str, folder: Path, tmp_path: Path
) -> None:
    stored = stored_as(folder, tmp_path / "stored", quantised)
    if "scales" in message:
        from safetensors.torch import load_file, save_file

        weights = load_file(stored / "model.safetensors")
        weights["model.layers.0.mlp.up_proj.weight_scale_inv"] = torch.ones(1, 1)
        save_file(weights, stored / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TargetError, match=message):
        load_checkpoint(str(stored), TargetSettings())


@pytest.mark.parametrize("method", PACKAGE_OF)
def test_without_the_package_the_extra_is_named(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.target.quantization._is_there", lambda package: False)
    with pytest.raises(
        UsageError, match=rf"needs {PACKAGE_OF[method]}; pip install '.*quantized\]"
    ):
        load(folder, method)


@needs_torchao
def test_a_target_without_weights_that_can_be_quantised_is_refused(tmp_path: Path) -> None:
    """torchao looks for linear layers, and GPT-2 has convolutions of width 1 in their place."""
    stored = save_model(build("gpt2"), build_tokenizer(), tmp_path / "gpt2")
    with pytest.raises(TargetError, match="torchao finds no weight of GPT2LMHeadModel"):
        load(stored, "int8")


@needs_bitsandbytes
def test_bitsandbytes_quantises_those_too(tmp_path: Path, data: Path) -> None:
    stored = save_model(build("gpt2"), build_tokenizer(), tmp_path / "gpt2")
    packed = sum(map(is_packed, load(stored, "nf4").model.parameters()))
    assert packed == 8
    attacks = [
        result.attack for result in run(stored, data, target={"quantize": "nf4"}).result.attacks
    ]
    assert len(attacks) == 5


@needs_bitsandbytes
def test_an_architecture_that_quantising_breaks_says_so(tmp_path: Path) -> None:
    stored = save_model(build_model("mamba"), build_tokenizer(), tmp_path / "mamba")
    with pytest.raises(TargetError, match="it is quantised as nf4: audit it unquantised"):
        check_soft_prompts(load(stored, "nf4"))


@needs_bitsandbytes
def test_an_adapter_over_a_quantised_base_is_scanned(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    import peft

    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        peft.get_peft_model(build(), config).save_pretrained(tmp_path / "adapter")
    target = {"quantize": "nf4", "base": str(folder)}
    outcome = run(tmp_path / "adapter", data, target=target)
    choices = outcome.result.target.choices
    assert choices["quantization"].value == "nf4"
    assert choices["format"].value == "safetensors, adapter"
    assert {fit.attack for fit in outcome.result.fits} == {"constant", "dynamic"}
