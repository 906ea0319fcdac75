"""Loading changes nothing, keeps the reason of every choice, and refuses what is not whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import peft
import pytest
import torch
import transformers
from conftest import BOS, EOS, VOCABULARY, build_model, build_tokenizer, save_model
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers.utils import logging

from memaudit.config.settings import TargetSettings
from memaudit.errors import MemauditError, TargetError, UsageError
from memaudit.target.checkpoint import (
    Checkpoint,
    choose_bos,
    choose_device,
    choose_dtype,
    load_checkpoint,
    load_tokenizer,
)
from memaudit.target.failures import quiet_transformers
from memaudit.target.prepacking import can_prepack
from memaudit.target.softprompt_check import check_soft_prompts

PLAIN = TargetSettings()
IDS = torch.arange(3, 43).reshape(2, 20)
Spoil = Callable[[Path], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama that adds BOS."""
    return save_model(build_model("llama"), build_tokenizer(adds_bos=True), tmp_path / "model")


def same_logits(one: Any, two: Any) -> bool:
    with torch.no_grad():
        return torch.equal(one(input_ids=IDS).logits, two(input_ids=IDS).logits)


def refused(model: Path, settings: TargetSettings = PLAIN) -> str:
    """The one line that loading is refused with."""
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(model), settings)
    said = str(caught.value)
    assert model.name in said
    assert len(said.splitlines()) == 1
    assert len(said) < 500
    return said


def test_every_architecture_comes_back_frozen_and_unchanged(
    tiny_model: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = save_model(tiny_model, build_tokenizer(), tmp_path / "model")
    capfd.readouterr()
    checkpoint = load_checkpoint(str(folder), PLAIN)
    check_soft_prompts(checkpoint)
    assert capfd.readouterr() == ("", "")
    assert same_logits(checkpoint.model, tiny_model)
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.vocabulary == VOCABULARY
    assert checkpoint.embed(IDS).shape == (2, 20, checkpoint.width)
    assert checkpoint.max_tokens in (256, None)
    assert checkpoint.num_parameters == sum(p.numel() for p in tiny_model.parameters())


@pytest.mark.parametrize(
    ("architecture", "width", "max_tokens"),
    [("opt", 16, 256), ("gpt2", 32, 256), ("bloom", 32, None), ("mamba", 32, None)],
)
def test_shape_is_read_from_the_model(architecture: str, width: int, max_tokens: int) -> None:
    model = build_model(architecture)
    checkpoint = Checkpoint(model, build_tokenizer(), "m", torch.device("cpu"), torch.float32)
    assert (checkpoint.width, checkpoint.max_tokens) == (width, max_tokens)


def test_fingerprint_names_every_file_that_was_read(folder: Path) -> None:
    (folder / "README.md").write_text("not read")
    (folder / "optimizer.pt").write_bytes(b"not read")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert sorted(checkpoint.fingerprint) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name, digest in checkpoint.fingerprint.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


UNREAD = (
    *("consolidated.safetensors", "pytorch_model.bin", "adapter_model.bin", "notes.txt"),
    *("trainer_state.json", "all_results.json", "own.py", "optimizer.pt", "m.gguf"),
)


def test_fingerprint_names_no_weights_that_were_not_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    build_model("llama").save_pretrained(folder, max_shard_size="60KB")
    for name in UNREAD:
        (folder / name).write_bytes(b"{}")
    (folder / "original").mkdir()
    (folder / "original" / "model.safetensors").write_bytes(b"")
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert not {*UNREAD, "original/model.safetensors"} & set(checkpoint.fingerprint)
    assert "model.safetensors.index.json" in checkpoint.fingerprint
    assert checkpoint.choices["format"].reason == (
        "found in the checkpoint; not read: adapter_model.bin, consolidated.safetensors, m.gguf, "
        "original/model.safetensors, pytorch_model.bin"
    )


@pytest.mark.parametrize("kind", ["whole", "sharded", "pickle", "adapter", "own tokenizer"])
def test_the_files_of_the_fingerprint_are_the_model(
    kind: str, folder: Path, adapter: Path, tmp_path: Path
) -> None:
    """Alone they load as the same model, and without any of the weights nothing is loaded."""
    settings = TargetSettings(device="cpu", allow_pickle=True)
    path, base = folder, None
    if kind == "sharded":
        (folder / "model.safetensors").unlink()
        build_model("llama").save_pretrained(folder, max_shard_size="60KB")
    if kind == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save(build_model("llama").state_dict(), folder / "pytorch_model.bin")
    if kind in ("adapter", "own tokenizer"):
        path, base = adapter, folder
        torch.save({}, path / "adapter_model.bin")
    if kind == "own tokenizer":
        build_tokenizer().save_pretrained(adapter)
    whole = load_checkpoint(str(path), settings)
    for name in whole.fingerprint:
        place = path / name if base is None else adapter / name
        if base is not None and name.startswith("base/"):
            place = base / name.removeprefix("base/")
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place, target)
    moved = {"base": str(tmp_path / "copy" / "base")} if base is not None else {}
    settings = settings.model_copy(update=moved)
    copied = load_checkpoint(str(tmp_path / "copy"), settings)
    assert copied.fingerprint == whole.fingerprint
    assert (copied.bos_id, same_logits(copied.model, whole.model)) == (whole.bos_id, True)
    assert copied.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
    weights = [name for name in whole.fingerprint if name.endswith((".safetensors", ".bin"))]
    assert weights
    for name in weights:
        (tmp_path / "copy" / name).rename(tmp_path / "hidden")
        with pytest.raises(TargetError):
            load_checkpoint(str(tmp_path / "copy"), settings)
        (tmp_path / "hidden").rename(tmp_path / "copy" / name)


