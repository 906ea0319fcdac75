"""What MODEL may name, and what is said where it names nothing that can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer, save_model

from memaudit.config import TargetSettings
from memaudit.errors import MemauditError, TargetError, UsageError
from memaudit.target.checkpoint import load_tokenizer
from memaudit.target.source import find_source

PLAIN = TargetSettings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "model")


def test_folder_is_found_and_pickle_is_not_asked_for(folder: Path) -> None:
    source = find_source(str(folder), PLAIN)
    assert (source.kind, source.location, source.base) == ("folder", str(folder), None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/nowhere/at/all", "no such folder or file"),
        ("a name with spaces", "no such folder or file"),
        ("missing.gguf", "no such folder or file"),
        ("two/many/parts", "no such folder or file"),
        ("org/not-cached", "not in the hub's local cache"),
        ("not-cached", "not in the hub's local cache"),
    ],
)
def test_missing_model_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(TargetError, match=said) as caught:
        load_tokenizer(name, PLAIN)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_model_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="MODEL is empty"):
        find_source(" ", PLAIN)


def test_empty_folder_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"neither config.json nor adapter_config.json"):
        find_source(str(tmp_path), PLAIN)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(TargetError, match=r"name the .gguf file itself"):
        find_source(str(tmp_path), PLAIN)
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(TargetError, match="is a file"):
        find_source(str(tmp_path / "weights.bin"), PLAIN)


def test_gguf_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF and more")
    source = find_source(str(file), PLAIN)
    assert (source.kind, source.location, source.gguf_file) == ("gguf", str(tmp_path), "m.gguf")
    file.write_bytes(b"<html>")
    with pytest.raises(TargetError, match="does not begin as a GGUF file"):
        find_source(str(file), PLAIN)


def test_weights_must_be_there_and_not_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(TargetError, match=r"holds no \*.safetensors"):
        find_source(str(folder), PLAIN)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(TargetError, match="--allow-pickle"):
        find_source(str(folder), PLAIN)
    assert find_source(str(folder), TargetSettings(allow_pickle=True)).kind == "folder"


@pytest.mark.parametrize(
    "settings", [TargetSettings(base="other"), TargetSettings(revision="main")]
)
def test_settings_that_do_not_fit_a_local_model(folder: Path, settings: TargetSettings) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        find_source(str(folder), settings)


def adapter(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config))
    (path / "adapter_model.safetensors").write_bytes(b"")
    return path


def test_adapter_finds_its_base_and_the_setting_comes_first(folder: Path, tmp_path: Path) -> None:
    named = adapter(tmp_path / "named", base_model_name_or_path=str(folder))
    source = find_source(str(named), PLAIN)
    assert source.kind == "adapter"
    assert source.weights.location == str(folder)
    lost = adapter(tmp_path / "lost", base_model_name_or_path="/gone")
    found = find_source(str(lost), TargetSettings(base=str(folder)))
    assert found.weights.location == str(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "name it with --base"),
        ({"base_model_name_or_path": None}, "name it with --base"),
        ({"base_model_name_or_path": "/gone"}, "base named by the adapter"),
    ],
)
def test_adapter_without_a_base(tmp_path: Path, config: dict[str, object], said: str) -> None:
    with pytest.raises(MemauditError, match=said):
        find_source(str(adapter(tmp_path / "a", **config)), PLAIN)


def test_adapter_over_an_adapter_and_damaged_config(folder: Path, tmp_path: Path) -> None:
    lower = adapter(tmp_path / "lower", base_model_name_or_path=str(folder))
    upper = adapter(tmp_path / "upper", base_model_name_or_path=str(lower))
    with pytest.raises(TargetError, match="is an adapter too"):
        find_source(str(upper), PLAIN)
    (upper / "adapter_config.json").write_text("{")
    with pytest.raises(TargetError, match=r"adapter_config.json is not JSON"):
        find_source(str(upper), PLAIN)
