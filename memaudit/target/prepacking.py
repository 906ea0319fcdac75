"""Linear layers with prepacked weights: in the order in which a CPU's matrix products read them.

Knows torch's modules, oneDNN's operators and the machine's memory. Knows nothing about
checkpoints.

A product with a weight as stored reorders it first, every time, and few rows of input do not make
up for that. On two cores of a Zen 4 in float32, with a peak of 226 GFLOP/s, (64,576) by (576,49152)
reaches 101 as stored and 203 prepacked, (224,256) by (256,8192) 131 and 210, and (1584,256) by
(256,1024) 192 and 203. Other processors were not tried.
"""

from __future__ import annotations

import copy
import platform
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from memaudit.errors import UsageError
from memaudit.system.memory import is_out_of_memory
from memaudit.target.failures import FAILURES
from memaudit.target.placement import Choice, multiplies_in_bfloat16

PREPACKED = "prepacked"
MEMORY_SHARE = 1 / 8
"""Share of the machine's memory that weights may take to be prepacked. Prepacking keeps a second
copy, and fits in bfloat16 three copies of half the size: 3.5 times the weights in all."""


def choose_prepacking(
    asked: str, model: nn.Module, dtype: torch.dtype, *, quantized: bool
) -> Choice | None:
    """Choose whether to prepack the weights of a model; None if they cannot be.

    Raises UsageError if prepacking was asked for and is impossible.
    """
    weights = list(model.parameters())
    on_cpu = all(weight.device.type == "cpu" for weight in weights)
    if not on_cpu or quantized or not can_prepack(dtype):
        if asked == "yes":
            raise UsageError(
                "target.prepack = yes: needs an x86 CPU, and weights that are not quantised, in "
                "float32 or in a bfloat16 that it multiplies in; leave it at auto"
            )
        return None
    if asked != "auto":
        return Choice(PREPACKED if asked == "yes" else "as stored", "asked for")
    # Total memory, not free memory, so that a machine makes the same choice every time.
    total = psutil.virtual_memory().total
    share = f"an eighth of {total / 2**30:.0f} GiB"
    if sum(weight.nbytes for weight in weights) <= MEMORY_SHARE * total:
        return Choice(PREPACKED, f"auto: for speed, as they take {share} at most")
    return Choice("as stored", f"auto: the weights take more than {share}")


def can_prepack(dtype: torch.dtype) -> bool:
    """Return True if oneDNN multiplies by prepacked weights of this format on this CPU."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_in_bfloat16()))
    )


def prepacked_copy(model: nn.Module) -> nn.Module | None:
    """Copy a model's modules around the same weights, with linear layers prepacked.

    Returns None if the modules cannot be copied. No gradient passes through the copy. Raises the
    library's error if memory runs out.
    """
    shared: list[Any] = [*model.parameters(), *model.buffers()]
    try:
        copied = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
        prepack(copied)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None  # a model's own code may hold objects that cannot be copied
    return copied


def prepack(model: nn.Module, *, backward: bool = False) -> None:
    """Make the plain linear layers of a model compute with prepacked weights.

    backward: whether gradients must reach their inputs; none reach their weights.
    """
    for part in model.modules():
        # Any other class, even one derived from these, may do more than multiply.
        if type(part) in (nn.Linear, Conv1D) and part.get_parameter("weight").numel():
            forward: Any = _Product.of(part, backward)
            part.forward = forward


@dataclass(frozen=True, eq=False)
class _Product:
    """Forward function of a linear layer: inputs (...,I) times its weight (O,I), plus the bias."""

    layer: nn.Module
    stored: Tensor
    """The layer's weight."""
    version: int
    """PyTorch's count of writes to the weight when it was prepacked."""
    forth: Tensor
    """The weight, prepacked."""
    back: Tensor | None
    """The transposed weight, prepacked; None if no gradients are needed."""

    @classmethod
    def of(cls, layer: nn.Module, backward: bool) -> _Product:
        stored = layer.get_parameter("weight")
        weight = stored.detach()
        if type(layer) is Conv1D:  # stored transposed
            weight = weight.t()
        back = _reordered(weight.t()) if backward else None
        return cls(layer, stored, stored._version, _reordered(weight), back)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Product:
        """Wrap a copy of the layer; prepacked weights are shared."""
        layer, stored = copy.deepcopy((self.layer, self.stored), memo)
        return replace(self, layer=layer, stored=stored, version=stored._version)

    def __call__(self, input: Tensor) -> Tensor:
        if self.layer.weight is not self.stored or self.stored._version != self.version:
            # The weight has changed: some adapters replace it for each pass.
            plain: Tensor = type(self.layer).forward(self.layer, input)
            return plain
        if not (torch.is_grad_enabled() and input.requires_grad):
            return self.times(input)
        result: Tensor = _TimesFrozen.apply(input, self)  # type: ignore[no-untyped-call]
        return result

    def times(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs."""
        bias: Any = self.layer.bias
        return _multiply(inputs.to(self.stored.dtype), self.forth, bias)

    def times_transposed(self, gradient: Tensor) -> Tensor:
        """Return the gradient of the inputs (...,I), given that of the outputs (...,O)."""
        assert self.back is not None  # present if gradients were asked for
        return _multiply(gradient.to(self.stored.dtype), self.back, None)


class _TimesFrozen(torch.autograd.Function):
    """A product with a gradient for its inputs alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, product: _Product) -> Tensor:
        ctx.product, ctx.dtype = product, inputs.dtype
        return product.times(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.product.times_transposed(gradients[0]).to(ctx.dtype), None


def _reordered(weight: Tensor) -> Tensor:
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return reordered


def _multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return outputs
