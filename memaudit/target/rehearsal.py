"""A rehearsal of loading a checkpoint: everything its text files cause, within limits.

Knows transformers, PEFT and limited child processes. Returns nothing: any failure other than a
reached limit happens again, and is explained, when the checkpoint is really loaded.

Text files can do harm in three ways. ``config.json`` may ask for ten million layers, an adapter's
config may hold a pattern that takes years to match against the names of modules, and a tokenizer
may multiply its input text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from memaudit.config.settings import TargetSettings
from memaudit.system.limits import LimitReached, try_limited
from memaudit.target.failures import quiet_transformers
from memaudit.target.refusals import refusal
from memaudit.target.source import Source

CPU_SECONDS = 60
"""Processor time for each rehearsal, in s; a model of 60 layers with 256 experts each takes 20."""


def rehearse(
    source: Source,
    settings: TargetSettings,
    load_config: Callable[[], Any],
    load_tokenizer: Callable[[], Any],
) -> None:
    """Load the tokenizer of a source and build its model without weights, in a child process.

    A GGUF file is skipped: transformers builds its tokenizer and config itself, from lists.

    Raises:
        TargetError: the rehearsal takes too much time or memory.
    """
    if source.weights.kind == "gguf":
        return
    if source.base is not None:
        import peft  # noqa: F401  # here, since a child would import it for itself alone
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("building its model", lambda: _build(source, settings, load_config())),
        ("loading its tokenizer", load_tokenizer),
    )
    for name, step in steps:
        try:
            try_limited(step, CPU_SECONDS)
        except LimitReached as limit:
            raise refusal(
                source.name,
                f"{name} as its config and tokenizer files say {limit}; they are "
                "damaged or malicious",
            ) from None


def _build(source: Source, settings: TargetSettings, config: Any) -> None:
    """Build the modules of a model, and of its adapter around them, without any weights."""
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=settings.trust_remote_code
        )
        if source.base is not None:
            from peft import PeftConfig, get_peft_model

            adapter = PeftConfig.from_pretrained(Path(source.location))
            adapter.inference_mode = True
            get_peft_model(model, adapter)
