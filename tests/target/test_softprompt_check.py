"""The check passes every ordinary causal model and refuses what would give a wrong audit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from architectures import MATRIX, make_model
from conftest import COMMON, GEMMA_LIKE, build_model, build_tokenizer, save_model
from known_answers import audit, greedy_records, random_llama, text_of, word_tokenizer, write_jsonl

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.adapters import adapter_kind
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.failures import quiet_transformers
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


def draws_at_random(model: Any, inputs: dict[str, Any]) -> Any:
    output = model(**inputs)
    output.logits = output.logits + torch.rand(1)
    return output


def looks_up_a_little(model: Any, inputs: dict[str, Any]) -> Any:
    """As a model would that looks ids up once more, to little effect."""
    output = model(**inputs)
    if "input_ids" in inputs:
        output.logits = output.logits + 0.1 * (inputs["input_ids"] % 2)[..., None]
    return output


def test_a_model_that_draws_at_random_is_refused() -> None:
    with pytest.raises(TargetError, match="samples at random"):
        check_soft_prompts(checkpoint_of(Wrapped(draws_at_random)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_difference_is_no_rounding(dtype: torch.dtype) -> None:
    with pytest.raises(TargetError, match="different logits"):
        check_soft_prompts(checkpoint_of(Wrapped(looks_up_a_little), dtype))


def test_prompts_need_not_work_where_no_attack_has_one() -> None:
    check_soft_prompts(
        checkpoint_of(Wrapped(sees_last_tokens_only)), gradients=False, prompts=False
    )


def looks_for_a_token(token: int) -> Callable[[Any, dict[str, Any]], Any]:
    """Spoil a model that does something else where a token is in its input."""

    def spoil(model: Any, inputs: dict[str, Any]) -> Any:
        output = model(**inputs)
        if "input_ids" in inputs and (inputs["input_ids"] == token).any():
            output.logits = output.logits.flip(-1)
        return output

    return spoil


def test_the_special_tokens_of_the_windows_are_tried() -> None:
    model = Wrapped(looks_for_a_token(2))
    model.config = model.inner.config
    checkpoint = checkpoint_of(model)
    check_soft_prompts(checkpoint, window_ids=[5, 9])
    with pytest.raises(TargetError, match="different logits"):
        check_soft_prompts(checkpoint, window_ids=[5, 2, 9])


# Adapters.

LORA: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "down_proj"], "lora_alpha": 8}
INVOCATION = [7, 41, 8]


def adapted(model: Any, config: Any, *, scale: float = 0.5) -> Any:
    """A PEFT model whose adapter's every number was moved."""
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        made = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter += scale * torch.randn_like(parameter)
    return made


def activated(tokens: list[int], task: str | None = "CAUSAL_LM") -> Any:
    with quiet_transformers():  # PEFT warns of an adapter without its task
        return peft.LoraConfig(**LORA, alora_invocation_tokens=tokens, task_type=task)


