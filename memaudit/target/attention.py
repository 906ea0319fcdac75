"""Attention implementations, and a replacement for one that is not available here.

Knows the names that transformers gives to attention implementations. All give the same figures up
to rounding, so one can replace another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from memaudit.config.settings import TargetSettings
from memaudit.target.failures import brief
from memaudit.target.placement import Choice
from memaudit.target.refusals import refusal

PORTABLE = (None, "eager", "sdpa", "flex_attention")
"""Implementations that come with PyTorch."""
FLASH = re.compile(r"flash_attention_(\d)")


def refuse_foreign_code(name: str, config: Any, settings: TargetSettings) -> None:
    """Refuse attention code from a repository on the hub, unless code is trusted.

    name: what the user calls the model.

    Raises:
        TargetError: naming what the config asks for.
    """
    if settings.trust_remote_code:
        return
    for asked in _asked_for(config):
        if asked is not None and _is_repository(asked):
            raise refusal(
                name,
                f"attn_implementation in config.json is {brief(ValueError(asked), 60)}, "
                "which is code on the hub; remove that line, or review the code and allow it with "
                "--trust-remote-code",
            )


def replace_attention(
    config: Any, device: torch.device, dtype: torch.dtype, *, kernels: bool = False
) -> str | None:
    """Let transformers choose the attention if the config's is not available here.

    Changes the config.

    Args:
        config: config of the model to be loaded.
        device: device of its weights.
        dtype: number format of its weights.
        kernels: whether code from the hub may be fetched and run.

    Returns:
        The implementation that was replaced; None if the config's stays.
    """
    for asked in _asked_for(config):
        if asked in PORTABLE or _has_flash(asked, device, dtype):
            continue
        if kernels and _has_kernel(asked, device):
            continue
        config._attn_implementation = None
        return asked
    return None


def describe_attention(model: Any, asked: str | None) -> dict[str, Choice]:
    """Return the attention used instead of the config's, and why; empty if that was kept."""
    if asked is None:
        return {}
    config = model.config.get_text_config(decoder=True)
    reason = f"config.json asks for {brief(ValueError(asked), 60)}, which cannot be used here"
    return {"attention": Choice(str(config._attn_implementation), reason)}


def _asked_for(config: Any) -> Iterator[str | None]:
    """Yield the implementations that a config and its inner configs ask for."""
    asked = getattr(config, "_attn_implementation", None)
    yield asked if asked is None else str(asked)
    for name in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, name, None)) is not None:
            yield from _asked_for(inner)


def _is_repository(asked: str) -> bool:
    """Return True for a name of the form ``org/name@revision:name``, which is a repository."""
    return "/" in asked


def _has_kernel(asked: str | None, device: torch.device) -> bool:
    """Return True if a repository's code can be used: this needs the kernels package and a GPU."""
    if asked is None or not _is_repository(asked) or device.type != "cuda":
        return False
    available = getattr(transformers.utils, "is_kernels_available", None)
    return available is not None and bool(available())


def _has_flash(asked: str | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Return True if FlashAttention's package is installed, and device and dtype suit it."""
    version = FLASH.fullmatch(asked or "")
    if version is None or device.type != "cuda" or dtype == torch.float32:
        return False
    available = getattr(transformers.utils, f"is_flash_attn_{version[1]}_available", None)
    return available is not None and bool(available())
