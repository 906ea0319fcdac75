"""Files of weights: what is wrong with them is said before a library opens them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_model, build_tokenizer, save_model
from safetensors.torch import load_file, save_file

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_checkpoint
from memaudit.target.weight_files import refuse_unusable, stored_shapes, wrapper_prefix

IDS = torch.arange(3, 43).reshape(2, 20)
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def save(path: Path, *names: str) -> Path:
    save_file({name: torch.ones(2, 3) for name in names}, path, {"format": "pt"})
    return path


def test_names_and_shapes_are_read_from_either_format(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2, 3), "b.c": torch.tensor(1.0)}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.bin")
    torch.save(weights, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.bin", "old.bin"):
        assert stored_shapes("m", tmp_path / name) == {"a": (2, 3), "b.c": ()}


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": ["two"], "data_offsets": [0, 0]}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(TargetError, match=r"^m: w.safetensors is damaged or cut short; "):
        stored_shapes("m", path)


@pytest.mark.parametrize("size", [1, 9, 40, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, size: int) -> None:
    path = save(tmp_path / "w.safetensors", "a", "b")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TargetError, match=r"^m: w.safetensors is .*cut short"):
        stored_shapes("m", path)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(TargetError) as caught:
        refuse_unusable("m", tmp_path / "w.safetensors")
    assert str(caught.value) == (
        "m: w.safetensors: cannot be read (Is a directory); make it readable for this user"
    )


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """An open folder; what is done meanwhile is done by a user who owns nothing."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        os.seteuid(65534)
        reachable = os.access(name, os.X_OK, effective_ids=True)
        os.seteuid(0)
        if not reachable:
            pytest.skip("the folder for temporary files is closed to other users")
        yield Path(name)
        os.seteuid(0)


@pytest.mark.parametrize(
    "file",
    [
        *("model.safetensors", SHARDS[1], "config.json"),
        *("adapter_model.safetensors", "adapter_config.json"),
    ],
)
def test_a_file_of_another_user_is_named(as_nobody: Path, file: str) -> None:
    folder = save_model(build_model("llama"), build_tokenizer(), as_nobody / "base")
    if file.startswith("adapter"):
        base, folder = folder, as_nobody / "adapter"
        folder.mkdir()
        config = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save(folder / "adapter_model.safetensors", "a")
        (base / "model.safetensors").chmod(0o644)
    if file in SHARDS:
        (folder / "model.safetensors").unlink()
        for name in SHARDS:
            save(folder / name, name)
        index = {"metadata": {}, "weight_map": {name: name for name in SHARDS}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in folder.iterdir():
        path.chmod(0o600 if path.name == file else 0o644)  # safetensors writes 0600 itself
    os.seteuid(65534)
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(folder), TargetSettings(device="cpu"))
    os.seteuid(0)
    assert f"{file}: cannot be read (Permission denied)" in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_a_folder_of_another_user_is_named(as_nobody: Path) -> None:
    (as_nobody / "closed").mkdir(0o700)
    os.seteuid(65534)
    with pytest.raises(TargetError, match=r"closed: cannot be read \(Permission denied\)"):
        load_checkpoint(str(as_nobody / "closed"), TargetSettings(device="cpu"))


def test_a_weight_in_two_files_is_refused(tmp_path: Path) -> None:
    one, two = save(tmp_path / SHARDS[0], "a", "b"), save(tmp_path / SHARDS[1], "b", "c")
    with pytest.raises(TargetError, match=r"^m: b is in two of its weights files"):
        wrapper_prefix("m", [one, two])


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (("module.a", "module.b.c"), "module."),
        (("_orig_mod.a", "_orig_mod.b"), "_orig_mod."),
        (("module._orig_mod.a", "module._orig_mod.b"), "module._orig_mod."),
        (("module.a", "b"), ""),
        (("a", "module.b"), ""),
        (("module.a", "_orig_mod.b"), ""),
        (("modules.a", "modules.b"), ""),
        (("model.module.a",), ""),
        ((), ""),
    ],
)
def test_what_a_wrapper_put_before_all_names(
    tmp_path: Path, names: tuple[str, ...], prefix: str
) -> None:
    assert wrapper_prefix("m", [save(tmp_path / "w.safetensors", *names)]) == prefix


# Loaded without it


def put_before_names(folder: Path, prefix: str) -> None:
    for path in folder.glob("*.safetensors"):
        weights = {f"{prefix}{name}": value for name, value in load_file(path).items()}
        save_file(weights, path, {"format": "pt"})
    if (index := folder / "model.safetensors.index.json").is_file():
        document = json.loads(index.read_text())
        document["weight_map"] = {f"{prefix}{n}": f for n, f in document["weight_map"].items()}
        index.write_text(json.dumps(document))


@pytest.fixture(params=["gpt2", "llama", "mamba"])
def model(request: pytest.FixtureRequest) -> Any:
    return build_model(request.param)


@pytest.mark.parametrize("shard", ["1GB", "40KB"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_the_prefix_of_a_wrapper_is_taken_off_and_shown(
    model: Any, tmp_path: Path, shard: str, prefix: str
) -> None:
    save_model(model, build_tokenizer(), tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "m", max_shard_size=shard)
    put_before_names(tmp_path / "m", prefix)
    checkpoint = load_checkpoint(str(tmp_path / "m"), TargetSettings(device="cpu"))
    with torch.no_grad():
        assert torch.equal(checkpoint.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert checkpoint.choices["weight_names"].value == f"without {prefix}"


def test_the_prefix_is_taken_off_pickled_weights_and_those_that_wait_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model("llama")
    path = save_model(model, build_tokenizer(), tmp_path / "m")
    put_before_names(path, "module.")
    pickled = shutil.copytree(path, tmp_path / "p")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    settings = TargetSettings(device="cpu", allow_pickle=True)
    checkpoint = load_checkpoint(str(pickled), settings)
    monkeypatch.setattr("memaudit.target.placement.free_bytes", lambda device: 0)
    offloaded = load_checkpoint(str(path), TargetSettings())
    assert offloaded.is_offloaded
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        assert torch.equal(checkpoint.model(input_ids=IDS).logits, expected)
        torch.testing.assert_close(offloaded.model(input_ids=IDS).logits, expected)


def test_names_that_only_partly_have_a_prefix_are_refused(tmp_path: Path) -> None:
    path = save_model(build_model("llama"), build_tokenizer(), tmp_path / "m")
    put_before_names(path, "module.")
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("module.lm_head.weight", torch.zeros(304, 32))
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(TargetError, match="the checkpoint lacks weights of LlamaForCausalLM"):
        load_checkpoint(str(path), TargetSettings(device="cpu"))
