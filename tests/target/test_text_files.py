"""What a tokenizer and a config are read from is what the fingerprint names, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from huggingface_hub import constants

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target import loading
from memaudit.target.checkpoint import Checkpoint, load_checkpoint, load_tokenizer
from memaudit.target.entities import load_entity_model

PLAIN = TargetSettings(device="cpu")
TEXT = "A quick brown fox."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "m")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A tokenizer that reads every text as another, outside the checkpoint."""
    build_tokenizer().save_pretrained(tmp_path / "other")
    mangle(tmp_path / "other" / "tokenizer.json")
    return tmp_path / "other"


def edit(path: Path, **more: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | more))


def mangle(path: Path) -> None:
    """Let a tokenizer read a letter as another."""
    edit(path, normalizer={"type": "Replace", "pattern": {"String": "q"}, "content": "z"})


def in_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--org--name"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return "org/name"


KEYS = {"tokenizer_config.json": "fast_tokenizer_files", "config.json": "configuration_files"}


@pytest.mark.parametrize("file", KEYS)
@pytest.mark.parametrize("place", ["sub/{}", "../other/{}", "{absolute}/{}", "./{}", 7])
@pytest.mark.parametrize("on_hub", [False, True])
def test_versioned_files_elsewhere_are_refused(
    folder: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    place: Any,
    on_hub: bool,
) -> None:
    name = file.replace("_config", "").replace(".json", ".1.0.json")
    (folder / "sub").mkdir()
    for inner in (folder, folder / "sub", other):
        shutil.copy(other / "tokenizer.json", inner / name)
    if isinstance(place, str):
        place = place.format(name, absolute=other)
    edit(folder / file, **{KEYS[file]: [place]})
    model = in_cache(folder, tmp_path / "cache", monkeypatch) if on_hub else str(folder)
    settings = TargetSettings(device="cpu", offline=on_hub)
    for load in (load_tokenizer, load_checkpoint):
        with pytest.raises(TargetError, match=f"{KEYS[file]} in {file} names a file that is not"):
            load(model, settings)


def test_a_versioned_tokenizer_beside_the_other_is_read_and_hashed(
    folder: Path, other: Path
) -> None:
    shutil.copy(other / "tokenizer.json", folder / "tokenizer.4.0.0.json")
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.0.json"])
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert "tokenizer.4.0.0.json" in checkpoint.fingerprint
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer("q")["input_ids"]) == "z"


def test_a_versioned_config_is_hashed(folder: Path) -> None:
    shutil.copy(folder / "config.json", folder / "config.4.0.0.json")
    edit(folder / "config.json", configuration_files=["config.4.0.0.json"], hidden_size=7)
    checkpoint = load_checkpoint(str(folder), PLAIN)
    assert "config.4.0.0.json" in checkpoint.fingerprint


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "merges_file", "gguf_file"])
@pytest.mark.parametrize("absolute", [False, True])
def test_paths_that_were_stored_lead_nowhere(
    folder: Path,
    other: Path,
    file: str,
    key: str,
    absolute: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = load_tokenizer(str(folder), PLAIN)(TEXT)["input_ids"]
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text())
    values.pop("added_tokens_decoder", None)  # else the map of special tokens is not read
    config.write_text(json.dumps(values))
    place = other if absolute else Path("..", "other")
    edit(folder / file, **{key: str(place / "tokenizer.json")})
    assert load_tokenizer(str(folder), PLAIN)(TEXT)["input_ids"] == before


@pytest.mark.parametrize("key", ["vocab", "merges", "anything"])
def test_a_path_under_any_key_is_refused(folder: Path, other: Path, key: str) -> None:
    edit(folder / "tokenizer_config.json", **{key: [str(other / "tokenizer.json")]})
    with pytest.raises(TargetError, match=f"{key} in tokenizer_config.json names a file"):
        load_tokenizer(str(folder), PLAIN)


def test_arguments_without_a_name_are_refused(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", init_inputs=[])
    load_tokenizer(str(folder), PLAIN)
    edit(folder / "tokenizer_config.json", init_inputs=["vocab.json"])
    with pytest.raises(TargetError, match="init_inputs"):
        load_tokenizer(str(folder), PLAIN)


def test_a_token_may_be_the_name_of_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pad").touch()
    edit(folder / "tokenizer_config.json", pad_token="pad", extra_special_tokens=["pad"])
    load_tokenizer(str(folder), PLAIN)


def test_the_entity_models_tokenizer_is_no_other_either(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", fast_tokenizer_files=["../other/tokenizer.1.0.json"])
    import torch

    with pytest.raises(TargetError, match="fast_tokenizer_files"):
        load_entity_model(str(folder), True, torch.device("cpu"))


# Files that change


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_that_changes_between_tokenizer_and_model_is_named(folder: Path, file: str) -> None:
    tokenizer = load_tokenizer(str(folder), PLAIN)
    edit(folder / file, more=1)
    with pytest.raises(TargetError, match=f"{file} changed while it was in use"):
        load_checkpoint(str(folder), PLAIN, tokenizer)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "generation_config.json"])
def test_a_file_that_changes_while_the_model_is_loaded_is_named(
    folder: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading.AutoModelForCausalLM.from_pretrained

    def from_pretrained(*args: Any, **more: Any) -> Any:
        edit(folder / file, more=1)
        return load(*args, **more)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(TargetError, match=f"{file} changed while it was in use"):
        load_checkpoint(str(folder), PLAIN)


def test_a_tokenizer_that_changes_between_rehearsal_and_loading_is_the_one_rehearsed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearse = loading.rehearse

    def and_swap(*args: Any) -> None:
        rehearse(*args)
        mangle(folder / "tokenizer.json")

    monkeypatch.setattr(loading, "rehearse", and_swap)
    tokenizer = load_tokenizer(str(folder), PLAIN)
    assert tokenizer.decode(tokenizer("q")["input_ids"]) == "q"


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), PLAIN)


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_changes_later_is_named(
    folder: Path, checkpoint: Checkpoint, file: str, gone: bool
) -> None:
    checkpoint.require_unchanged()
    path = folder / file
    content = path.read_bytes()
    path.unlink()
    if not gone:
        path.write_bytes(content)  # another file with the same bytes is no change
        checkpoint.require_unchanged()
        path.write_bytes(content[:-1] + b" ")
    with pytest.raises(TargetError, match=f"{file} changed while it was in use"):
        checkpoint.require_unchanged()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_weights_do_not_follow_their_file(folder: Path, dtype: str) -> None:
    import torch

    model = build_model("llama").to(getattr(torch, dtype))
    model.save_pretrained(folder)
    loaded = load_checkpoint(str(folder), TargetSettings(device="cpu", dtype=dtype)).model
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(2000)
        file.write(bytes(10**6))
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    (folder / "model.safetensors").write_bytes(b"")
    assert all(weight.isfinite().all() for weight in loaded.parameters())