def test_fingerprint_names_code_only_where_it_may_run(folder: Path) -> None:
    (folder / "own.py").write_text("")
    assert "own.py" not in load_checkpoint(str(folder), PLAIN).fingerprint
    trusting = TargetSettings(trust_remote_code=True)
    assert "own.py" in load_checkpoint(str(folder), trusting).fingerprint


def test_choices_keep_their_reasons(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder), TargetSettings(device="cpu", bos="no"))
    weights = {"weights": "prepacked"} if can_prepack(torch.float32) else {}
    assert {key: choice.value for key, choice in checkpoint.choices.items()} == {
        "device": "cpu",
        "dtype": "float32",
        "bos": "no",
        "format": "safetensors",
        **weights,
    }
    assert checkpoint.choices["bos"].reason == "asked for"
    assert checkpoint.choices["dtype"].reason.startswith("auto:")


def test_given_tokenizer_is_used(folder: Path) -> None:
    tokenizer = load_tokenizer(str(folder), PLAIN)
    assert load_checkpoint(str(folder), PLAIN, tokenizer).tokenizer is tokenizer


def test_half_precision_checkpoint_is_read_in_float32_on_the_cpu(tmp_path: Path) -> None:
    model = build_model("gpt_neox").bfloat16()
    folder = save_model(model, build_tokenizer(), tmp_path / "model")
    auto = load_checkpoint(str(folder), PLAIN)
    assert auto.dtype == auto.model.dtype == torch.float32
    assert same_logits(auto.model, model.float())
    half = load_checkpoint(str(folder), TargetSettings(dtype="bfloat16"))
    assert half.dtype == half.embed(IDS).dtype == torch.bfloat16
    check_soft_prompts(half)


def test_sharded_checkpoint(tmp_path: Path) -> None:
    model = build_model("gpt2")
    save_model(model, build_tokenizer(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    checkpoint = load_checkpoint(str(tmp_path), PLAIN)
    assert same_logits(checkpoint.model, model)
    assert sum(name.endswith(".safetensors") for name in checkpoint.fingerprint) > 1
    next(tmp_path.glob("model-00002-*")).unlink()
    assert "names model-00002-of-0000" in refused(tmp_path)


# BOS


@pytest.mark.parametrize(
    ("made", "asked", "expected"),
    [
        ({"adds_bos": True}, "auto", 0),
        ({"adds_bos": True, "adds_eos": True}, "auto", 0),
        ({"adds_eos": True}, "auto", None),
        ({}, "auto", None),
        ({"bos": False, "pad": False}, "auto", None),
        ({}, "yes", 0),
        ({"adds_bos": True}, "no", None),
    ],
)
def test_bos_follows_the_tokenizer(made: dict[str, bool], asked: str, expected: int | None) -> None:
    bos_id, choice = choose_bos(asked, build_tokenizer(**made))
    assert bos_id == expected
    assert choice.value == ("no" if expected is None else "yes")


@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_policy_survives_the_disk(tmp_path: Path, adds_bos: bool) -> None:
    folder = save_model(build_model("gpt2"), build_tokenizer(adds_bos=adds_bos), tmp_path / "m")
    assert load_checkpoint(str(folder), PLAIN).bos_id == (0 if adds_bos else None)


def test_bos_that_is_not_there_cannot_be_asked_for(bare_tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="no BOS token"):
        choose_bos("yes", bare_tokenizer)


def test_more_than_one_leading_token_needs_a_choice() -> None:
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} {EOS} $A", special_tokens=[(BOS, 0), (EOS, 1)]
    )
    with pytest.raises(TargetError, match="puts 2 tokens before a text"):
        choose_bos("auto", tokenizer)
    assert choose_bos("yes", tokenizer)[0] == 0
    assert choose_bos("no", tokenizer)[0] is None


# Vocabulary


