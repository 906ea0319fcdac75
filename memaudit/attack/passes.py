"""Tuning passes: number format, copy of the target, loss, and the gradient of one step.

Knows prompts, the target, processors and processes. Knows nothing of optimizers, epochs or
``select``.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint as activation_checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from memaudit.attack.forward import padding_of, window_logits
from memaudit.attack.memory import MemoryState, free_memory, release_memory
from memaudit.attack.prompts import FittedPrompt, SoftPrompt
from memaudit.attack.verification import log_likelihood
from memaudit.config.settings import TuningSettings
from memaudit.data.windows import PADDING
from memaudit.distributed import Processes
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import multiplies_in_bfloat16
from memaudit.target.prepacking import can_prepack, prepack

LONGEST_SCORES = 512
"""Tokens up to which PlainAttention pays: its scores grow with the square of the length (at 350 it
takes 0.65 of the time of the stock attention, at 149 a third)."""


class TuningPasses:
    """Passes of one target for the windows and the settings of one fit."""

    def __init__(
        self, checkpoint: Checkpoint, prefix_tokens: int, settings: TuningSettings
    ) -> None:
        self.dtype = tuning_dtype(settings.precision, checkpoint)
        self._half = self.dtype != checkpoint.dtype
        self._checkpoint = half_precision_copy(checkpoint, self.dtype) if self._half else checkpoint
        self._prefix_tokens = prefix_tokens
        self._aligned = settings.loss == "aligned"
        self.recomputes = False
        """True if the backward pass recomputes the activations of each block."""
        if checkpoint.is_offloaded:
            # Otherwise the backward pass would hold every fetched weight.
            self.recompute()

    @property
    def device(self) -> torch.device:
        """Device of the passes."""
        return self._checkpoint.device

    def recompute(self) -> bool:
        """From now on store only the inputs of each block; recompute the rest in the backward pass.

        Takes a third more operations and a fraction of the memory. Returns False if the passes do
        so already, or the target has no blocks of that kind.
        """
        if self.recomputes:
            return False
        copied = with_recomputation(self._checkpoint.model, self._attention)
        if copied is None:
            return False
        self._checkpoint = replace(self._checkpoint, model=copied)
        self.recomputes = True
        return True

    def window_nll(self, prompt: SoftPrompt, ids: Tensor) -> Tensor:
        """(B,) mean cross-entropy over the tokens of the loss, nats/token.

        ids: (B,P+S). Differentiable with respect to the prompt.
        """
        prefix = self._prefix_tokens
        count = ids.shape[1] - (prefix if self._aligned else int(padding_of(ids).min()))
        with self._attention(), self._autocast():
            logits, _ = window_logits(self._checkpoint, prompt, ids, prefix, count, use_cache=False)
        tokens = ids[:, -count:]
        log_p = log_likelihood(logits, tokens.clamp_min(0))
        if self._aligned:
            return -log_p.mean(dim=1)
        is_token = tokens != PADDING
        return -(log_p * is_token).sum(dim=1) / is_token.sum(dim=1)

    def _attention(self) -> AbstractContextManager[object]:
        on_cpu = self._checkpoint.device.type == "cpu"
        return PlainAttention() if self._half and on_cpu else nullcontext()

    def _autocast(self) -> torch.autocast:
        kind = self._checkpoint.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._half)


def tuning_dtype(precision: str, checkpoint: Checkpoint) -> torch.dtype:
    """Number format of the tuning passes: the target's own, or bfloat16.

    On a processor that multiplies in bfloat16 a pass is faster (a large product takes 0.4 times as
    long as in float32 on a CPU with AVX512-BF16), and the gradient has the direction of float32's
    (cosine 0.9998 on a 7M-parameter target). Elsewhere bfloat16 is emulated and slower. A target
    in half precision, or quantised, keeps its format.
    """
    kind, wanted = checkpoint.device.type, precision == "bfloat16"
    if precision == "auto" and kind == "cuda":
        wanted = torch.cuda.is_bf16_supported(including_emulation=False)
    elif precision == "auto" and kind == "cpu":
        wanted = multiplies_in_bfloat16()
    plain = checkpoint.dtype == torch.float32 and not checkpoint.is_packed
    return torch.bfloat16 if wanted and plain else checkpoint.dtype


def half_precision_copy(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Copy the target with parameters in a half format, so that no pass converts them.

    The copy is prepacked if the target's parameters are to be. Buffers keep their format: rotary
    frequencies do not survive the rounding. If memory would get short, or the weights are not all
    on one device, the target itself is returned, and autocast converts its parameters.
    """
    if checkpoint.is_spread:
        return checkpoint
    model: nn.Module = checkpoint.model
    weights = list(model.parameters())
    size = sum(weight.numel() for weight in weights) * dtype.itemsize
    free = free_memory(checkpoint.device)
    room = (psutil.virtual_memory().available if free is None else free) / 2
    if size > room:
        return checkpoint
    # Prepacked once for each direction, beside the copy itself.
    prepacks = checkpoint.prepacks and can_prepack(dtype) and 3 * size <= room
    # deepcopy looks in its memo first, so it never copies the original weights.
    memo: dict[int, Any] = {}
    try:
        for weight in weights:
            memo[id(weight)] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        copied = copy.deepcopy(model, memo)
        if prepacks:
            prepack(copied, backward=True)
        return replace(checkpoint, model=copied, dtype=dtype)
    except FAILED_ALLOCATION as error:
        if not is_out_of_memory(error):
            raise
        memo.clear()
        release_memory(error)
    return checkpoint


