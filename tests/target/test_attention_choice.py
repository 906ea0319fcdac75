"""An attention that cannot be had here is replaced, and the report says so."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import build_model, build_tokenizer, save_model

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target import hub_kernels
from memaudit.target.attention import describe_attention, refuse_foreign_code, replace_attention
from memaudit.target.checkpoint import load_checkpoint, load_tokenizer
from memaudit.target.hub_kernels import switch_kernels
from memaudit.target.placement import Choice

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("asked", ["flash_attention_2", "flash_attention_3", "unknown"])
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


# Code of the hub


KERNELS = ["kernels-community/flash-attn", "someone/evil@main:forward", "paged|someone/evil"]


def asking(folder: Path, asked: Any, key: str = "attn_implementation") -> Path:
    path = save_model(build_model("llama"), build_tokenizer(), folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: asked}))
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The package kernels as if it were installed: what it was asked to fetch and run."""
    seen: list[str] = []

    def get_kernel(name: str, **_: Any) -> Any:
        seen.append(name)
        return types.ModuleType("kernel")

    monkeypatch.setattr(transformers.integrations.hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(transformers.utils, "is_kernels_available", lambda: True)
    monkeypatch.setattr(
        transformers.integrations.hub_kernels, "get_kernel_hub", get_kernel, raising=False
    )
    return seen


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("asked", [*KERNELS, {"": "someone/evil"}])
@pytest.mark.parametrize("offline", [False, True])
def test_an_attention_that_is_code_of_the_hub_is_refused_by_name(
    tmp_path: Path, fetched: list[str], asked: Any, key: str, offline: bool
) -> None:
    folder = asking(tmp_path / "m", asked, key)
    with pytest.raises(TargetError, match=r"code on the hub; .*--trust-remote-code") as caught:
        load_checkpoint(str(folder), TargetSettings(device="cpu", offline=offline))
    named = asked if isinstance(asked, str) else "someone/evil"
    assert named in str(caught.value)
    with pytest.raises(TargetError, match="code on the hub"):
        load_tokenizer(str(folder), TargetSettings(offline=offline))
    assert fetched == []


@pytest.mark.parametrize("offline", [False, True])
def test_code_that_is_trusted_runs_on_a_gpu_and_is_not_fetched_offline(
    tmp_path: Path, fetched: list[str], offline: bool
) -> None:
    config = config_asking(KERNELS[0])
    refuse_foreign_code("m", config, TargetSettings(trust_remote_code=True))
    for device, kernels in ((CPU, True), (CUDA, False)):
        other = config_asking(KERNELS[0])
        replaced = replace_attention(other, device, torch.bfloat16, kernels=kernels)
        assert replaced == KERNELS[0]
    assert replace_attention(config, CUDA, torch.bfloat16, kernels=True) is None
    settings = TargetSettings(device="cpu", trust_remote_code=True, offline=offline)
    checkpoint = load_checkpoint(str(asking(tmp_path / "m", KERNELS[0])), settings)
    assert checkpoint.choices["attention"].value == "sdpa"
    assert fetched == []


@pytest.mark.parametrize(
    ("trusted", "offline", "names"),
    [(False, False, 0), (True, True, 0), (True, False, 1)],
)
def test_layers_of_the_hub_are_code_too(
    monkeypatch: pytest.MonkeyPatch, fetched: list[str], trusted: bool, offline: bool, names: int
) -> None:
    """transformers asks for its own faster layers while a model computes."""
    monkeypatch.setattr(hub_kernels, "_enabled", True)
    switch_kernels(TargetSettings(trust_remote_code=trusted, offline=offline))
    try:
        known = transformers.integrations.hub_kernels._HUB_KERNEL_MAPPING
        transformers.integrations.hub_kernels.lazy_load_kernel(next(iter(known)), {})
        if not names:
            with pytest.raises(FileNotFoundError, match="used with --trust-remote-code"):
                transformers.integrations.hub_kernels.get_kernel("someone/evil")
    finally:
        switch_kernels(TargetSettings())
    assert len(fetched) == names


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