def test_model_may_have_more_rows_than_the_tokenizer(tmp_path: Path) -> None:
    model = build_model("gpt_neox")
    model.resize_token_embeddings(VOCABULARY + 80)
    folder = save_model(model, build_tokenizer(), tmp_path / "model")
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert checkpoint.vocabulary == VOCABULARY + 80
    check_soft_prompts(checkpoint)
    checkpoint.check_ids(np.array([[0, VOCABULARY + 79]]))
    checkpoint.check_ids(np.zeros((0, 4), dtype=np.int32))
    with pytest.raises(TargetError, match=f"gives id {VOCABULARY + 80}"):
        checkpoint.check_ids(np.array([[0, VOCABULARY + 80]]))


def test_tied_weights_are_tied_and_counted_once(tmp_path: Path) -> None:
    model = build_model("gpt2")
    folder = save_model(model, build_tokenizer(), tmp_path / "model")
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert checkpoint.model.lm_head.weight is checkpoint.model.get_input_embeddings().weight
    assert checkpoint.num_parameters == model.num_parameters()


# Device and dtype


def test_device_is_obeyed_or_refused() -> None:
    assert choose_device("cpu")[0] == torch.device("cpu")
    assert choose_device("auto")[1].reason.startswith("auto:")
    for asked in ("cuda:99", "gpu", "meta", "cpu:1", "cuda:x"):
        with pytest.raises(UsageError, match=f"--device {asked}"):
            choose_device(asked)


def test_named_device_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="not on this machine"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1")[0] == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("asked", "device", "stored", "computes", "expected"),
    [
        ("auto", "cpu", torch.bfloat16, True, torch.float32),
        ("auto", "mps", torch.float16, True, torch.float32),
        ("auto", "cuda", torch.bfloat16, True, torch.bfloat16),
        ("auto", "cuda", torch.float16, True, torch.bfloat16),
        ("auto", "cuda", torch.bfloat16, False, torch.float32),
        ("auto", "cuda", torch.float32, True, torch.float32),
        ("auto", "cuda", None, True, torch.float32),
        ("float16", "cpu", torch.float32, True, torch.float16),
    ],
)
def test_dtype_follows_device_and_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    device: str,
    stored: torch.dtype | None,
    computes: bool,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: computes)
    config = transformers.GPT2Config(dtype=stored)
    dtype, choice = choose_dtype(asked, torch.device(device), config)
    assert dtype == expected
    assert choice.value in str(expected)


# What is refused


def write(name: str, content: bytes | str) -> Spoil:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def rewrite(path: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> None:
    """Change names or values in a file of weights."""
    weights = load_file(path)
    save_file(dict(change(name, value) for name, value in weights.items()), path, {"format": "pt"})


def empty_weights(folder: Path) -> None:
    """What DeepSpeed ZeRO-3 leaves: small weights are whole, the rest placeholders."""
    rewrite(
        folder / "model.safetensors",
        lambda name, value: (name, value if value.dim() == 1 else torch.zeros(0)),
    )


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def set_config(**values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def drop_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def own_code(folder: Path) -> None:
    set_config(model_type="own", auto_map={"AutoConfig": "own.Config"})(folder)
    (folder / "own.py").write_text("raise SystemExit('this ran')")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "is cut short: "),
        (write("model.safetensors", b""), "is empty (0 bytes)"),
        (write("model.safetensors", b"1234"), "damaged or cut short"),
        (write("model.safetensors", LFS_POINTER), "git lfs pull"),
        (write("tokenizer.json", LFS_POINTER), "tokenizer.json is a pointer that Git LFS left"),
        (write("model.safetensors", b"<html>" * 99), "damaged or cut short"),
        (empty_weights, "zero_to_fp32.py"),
        (write("model.safetensors", b"\x80" * 64), "damaged or cut short"),
        (write("tokenizer.json", "{"), "tokenizer.json is not JSON"),
        (drop_tokenizer, "no usable tokenizer"),
        (write("config.json", "{"), "cannot be loaded"),
        (write("config.json", "[]"), "cannot be loaded"),
        (write("config.json", "{}"), "cannot be loaded"),
        (set_config(model_type="nonesuch"), "does not know this kind of model"),
        (set_config(num_hidden_layers=3), "lacks weights of LlamaForCausalLM"),
        (set_config(intermediate_size=128), "other shapes than config.json"),
        (set_config(hidden_size="wide"), "cannot be loaded"),
        (own_code, "--trust-remote-code"),
    ],
)
def test_damaged_checkpoints_are_refused(folder: Path, spoil: Spoil, said: str) -> None:
    spoil(folder)
    assert said in refused(folder)


