"""Weights in a checkpoint's file without a place in the loaded model: harmless, or proof that the
file holds a different model.

Knows the loaded model's modules and the names in its file. Decides by them alone: layers and
modules are read from the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from memaudit.target.placement import Choice
from memaudit.target.refusals import refusal
from memaudit.target.weight_files import stored_shapes

PEFT_PREFIX = "base_model.model."
"""Prefix that PEFT puts before the names of an adapter's weights."""
UnusedWeights = Mapping[str, str]
"""Name of a weight that no pass uses -> the reason it may be left out."""

Shapes = dict[str, tuple[int, ...]]
"""Name of a weight in a file -> its shape there."""

COMPUTED = re.compile(r"(^|\.)(\w*inv_freq|position_ids)$")
"""Buffers that older versions of transformers saved and newer ones compute."""
HEADS = re.compile(r"([^\d.]\w*\.)*(v_head|value_head|score|classifier|reward_head)\.")
"""Heads for other tasks: TRL's value head, transformers' sequence classification."""
AHEAD = re.compile(r"([^\d.]\w*\.)*(mtp|nextn)\w*\.")
"""Modules that predict further tokens ahead (multi-token prediction)."""


class Layer(NamedTuple):
    """Position of a weight in a list of layers."""

    container: str
    number: int
    rest: str
    """Its name within the layer."""


def split_unused(
    names: Iterable[str],
    model: Any,
    files: Sequence[Path],
    config: Any = None,
    prefix: str = "",
) -> tuple[UnusedWeights, set[str]]:
    """Separate weights that may be left out from those that belong to the language model.

    Args:
        names: weights that loading did not use.
        model: the loaded model.
        files: safetensors files of its weights, if any.
        config: config of the whole checkpoint, which may hold more than the language model.
        prefix: prefix of every name in the files, which loading removed.

    Returns:
        The harmless weights with the reason, and the names of all others.
    """
    stored: Shapes = {
        name.removeprefix(prefix): shape
        for path in files
        for name, shape in stored_shapes(str(path.parent), path).items()
    }
    # transformers does not report weights that a model class lists as known to be unused.
    quiet = {name for name in stored if _is_ignored(name, model)}
    used = set(stored).difference(names, quiet)
    several = config is not None and config.get_text_config(decoder=True) is not config
    harmless: dict[str, str] = {}
    harmful: set[str] = set()
    for name in sorted({*names, *quiet}):
        reason = head_reason(name) or _reason(name, model, stored)
        if reason is None and several and _is_tower(name, model, used):
            reason = "the language model does without it"
        if reason is None and name.endswith(".bias") and _is_zero(prefix + name, files):
            reason = "a bias of zeros"
        if reason is None and name in quiet and _layer_beyond(name, model) is None:
            reason = "transformers lists it as unused"
        if reason is None:
            harmful.add(name)
        else:
            harmless[name] = reason
    return harmless, harmful


def head_reason(name: str) -> str | None:
    """Return the reason to leave out a head for another task; None for any other weight."""
    is_head = HEADS.match(name.removeprefix(PEFT_PREFIX))
    return "a head for another task" if is_head else None


def _reason(name: str, model: Any, stored: Shapes) -> str | None:
    """Return the reason to leave out a weight; None if it must stay."""
    if COMPUTED.search(name) or _is_mask(name, model):
        return "the model computes it"
    layer = _layer_beyond(name, model)
    if layer is None:
        looks_ahead = AHEAD.match(name) is not None
    else:
        is_listed = _is_ignored(name, model) or layer.number < _layers_and_ahead(layer, model)
        looks_ahead = is_listed and _joins_two(layer, stored, model)
    return "it predicts further tokens ahead" if looks_ahead else None


def refuse_unused(source_name: str, harmful: Set[str], model: Any) -> None:
    """Raise TargetError if weights that the language model needs are unused."""
    if not harmful:
        return
    beyond = [layer for name in harmful if (layer := _layer_beyond(name, model)) is not None]
    if beyond:
        first = min(beyond, key=lambda layer: (layer.container, layer.number))
        last = max(layer.number for layer in beyond if layer.container == first.container)
        layers = len(_container(first.container, model) or ())
        raise refusal(
            source_name,
            f"holds layers up to {first.container}.{last}, and config.json gives "
            f"{layers}, so a part of the model would not be audited; the config belongs to another "
            "checkpoint",
        )
    raise refusal(
        source_name,
        f"holds weights that {type(model).__name__} has no place for "
        f"({name_some(harmful)}); its config.json belongs to another checkpoint",
    )


