"""Placement of a target's weights, on one device or spread over several, and their dtype.

Knows devices, their number formats and memory, and how much memory the weights of a config take.
Loads nothing.
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
"""Places of weights that are brought to another device, or into memory, for each pass."""
SHARE = 0.8
"""Share of free memory that weights may take; the rest is for the tensors of passes."""
BITS = {"int8": 8, "llm-int8": 8, "nf4": 4.5}
"""Bits of a quantised weight, including its share of the scales."""


@dataclass(frozen=True)
class Choice:
    """A resolved value and its reason."""

    value: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """Device and number format of weights."""

    device: torch.device
    """Device of inputs; for spread weights, that of the first layers."""
    dtype: torch.dtype
    room: Mapping[int | str, int] | None = None
    """Bytes of weights by CUDA device and in main memory, the remainder going to disk; None if all
    of them go to ``device``."""
    why: str = ""
    """Reason for spreading them."""


def choose_device(asked: str) -> tuple[torch.device, Choice]:
    """Choose the device to run on: the named device, or for ``auto`` the best available.

    Raises:
        UsageError: the machine has no such device.
    """
    if asked in ("auto", "spread"):
        if torch.cuda.is_available():
            return torch.device("cuda"), Choice("cuda", "auto: a CUDA device is available")
        if torch.backends.mps.is_available() and asked == "auto":
            return torch.device("mps"), Choice("mps", "auto: Apple's GPU is available, CUDA is not")
        return torch.device("cpu"), Choice("cpu", "auto: neither CUDA nor MPS is available")
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"--device {asked}: use auto, cpu, cuda, cuda:N, mps or spread") from error
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= counts.get(device.type, 0):
        have = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        raise UsageError(f"--device {asked}: not on this machine (it has {have}); or use auto")
    return device, Choice(asked, "asked for")


def choose_dtype(asked: str, device: torch.device, config: Any) -> tuple[torch.dtype, Choice]:
    """Choose the number format to run in.

    On the CPU, and for a checkpoint that is not in half precision, this is float32: in bfloat16
    two tokens can tie, and then a verdict depends on the shape of its batch.
    """
    if asked != "auto":
        return getattr(torch, asked), Choice(asked, "asked for")
    stored = getattr(config.get_text_config(decoder=True), "dtype", None)
    if device.type != "cuda":
        why = "auto: off CUDA, so that no verdict depends on a tie in half precision"
    elif stored not in HALF:
        why = "auto: the checkpoint is not in half precision"
    elif not torch.cuda.is_bf16_supported(including_emulation=False):
        why = "auto: the CUDA device does not compute in bfloat16"
    else:
        return torch.bfloat16, Choice("bfloat16", "auto: the checkpoint is in half precision")
    return torch.float32, Choice("float32", why)


def multiplies_in_bfloat16() -> bool:
    """Return True if the CPU has instructions for products in bfloat16."""
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()  # older PyTorch has no such function
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def place(
    settings: TargetSettings,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    *,
    size_known: bool = True,
) -> Placement:
    """Place the weights on ``device`` if they fit, else spread them if the device was not named.

    The setting ``spread`` always spreads them.

    size_known: whether ``config`` gives the size of the weights, which it does not for weights
        that are stored quantised and stay so.
    """
    if settings.device == "spread":
        return spread(device, dtype, settings, "asked for")
    if settings.device != "auto" or device.type == "mps" or not size_known:
        return Placement(device, dtype)
    try:
        needed = weight_bytes(settings, config, dtype)
    except FAILURES:  # loading it will say why
        return Placement(device, dtype)
    free = free_bytes(device)
    if needed <= SHARE * free:
        return Placement(device, dtype)
    why = f"auto: {_gibibytes(needed)} of weights do not fit {_gibibytes(free)} of free memory"
    return spread(device, dtype, settings, why)


def spread(
    device: torch.device, dtype: torch.dtype, settings: TargetSettings, why: str
) -> Placement:
    """Spread weights over every CUDA device, and the remainder over main memory and the disk.

    Quantised weights cannot be offloaded, so these must fit the CUDA devices, if any.
    """
    room: dict[int | str, int] = {}
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            room[index] = int(SHARE * free_bytes(torch.device("cuda", index)))
    if not room or settings.quantize is None:
        room["cpu"] = int(SHARE * free_bytes(torch.device("cpu")))
    return Placement(device, dtype, room, why)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a CUDA device, or of the machine for any other."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def weight_bytes(settings: TargetSettings, config: Any, dtype: torch.dtype) -> int:
    """Return the bytes of a config's weights once loaded, quantised if the settings say so."""
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
    """Return the places of spread weights and the reason; None if spreading was not intended."""
    if placement.room is None:
        return None
    places = places_of(model) or {"": placement.device}
    names = list(
        dict.fromkeys(f"cuda:{at}" if isinstance(at, int) else str(at) for at in places.values())
    )
    # Without a CUDA device, weights in main memory are used in place.
    waits = OFFLOADED if placement.device.type == "cuda" else ("disk",)
    waiting = [name for name in names if name in waits]
    slow = f"; what is in {' and '.join(waiting)} is fetched for every pass" if waiting else ""
    return Choice(", ".join(names), f"{placement.why}{slow}")


def base_of(model: Any) -> Any:
    """Return the model under an adapter's wrapper; any other model unchanged."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def places_of(model: Any) -> Mapping[str, Any]:
    """Return the place of each part of a spread model; empty for a model on one device.

    A place is the number of a CUDA device, ``cpu`` or ``disk``.
    """
    places: Mapping[str, Any] = getattr(base_of(model), "hf_device_map", None) or {}
    kinds = set(map(str, places.values()))
    return places if len(kinds) > 1 or "disk" in kinds else {}


def input_device(model: Any, placement: Placement) -> torch.device:
    """Return the device on which a loaded model takes its inputs."""
    computing = [where for where in places_of(model).values() if where not in OFFLOADED]
    if not computing:
        return placement.device
    first = computing[0]
    return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)


def waits_elsewhere(model: Any) -> bool:
    """Return True if some weights are fetched for each pass and released after it."""
    return any(weight.device.type == "meta" for weight in model.parameters())


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
