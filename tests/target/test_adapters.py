"""Adapters as PEFT saves them: every kind is the very model that was saved, and takes a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapters import REFUSED, kinds, try_adapter
from conftest import VOCABULARY, build_model, build_tokenizer, save_model
from safetensors.torch import load_file, save_file

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_checkpoint, load_tokenizer
from memaudit.target.failures import quiet_transformers
from memaudit.target.softprompt_check import check_soft_prompts

pytestmark = pytest.mark.slow

CPU = TargetSettings(device="cpu")
MLP = ["gate_proj", "up_proj", "down_proj"]
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
KINDS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, target_modules="all-linear", **TASK),
    "rslora": lambda: peft.LoraConfig(r=2, target_modules=MLP, use_rslora=True, **TASK),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, **TASK),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **TASK
    ),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"], **TASK),
    "lokr": lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"], **TASK),
    "adalora": lambda: peft.AdaLoraConfig(total_step=9, target_modules=["q_proj"], **TASK),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], **TASK),
    "vera": lambda: peft.VeraConfig(r=2, target_modules=["q_proj"], **TASK),
    "head saved": lambda: peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], **TASK
    ),
    "embedding saved": lambda: peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], **TASK
    ),
    "embedding adapted": lambda: peft.LoraConfig(
        r=2, target_modules=["q_proj", "embed_tokens"], **TASK
    ),
    "tokens trained": lambda: peft.LoraConfig(
        r=2, target_modules=["q_proj"], trainable_token_indices=[5, 7], **TASK
    ),
    "norms only": lambda: peft.LNTuningConfig(target_modules=["norm"], **TASK),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "base")


def tuned(base: Path, config: Any, *, rows: int = VOCABULARY) -> Any:
    """A PEFT model over ``base`` whose adapter's every number was moved."""
    model = build_model("llama")
    model.name_or_path = str(base)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        if rows != VOCABULARY:
            model.resize_token_embeddings(rows)
        made = peft.get_peft_model(model, config)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def save(model: Any, folder: Path) -> Path:
    with quiet_transformers():
        model.save_pretrained(folder)
    return folder


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "base"
    return save_model(build_model("llama"), build_tokenizer(), folder)


@pytest.mark.parametrize("label", kinds())
def test_every_kind_that_peft_has_is_audited_as_it_was_saved_or_refused(
    label: str, llama: Path, tmp_path: Path
) -> None:
    outcome = try_adapter("llama", llama, label, tmp_path)
    if label in REFUSED:
        assert outcome.word == "refused"
        assert REFUSED[label] in outcome.detail
    else:
        assert (outcome.word, outcome.detail) == ("audited", "")
        assert outcome.difference <= 1e-5


@pytest.mark.parametrize("label", ["LORA", "LORA, activated", "LORA, rows trained", "IA3"])
@pytest.mark.parametrize("architecture", ["gemma3", "bloom", "gpt2", "mamba"])
def test_kinds_over_other_architectures(label: str, architecture: str, tmp_path: Path) -> None:
    base = save_model(build_model(architecture), build_tokenizer(), tmp_path / "base")
    outcome = try_adapter(architecture, base, label, tmp_path / "adapter")
    assert outcome.word == ("refused" if label in REFUSED else "audited"), outcome


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_the_model_that_was_saved(kind: str, base: Path, tmp_path: Path) -> None:
    model = tuned(base, KINDS[kind]())
    checkpoint = load_checkpoint(str(save(model, tmp_path / "adapter")), CPU)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(logits(checkpoint.model, ids), logits(model, ids))
    plain = load_checkpoint(str(base), CPU)
    assert not torch.allclose(logits(checkpoint.model, ids), logits(plain.model, ids), atol=1e-3)
    check_soft_prompts(checkpoint)
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.vocabulary == VOCABULARY