def describe_unused(unused: UnusedWeights) -> dict[str, Choice]:
    """Return the report's entry for weights that were left out."""
    if not unused:
        return {}
    reasons = dict.fromkeys(unused[name] for name in sorted(unused))
    return {"unused_weights": Choice(name_some(unused), "; ".join(reasons))}


def name_some(names: Iterable[str]) -> str:
    """Return the first name and the count of the others."""
    first, *rest = sorted(names)
    return f"{first} and {len(rest)} more" if rest else str(first)


def _is_ignored(name: str, model: Any) -> bool:
    """Return True if transformers silently ignores a weight of this name."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    if not (COMPUTED.search(name) or any(re.search(pattern, name) for pattern in patterns)):
        return False
    return all(_lookup(path, model) is None for path in _paths(name, model))


def _paths(name: str, model: Any) -> Iterator[str]:
    """Yield the paths that a weight may have in the model.

    Files come with and without the prefix of the model below the head.
    """
    prefix = f"{model.base_model_prefix}."
    yield name
    yield name.removeprefix(prefix) if name.startswith(prefix) else prefix + name


def _lookup(path: str, model: Any) -> Any:
    """Return the module, parameter or buffer at a dotted path; None if there is none."""
    part = model
    for step in path.split("."):
        part = getattr(part, step, None)
        if not isinstance(part, torch.nn.Module | torch.Tensor):
            return None
    return part


def _container(path: str, model: Any) -> Any:
    """Return the list of layers at a dotted path; None if it is anything else."""
    for way in _paths(path, model):
        if isinstance(part := _lookup(way, model), torch.nn.ModuleList):
            return part
    return None


def _layer_of(name: str) -> Layer | None:
    match = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
    return Layer(match[1], int(match[2]), match[3]) if match else None


def _layer_beyond(name: str, model: Any) -> Layer | None:
    """Return a weight's layer if the model has fewer layers; None otherwise."""
    layer = _layer_of(name)
    if layer is None:
        return None
    container = _container(layer.container, model)
    return layer if container is not None and layer.number >= len(container) else None


def _layers_and_ahead(layer: Layer, model: Any) -> int:
    """Count a container's layers and those that, by the config, predict further tokens ahead."""
    settings = model.config.get_text_config(decoder=True).to_dict()
    ahead = [
        value
        for name, value in settings.items()
        if ("nextn" in name or "mtp" in name) and type(value) is int
    ]
    return len(_container(layer.container, model)) + max(ahead, default=0)


def _joins_two(layer: Layer, stored: Shapes, model: Any) -> bool:
    """Return True if a layer joins a hidden state and an embedding.

    A layer that predicts further tokens ahead does so, by a projection from twice the width that no
    layer before it has. Names in files are compared with each other, as the model may rename them.
    """
    width = int(model.get_input_embeddings().weight.shape[-1])
    kind = layer.container.rpartition(".")[2]
    ordinary, own = set(), set()
    for name, shape in stored.items():
        other = _layer_of(name)
        if other is None or other.container.rpartition(".")[2] != kind:
            continue
        if other.number < layer.number:
            ordinary.add(other.rest)
        elif other.number == layer.number and shape[-1:] == (2 * width,):
            own.add(other.rest)
    return any(rest.count(".") == 1 for rest in own - ordinary)


def _is_mask(name: str, model: Any) -> bool:
    """Return True for a causal mask: a bias of an attention module that is not a linear layer."""
    path, _, leaf = name.rpartition(".")
    if leaf not in ("bias", "masked_bias") or "att" not in path.rpartition(".")[2]:
        return False
    modules = [_lookup(way, model) for way in _paths(path, model)]
    return any(
        isinstance(part, torch.nn.Module) and not hasattr(part, "weight") for part in modules
    )


def _is_tower(name: str, model: Any, used: Set[str]) -> bool:
    """Return True for a weight of a tower beside the language model, as for images or sound.

    Such a weight is of a module that the model lacks, and no weight of that module was used.
    """
    steps = name.split(".")
    for depth in range(1, len(steps)):
        path = ".".join(steps[:depth])
        part = _lookup(path, model)
        if isinstance(part, torch.nn.ModuleList):
            return False
        if part is None:
            return bool(used) and not any(other.startswith(f"{path}.") for other in used)
    return False


def _is_zero(name: str, files: Sequence[Path]) -> bool:
    """Return True if every number of a weight in these files is zero."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - a safetensors file is not a mapping
                return not bool(file.get_tensor(name).any())
    return False