def with_recomputation(
    model: nn.Module, attention: Callable[[], AbstractContextManager[object]]
) -> nn.Module | None:
    """Copy the model around the same weights, with every block checkpointed.

    Activation checkpointing: Chen et al. 2016, arXiv 1604.06174. Returns None if transformers can
    checkpoint no block. attention: makes the context of a block; the backward pass uses it too.
    """
    shared: list[Any] = [*model.parameters(), *_offloaded_weights(model)]
    copied = copy.deepcopy(model, {id(weight): weight for weight in shared})
    blocks = [part for part in copied.modules() if isinstance(part, GradientCheckpointingLayer)]
    for block in blocks:
        block.forward = functools.partial(
            activation_checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=False,  # a frozen target samples nothing
            context_fn=lambda: (nullcontext(), attention()),
        )
    return copied if blocks else None


def _offloaded_weights(model: nn.Module) -> Iterator[object]:
    """Yield the maps from which accelerate's hooks fetch offloaded weights."""
    for module in model.modules():
        outer = getattr(module, "_hf_hook", None)
        for hook in getattr(outer, "hooks", [outer]):
            if getattr(hook, "weights_map", None) is not None:
                yield hook.weights_map


class PlainAttention(TorchFunctionMode):
    """Mode that computes attention as two matrix products.

    On a CPU the backward pass of the stock attention is slow in bfloat16: forward and backward take
    16 ms for (16,4,149,64), and 4.5 ms in this mode. The stock attention is used for options that
    this one lacks, and for more than LONGEST_SCORES tokens.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace one torch function; call all other functions unchanged."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _plain_attention(*args, **kwargs)


def _plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """F.scaled_dot_product_attention of (B,heads,T,d); heads that share keys are one product."""
    if dropout_p or query.dim() != 4 or max(query.shape[-2], key.shape[-2]) > LONGEST_SCORES:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    batch, heads, length, width = query.shape
    shared = key.shape[1]
    scaled = query * (width**-0.5 if scale is None else scale)
    scores = scaled.reshape(batch, shared, -1, width) @ key.transpose(-1, -2)
    scores = scores.view(batch, heads, length, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:  # an added mask needs no pass of its own backward
            attn_mask = torch.zeros_like(attn_mask, dtype=scores.dtype).masked_fill_(
                ~attn_mask, -torch.inf
            )
        scores = scores + attn_mask
    weights = scores.softmax(dim=-1).to(value.dtype)
    mixed = weights.view(batch, shared, -1, key.shape[-2]) @ value
    return mixed.view(batch, heads, length, -1)


CPU_PASS = 8
"""Default windows per pass on a CPU: few enough for two processes to share a step of 16. A step of
one process takes 1.06 times as long as with all 16 in a pass (7M parameters; 1.33 times with 4)."""


class StepGradient:
    """Gradient of a prompt's parameters, summed over the passes of all processes."""

    def __init__(
        self,
        passes: TuningPasses,
        settings: TuningSettings,
        processes: Processes,
        memory: MemoryState,
    ) -> None:
        self._passes = passes
        self._settings = settings
        self._processes = processes
        self._memory = memory
        memory.plan("tuning", min(settings.batch_size, self._per_pass(settings.batch_size)))
        if memory.recomputes:
            passes.recompute()
        memory.recomputes = passes.recomputes

    def set_gradients(self, prompt: FittedPrompt, ids: Tensor) -> Tensor:
        """Set the gradients of the mean loss of ids (B,P+S); return the summed NLL, nats/token.

        Passes are added in order, so the gradient does not depend on the number of processes.
        Raises RunError if one window does not fit the memory.
        """
        parameters = list(prompt.parameters())
        parts = torch.split(ids, self._per_pass(len(ids)))
        passes = (self._one_pass(prompt, part, len(ids)) for part in self._processes.shard(parts))
        size = sum(parameter.numel() for parameter in parameters)
        zero = torch.zeros(size + 1, device=ids.device)
        total = self._processes.sum_in_order(passes, zero, len(parts))
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = total[start:end].view_as(parameter)
            start = end
        return total[size]

    def _per_pass(self, windows: int) -> int:
        if self._settings.windows_per_pass is not None:
            return self._settings.windows_per_pass
        if self._passes.device.type == "cpu":
            return CPU_PASS
        return math.ceil(windows / self._processes.size)  # a GPU is fastest with large passes

    def _one_pass(self, prompt: FittedPrompt, ids: Tensor, whole: int) -> Tensor:
        """Return the flat gradients and then the summed NLL; split the pass if memory is short."""
        while True:
            prompt.zero_grad(set_to_none=True)
            size = self._memory.tuning.fits(len(ids))
            try:
                total = torch.zeros(1, device=ids.device)
                for part in torch.split(ids, size):
                    nll = self._passes.window_nll(prompt, part)
                    loss = window_weighted(nll, self._settings.focus).sum() / whole
                    torch.autograd.backward(loss)
                    total += nll.detach().sum()
                self._memory.tuning.passed()
                return torch.cat([*_flat_gradients(prompt), total])
            except FAILED_ALLOCATION as error:
                if not is_out_of_memory(error):
                    raise
                if size > 1:
                    self._memory.tuning.shrink()
                elif not self._passes.recompute():
                    raise RunError(
                        "out of memory tuning on a single window; use a smaller window "
                        "(--prefix-tokens, --suffix-tokens) or fewer virtual tokens"
                    ) from error
                else:
                    self._memory.recomputes = True
                release_memory(error)


def _flat_gradients(prompt: FittedPrompt) -> Iterator[Tensor]:
    for parameter in prompt.parameters():
        gradient = parameter.grad
        yield (torch.zeros_like(parameter) if gradient is None else gradient).flatten()


def window_weighted(nll: Tensor, focus: float) -> Tensor:
    """(B,) losses with the gradient of the NLL, each window weighted by exp(-focus*NLL).

    Most windows are not memorized and no prompt extracts them; unweighted, they would dominate the
    gradient. The loss is minus the suffix likelihood to the power focus/S.
    """
    if focus == 0:
        return nll
    return nll * torch.exp(-focus * nll.detach())
