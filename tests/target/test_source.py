"""What MODEL may name, and what is said where it names nothing that can be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import build_model, build_tokenizer, save_model

from memaudit.config.settings import TargetSettings
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
    with pytest.raises(TargetError, match=r"holds no weights \(\*.safetensors\)"):
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
        ({"base_model_name_or_path": "/gone"}, "the adapter names cannot be used .* with --base$"),
        ({"base_model_name_or_path": "out/base"}, "the adapter names cannot be used .* --base$"),
        ({"adapters": {"a": "org/a"}}, "X-LoRA"),
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
    own = json.dumps({"base_model_name_or_path": str(upper)})
    (upper / "adapter_config.json").write_text(own)
    with pytest.raises(TargetError, match="is an adapter too"):
        find_source(str(upper), PLAIN)
    (upper / "adapter_config.json").write_text("{")
    with pytest.raises(TargetError, match=r"adapter_config.json is not JSON"):
        find_source(str(upper), PLAIN)


# Whole weights and an adapter in one folder


@pytest.mark.parametrize(
    "whole",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "pytorch_model.bin",
        "consolidated.safetensors",
    ],
)
@pytest.mark.parametrize("weights", ["adapter_model.safetensors", "adapter_model.bin", None])
@pytest.mark.parametrize("config", [True, False])
def test_whole_weights_and_an_adapter_are_ambiguous(
    folder: Path, tmp_path: Path, whole: str, weights: str | None, config: bool
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    files = {"adapter_config.json": {"base_model_name_or_path": str(folder)}, whole: {}}
    files |= {weights: {}} if weights else {}
    files |= {"config.json": {}} if config else {}
    for name, content in files.items():
        (both / name).write_text(json.dumps(content))
    for settings in (PLAIN, TargetSettings(base=str(folder)), TargetSettings(allow_pickle=True)):
        with pytest.raises(TargetError) as caught:
            find_source(str(both), settings)
        assert str(caught.value) == (
            f"{both}: holds whole weights ({whole}) and an adapter (adapter_config.json). If the "
            "weights have the adapter merged in, move adapter_config.json away; if the adapter is "
            f"to be audited, move {whole} away"
        )


def test_a_base_that_holds_an_adapter_too_is_ambiguous(folder: Path, tmp_path: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone"}')
    upper = adapter(tmp_path / "upper", base_model_name_or_path=str(folder))
    with pytest.raises(TargetError, match="holds whole weights"):
        find_source(str(upper), PLAIN)
    with pytest.raises(TargetError, match="holds whole weights"):
        find_source(str(upper), TargetSettings(base=str(folder)))


def test_a_config_beside_an_adapter_does_not_make_it_a_model(folder: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path="/gone")
    (path / "config.json").write_text("{}")
    (path / "training_args.bin").write_bytes(b"")
    source = find_source(str(path), TargetSettings(base=str(folder)))
    assert (source.kind, source.weights.location) == ("adapter", str(folder))
    assert source.stored.files == ("adapter_model.safetensors",)


def test_a_pickled_adapter_takes_the_flag_whatever_else_lies_there(
    folder: Path, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path=str(folder))
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    (path / "adapter_model-old.safetensors").write_bytes(b"")
    with pytest.raises(TargetError, match=r"pickled adapter \(adapter_model.bin\)"):
        find_source(str(path), PLAIN)
    allowed = find_source(str(path), TargetSettings(allow_pickle=True))
    assert allowed.stored.files == ("adapter_model.bin",)


def test_an_adapter_without_its_weights(folder: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path=str(folder))
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(TargetError, match=r"has adapter_config\.json and no adapter_model"):
        find_source(str(path), PLAIN)
    adapter(path / "checkpoint-5")
    with pytest.raises(TargetError, match=r"give one of .*/a/checkpoint-5$"):
        find_source(str(path), PLAIN)


def test_a_revision_of_a_base_that_lies_here_is_nothing_to_ask_for(
    folder: Path, tmp_path: Path
) -> None:
    path = adapter(tmp_path / "a", base_model_name_or_path=str(folder), revision="main")
    assert find_source(str(path), PLAIN).weights.location == str(folder)
