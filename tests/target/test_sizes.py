"""Sizes that only a config names are refused before memory is used for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import peft
import psutil
import pytest
import torch
from conftest import build_model, build_tokenizer, save_model

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target import loading
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.failures import quiet_transformers

PLAIN = TargetSettings(device="cpu")


def model_with(folder: Path, architecture: str, **more: Any) -> Path:
    path = save_model(build_model(architecture), build_tokenizer(), folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights are made."""

    def too_late(*_: Any, **__: Any) -> None:
        pytest.fail("weights were made")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", too_late)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", too_late)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("architecture", "more", "said"),
    [
        ("llama", {"vocab_size": 4_000_000}, r"embed_tokens.weight is 304 x \d+ in the file and "),
        ("llama", {"intermediate_size": 10**7}, r"mlp.gate_proj.weight is .* by config.json"),
        ("gpt2", {"n_positions": 10**8}, r"wpe.weight is .* and 100000000 x \d+ by config.json"),
        ("llama", {"num_hidden_layers": 3000}, r"asks for .* the files hold .* largest missing"),
    ],
)
def test_weights_larger_than_the_file_are_refused(
    tmp_path: Path, architecture: str, more: dict[str, Any], said: str
) -> None:
    folder = model_with(tmp_path / "m", architecture, **more)
    before = psutil.Process().memory_info().rss
    with pytest.raises(TargetError, match=said):
        load_checkpoint(str(folder), PLAIN, build_tokenizer())
    assert psutil.Process().memory_info().rss - before < 2**29


@pytest.mark.usefixtures("untouched")
def test_tables_that_no_file_holds_are_bounded(tmp_path: Path) -> None:
    folder = model_with(tmp_path / "m", "gpt_neo", max_position_embeddings=200_000)
    path = folder / "model.safetensors"
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    name = next(name for name in weights if name.endswith("wpe.weight"))
    save_file(
        weights | {name: torch.zeros(200_000, weights[name].shape[1])}, path, {"format": "pt"}
    )
    with pytest.raises(TargetError, match=r"asks for .* GiB of tables .* memaudit allows 1 GiB"):
        load_checkpoint(str(folder), PLAIN, build_tokenizer())


def adapter(folder: Path, base: Path, config: Any, **more: Any) -> Path:
    model = build_model("llama")
    model.name_or_path = str(base)
    with quiet_transformers():
        peft.get_peft_model(model, config).save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


LORA = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    "more",
    [
        {"r": 400_000},
        {"rank_pattern": {"q_proj": 400_000}},
        {"r": 400_000, "init_lora_weights": "pissa"},
        {"r": 400_000, "use_dora": True},
    ],
)
def test_ranks_larger_than_the_file_are_refused(
    tmp_path: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_with(tmp_path / "m", "llama")
    folder = adapter(tmp_path / "a", base, LORA, **more)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", lambda *_, **__: os.abort())
    with pytest.raises(TargetError, match=r"lora_A.weight is 2 x .* 400000 x .*adapter_config"):
        load_checkpoint(str(folder), PLAIN)


ADAPTERS = [
    LORA,
    peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True),
    peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
    peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    peft.VeraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
]


@pytest.mark.parametrize("config", ADAPTERS, ids=lambda config: type(config).__name__)
def test_adapters_of_the_right_size_are_loaded(tmp_path: Path, config: Any) -> None:
    base = model_with(tmp_path / "m", "llama")
    load_checkpoint(str(adapter(tmp_path / "a", base, config)), PLAIN)