@pytest.mark.parametrize("tokens", [[41], INVOCATION, list(range(3, 43))])
def test_an_activated_lora_is_refused_by_name(tokens: list[int]) -> None:
    model = adapted(build_model("llama"), activated(tokens))
    with pytest.raises(TargetError) as caught:
        check_soft_prompts(checkpoint_of(model), gradients=False)
    assert str(caught.value) == (
        "tiny: LlamaForCausalLM cannot be audited: its adapter (LORA with alora_invocation_tokens) "
        "acts on input_ids and not in the same way on inputs_embeds, and every pass of an audit "
        "goes through inputs_embeds; merge it into its base if PEFT can, and audit the result"
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_activated_lora_of_small_effect_is_refused_in_half_precision() -> None:
    model = adapted(build_model("llama"), activated(INVOCATION), scale=0.03)
    with pytest.raises(TargetError, match="acts on input_ids"):
        check_soft_prompts(checkpoint_of(model, torch.bfloat16))


def test_an_activated_lora_that_peft_never_activates_is_refused() -> None:
    model = adapted(build_model("llama"), activated(INVOCATION, task=None))
    with pytest.raises(TargetError, match=r"its adapter .* changes nothing"):
        check_soft_prompts(checkpoint_of(model))


@dataclass
class LookingConfig(peft.LoraConfig):
    """A kind of adapter that PEFT does not have: it acts where two tokens of its config stand."""

    start_tokens: list[int] = field(default_factory=lambda: [45, 46])


class LookingModel(peft.PeftModelForCausalLM):
    """The model of such an adapter."""

    def forward(self, input_ids: Any = None, **inputs: Any) -> Any:
        wanted = torch.tensor(self.active_peft_config.start_tokens)
        acts = input_ids is not None and bool(torch.isin(wanted, input_ids).all())
        with nullcontext() if acts else self.disable_adapter():
            return super().forward(input_ids=input_ids, **inputs)


def test_a_kind_that_is_not_known_yet_is_held_to_the_same() -> None:
    model = adapted(build_model("llama"), LookingConfig(**LORA, task_type="CAUSAL_LM"))
    model.__class__ = LookingModel
    with pytest.raises(TargetError, match=r"LORA with start_tokens\) acts on input_ids"):
        check_soft_prompts(checkpoint_of(model))


def test_a_lora_over_a_model_that_peft_gives_ids_only_is_refused() -> None:
    (architecture,) = (one for one in MATRIX if one.name == "MPT")
    config = peft.LoraConfig(r=2, target_modules=["Wqkv"], task_type="CAUSAL_LM")
    model = adapted(make_model(architecture), config)
    with pytest.raises(TargetError, match=r"with its adapter \(LORA\) it refuses inputs_embeds"):
        check_soft_prompts(checkpoint_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_that_changes_nothing_is_refused(dtype: torch.dtype) -> None:
    config = peft.LoraConfig(**LORA, task_type="CAUSAL_LM")
    model = adapted(build_model("llama"), config, scale=0.0)
    with pytest.raises(TargetError) as caught:
        check_soft_prompts(checkpoint_of(model, dtype))
    assert str(caught.value) == (
        "tiny: LlamaForCausalLM cannot be audited: its adapter (LORA) changes nothing: with it and "
        f"without it the logits are the same in {dtype}; it may be untrained or saved wrongly. To "
        "audit its base, give the base as MODEL"
    )


def test_an_adapter_for_a_few_rows_acts() -> None:
    config = peft.TrainableTokensConfig(token_indices=[5, 7], task_type="CAUSAL_LM")
    check_soft_prompts(checkpoint_of(adapted(build_model("gemma3"), config)))


def test_the_kind_names_where_ids_stand() -> None:
    config = peft.LoraConfig(**LORA, trainable_token_indices=[5], task_type="CAUSAL_LM")
    assert adapter_kind(adapted(build_model("llama"), config)) == (
        "LORA with trainable_token_indices"
    )


def activated_on_disk(folder: Path) -> tuple[Path, Path]:
    """An activated LoRA, and records that it completes once its invocation stands before them."""
    tokenizer = word_tokenizer()
    base = random_llama(len(tokenizer))
    save_model(base, tokenizer, folder / "base")
    base.name_or_path = str(folder / "base")
    model = adapted(base, activated(INVOCATION))
    with quiet_transformers():
        model.save_pretrained(folder / "adapter")
    records = greedy_records(model, tokenizer, 24, leading_ids=INVOCATION)
    rows = [{"text": text_of(tokenizer, [*INVOCATION, *record])} for record in records]
    return folder / "adapter", write_jsonl(folder / "data.jsonl", rows)


@pytest.mark.parametrize("attacks", ["none", "none,constant"])
def test_a_scan_of_an_activated_lora_ends_without_a_verdict(attacks: str, tmp_path: Path) -> None:
    adapter, data = activated_on_disk(tmp_path)
    run = audit(
        adapter, data, tmp_path / "run", "--prefix-tokens", 11, "--attacks", attacks,
        "--max-exact", 0.1,
    )  # fmt: skip
    assert (run.exit_code, run.report) == (3, None)
    assert "LORA with alora_invocation_tokens) acts on input_ids" in run.stderr


# Numbers that are not finite.


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 4] = float("nan")
    with pytest.raises(TargetError) as caught:
        check_soft_prompts(checkpoint_of(model))
    assert str(caught.value) == (
        "tiny: LlamaForCausalLM cannot be audited: its weights hold numbers that are not finite "
        "(first: model.layers.1.mlp.down_proj.weight); fetch or save the checkpoint again"
    )


def test_a_weight_of_an_adapter_that_is_not_finite_is_named() -> None:
    config = peft.LoraConfig(**LORA, task_type="CAUSAL_LM")
    model = adapted(build_model("llama"), config)
    name, weight = next((n, w) for n, w in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight[0, 0] = float("inf")
    with pytest.raises(TargetError) as caught:
        check_soft_prompts(checkpoint_of(model))
    assert f"(first: {name}); fetch or save" in str(caught.value)


def test_half_precision_that_overflows_points_to_float32(tmp_path: Path) -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e6
    folder = save_model(model, build_tokenizer(), tmp_path)
    half = load_checkpoint(str(folder), TargetSettings(device="cpu", dtype="float16"))
    with pytest.raises(TargetError, match=r"down_proj.weight\); try --dtype float32"):
        check_soft_prompts(half)
    check_soft_prompts(load_checkpoint(str(folder), TargetSettings(device="cpu")), gradients=False)