def test_pickle_is_opened_only_when_allowed(folder: Path) -> None:
    state = build_model("llama").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert "--allow-pickle" in refused(folder)
    checkpoint = load_checkpoint(str(folder), TargetSettings(allow_pickle=True))
    assert same_logits(checkpoint.model, build_model("llama"))
    assert checkpoint.choices["format"].value == "pickle"
    assert checkpoint.choices["pickle"].value == "allowed"
    assert "pytorch_model.bin" in checkpoint.fingerprint
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    assert "damaged" in refused(folder, TargetSettings(allow_pickle=True))


def test_own_code_runs_only_when_trusted(folder: Path) -> None:
    own_code(folder)
    with pytest.raises(SystemExit, match="this ran"):
        load_checkpoint(str(folder), TargetSettings(trust_remote_code=True))


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        ("T5Config", "T5ForConditionalGeneration", "an encoder-decoder"),
        ("ViTConfig", "ViTModel", "cannot use as a causal language model"),
    ],
)
def test_other_kinds_of_models_are_refused(
    tmp_path: Path, config: str, model: str, said: str
) -> None:
    small = {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "hidden_size": 32}
    made = getattr(transformers, config)(**small, num_hidden_layers=1, num_attention_heads=2)
    save_model(getattr(transformers, model)(made), build_tokenizer(), tmp_path / "other")
    assert said in refused(tmp_path / "other")


# Adapters


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    """A LoRA over ``folder`` that changes what the model says."""
    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj", "embed_tokens"],
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    base = build_model("llama")
    base.name_or_path = str(folder)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(1)
        peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_adapter_is_loaded_over_its_base_unmerged(adapter: Path, folder: Path) -> None:
    checkpoint = load_checkpoint(str(adapter), PLAIN)
    check_soft_prompts(checkpoint)
    assert isinstance(checkpoint.model, peft.PeftModel)
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    base = load_checkpoint(str(folder), PLAIN)
    assert not same_logits(checkpoint.model, base.model)
    with checkpoint.model.disable_adapter():
        assert same_logits(checkpoint.model, base.model)
    assert (checkpoint.width, checkpoint.vocabulary) == (32, VOCABULARY)
    assert checkpoint.bos_id == 0
    assert checkpoint.num_parameters > base.num_parameters
    assert checkpoint.choices["format"].value == "safetensors, adapter"
    assert set(checkpoint.fingerprint) >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base/config.json",
        "base/model.safetensors",
        "base/tokenizer.json",
    }


def test_adapters_own_tokenizer_comes_first(adapter: Path) -> None:
    build_tokenizer(adds_bos=False).save_pretrained(adapter)
    assert load_checkpoint(str(adapter), PLAIN).bos_id is None


def test_base_of_an_adapter_can_be_given(adapter: Path, folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    assert "--base" in str(refused_with_base(adapter))
    checkpoint = load_checkpoint(str(adapter), TargetSettings(base=str(moved)))
    assert isinstance(checkpoint.model, peft.PeftModel)


def refused_with_base(adapter: Path) -> MemauditError:
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(adapter), PLAIN)
    return caught.value


def test_adapter_that_does_not_fit_or_is_incomplete(adapter: Path, tmp_path: Path) -> None:
    other = save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "other")
    assert "cannot be loaded" in refused(adapter, TargetSettings(base=str(other)))
    path = adapter / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"target_modules": ["q_proj", "k_proj"]})
    )
    assert "lacks weights its config asks for" in refused(adapter)


def test_adapter_of_empty_weights_is_refused(adapter: Path) -> None:
    rewrite(adapter / "adapter_model.safetensors", lambda name, value: (name, torch.zeros(0)))
    assert "zero_to_fp32.py" in refused(adapter)


def test_adapter_that_is_a_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    with quiet_transformers():  # PEFT asks transformers for an attribute it will lose
        base = transformers.AutoModelForCausalLM.from_pretrained(folder)
        peft.get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    assert "is a soft prompt itself" in refused(tmp_path / "prompt")


# The hub, from its local cache


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model that lies in the hub's cache; returns its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return commit


@pytest.mark.parametrize("settings", [PLAIN, TargetSettings(offline=True)])
def test_model_of_the_hub_is_loaded_from_the_cache(hub: str, settings: TargetSettings) -> None:
    checkpoint = load_checkpoint("org/name", settings)
    assert same_logits(checkpoint.model, build_model("llama"))
    assert checkpoint.revision == hub
    assert "model.safetensors" in checkpoint.fingerprint


def test_revision_is_obeyed(hub: str) -> None:
    assert load_checkpoint("org/name", TargetSettings(revision=hub)).revision == hub
    with pytest.raises(TargetError, match="not in the hub's local cache"):
        load_checkpoint("org/name", TargetSettings(revision="other"))


# Quiet


def test_quiet_puts_every_switch_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with pytest.raises(ZeroDivisionError), quiet_transformers():
        1 / int(logging.is_progress_bar_enabled())
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
