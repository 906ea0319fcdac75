"""What is opened as weights is what the fingerprint names, and no pickle is opened unasked."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers
from conftest import build_model, build_tokenizer, save_model
from huggingface_hub import constants

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target import loading
from memaudit.target.checkpoint import load_checkpoint, load_tokenizer
from memaudit.target.failures import quiet_transformers
from memaudit.target.openings import watched
from memaudit.target.unused_weights import safe_open

PLAIN = TargetSettings(device="cpu")
PICKLES = TargetSettings(device="cpu", allow_pickle=True)


class Evil:
    """What a pickle can do: it makes a folder as it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "m")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Weights of another model, which no config names."""
    return save_model(build_model("llama", seed=1), build_tokenizer(), tmp_path / "other")


def add_adapter(base: Path, folder: Path, **more: Any) -> Path:
    model = build_model("llama")
    model.name_or_path = str(base)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    with quiet_transformers():
        peft.get_peft_model(model, config).save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


def refused(folder: Path, settings: TargetSettings = PLAIN) -> str:
    with pytest.raises(TargetError) as caught:
        load_checkpoint(str(folder), settings)
    return str(caught.value)


# Weights that no name in the checkpoint should reach


def name_in_config(folder: Path, name: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"transformers_weights": name}))


def name_in_index(folder: Path, name: str) -> None:
    names = [*safetensors.torch.load_file(folder / "model.safetensors")]
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("put", [name_in_config, name_in_index])
@pytest.mark.parametrize("kind", ["inner", "beside", "absolute", "blob"])
@pytest.mark.parametrize("on_hub", [False, True])
def test_weights_elsewhere_are_refused(
    put: Callable[[Path, str], None],
    kind: str,
    on_hub: bool,
    folder: Path,
    other: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "sub").mkdir()
    shutil.copy(other / "model.safetensors", folder / "sub" / "w.safetensors")
    place = {
        "inner": "sub/w.safetensors",
        "beside": "../other/model.safetensors",
        "absolute": str(other / "model.safetensors"),
        "blob": "../../blobs/sub-w.safetensors",
    }[kind]
    put(folder, place)
    name = str(folder)
    if on_hub:
        name = "org/name"
        cached(folder, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TargetError, match=r"transformers_weights|beside it"):
        load_checkpoint(name, TargetSettings(device="cpu", offline=True))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(folder: Path, cache: Path) -> Path:
    """Put a folder into the hub's cache as org/name: links into a folder of blobs."""
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        blob = repository / "blobs" / "-".join(name.parts)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("sharded", [False, True])
def test_the_hubs_cache_of_links_is_what_the_folder_is(
    folder: Path, tmp_path: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sharded:
        (folder / "model.safetensors").unlink()
        build_model("llama").save_pretrained(folder, max_shard_size="60KB")
    cached(folder, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    of_hub = load_checkpoint("org/name", TargetSettings(device="cpu", offline=True))
    assert of_hub.fingerprint == load_checkpoint(str(folder), PLAIN).fingerprint


def test_a_link_of_the_cache_that_leads_to_other_weights_is_hashed_as_they_are(
    folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(folder, tmp_path / "cache")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(other / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    of_hub = load_checkpoint("org/name", TargetSettings(device="cpu", offline=True))
    expected = load_checkpoint(str(other), PLAIN).fingerprint["model.safetensors"]
    assert of_hub.fingerprint["model.safetensors"] == expected


# Whatever leads a library to other files


def by_safe_open(path: Path) -> None:
    with safetensors.safe_open(path, "pt"):
        pass


def by_a_copied_name(path: Path) -> None:
    with safe_open(path, framework="pt"):
        pass


def by_load_file(path: Path) -> None:
    safetensors.torch.load_file(path)


def by_bytes(path: Path) -> None:
    safetensors.torch.load(path.read_bytes())


def by_system_call(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY))


OPENERS = [by_safe_open, by_a_copied_name, by_load_file, by_bytes, by_system_call]


@pytest.fixture
def tricked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let transformers do something besides, while it loads weights."""

    def trick(do: Callable[[], None]) -> None:
        load = transformers.AutoModelForCausalLM.from_pretrained

        def from_pretrained(*args: Any, **more: Any) -> Any:
            do()
            return load(*args, **more)

        monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)

    return trick


@pytest.mark.parametrize("opened", OPENERS)
def test_weights_that_are_opened_and_not_hashed_are_refused(
    opened: Callable[[Path], None],
    folder: Path,
    other: Path,
    tricked: Callable[[Callable[[], None]], None],
) -> None:
    tricked(lambda: opened(other / "model.safetensors"))
    assert "opened model.safetensors, which is not one of its own" in refused(folder)


def test_weights_that_are_hashed_and_not_opened_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_pretrained(*_: Any, **__: Any) -> Any:
        nothing: set[str] = set()
        keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
        return build_model("llama"), dict.fromkeys(keys, nothing)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    assert "did not open model.safetensors" in refused(folder)


def test_an_adapter_that_opens_more_than_its_own_file_is_refused(
    folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = add_adapter(folder, tmp_path / "adapter")
    load = peft.PeftModel.from_pretrained

    def from_pretrained(*args: Any, **more: Any) -> Any:
        by_load_file(other / "model.safetensors")
        return load(*args, **more)

    assert len(load_checkpoint(str(adapter), PLAIN).fingerprint) > 5
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", from_pretrained)
    assert "opened model.safetensors, which is not one of its own" in refused(adapter)


@pytest.mark.parametrize("back", [False, True])
def test_weights_that_change_while_they_are_loaded_are_refused(
    back: bool, folder: Path, other: Path, tricked: Callable[[Callable[[], None]], None]
) -> None:
    """``back``: only for as long as transformers reads them."""
    path = folder / "model.safetensors"
    own, foreign = path.read_bytes(), (other / "model.safetensors").read_bytes()

    def swap() -> None:
        path.write_bytes(foreign)

    tricked(swap)
    if back:
        checked = loading.split_unused

        def put_back(*args: Any, **more: Any) -> Any:
            path.write_bytes(own)
            return checked(*args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loading, "split_unused", put_back)
            said = refused(folder)
    else:
        said = refused(folder)
    assert "model.safetensors changed while it was loaded" in said


def test_what_was_replaced_for_the_watch_is_put_back() -> None:
    before = (torch.load, safetensors.safe_open, safetensors.torch.safe_open, safe_open)

    def watch_and_fail() -> None:
        with watched("m", allow_pickle=True), watched("n", allow_pickle=False):
            assert torch.load is not before[0]
            assert torch.serialization.load is torch.load
            assert safetensors.torch.safe_open is not before[2]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watch_and_fail()
    assert (torch.load, safetensors.safe_open, safetensors.torch.safe_open, safe_open) == before


# Pickles


def test_no_pickle_is_opened_through_an_index(folder: Path, tmp_path: Path) -> None:
    torch.save({"a": Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    shutil.copy(folder / "model.safetensors", folder / "model-x.safetensors")
    name_in_index(folder, "pytorch_model.bin")
    for settings in (PLAIN, PICKLES):
        assert "no *.safetensors file beside it" in refused(folder, settings)
    assert not (tmp_path / "ran").exists()


def test_no_pickled_adapter_is_opened(folder: Path, tmp_path: Path) -> None:
    adapter = add_adapter(folder, tmp_path / "adapter")
    torch.save({"a": Evil(tmp_path / "ran")}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model_x.safetensors")
    assert "--allow-pickle" in refused(adapter)
    assert not (tmp_path / "ran").exists()


def test_no_pickle_of_another_folder_is_opened(folder: Path, tmp_path: Path) -> None:
    gates = {"peft_type": "XLORA", "adapters": {"a": str(tmp_path / "elsewhere")}}
    adapter = add_adapter(folder, tmp_path / "adapter", **gates)
    (tmp_path / "elsewhere").mkdir()
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "elsewhere" / "adapter_model.bin")
    assert "X-LoRA" in refused(adapter)
    assert not (tmp_path / "ran").exists()


def load_whole(path: Path) -> None:
    torch.load(path, weights_only=False)


def load_weights_only(path: Path) -> None:
    torch.load(path)


def load_by_another_name(path: Path) -> None:
    torch.serialization.load(path, weights_only=False)


def load_open_file(path: Path) -> None:
    with path.open("rb") as file:
        torch.load(file, weights_only=False)


def load_jit(path: Path) -> None:
    torch.jit.load(path)


LOADERS = [load_whole, load_weights_only, load_by_another_name, load_open_file, load_jit]


@pytest.mark.parametrize("load", LOADERS)
def test_torch_opens_no_pickle_unless_that_was_allowed(
    load: Callable[[Path], None],
    folder: Path,
    tmp_path: Path,
    tricked: Callable[[Callable[[], None]], None],
) -> None:
    path = tmp_path / "evil.bin"
    torch.save({"a": Evil(tmp_path / "ran")}, path)
    tricked(lambda: load(path))
    assert "as a pickle, which can run code" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_was_not_named_is_refused_where_pickles_are_allowed(
    folder: Path, tmp_path: Path, tricked: Callable[[Callable[[], None]], None]
) -> None:
    torch.save({}, tmp_path / "other.bin")
    tricked(lambda: load_weights_only(tmp_path / "other.bin"))
    assert "opened other.bin, which is not one of its own weights files" in refused(folder, PICKLES)


def test_the_tokenizer_opens_no_pickle_either(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": Evil(tmp_path / "ran")}, tmp_path / "evil.bin")
    monkeypatch.setattr(
        loading.AutoTokenizer,
        "from_pretrained",
        lambda *_, **__: load_whole(tmp_path / "evil.bin"),
    )
    with pytest.raises(TargetError, match="as a pickle"):
        load_tokenizer(str(folder), PLAIN)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_pickles_that_are_allowed_are_audited_and_hashed(
    folder: Path, tmp_path: Path, sharded: bool
) -> None:
    (folder / "model.safetensors").unlink()
    weights = build_model("llama").state_dict()
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    if sharded:
        places = {key: names[number % 2] for number, key in enumerate(weights)}
        for name in names:
            torch.save({key: weights[key] for key in places if places[key] == name}, folder / name)
        index = {"metadata": {}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        names = ["pytorch_model.bin"]
        torch.save(weights, folder / names[0])
    assert "--allow-pickle" in refused(folder)
    assert set(names) < set(load_checkpoint(str(folder), PICKLES).fingerprint)


def test_a_pickle_is_one_without_torch_too(tmp_path: Path) -> None:
    """The attack of these tests does what it says."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


# Configs of adapters


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ({"megatron_config": {}, "megatron_core": "evil.core"}, "megatron_config in adapter"),
        ({"megatron_core": "evil.core"}, "megatron_core in adapter_config.json names code"),
        ({"megatron_config": {"a": 1}}, "megatron_config in adapter_config.json names code"),
        ({"megatron_other": "x"}, "megatron_other in adapter_config.json names code"),
        ({"shadow_model": "org/name"}, "shadow_model in adapter_config.json names a further"),
    ],
)
def test_an_adapter_names_no_code_and_no_other_model(
    more: dict[str, Any], refusal: str, folder: Path, tmp_path: Path
) -> None:
    assert refusal in refused(add_adapter(folder, tmp_path / "adapter", **more))


def test_what_peft_writes_of_megatron_itself_is_no_code(folder: Path, tmp_path: Path) -> None:
    adapter = add_adapter(folder, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["megatron_core"] == "megatron.core"
    load_checkpoint(str(adapter), PLAIN)


@pytest.mark.parametrize("revision", ["../evil", "refs/../../evil", "/evil", "a//b", {"a": 1}, 7])
def test_a_revision_of_a_base_that_is_a_path_is_refused(
    revision: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(folder, tmp_path / "cache")
    (snapshot.parents[1] / "evil").write_text(COMMIT)  # would lead to a commit
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    adapter = add_adapter(
        folder, tmp_path / "a", base_model_name_or_path="org/name", revision=revision
    )
    settings = TargetSettings(device="cpu", offline=True)
    assert "revision in adapter_config.json is not the name of a branch" in refused(
        adapter, settings
    )


@pytest.mark.parametrize("revision", ["main", "", None, COMMIT, "refs/pr/1"])
def test_a_revision_of_a_base_that_is_a_name_is_obeyed(
    revision: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = cached(folder, tmp_path / "cache").parents[1] / "refs"
    (refs / "refs" / "pr").mkdir(parents=True)
    (refs / "refs" / "pr" / "1").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    adapter = add_adapter(
        folder, tmp_path / "a", base_model_name_or_path="org/name", revision=revision
    )
    load_checkpoint(str(adapter), TargetSettings(device="cpu", offline=True))