def test_an_adapter_that_added_tokens_brings_its_own_embedding(base: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|bot|>"]})
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
    model = tuned(base, KINDS["embedding saved"](), rows=VOCABULARY + 2)
    folder = save(model, tmp_path / "adapter")
    tokenizer.save_pretrained(folder)
    checkpoint = load_checkpoint(str(folder), CPU)
    ids = torch.tensor([[VOCABULARY, 9, 10, VOCABULARY + 1, 11]])
    torch.testing.assert_close(logits(checkpoint.model, ids), logits(model, ids))
    assert checkpoint.vocabulary == VOCABULARY + 2
    check_soft_prompts(checkpoint)


def test_an_adapter_brings_its_own_tokenizer_and_chat_template(base: Path, tmp_path: Path) -> None:
    folder = save(tuned(base, KINDS["lora"]()), tmp_path / "adapter")
    tokenizer = build_tokenizer(adds_bos=True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(str(folder), CPU)
    assert loaded.chat_template == tokenizer.chat_template
    checkpoint = load_checkpoint(str(folder), CPU)
    assert checkpoint.bos_id == 0
    assert "chat_template.jinja" in checkpoint.fingerprint


def test_a_template_alone_is_laid_over_the_tokenizer_of_the_base(
    base: Path, tmp_path: Path
) -> None:
    folder = save(tuned(base, KINDS["lora"]()), tmp_path / "adapter")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert load_tokenizer(str(folder), CPU).chat_template == "{{ messages[0].content }}"


def test_an_adapter_without_the_rows_it_added_is_refused(base: Path, tmp_path: Path) -> None:
    model = tuned(base, KINDS["embedding saved"](), rows=VOCABULARY + 2)
    path = save(model, tmp_path / "adapter") / "adapter_model.safetensors"
    kept = {name: rows for name, rows in load_file(path).items() if "lm_head" not in name}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(path.parent), CPU)
    assert str(caught.value).endswith(
        "the adapter was saved with a vocabulary of 306, its base has 304, and it holds no lm_head "
        "for it; save it again with its embeddings"
    )


def adapter_folder(base: Path, config: Any, *, pickled: bool = False) -> Path:
    """An adapter over ``base`` as PEFT saves it; as it used to, where pickled."""
    folder = save(tuned(base, config), base.parent / "adapter")
    if pickled:
        path = folder / "adapter_model.safetensors"
        torch.save(load_file(path), folder / "adapter_model.bin")
        path.unlink()
    return folder


def edit_config(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(folder), TargetSettings(device="cpu", allow_pickle=True))
    return str(caught.value).removeprefix(f"{folder}: ")


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    ("edited", "weight"),
    [
        ({"target_modules": ["q_proj"]}, "layers.0.mlp.down_proj.lora_A.weight and 11 more"),
        ({"layers_to_transform": [1]}, "layers.0.mlp.down_proj.lora_A.weight and 7 more"),
        ({"use_dora": False}, "layers.0.mlp.down_proj.lora_magnitude_vector.weight and 7 more"),
    ],
)
def test_weights_that_no_module_takes_are_refused(
    edited: dict[str, Any], weight: str, pickled: bool, base: Path
) -> None:
    config = peft.LoraConfig(r=2, target_modules=[*MLP, "q_proj"], use_dora=True, **TASK)
    folder = adapter_folder(base, config, pickled=pickled)
    edit_config(folder, **edited)
    if "use_dora" not in edited:
        weight = weight.replace("11", "17").replace(" 7", " 11")
    assert refusal(folder) == (
        "the adapter's file holds weights that its config and its base have no place for "
        f"(base_model.model.model.{weight}), so part of it would have no effect; use the config "
        "and the base that it was saved with"
    )


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_the_adapters_file_lacks_are_refused(pickled: bool, base: Path) -> None:
    folder = adapter_folder(base, KINDS["rslora"](), pickled=pickled)
    edit_config(folder, target_modules=[*MLP, "q_proj"])
    assert refusal(folder).startswith(
        "the adapter's file lacks weights its config asks for "
        "(base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight and 3 more)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_of_every_kind_counts(kind: str, base: Path) -> None:
    folder = adapter_folder(base, KINDS[kind]())
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    last = max(name for name in weights if name.startswith("base_model.model."))
    save_file({name: value for name, value in weights.items() if name != last}, path)
    assert last.removesuffix(".weight") in refusal(folder)
    strange = last.replace("base_model.model.", "base_model.model.strange.")
    save_file(weights | {strange: weights[last].clone()}, path)
    assert f"have no place for ({strange}" in refusal(folder)


def test_a_value_head_beside_an_adapter_is_named_in_the_report(base: Path) -> None:
    folder = adapter_folder(base, KINDS["lora"]())
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {"v_head.summary.weight": torch.ones(1, 32)}, path)
    choice = load_checkpoint(str(folder), CPU).choices["unused_weights"]
    assert (choice.value, choice.reason) == ("v_head.summary.weight", "a head for another task")


def test_an_adapter_over_a_base_with_fewer_layers_is_refused(base: Path, tmp_path: Path) -> None:
    folder = adapter_folder(base, KINDS["lora"]())
    short = save_model(build_model("llama"), build_tokenizer(), tmp_path / "short")
    config = json.loads((short / "config.json").read_text("utf-8"))
    (short / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), "utf-8")
    path = short / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "layers.1." not in name}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(TargetError, match=r"have no place for \(base_model.model.model.layers.1."):
        load_checkpoint(str(folder), TargetSettings(device="cpu", base=str(short)))
