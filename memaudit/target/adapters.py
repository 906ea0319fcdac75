"""Adapters over their base: loading, comparison with the file, naming and switching off.

Knows PEFT. Knows nothing about how the base is loaded, or what an audit does with the result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from memaudit.config.settings import TargetSettings
from memaudit.target.failures import explained, quiet_transformers
from memaudit.target.openings import watched
from memaudit.target.placement import Placement, waits_elsewhere
from memaudit.target.refusals import refusal
from memaudit.target.sizes import check_adapter_sizes
from memaudit.target.source import Source
from memaudit.target.unused_weights import PEFT_PREFIX, UnusedWeights, head_reason, name_some
from memaudit.target.vocabulary import fit_vocabulary

MAX_IDS = 64
"""Most ids tried from one list in an adapter's config."""


class AdaptedModel(NamedTuple):
    """A base with its adapter."""

    model: Any
    unused: UnusedWeights
    """Weights in the adapter's file that no language model uses."""
    replaces_base: bool
    """True if the file also holds whole weights of the base, such as an embedding with more rows,
    which stay in place when the adapter is switched off."""


class FileNames(NamedTuple):
    """Differences in names between an adapter's file and the model that its config builds."""

    missing: set[str]
    unexpected: set[str]
    base_weights: set[str]
    """Weights in the file that are not the adapter's own and still found a place."""


def load_adapter(
    source: Source, settings: TargetSettings, base: Any, placement: Placement
) -> AdaptedModel:
    """Load an adapter over its base, unmerged.

    Raises:
        TargetError: it is a soft prompt itself, does not fit the base, lacks weights, holds weights
            that have no place, or opens files other than its own.
    """
    from peft import PeftConfig, PeftModel, load_peft_weights  # only where an adapter is

    folder = Path(source.location)
    if waits_elsewhere(base):
        raise refusal(
            source.name,
            "the adapter's base does not fit the devices, and an adapter cannot "
            "use weights that are fetched for each pass; merge it into its base, or use --quantize",
        )
    (path,) = source.weights_files
    with explained(source.name), quiet_transformers():
        config = PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise refusal(
                source.name,
                f"is a soft prompt itself ({_kind(config)}); memaudit audits "
                "adapters that change weights, such as LoRA",
            )
        _keep_untied(base)
        fit_vocabulary(base, path, source.name)
        check_adapter_sizes(source, base)
        of_base = {f"{PEFT_PREFIX}{weight}" for weight in base.state_dict()}
        renames = getattr(base, "_checkpoint_conversion_mapping", None)
        with watched(source.name, allow_pickle=settings.allow_pickle) as openings:
            model = PeftModel.from_pretrained(base, folder, torch_device=str(placement.device))
        openings.require_exactly(source.weights_files)
        names = _compare(model, load_peft_weights(str(folder), "cpu", renames))
    if names.missing:
        raise refusal(
            source.name,
            f"the adapter's file lacks weights its config asks for "
            f"({name_some(names.missing)}); write the adapter again",
        )
    unused = {name: reason for name in names.unexpected if (reason := head_reason(name))}
    if harmful := names.unexpected - set(unused):
        raise refusal(
            source.name,
            f"the adapter's file holds weights that its config and its base have no "
            f"place for ({name_some(harmful)}), so part of it would have no effect; use the config "
            "and the base that it was saved with",
        )
    return AdaptedModel(model, unused, bool(names.base_weights & of_base))


def _keep_untied(base: Any) -> None:
    """Mark the embeddings as untied in the config if the file holds a separate head.

    transformers leaves such a head untied whatever the config says, and would tie it again when
    the embeddings are given more rows.
    """
    head = base.get_output_embeddings()
    if head is None or head.weight is base.get_input_embeddings().weight:
        return
    for config in (base.config, base.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False


def _compare(model: Any, weights: Mapping[str, torch.Tensor]) -> FileNames:
    """Fill the adapter from its file again: only then does PEFT report what it ignored."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    outcome = set_peft_model_state_dict(model, weights)
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    stored = set(weights)
    unexpected = {name for name in outcome.unexpected_keys if not _is_copy(name, weights)}
    return FileNames(wanted - stored, unexpected, stored - wanted - unexpected)


def _is_copy(name: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """Return True for a second copy: PEFT saves an embedding with added rows under two names."""
    twin = weights.get(name.replace(".modules_to_save.", "."))
    return (
        name in weights
        and twin is not None
        and twin is not weights[name]
        and torch.equal(twin, weights[name])
    )


def has_adapter(model: Any) -> bool:
    """Return True for a base with a PEFT adapter over it."""
    peft = sys.modules.get("peft")  # its import takes seconds, and no base needs it
    return peft is not None and isinstance(model, peft.PeftModel)


def adapter_kind(model: Any) -> str:
    """Return PEFT's name for the adapter, with the first setting that names token ids."""
    config = model.active_peft_config
    fields = [name for name, ids in _id_lists(config)]
    return " with ".join([_kind(config), *fields[:1]])


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Switch the model's adapter off while the context lasts.

    PEFT refuses to switch off an adapter with no layer to act on; such an adapter is off anyway.
    """
    with ExitStack() as stack:
        with suppress(ValueError):
            stack.enter_context(model.disable_adapter())
        try:
            yield
        finally:
            stack.close()
            model.requires_grad_(False)  # PEFT switches it back on as trainable


def named_ids(model: Any, vocabulary: int) -> list[list[int]]:
    """Lists of token ids named in the adapter's config, in its order, if all are valid ids.

    Whatever an adapter looks for in its input, such as an activated LoRA's invocation, must be
    named there.
    """
    lists = [ids[:MAX_IDS] for _, ids in _id_lists(model.active_peft_config)]
    return [ids for ids in lists if all(0 <= id_ < vocabulary for id_ in ids)]


def _id_lists(config: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield each setting of a config that holds token ids: its name and the full list."""
    for name, value in sorted(config.to_dict().items()):
        if "token" not in name or not value:
            continue
        parts = list(value.values()) if isinstance(value, dict) else [value]
        for ids in parts:
            if isinstance(ids, list | tuple) and all(type(id_) is int for id_ in ids):
                yield name, list(ids)


def _kind(config: Any) -> str:
    return str(getattr(config.peft_type, "value", config.peft_type))
