"""An attention that cannot be had here is replaced, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import build_model, build_tokenizer, save_model

from memaudit.config import TargetSettings
from memaudit.target.attention import describe_attention, replace_attention
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.placement import Choice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    "asked", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn", "unknown"]
)
def test_another_attention_is_taken_and_shown(tmp_path: Path, key: str, asked: str) -> None:
    model = build_model("llama")
    path = save_model(model, build_tokenizer(), tmp_path / "m") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: asked}))
    checkpoint = load_checkpoint(str(path.parent), TargetSettings(device="cpu"))
    reason = f"config.json asks for {asked}, which cannot be used here"
    assert checkpoint.choices["attention"] == Choice("sdpa", reason)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        assert torch.equal(checkpoint.model(input_ids=ids).logits, model(input_ids=ids).logits)


def config_asking(asked: str | None) -> Any:
    return transformers.LlamaConfig(attn_implementation=asked)


@pytest.mark.parametrize("asked", [None, "eager", "sdpa", "flex_attention"])
def test_what_comes_with_pytorch_stays(asked: str | None) -> None:
    config = config_asking(asked)
    assert replace_attention(config, CPU, torch.float32) is None
    assert config._attn_implementation == asked
    assert describe_attention(build_model("llama"), None) == {}


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "stays"),
    [
        (CUDA, torch.bfloat16, True, True),
        (CUDA, torch.bfloat16, False, False),
        (CUDA, torch.float32, True, False),
        (CPU, torch.bfloat16, True, False),
    ],
)
def test_flash_attention_stays_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch,
    device: torch.device,
    dtype: torch.dtype,
    installed: bool,
    stays: bool,
) -> None:
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: installed)
    config = config_asking("flash_attention_2")
    replaced = replace_attention(config, device, dtype)
    assert replaced == (None if stays else "flash_attention_2")
    assert config._attn_implementation == ("flash_attention_2" if stays else None)


def test_a_config_inside_another_is_asked_too() -> None:
    text = {"attn_implementation": "flash_attention_2"}
    config = transformers.Gemma3Config(text_config=text, attn_implementation="sdpa")
    config.text_config._attn_implementation = "flash_attention_2"
    assert replace_attention(config, CPU, torch.float32) == "flash_attention_2"
    assert config.text_config._attn_implementation is None
