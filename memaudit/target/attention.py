"""How attention is computed where the config asks for something that cannot be had here.

Knows the names that transformers gives the ways to compute attention. All give the same figures but
for rounding, so that one may stand in for another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.failures import brief
from memaudit.target.placement import Choice

PORTABLE = (None, "eager", "sdpa", "flex_attention")
"""Ways that come with PyTorch."""
FLASH = re.compile(r"flash_attention_(\d)")


def refuse_foreign_code(name: str, config: Any, settings: TargetSettings) -> None:
    """Refuse an attention that is code of a repository on the hub, unless code is trusted.

    name: what the user calls the model.

    Raises:
        TargetError: naming what the config asks for.
    """
    if settings.trust_remote_code:
        return
    for asked in _asked_for(config):
        if asked is not None and _is_repository(asked):
            raise TargetError(
                f"{name}: attn_implementation in config.json is {brief(ValueError(asked), 60)}, "
                "which is code on the hub; take that line out, or read that code and allow it with "
                "--trust-remote-code"
            )


def replace_attention(
    config: Any, device: torch.device, dtype: torch.dtype, *, kernels: bool = False
) -> str | None:
    """Let transformers choose the attention where the config's cannot be had here.

    The config is changed.

    Args:
        config: of a model that is about to be loaded.
        device: where it goes.
        dtype: of its numbers.
        kernels: whether code of the hub may be fetched and run.

    Returns:
        What the config asked for; None where it stays.
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
    """What was taken in the place of what the config asks for."""
    if asked is None:
        return {}
    config = model.config.get_text_config(decoder=True)
    reason = f"config.json asks for {brief(ValueError(asked), 60)}, which cannot be used here"
    return {"attention": Choice(str(config._attn_implementation), reason)}


def _asked_for(config: Any) -> Iterator[str | None]:
    """What a config and the configs in it ask for."""
    asked = getattr(config, "_attn_implementation", None)
    yield asked if asked is None else str(asked)
    for name in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, name, None)) is not None:
            yield from _asked_for(inner)


def _is_repository(asked: str) -> bool:
    """Whether a way to compute attention is named like a repository: ``org/name@revision:name``."""
    return "/" in asked


def _has_kernel(asked: str | None, device: torch.device) -> bool:
    """Whether code of a repository can be used: the package for it is there, and a GPU."""
    if asked is None or not _is_repository(asked) or device.type != "cuda":
        return False
    available = getattr(transformers.utils, "is_kernels_available", None)
    return available is not None and bool(available())


def _has_flash(asked: str | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the package for a FlashAttention is there, and a device and numbers for it."""
    version = FLASH.fullmatch(asked or "")
    if version is None or device.type != "cuda" or dtype == torch.float32:
        return False
    available = getattr(transformers.utils, f"is_flash_attn_{version[1]}_available", None)
    return available is not None and bool(available())
