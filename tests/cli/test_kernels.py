"""The package kernels fetches native code from the hub; without a flag nothing asks it to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer, save_model
from packaging.version import Version

FAKE = """
import os, pathlib, types

class _Part:
    ALL = INFERENCE = TRAINING = 1
    def __init__(self, *_, **__): pass
    def __or__(self, other): return self

def get_kernel(name, *_, **__):
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{name}\\n")
    module = types.ModuleType("kernel")
    module.flash_attn_func = module.flash_attn_varlen_func = lambda *_, **__: None
    module.flash_attn_with_kvcache = module.flash_attn_func
    return module

def use_kernel_forward_from_hub(name): return lambda part: part
use_kernel_func_from_hub = use_kernel_forward_from_hub
def use_kernelized_func(*_): return lambda part: part
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return _Part
"""
"""A package kernels that writes down what it is asked for."""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    folder = tmp_path / "packages"
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text(FAKE)
    about = folder / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
    )
    return folder


def kernels_asked_for(packages: Path, folder: Path, *flags: str) -> list[str]:
    """Kernels that inspecting a model asks for."""
    asked = packages.parent / "asked"
    root = str(Path(__file__).parents[2])
    whole = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    paths = os.pathsep.join([str(packages), root, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "memaudit", "inspect", str(folder), "--device", "cpu", *flags],
        env=whole | {"PYTHONPATH": paths, "ASKED": str(asked)},
        cwd=packages.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return asked.read_text().splitlines() if asked.exists() else []


def model_asking(folder: Path, name: str, attention: str | None) -> Path:
    path = save_model(build_model(name), build_tokenizer(), folder) / "config.json"
    if attention is not None:
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"attn_implementation": attention})
        )
    return folder


ASKING = [("gpt_neo", None), ("llama", "flash_attention_2"), ("llama", "flash_attention_3")]
"""Architectures whose code asks for kernels as it is imported, and attentions that do."""


@pytest.mark.parametrize(("name", "attention"), ASKING)
@pytest.mark.parametrize("flags", [[], ["--offline"], ["--offline", "--trust-remote-code"]])
def test_no_kernel_is_asked_for_without_the_flag(
    packages: Path, tmp_path: Path, name: str, attention: str | None, flags: list[str]
) -> None:
    folder = model_asking(tmp_path / "m", name, attention)
    assert kernels_asked_for(packages, folder, *flags) == []


@pytest.mark.skipif(
    Version(version("transformers")) < Version("5.23"), reason="transformers 5.15 asks for none"
)
def test_the_flag_allows_kernels(packages: Path, tmp_path: Path) -> None:
    folder = model_asking(tmp_path / "m", "gpt_neo", None)
    assert kernels_asked_for(packages, folder, "--trust-remote-code")
