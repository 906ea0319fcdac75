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

from memaudit.target.failures import brief
from memaudit.target.placement import Choice

PORTABLE = (None, "eager", "sdpa", "flex_attention")
"""Ways that come with PyTorch."""
FLASH = re.compile(r"flash_attention_(\d)")


def replace_attention(config: Any, device: torch.device, dtype: torch.dtype) -> str | None:
    """Let transformers choose the attention where the config's cannot be had here.

    The config is changed. What is named like a repository on the hub is code, which is not fetched.

    Returns:
        What the config asked for; None where it stays.
    """
    for asked in _asked_for(config):
        if asked in PORTABLE or _has_flash(asked, device, dtype):
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
    yield getattr(config, "_attn_implementation", None)
    for name in getattr(config, "sub_configs", {}):
        if (inner := getattr(config, name, None)) is not None:
            yield from _asked_for(inner)


def _has_flash(asked: str | None, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the package for a FlashAttention is there, and a device and numbers for it."""
    version = FLASH.fullmatch(asked or "")
    if version is None or device.type != "cuda" or dtype == torch.float32:
        return False
    available = getattr(transformers.utils, f"is_flash_attn_{version[1]}_available", None)
    return available is not None and bool(available())
