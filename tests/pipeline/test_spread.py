"""Targets that do not fit one device: spread over devices, main memory and disk."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LLAMA_LIKE, build_model, build_tokenizer, save_model
from scanned import SHORT, assert_same_figures, make_texts, run, write_samples

from memaudit.attack.decoding import RoomyCache
from memaudit.attack.forward import last_logits
from memaudit.attack.memory import free_target_memory
from memaudit.attack.passes import TuningPasses, half_precision_copy, with_recomputation
from memaudit.config.settings import ConstantSettings, TargetSettings
from memaudit.errors import TargetError, UsageError
from memaudit.target import placement
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.failures import quiet_transformers
from memaudit.target.loading import load_config
from memaudit.target.placement import (
    Placement,
    choose_device,
    describe_spread,
    input_device,
    place,
    spread,
    weight_bytes,
)
from memaudit.target.source import find_source

pytestmark = pytest.mark.slow

FLOAT = SHORT | {"precision": "float32"}
Shrink = Callable[[float], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data") / "data.jsonl", make_texts(24, seed=1))


def save(architecture: str, path: Path) -> Path:
    return save_model(build_model(architecture), build_tokenizer(), path / architecture)


def size_of(architecture: str) -> int:
    return sum(weight.nbytes for weight in build_model(architecture).parameters())


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """Leave as much main memory free as a share of what an architecture's weights take."""

    def set_free(architecture: str, share: float) -> None:
        free = int(share * size_of(architecture))
        monkeypatch.setattr(placement, "free_bytes", lambda device: free)

    return set_free


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "bloom", "mamba", "mistral"])
def test_a_target_that_waits_on_disk_gives_the_same_figures(
    architecture: str, data: Path, tmp_path: Path, leave: Any
) -> None:
    folder = save(architecture, tmp_path)
    plain = run(folder, data, constant=FLOAT, dynamic=FLOAT)
    for share, where in ((0.9, "cpu, disk"), (0.0, "disk")):
        leave(architecture, share)
        away = run(folder, data, constant=FLOAT, dynamic=FLOAT)
        choice = away.result.target.choices["device"]
        assert choice.value == where
        assert choice.reason.startswith("auto: 0.0 GiB of weights do not fit 0.0 GiB of free")
        assert choice.reason.endswith("what is in disk is fetched for every pass")
        assert away.result.run.batches["tuning"].remark == (
            "activations recomputed in the backward pass"
        )
        assert_same_figures(plain, away)


