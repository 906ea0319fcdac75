"""What memaudit itself reads of models: JSON, templates, GGUF files, fitted prompts."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from conftest import build_model, build_tokenizer, save_model

from memaudit.attack.generator import Generator
from memaudit.attack.prompt_files import FoldPrompts, load_prompts, to_bytes
from memaudit.attack.prompts import ConstantPrompt, DynamicPrompt
from memaudit.config.settings import ConstantSettings, DynamicSettings, TargetSettings
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample
from memaudit.target.checkpoint import Checkpoint, fingerprint_of
from memaudit.target.failures import explained
from memaudit.target.gguf_header import check_gguf
from memaudit.target.loading import gguf_bos_id, load_tokenizer_of
from memaudit.target.source import find_source

from .targets import Target

SETTINGS = TargetSettings(offline=True)
NAMES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
CHAT = ({"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"})
PREFIX, V = 5, 3


@cache
def _folder() -> Path:
    from .on_records import TEMPLATE

    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return save_model(build_model("gpt2"), tokenizer, Path(mkdtemp(prefix="memaudit-fuzz-")) / "m")


def _folder_seeds() -> list[bytes]:
    made = [bytes([n]) + (_folder() / name).read_bytes() for n, name in enumerate(NAMES)]
    adapter = {"base_model_name_or_path": str(_folder()), "peft_type": "LORA", "revision": None}
    return [*made, bytes([len(NAMES)]) + json.dumps(adapter).encode()]


def _model(content: bytes, folder: Path) -> str:
    """One file of a model's folder, or an adapter's config, is what the input says."""
    number = (content[0] if content else 0) % (len(NAMES) + 1)
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    if number == len(NAMES):
        model.mkdir()
        (model / "adapter_model.safetensors").write_bytes(b"")
        (model / "adapter_config.json").write_bytes(content[1:])
    else:
        shutil.copytree(_folder(), model)
        (model / NAMES[number]).write_bytes(content[1:])
    source = find_source(str(model), SETTINGS)
    with explained(str(model)):
        fingerprint_of(source, SETTINGS)
    tokenizer = load_tokenizer_of(source, SETTINGS)
    encoded = Encoder(tokenizer).encode([Sample("1", 1, text="a b"), Sample("2", 2, messages=CHAT)])
    return f"{encoded[0].ids.shape[0] > 0} {encoded[1].problem}"


def _gguf_seeds() -> list[bytes]:
    import gguf

    path = Path(mkdtemp(prefix="memaudit-fuzz-")) / "a.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_tensor("token_embd.weight", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path.read_bytes()]


def _gguf(content: bytes, folder: Path) -> str:
    path = folder / "m.gguf"
    path.write_bytes(content)
    find_source(str(path), SETTINGS)
    check_gguf(str(path), path)
    with explained(str(path)):
        return f"bos {gguf_bos_id(path)}"


@cache
def _checkpoint() -> Checkpoint:
    model = build_model("gpt2").requires_grad_(False)
    return Checkpoint(
        model=model, tokenizer=None, name="m", device=torch.device("cpu"), dtype=torch.float32
    )


def _prompt_seeds() -> list[bytes]:
    checkpoint = _checkpoint()
    constant = ConstantSettings(num_virtual_tokens=V, low_rank=2)
    dynamic = DynamicSettings(num_virtual_tokens=V)
    vectors = torch.zeros(V, checkpoint.width)
    generator = Generator(
        checkpoint.embed,
        dynamic,
        prefix_tokens=PREFIX,
        first_vectors=vectors,
        scale=1.0,
        rows=None,
        rng=torch.Generator(),
    )
    prompts: dict[str, Any] = {
        "constant": ConstantPrompt(constant, vectors, torch.Generator()),
        "dynamic": DynamicPrompt(dynamic, generator, torch.Generator()),
    }
    chosen = {"constant": "epoch 1", "dynamic": "no prompt"}
    seen = np.arange(9, dtype=np.uint64)
    return [to_bytes(FoldPrompts(0, prompts, chosen, seen, 7, PREFIX, "m"))]


def _prompts(content: bytes, folder: Path) -> str:
    path = folder / "generator-0.safetensors"
    path.write_bytes(content)
    fold = load_prompts(path, _checkpoint())
    ids = torch.ones(2, fold.prefix_tokens if fold.prefix_tokens < 1000 else 1, dtype=torch.long)
    for name, prompt in fold.usable.items():
        if fold.prefix_tokens == PREFIX:
            vectors = prompt(ids)
            assert vectors is None or vectors.shape[0] == 2, name
    return " ".join(sorted(fold.prompts))


TARGETS = (
    Target("model", _folder_seeds, _model, told=False),
    Target("gguf", _gguf_seeds, _gguf, told=False),
    Target("prompts", _prompt_seeds, _prompts, told=False),
)
