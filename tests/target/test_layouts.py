"""A folder without usable weights is refused with what it is and what to give instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.layouts import explain_layout
from memaudit.target.source import find_source

WITH_PICKLES = TargetSettings(allow_pickle=True)


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        file = path / name
        if name.endswith("/"):
            file.mkdir(parents=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}" if name.endswith(".json") else "x")
    return path


def refusal(path: Path, settings: TargetSettings | None = None) -> str:
    with pytest.raises(TargetError) as caught:
        find_source(str(path), settings or TargetSettings())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "holds no weights (*.safetensors)"),
        (["optimizer.pt", "rng_state_0.pth", "training_args.bin"], "holds no weights"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "2 weights files (model-00001-of-00002.safetensors, …) and no "
            "model.safetensors.index.json",
        ),
        (
            ["pytorch_model-00001-of-00001.bin"],
            "holds pytorch_model-00001-of-00001.bin and no pytorch_model.bin.index.json",
        ),
        (["consolidated.safetensors", "params.json"], "maker's own format (consolidated"),
        (["consolidated.00.pth", "params.json"], "maker's own format (consolidated.00.pth)"),
        (["m.Q4_K_M.gguf"], "name the .gguf file itself (m.Q4_K_M.gguf)"),
        (["tf_model.h5"], "convert them with transformers 4"),
        (["flax_model.msgpack"], "convert them with transformers 4"),
        (["model.fp16.safetensors"], "rename it to model.safetensors"),
        (["last.ckpt", "optimizer.pt"], "holds last.ckpt only"),
        (["pytorch_model_fsdp.bin"], "holds pytorch_model_fsdp.bin only"),
        (["global_step500/", "zero_to_fp32.py"], "python zero_to_fp32.py --safe_serialization"),
        (["global_step500/mp_rank_00_model_states.pt"], "a DeepSpeed checkpoint"),
        (["mp_rank_00_model_states.pt"], "a DeepSpeed checkpoint"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "accelerate merge-weights"),
        (["__0_0.distcp", ".metadata"], "accelerate merge-weights"),
        (["shard-00000-model-00001-of-00002.safetensors"], "shards of several processes"),
        (["merged/config.json", "merged/model.safetensors"], "a model in a folder; give "),
    ],
)
@pytest.mark.parametrize("settings", [TargetSettings(), WITH_PICKLES])
def test_what_lies_there_instead_of_weights_is_named(
    tmp_path: Path, names: list[str], expected: str, settings: TargetSettings
) -> None:
    message = refusal(folder_with(tmp_path / "m", "config.json", *names), settings)
    assert expected in message
    assert "--allow-pickle" not in message


def test_shards_of_several_processes_come_before_whole_weights(tmp_path: Path) -> None:
    """transformers reads them first, whatever else is there."""
    names = ("model.safetensors", "shard-00000-model-00001-of-00002.safetensors")
    assert "shards of several processes" in refusal(
        folder_with(tmp_path / "m", "config.json", *names)
    )


@pytest.mark.parametrize("config", [["config.json"], []])
def test_checkpoints_of_a_trainer_are_listed_in_the_order_of_their_steps(
    tmp_path: Path, config: list[str]
) -> None:
    steps = [f"checkpoint-{step}/config.json" for step in (1000, 500, 20)]
    path = folder_with(tmp_path / "out", *config, *steps, "tokenizer.json")
    expected = ", ".join(f"{path}/checkpoint-{step}" for step in (20, 500, 1000))
    assert refusal(path).endswith(f"give one of {expected}")


def test_of_many_checkpoints_the_first_and_the_last_are_named(tmp_path: Path) -> None:
    steps = [f"checkpoint-{step}/config.json" for step in range(1, 30)]
    message = refusal(folder_with(tmp_path / "out", *steps))
    assert message.endswith("checkpoint-2, …, " + f"{tmp_path / 'out'}/checkpoint-29")


def test_a_model_and_an_adapter_in_folders_are_both_named(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "out", "full/config.json", "lora/adapter_config.json")
    message = refusal(path)
    assert "a model and an adapter in a folder" in message
    assert message.endswith(f"give one of {path}/full, {path}/lora")


def test_a_repository_on_the_hub_has_no_folders_to_give() -> None:
    names = ["checkpoint-5/config.json", "README.md"]
    message = explain_layout(names, "org/name", on_hub=True)
    assert message is not None
    assert message.endswith("download it and give one of org/name/checkpoint-5")


def test_weights_without_a_config_ask_for_it(tmp_path: Path) -> None:
    message = refusal(folder_with(tmp_path / "m", "model.safetensors"))
    assert message == (
        "holds model.safetensors and no config.json; put the model's config.json beside it"
    )


def test_a_folder_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    message = refusal(folder_with(tmp_path / "m", "notes.md", "data/records.jsonl"))
    assert "neither config.json nor adapter_config.json" in message


# Indexes


def sharded(path: Path, shards: dict[str, object], *present: str) -> Path:
    folder_with(path, "config.json", *present)
    index = json.dumps({"metadata": {}, "weight_map": shards})
    (path / "model.safetensors.index.json").write_text(index)
    return path


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("../other/model.safetensors", "no *.safetensors file beside it"),
        ("/other/model.safetensors", "no *.safetensors file beside it"),
        ("inner/model.safetensors", "no *.safetensors file beside it"),
        ("pytorch_model.bin", "no *.safetensors file beside it"),
        ("model-[12].safetensors", "no *.safetensors file beside it"),
        (7, "no *.safetensors file beside it"),
        (TWO, f"names {TWO} of 2 weights files, which is not there"),
    ],
)
def test_an_index_names_files_beside_it_and_all_are_there(
    tmp_path: Path, place: object, expected: str
) -> None:
    path = sharded(tmp_path / "m", {"a": ONE, "b": place}, ONE, "pytorch_model.bin")
    assert expected in refusal(path, WITH_PICKLES)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    path = folder_with(tmp_path / "m", "config.json", ONE)
    (path / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(path)


def test_an_index_says_which_files_are_read(tmp_path: Path) -> None:
    extra = ("consolidated.safetensors", "pytorch_model.bin", "m.gguf", "optimizer.bin")
    path = sharded(tmp_path / "m", {"a": ONE, "b": TWO, "c": ONE}, ONE, TWO, *extra)
    stored = find_source(str(path), WITH_PICKLES).stored
    assert stored.files == (ONE, TWO)
    assert stored.index == "model.safetensors.index.json"
    assert stored.unread == ("consolidated.safetensors", "m.gguf", "pytorch_model.bin")


@pytest.mark.parametrize(
    ("shards", "present"),
    [
        ({"a": ONE, "b": TWO}, (ONE, TWO, "model.safetensors")),
        ({"a": ONE, "b": TWO}, (ONE, TWO, "model-00001-of-00003.safetensors")),
        ({"a": "model.safetensors"}, ("model.safetensors", ONE)),
    ],
)
def test_weights_of_two_checkpoints_are_refused(
    tmp_path: Path, shards: dict[str, object], present: tuple[str, ...]
) -> None:
    path = sharded(tmp_path / "m", shards, *present)
    assert "holds the weights of two checkpoints" in refusal(path)


def test_an_index_that_agrees_with_the_whole_file_is_no_second_checkpoint(tmp_path: Path) -> None:
    path = sharded(tmp_path / "m", {"a": "model.safetensors"}, "model.safetensors")
    assert find_source(str(path), TargetSettings()).stored.files == ("model.safetensors",)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"transformers_weights": "../m/model.safetensors"}, "is not the name of a safetensors"),
        ({"transformers_weights": "adapter_model.bin"}, "is not the name of a safetensors"),
        ({"transformers_weights": 3}, "is not the name of a safetensors"),
        ({"text_config": {"transformers_weights": "a.safetensors"}}, "is not the name"),
        ({"transformers_weights": "other.safetensors"}, "names other.safetensors, which is not"),
    ],
)
def test_a_config_that_names_weights_elsewhere_is_refused(
    tmp_path: Path, config: dict[str, object], expected: str
) -> None:
    path = folder_with(tmp_path / "m", "model.safetensors", "adapter_model.bin")
    (path / "config.json").write_text(json.dumps(config))
    assert expected in refusal(path, WITH_PICKLES)


def test_a_config_may_name_another_file_beside_it(tmp_path: Path) -> None:
    path = folder_with(tmp_path / "m", "model.safetensors", "other.safetensors")
    (path / "config.json").write_text('{"transformers_weights": "other.safetensors"}')
    stored = find_source(str(path), TargetSettings()).stored
    assert (stored.files, stored.unread) == (("other.safetensors",), ("model.safetensors",))
