"""A file that holds more than its config has a place for is refused, or said where harmless."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from architectures import MATRIX, make_model
from conftest import build_model, build_tokenizer, save_model
from known_answers import audit, greedy_records, random_llama, text_of, word_tokenizer, write_jsonl
from safetensors.torch import load_file, save_file
from test_gguf import write_gguf

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.failures import quiet_transformers

CPU = TargetSettings(device="cpu")
IDS = torch.arange(3, 40)[None]
Weights = dict[str, torch.Tensor]


def save_random(folder: Path, **settings: Any) -> tuple[Any, Any]:
    """A random Llama in ``folder``, and its tokenizer."""
    tokenizer = word_tokenizer()
    model = random_llama(len(tokenizer), **settings)
    save_model(model, tokenizer, folder)
    return model, tokenizer


def edit_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")


def edit_weights(folder: Path, edit: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(edit(load_file(path)), path, {"format": "pt"})


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=ids).logits
    return result


def save_adapter(base: Path, model: Any, **settings: Any) -> tuple[Any, Path]:
    """A LoRA adapter over the model that lies in ``base``, and its folder."""
    model.name_or_path = str(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    folder = base.parent / "adapter"
    with quiet_transformers():
        adapted = peft.get_peft_model(model, config).eval()
        adapted.save_pretrained(folder)
    return adapted, folder


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(folder), TargetSettings(device="cpu", **settings))
    return str(caught.value).removeprefix(f"{folder}: ")


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_half_a_model_is_refused(quantize: str | None, tmp_path: Path) -> None:
    save_random(tmp_path, num_hidden_layers=4)
    edit_config(tmp_path, num_hidden_layers=2)
    assert refusal(tmp_path, quantize=quantize) == (
        "holds layers up to model.layers.3, and config.json gives 2, so a part of the model would "
        "not be audited; the config belongs to another checkpoint"
    )


def test_names_behind_a_wrapper_are_held_to_the_same(tmp_path: Path) -> None:
    """DistributedDataParallel puts ``module.`` before every name, and loading takes it off."""

    def wrap(weights: Weights) -> Weights:
        extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
        return {f"module.{name}": value for name, value in (weights | extra).items()}

    save_random(tmp_path, num_hidden_layers=4)
    edit_weights(tmp_path, wrap)
    choices = load_checkpoint(str(tmp_path), CPU).choices
    assert choices["unused_weights"].value == "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_config(tmp_path, num_hidden_layers=2)
    assert refusal(tmp_path).startswith("holds layers up to model.layers.3")


def test_half_a_base_under_an_adapter_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model, _ = save_random(base, num_hidden_layers=4)
    edit_config(base, num_hidden_layers=2)
    _, adapter = save_adapter(base, model, layers_to_transform=[0])
    with pytest.raises(TargetError, match=r"base: holds layers up to model.layers.3"):
        load_checkpoint(str(adapter), CPU)


def test_a_scan_of_half_a_model_ends_without_a_verdict(tmp_path: Path) -> None:
    model, tokenizer = save_random(tmp_path / "model", num_hidden_layers=4)
    records = greedy_records(model, tokenizer, 24)
    rows = [{"text": text_of(tokenizer, record)} for record in records]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    assert audit(tmp_path / "model", data, tmp_path / "whole").exact == (24, 24)
    edit_config(tmp_path / "model", num_hidden_layers=2)
    half = audit(tmp_path / "model", data, tmp_path / "half", "--max-exact", 0.1)
    assert (half.exit_code, half.report) == (3, None)
    assert "holds layers up to model.layers.3" in half.stderr


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.mlp.experts.0.up_proj.weight",
        "model.embed_positions.weight",
        "model.layers.0.self_attn.sinks",
        "lm_head.bias",
        "lm_head.base_layer.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
    ],
)
def test_a_weight_without_a_place_is_refused_by_name(name: str, tmp_path: Path) -> None:
    save_random(tmp_path)
    edit_weights(tmp_path, lambda weights: weights | {name: torch.ones(32)})
    assert refusal(tmp_path) == (
        f"holds weights that LlamaForCausalLM has no place for ({name}); its config.json belongs "
        "to another checkpoint"
    )


HARMLESS: dict[str, tuple[list[str], str]] = {
    "rotary": (["model.layers.0.self_attn.rotary_emb.inv_freq"], "the model computes it"),
    "mask": (["model.layers.0.self_attn.bias"], "the model computes it"),
    "positions": (["model.embed_tokens.position_ids"], "the model computes it"),
    "value head": (["v_head.summary.weight", "v_head.summary.bias"], "a head for another task"),
    "classifier": (["score.weight"], "a head for another task"),
    "tokens ahead": (["mtp.fc.weight", "mtp.layers.0.up_proj.weight"], "predicts further tokens"),
    "layer ahead": (
        ["model.layers.2.eh_proj.weight", "model.layers.2.mlp.up_proj.weight"],
        "predicts further tokens",
    ),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_weights_are_named_in_the_report(kind: str, tmp_path: Path) -> None:
    names, reason = HARMLESS[kind]
    model, _ = save_random(tmp_path, num_nextn_predict_layers=1)
    edit_weights(tmp_path, lambda weights: weights | {name: torch.ones(32, 64) for name in names})
    checkpoint = load_checkpoint(str(tmp_path), CPU)
    torch.testing.assert_close(logits(checkpoint.model), logits(model))
    choice = checkpoint.choices["unused_weights"]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    assert choice.value == f"{min(names)}{more}"
    assert reason in choice.reason


def test_a_bias_of_zeros_adds_nothing(tmp_path: Path) -> None:
    save_random(tmp_path)
    name = "model.layers.0.self_attn.q_proj.bias"
    edit_weights(tmp_path, lambda weights: weights | {name: torch.zeros(32)})
    assert load_checkpoint(str(tmp_path), CPU).choices["unused_weights"].value == name


def test_a_whole_file_leaves_nothing_to_say(tmp_path: Path) -> None:
    save_random(tmp_path)
    assert "unused_weights" not in load_checkpoint(str(tmp_path), CPU).choices


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_causal_masks_of_old_checkpoints_are_harmless(architecture: str, tmp_path: Path) -> None:
    save_model(build_model(architecture), build_tokenizer(), tmp_path)
    stem = {"gpt2": "transformer.h.0.attn", "gpt_neox": "gpt_neox.layers.0.attention"}
    names = [f"{stem[architecture]}.{leaf}" for leaf in ("bias", "masked_bias")]
    mask = torch.ones(1, 1, 4, 4).tril()
    edit_weights(tmp_path, lambda weights: weights | {name: mask.clone() for name in names})
    choice = load_checkpoint(str(tmp_path), CPU).choices["unused_weights"]
    assert (choice.value, choice.reason) == (f"{names[0]} and 1 more", "the model computes it")


def test_a_layer_ahead_that_the_config_does_not_name_is_refused(tmp_path: Path) -> None:
    names, _ = HARMLESS["layer ahead"]
    save_random(tmp_path)
    edit_weights(tmp_path, lambda weights: weights | {name: torch.ones(32, 64) for name in names})
    assert "holds layers up to model.layers.2" in refusal(tmp_path)


def test_a_layer_that_is_like_the_others_is_not_one_that_looks_ahead(tmp_path: Path) -> None:
    save_random(tmp_path, num_hidden_layers=3)
    edit_config(tmp_path, num_hidden_layers=2, num_nextn_predict_layers=1)
    assert "holds layers up to model.layers.2" in refusal(tmp_path)


@pytest.mark.parametrize(
    "architecture",
    ["GPT-2", "Mixtral", "DeepSeek-V3", "Qwen3.5, with images"],
)
def test_a_layer_too_many_is_refused_whatever_it_consists_of(
    architecture: str, tmp_path: Path
) -> None:
    (row,) = (row for row in MATRIX if row.name == architecture)
    model = make_model(row)
    save_model(model, build_tokenizer(), tmp_path)
    config = model.config
    text = config.get_text_config(decoder=True)
    layers = text.num_hidden_layers
    text.num_hidden_layers = layers - 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:-1]
    config.save_pretrained(tmp_path)
    assert f".{layers - 1}, and config.json gives {layers - 1}, so a part" in refusal(tmp_path)


def test_an_image_tower_beside_the_language_model_is_harmless(tmp_path: Path) -> None:
    (architecture,) = (one for one in MATRIX if one.name == "Qwen3.5, with images")
    save_model(make_model(architecture), build_tokenizer(), tmp_path)
    choice = load_checkpoint(str(tmp_path), CPU).choices["unused_weights"]
    assert "visual" in choice.value


def untied(folder: Path) -> Any:
    """A checkpoint whose config ties the head, and whose file holds another one."""
    model, _ = save_random(folder, tie_word_embeddings=False)
    edit_config(folder, tie_word_embeddings=True)
    return model


def test_a_head_of_its_own_counts_whatever_the_config_ties(tmp_path: Path) -> None:
    model = untied(tmp_path)
    checkpoint = load_checkpoint(str(tmp_path), CPU)
    torch.testing.assert_close(logits(checkpoint.model), logits(model))


@pytest.mark.parametrize("modules_to_save", [None, ["embed_tokens", "lm_head"]])
def test_a_head_of_its_own_stays_when_an_adapter_adds_rows(
    modules_to_save: list[str] | None, tmp_path: Path
) -> None:
    model = untied(tmp_path / "base")
    model.resize_token_embeddings(62)
    adapted, adapter = save_adapter(tmp_path / "base", model, modules_to_save=modules_to_save)
    checkpoint = load_checkpoint(str(adapter), CPU)
    assert checkpoint.vocabulary == 62
    torch.testing.assert_close(logits(checkpoint.model), logits(adapted))


def test_a_gguf_file_with_more_layers_than_its_header_says_is_refused(tmp_path: Path) -> None:
    model = build_model("qwen2")
    model.config.num_hidden_layers = 1
    path = write_gguf(tmp_path / "model.gguf", model, build_tokenizer(), None)
    assert refusal(path) == (
        "holds layers up to blk.1, and its header gives 1, so a part of the model would not be "
        "audited; convert the checkpoint to GGUF again"
    )


def test_a_pickled_checkpoint_is_held_to_the_same(tmp_path: Path) -> None:
    save_random(tmp_path, num_hidden_layers=3)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    edit_config(tmp_path, num_hidden_layers=2)
    assert "holds layers up to model.layers.2" in refusal(tmp_path, allow_pickle=True)


def test_layers_that_the_file_lacks_are_refused_under_an_adapter(tmp_path: Path) -> None:
    model, _ = save_random(tmp_path / "base")
    _, adapter = save_adapter(tmp_path / "base", model)

    def cut(weights: Weights) -> Weights:
        return {name: value for name, value in weights.items() if "layers.1" not in name}

    edit_weights(tmp_path / "base", cut)
    with pytest.raises(TargetError, match=r"base: the checkpoint lacks weights.*layers.1"):
        load_checkpoint(str(adapter), CPU)
