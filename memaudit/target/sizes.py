"""Sizes that a config asks for, compared with the weights files before memory is used.

Knows modules on the meta device, which take no memory, and the headers of weights files.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from memaudit.target.failures import EMPTY_WEIGHTS, FAILURES, explained, quiet_transformers
from memaudit.target.refusals import refusal
from memaudit.target.source import Source
from memaudit.target.weight_files import stored_shapes

if TYPE_CHECKING:
    from peft import PeftConfig

Shapes = Mapping[str, tuple[int, ...]]

MAX_BUFFERS = 2**30
"""Most bytes of tables that a model may compute from its config; GPT-Neo's take 0.1 GiB."""
SLACK = 2**24
"""Most numbers that a model may have beyond twice those in its files before it is loaded."""
PACKED = 8
"""Most quantised weights in a stored byte."""


def check_sizes(source: Source, config: Any) -> None:
    """Refuse a config whose weights are larger than those in the files.

    A model that cannot be built without weights is accepted: loading it says why.

    Raises:
        TargetError: a weight is too large; the message names it and its two shapes.
    """
    try:
        model = _without_weights(config)
    except FAILURES:
        return
    _refuse_buffers(source.name, "config.json", model.named_buffers())
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    if source.gguf_file is not None:
        with explained(source.name):
            tensors = GGUFReader(Path(source.location) / source.gguf_file).tensors
        stored = {tensor.name: tuple(map(int, tensor.shape)) for tensor in tensors}
        _refuse_total(source.name, "its header", wanted, stored, _count(stored))
        return
    stored = {
        name.removeprefix(source.prefix): shape
        for path in source.weights_files
        for name, shape in stored_shapes(source.name, path).items()
    }
    parts = (config, config.get_text_config(decoder=True))
    if any(getattr(part, "quantization_config", None) is not None for part in parts):
        packed = PACKED * sum(path.stat().st_size for path in source.weights_files)
        _refuse_total(source.name, "config.json", wanted, stored, packed)
        return
    _refuse_shapes(source.name, "config.json", _renamed(wanted, stored, model), stored)
    _refuse_total(source.name, "config.json", wanted, stored, _count(stored))


def check_adapter_sizes(source: Source, base: Any) -> None:
    """Refuse an adapter whose config asks for larger weights than its file has.

    base: the loaded model under the adapter. Raises TargetError as `check_sizes` does.
    """
    from peft import PeftConfig, get_peft_model_state_dict

    config = PeftConfig.from_pretrained(source.location)
    config.inference_mode = True
    for initial in ("init_lora_weights", "init_weights"):
        if hasattr(config, initial):
            setattr(config, initial, False)
    try:
        model = _without_weights(copy.deepcopy(base.config), config)
        of_adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
    except FAILURES:
        return
    wanted = {name: tuple(weight.shape) for name, weight in of_adapter.items()}
    (path,) = source.weights_files
    stored = stored_shapes(source.name, path)
    _refuse_buffers(source.name, "adapter_config.json", model.named_buffers())
    _refuse_shapes(source.name, "adapter_config.json", wanted, stored)
    _refuse_total(source.name, "adapter_config.json", wanted, stored, _count(stored))


def _without_weights(config: Any, adapter: PeftConfig | None = None) -> Any:
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        if adapter is None:
            return model
        from peft import get_peft_model

        return get_peft_model(model, adapter)


def _renamed(wanted: Shapes, stored: Shapes, model: Any) -> Shapes:
    """Return the shapes by their names in the files, which may lack the prefix of the base."""
    prefix = f"{model.base_model_prefix}."
    return {
        next(
            (
                other
                for other in (name, name.removeprefix(prefix), prefix + name)
                if other in stored
            ),
            name,
        ): shape
        for name, shape in wanted.items()
    }


def _refuse_shapes(name: str, file: str, wanted: Shapes, stored: Shapes) -> None:
    for weight, shape in wanted.items():
        other = stored.get(weight, shape)
        if 0 in other and 0 not in shape:
            raise refusal(name, EMPTY_WEIGHTS)
        if math.prod(other) != math.prod(shape):  # transformers transposes some weights
            raise refusal(
                name,
                f"weights of other shapes than {file} gives ({weight} is {_text(other)} in "
                f"the file and {_text(shape)} by {file}); it belongs to another checkpoint",
            )


def _refuse_total(name: str, file: str, wanted: Shapes, stored: Shapes, capacity: int) -> None:
    if _count(wanted) <= 2 * capacity + SLACK:
        return
    missing = {weight: shape for weight, shape in wanted.items() if weight not in stored} or wanted
    largest = max(missing, key=lambda weight: math.prod(missing[weight]))
    raise refusal(
        name,
        f"{file} asks for {_count(wanted):,} numbers in weights, and the files hold "
        f"{_count(stored):,} (the largest missing is {largest}, {_text(missing[largest])}); it "
        "belongs to another checkpoint",
    )


def _refuse_buffers(name: str, file: str, buffers: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse tables computed from a config that would fill memory."""
    sizes = {buffer: (table.nbytes, tuple(table.shape)) for buffer, table in buffers}
    total = sum(size for size, _ in sizes.values())
    if total > MAX_BUFFERS:
        largest = max(sizes, key=lambda buffer: sizes[buffer][0])
        raise refusal(
            name,
            f"{file} asks for {total / 2**30:.1f} GiB of tables that no weights file holds "
            f"({largest} is {_text(sizes[largest][1])}), and memaudit allows 1 GiB; correct its "
            "number of positions",
        )


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
