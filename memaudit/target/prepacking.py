"""Linear layers with their weights prepacked: in the order that a CPU's matrix products read them.

Knows torch's modules and oneDNN's operators. Knows nothing of passes or of what they are for.

Given a weight as it is stored, a product puts it in order first, every time, and few rows of input
do not make that good. On two cores of a Zen 4 in float32, of 226 GFLOP/s at most, (64,576) by
(576,49152) reaches 101 as stored and 203 prepacked, (224,256) by (256,8192) 131 and 210, and
(1584,256) by (256,1024) 192 and 203.
"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterable
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from memaudit.errors import UsageError
from memaudit.target.failures import FAILURES
from memaudit.target.placement import Choice

MEMORY_SHARE = 1 / 8
"""Of the machine's memory, what weights may take to be kept once more: as fits in bfloat16 keep
them in three copies of half the size, 3.5 times as much in all is there at once."""


def choose_prepacking(
    asked: str, model: nn.Module, dtype: torch.dtype, *, quantized: bool
) -> Choice | None:
    """Whether passes go through prepacked weights; None where the question does not come up.

    Raises UsageError where they were asked for and cannot be.
    """
    weights = list(model.parameters())
    on_cpu = all(weight.device.type == "cpu" for weight in weights)
    if not on_cpu or quantized or not can_prepack(dtype):
        if asked == "yes":
            raise UsageError(
                "target.prepack = yes: needs an x86 CPU, and weights in float32 or in a bfloat16 "
                "that it multiplies in; leave it at auto"
            )
        return None
    if asked != "auto":
        return Choice("prepacked" if asked == "yes" else "as stored", "asked for")
    # All memory there is, not what is free just now: one machine computes alike every time.
    room = MEMORY_SHARE * psutil.virtual_memory().total
    share = f"an eighth of {room / MEMORY_SHARE / 2**30:.0f} GiB"
    if sum(weight.nbytes for weight in weights) <= room:
        return Choice("prepacked", f"auto: for speed, as they take less than {share}")
    return Choice("as stored", f"auto: prepacked ones would take more than {share}")


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies by prepacked weights of this format on this machine's CPU."""
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_in_bfloat16()))
    )


def multiplies_in_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16."""
    ask: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = ask()  # older PyTorch cannot be asked
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def prepacked_copy(model: nn.Module) -> nn.Module | None:
    """Copies of a model's modules around the same weights, the linear layers' prepacked; None where
    the modules cannot be copied.

    For passes without gradients. A weight that is changed afterwards stays as it was in the copy.
    """
    shared: Iterable[Any] = [*model.parameters(), *model.buffers()]
    try:
        copied = copy.deepcopy(model, {id(one): one for one in shared})
        prepack(copied)
    except FAILURES:  # code that comes with a model may keep what cannot be copied
        return None
    return copied


def prepack(model: nn.Module, *, backward: bool = False) -> None:
    """Let the plain linear layers of a model compute with prepacked weights from now on.

    backward: whether gradients are to reach their inputs; none reach their weights.
    """
    for part in model.modules():
        weight = _weight_of(part)
        if weight is not None and weight.numel():
            bias: Any = part.bias
            product: Any = _Product(weight, bias, backward)
            part.forward = product


def _weight_of(part: nn.Module) -> Tensor | None:
    """(O,I) of a plain linear layer; None of any other module."""
    if type(part) is nn.Linear:
        return part.weight.detach()
    if type(part) is Conv1D:  # a linear layer that stores its weight transposed
        weight: Tensor = part.get_parameter("weight")
        return weight.detach().t()
    return None


class _Product:
    """Inputs (...,I) times a weight (O,I), and the bias on top: (...,O)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, backward: bool) -> None:
        self._dtype = weight.dtype
        self._forth = _reordered(weight)
        self._back = _reordered(weight.t()) if backward else None
        self._bias = None if bias is None else bias.detach()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Product:
        return self  # as a weight is shared by copies of a model

    def __call__(self, inputs: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return self.times(inputs)
        result: Tensor = _TimesFrozen.apply(inputs, self)  # type: ignore[no-untyped-call]
        return result

    def times(self, inputs: Tensor) -> Tensor:
        """The layer's outputs."""
        return _multiply(inputs.to(self._dtype), self._forth, self._bias)

    def times_transposed(self, gradient: Tensor) -> Tensor:
        """From the gradient of the outputs (...,O) that of the inputs (...,I)."""
        assert self._back is not None  # asked for, where there are gradients
        return _multiply(gradient.to(self._dtype), self._back, None)


class _TimesFrozen(torch.autograd.Function):
    """A product whose gradient goes to the inputs alone."""

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