def save_mixture(path: Path) -> Path:
    """A mixture of experts: its checkpoint holds each by itself, the model all in one tensor."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    config = MixtralConfig(**LLAMA_LIKE, num_key_value_heads=2, num_local_experts=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return save_model(AutoModelForCausalLM.from_config(config), build_tokenizer(), path)


def test_weights_that_are_stored_otherwise_wait_in_a_folder_that_goes_with_them(
    data: Path, tmp_path: Path, leave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_mixture(tmp_path / "mixture")
    plain = run(folder, data, attacks=["none", "constant"], constant=FLOAT)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "waiting"))
    (tmp_path / "waiting").mkdir()
    leave("llama", 0.9)
    away = run(folder, data, attacks=["none", "constant"], constant=FLOAT)
    assert_same_figures(plain, away)
    gc.collect()
    assert not list((tmp_path / "waiting").iterdir()), "that of the scan is gone"
    checkpoint = load_checkpoint(str(folder), TargetSettings())
    (waiting,) = (tmp_path / "waiting").iterdir()
    assert any(waiting.iterdir())
    assert waiting.stat().st_mode & 0o777 == 0o700
    assert checkpoint.is_offloaded
    del checkpoint
    gc.collect()
    assert not list((tmp_path / "waiting").iterdir())


def test_a_fit_in_half_precision_makes_no_copy_of_a_target_that_is_spread(
    data: Path, tmp_path: Path, leave: Any
) -> None:
    folder, half = save("llama", tmp_path), SHORT | {"precision": "bfloat16"}
    leave("llama", 0.9)
    checkpoint = load_checkpoint(str(folder), TargetSettings())
    assert checkpoint.is_spread
    assert half_precision_copy(checkpoint, torch.bfloat16) is checkpoint
    outcome = run(folder, data, attacks=["none", "constant"], constant=half)
    assert {fit.record.precision for fit in outcome.result.fits} == {"bfloat16"}


def test_spread_is_obeyed_where_all_of_it_fits(data: Path, tmp_path: Path) -> None:
    outcome = run(save("gpt2", tmp_path), data, target={"device": "spread"}, attacks=["none"])
    choice = outcome.result.target.choices["device"]
    assert (choice.value, choice.reason) == ("cpu", "asked for")


def test_a_device_that_was_named_is_obeyed(tmp_path: Path, leave: Any) -> None:
    folder = save("gpt2", tmp_path)
    leave("gpt2", 0.1)
    checkpoint = load_checkpoint(str(folder), TargetSettings(device="cpu"))
    assert not checkpoint.is_spread
    assert checkpoint.choices["device"].reason == "asked for"


def test_what_waits_is_fetched_block_by_block_and_left_alone(tmp_path: Path, leave: Any) -> None:
    folder = save("llama", tmp_path)
    leave("llama", 0.9)
    checkpoint = load_checkpoint(str(folder), TargetSettings())
    passes = TuningPasses(checkpoint, 4, ConstantSettings(precision="float32"))
    assert passes.recomputes
    recomputing = with_recomputation(checkpoint.model, lambda: torch.no_grad())
    assert recomputing is not None
    for own, copied in zip(checkpoint.model.modules(), recomputing.modules(), strict=True):
        hooks = (getattr(module, "_hf_hook", None) for module in (own, copied))
        first, second = (getattr(hook, "weights_map", None) for hook in hooks)
        assert first is second
    assert [weight.device.type for weight in checkpoint.model.parameters()].count("meta") > 0


def test_an_adapter_over_weights_that_wait_is_refused(tmp_path: Path, leave: Any) -> None:
    from peft import LoraConfig, get_peft_model

    folder = save("llama", tmp_path)
    with quiet_transformers():
        adapted = get_peft_model(build_model("llama"), LoraConfig(target_modules=["q_proj"]))
        adapted.save_pretrained(tmp_path / "adapter")
    settings = TargetSettings(base=str(folder))
    assert not load_checkpoint(str(tmp_path / "adapter"), settings).is_spread
    leave("llama", 0.9)
    with pytest.raises(TargetError, match=r"does not fit the devices.*merge it into its base"):
        load_checkpoint(str(tmp_path / "adapter"), settings)


def test_quantised_weights_cannot_wait(tmp_path: Path, leave: Any) -> None:
    pytest.importorskip("bitsandbytes")
    folder = save("llama", tmp_path)
    leave("llama", 0.1)
    settings = TargetSettings(quantize="nf4", device="spread")
    with pytest.raises(TargetError, match=r"cannot be loaded as nf4 here .*on the CPU or the disk"):
        load_checkpoint(str(folder), settings)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "mamba"])
def test_what_weights_take_is_known_before_they_are_loaded(
    architecture: str, tmp_path: Path
) -> None:
    settings = TargetSettings()
    config = load_config(find_source(str(save(architecture, tmp_path)), settings), settings)
    assert weight_bytes(settings, config, torch.float32) == size_of(architecture)
    assert weight_bytes(settings, config, torch.bfloat16) == size_of(architecture) // 2
    fewer = TargetSettings(quantize="nf4")
    assert weight_bytes(fewer, config, torch.float32) < size_of(architecture)


def fake_cuda(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index or 0], 2**40))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)


def test_spread_goes_over_every_cuda_device_and_main_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = TargetSettings()
    config = load_config(find_source(str(save("gpt2", tmp_path)), settings), settings)
    fake_cuda(monkeypatch, 100_000, 50_000)
    device, _ = choose_device("spread")
    assert device == torch.device("cuda")
    chosen = place(settings, config, device, torch.float32)
    assert chosen.room is not None
    assert (chosen.room[0], chosen.room[1], list(chosen.room)) == (80_000, 40_000, [0, 1, "cpu"])
    needed = "0.0 GiB of weights do not fit 0.0 GiB of free memory"
    assert chosen.why == f"auto: {needed}"
    whole = spread(device, torch.float32, TargetSettings(quantize="nf4"), "asked for")
    assert list(whole.room or ()) == [0, 1], "quantised weights cannot wait in main memory"
    fake_cuda(monkeypatch, 2**30, 2**30)
    assert place(settings, config, device, torch.float32).room is None


def split(places: dict[str, object]) -> Any:
    return SimpleNamespace(hf_device_map=places)


def test_inputs_go_where_the_first_layers_are() -> None:
    room = Placement(torch.device("cuda"), torch.float32, {0: 1, 1: 1, "cpu": 1}, "asked for")
    over = split({"embed": 0, "layers.0": 0, "layers.1": 1, "layers.2": "cpu", "head": "disk"})
    assert input_device(over, room) == torch.device("cuda", 0)
    choice = describe_spread(over, room)
    assert choice is not None
    assert choice.value == "cuda:0, cuda:1, cpu, disk"
    assert choice.reason == "asked for; what is in cpu and disk is fetched for every pass"
    two = describe_spread(split({"embed": 0, "layers.0": 1}), room)
    assert two is not None
    assert (two.value, two.reason) == ("cuda:0, cuda:1", "asked for")
    spread = split({"": torch.device("cpu")})
    assert input_device(spread, Placement(torch.device("cpu"), torch.float32)) == torch.device(
        "cpu"
    )
    assert describe_spread(spread, Placement(torch.device("cpu"), torch.float32)) is None


def checkpoint_of(model: Any) -> Checkpoint:
    return Checkpoint(model, build_tokenizer(), "split", torch.device("cpu"), torch.float32)


def test_the_tightest_device_decides_how_much_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda(monkeypatch, 300, 200, 100)
    assert free_target_memory(checkpoint_of(split({"a": 0, "b": 1}))) == 200
    assert free_target_memory(checkpoint_of(split({"": "cpu"}))) is None


def test_positions_are_asked_for_by_number_where_the_head_is_elsewhere() -> None:
    model = build_model("llama")
    embedded = model.get_input_embeddings()(torch.arange(3, 11)[None])
    plain, _ = last_logits(checkpoint_of(model), 3, embedded)
    model.hf_device_map = {"model": 0, "lm_head": 1}
    devices: list[object] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: devices.append(kwargs["logits_to_keep"]), with_kwargs=True
    )
    far, _ = last_logits(checkpoint_of(model), 3, embedded)
    assert devices == [3]
    torch.testing.assert_close(far, plain)


def test_a_cache_over_two_devices_keeps_each_layer_on_its_own() -> None:
    cache = RoomyCache(2, 3, 4)
    states = torch.arange(3 * 2 * 2 * 5.0).view(3, 2, 2, 5)
    for layer, device in zip(cache.layers, ("cpu", "meta"), strict=True):
        layer.update(states.to(device), states.to(device))
    cache.reorder(torch.tensor([2, 0, 1]))
    first, second = (layer.buffers for layer in cache.layers)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first[0][:, :, :2], states[[2, 0, 1]])
    assert {buffer.device.type for buffer in second} == {"meta"}


def test_an_unknown_device_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="use auto, cpu, cuda, cuda:N, mps or spread"):
        choose_device("everywhere")
