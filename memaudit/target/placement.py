"""Where a target's weights go and in what numbers: on one device, or spread over several.

Knows devices, the number formats and the memory they have, and how much the weights of a config
take. Loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from memaudit.config.settings import TargetSettings
from memaudit.errors import UsageError
from memaudit.target.failures import FAILURES, quiet_transformers

HALF = (torch.bfloat16, torch.float16)
OFFLOADED = ("cpu", "disk")
"""Where weights wait that are brought to another device, or into memory, for each pass."""
SHARE = 0.8
"""Of what is free, what weights may take: the rest is for what passes keep."""
BITS = {"int8": 8, "llm-int8": 8, "nf4": 4.5}
"""Bits of a quantised weight, with its share of the scales."""


@dataclass(frozen=True)
class Choice:
    """Something that was resolved, and why it came out so."""

    value: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Where weights go, and in what numbers."""

    device: torch.device
    """Where inputs go; of weights that are spread, those of the first layers."""
    dtype: torch.dtype
    room: Mapping[int | str, int] | None = None
    """Bytes of weights by CUDA device and in main memory, what is left going to disk; None where
    all of them go to ``device``."""
    why: str = ""
    """Why they are spread."""


def choose_device(asked: str) -> tuple[torch.device, Choice]:
    """The device to run on. One that was named is obeyed; only ``auto`` falls back.

    Raises:
        UsageError: no such device here.
    """
    if asked in ("auto", "spread"):
        if torch.cuda.is_available():
            return torch.device("cuda"), Choice("cuda", "auto: a CUDA device is there")
        if torch.backends.mps.is_available() and asked == "auto":
            return torch.device("mps"), Choice("mps", "auto: Apple's GPU is there, CUDA is not")
        return torch.device("cpu"), Choice("cpu", "auto: neither CUDA nor MPS is there")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"--device {asked}: use auto, cpu, cuda, cuda:N, mps or spread") from error
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= there.get(device.type, 0):
        have = ", ".join(f"{count} {kind}" for kind, count in there.items() if count)
        raise UsageError(f"--device {asked}: not on this machine (it has {have}); or use auto")
    return device, Choice(asked, "asked for")


def choose_dtype(asked: str, device: torch.device, config: Any) -> tuple[torch.dtype, Choice]:
    """The number format to run in.

    On the CPU, and wherever the checkpoint is not in half precision, it is float32: in bfloat16
    two tokens can tie, and then a verdict hangs on the shape of the batch it was in.
    """
    if asked != "auto":
        return getattr(torch, asked), Choice(asked, "asked for")
    stored = getattr(config.get_text_config(decoder=True), "dtype", None)
    if device.type != "cuda":
        why = "auto: off CUDA, so that no verdict hangs on a tie in half precision"
    elif stored not in HALF:
        why = "auto: the checkpoint is not in half precision"
    elif not torch.cuda.is_bf16_supported(including_emulation=False):
        why = "auto: the CUDA device does not compute in bfloat16"
    else:
        return torch.bfloat16, Choice("bfloat16", "auto: the checkpoint is in half precision")
    return torch.float32, Choice("float32", why)


def multiplies_in_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16."""
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()  # older PyTorch cannot be asked
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def place(
    settings: TargetSettings,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    *,
    size_known: bool = True,
) -> Placement:
    """On ``device`` where the weights fit it; spread where that was asked, or is needed and the
    device was not named.

    size_known: whether ``config`` tells what the weights take, as it does not of stored ones that
        stay quantised.
    """
    if settings.device == "spread":
        return spread(device, dtype, settings, "asked for")
    if settings.device != "auto" or device.type == "mps" or not size_known:
        return Placement(device, dtype)
    try:
        needed = weight_bytes(settings, config, dtype)
    except FAILURES:  # loading it will tell why
        return Placement(device, dtype)
    free = free_bytes(device)
    if needed <= SHARE * free:
        return Placement(device, dtype)
    why = f"auto: {_gibibytes(needed)} of weights are too much for {_gibibytes(free)} free there"
    return spread(device, dtype, settings, why)


def spread(
    device: torch.device, dtype: torch.dtype, settings: TargetSettings, why: str
) -> Placement:
    """Over every CUDA device, and what they do not hold over main memory and the disk.

    Quantised weights cannot wait elsewhere, so these have to fit the CUDA devices, if any.
    """
    room: dict[int | str, int] = {}
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            room[index] = int(SHARE * free_bytes(torch.device("cuda", index)))
    if not room or settings.quantize is None:
        room["cpu"] = int(SHARE * free_bytes(torch.device("cpu")))
    return Placement(device, dtype, room, why)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a CUDA device; elsewhere that of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def weight_bytes(settings: TargetSettings, config: Any, dtype: torch.dtype) -> int:
    """What the weights of a config take once they are loaded, quantised if that is asked for."""
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=settings.trust_remote_code
        )
    every = sum(weight.numel() for weight in model.parameters())
    if settings.quantize is None:
        return int(every) * dtype.itemsize
    tables = {id(part.weight) for part in model.modules() if isinstance(part, torch.nn.Embedding)}
    if (head := model.get_output_embeddings()) is not None:
        tables.add(id(head.weight))
    packed = sum(
        weight.numel()
        for weight in model.parameters()
        if weight.dim() == 2 and id(weight) not in tables
    )
    return int((every - packed) * dtype.itemsize + packed * BITS[settings.quantize] / 8)


def describe_spread(model: Any, placement: Placement) -> Choice | None:
    """Where the weights went; None where they were not to be spread."""
    if placement.room is None:
        return None
    places = places_of(model) or {"": placement.device}
    names = list(
        dict.fromkeys(f"cuda:{at}" if isinstance(at, int) else str(at) for at in places.values())
    )
    # Where nothing else computes, what is in main memory is where it is used.
    waits = OFFLOADED if placement.device.type == "cuda" else ("disk",)
    waiting = [name for name in names if name in waits]
    slow = f"; what is in {' and '.join(waiting)} is fetched for every pass" if waiting else ""
    return Choice(", ".join(names), f"{placement.why}{slow}")


def base_of(model: Any) -> Any:
    """The model under an adapter's wrapper; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def places_of(model: Any) -> Mapping[str, Any]:
    """Part of the model -> number of a CUDA device, ``cpu`` or ``disk``, of one whose weights are
    not all on one device; empty for others.
    """
    found: Mapping[str, Any] = getattr(base_of(model), "hf_device_map", None) or {}
    kinds = set(map(str, found.values()))
    return found if len(kinds) > 1 or "disk" in kinds else {}


def input_device(model: Any, placement: Placement) -> torch.device:
    """Where a loaded model takes its inputs."""
    computing = [where for where in places_of(model).values() if where not in OFFLOADED]
    if not computing:
        return placement.device
    first = computing[0]
    return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)


def waits_elsewhere(model: Any) -> bool:
    """Whether some weights are fetched for each pass and let go again."""
    return any(weight.device.type == "meta" for weight in model.parameters())


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
