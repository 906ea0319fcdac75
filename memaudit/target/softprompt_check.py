"""Whether a target can be audited: does it take a soft prompt as every attack gives it one?

Knows the loaded target only. Runs it on a handful of random tokens; changes nothing.

Models that look up something by token id beside the embedding (per-layer embeddings, as Gemma 3n
has) answer wrongly or not at all when given vectors: PEFT issue 3201.
"""

from __future__ import annotations

import math

import torch

from memaudit.errors import RunError, TargetError
from memaudit.out_of_memory import is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.placement import base_of

TOKENS = 8
"""T: tokens of the trial input. Few, because a model with per-layer embeddings may search its
whole vocabulary for each vector."""
VIRTUAL = 2
"""V: vectors of the trial prompt."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between two passes that should agree, as a share of the best logit."""

DIRECTIONS = 8
"""Random ways in which the gradient of a quantised target is tried."""
STEP = 0.1
"""Of each, as a share of the vectors' norm."""
MOST_OFF = 0.5
"""Share of the changes found that those foretold may be off by."""


def check_soft_prompts(checkpoint: Checkpoint, *, gradients: bool = True) -> None:
    """Make sure that the target takes soft prompts through ``inputs_embeds``, and is causal.

    Args:
        checkpoint: the loaded target.
        gradients: also that a gradient flows back to them, which only fitting a prompt needs.

    Raises:
        TargetError: it does not; the message names the model's class and what it did.
        RunError: there is no memory for even this.
    """
    try:
        with quiet_transformers():
            fault = _find_fault(checkpoint)
            cut = _find_cut(checkpoint) if gradients and fault is None else None
    except FAILURES as error:
        if is_out_of_memory(error):
            raise RunError(
                f"{checkpoint.name}: no memory left on {checkpoint.device} for {TOKENS} tokens; "
                "use --device spread, --quantize int8 or nf4, or --dtype bfloat16"
            ) from error
        fault = f"it refuses inputs_embeds ({brief(error)})"
        if checkpoint.quantization is not None:
            fault += f"; it is quantised as {checkpoint.quantization.name}: audit it unquantised"
        raise _refusal(checkpoint, fault) from error
    if fault:
        raise _refusal(checkpoint, fault)
    if cut:
        raise _refusal(
            checkpoint, f"{cut}, and constant and dynamic need it; {_way_out(checkpoint)}"
        )


def _way_out(checkpoint: Checkpoint) -> str:
    """What can be done about a target that gives no gradient."""
    leave = "leave them out (--attacks none,copy,dynamic-hard)"
    quantised = checkpoint.quantization
    if quantised is None:
        return leave
    return f"it is quantised as {quantised.name}: {leave}, or audit it unquantised"


def architecture_of(checkpoint: Checkpoint) -> str:
    """The name of the model's class, an adapter's base's where it is under one."""
    return type(base_of(checkpoint.model)).__name__


def _refusal(checkpoint: Checkpoint, fault: str) -> TargetError:
    return TargetError(
        f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be audited with soft prompts: "
        f"{fault}"
    )


def _find_fault(checkpoint: Checkpoint) -> str | None:
    """The first thing that is wrong, or None. Shapes: ids (1, T), logits (1, T, X)."""
    ids = random_ids(checkpoint, 1, TOKENS + VIRTUAL)
    spare, ids = ids[:, :VIRTUAL], ids[:, VIRTUAL:]
    embedded = checkpoint.embed(ids)
    with torch.no_grad():
        by_ids = _logits(checkpoint, input_ids=ids)
        by_vectors = _logits(checkpoint, inputs_embeds=embedded)
        # Between two rows of the embedding: no vector of the prompt is a token's.
        prompt = (checkpoint.embed(spare) + checkpoint.embed(spare.flip(1)) * 0.5) / 1.5
        prompted = _logits(checkpoint, inputs_embeds=torch.cat([prompt, embedded], dim=1))
        other = torch.cat([ids[:, :-1], spare[:, :1]], dim=1)
        by_other = _logits(checkpoint, input_ids=other)
    if not torch.isfinite(by_ids).all():
        return f"its logits are not finite in {checkpoint.dtype}; try another --dtype"
    near = _tolerance(checkpoint, by_ids)
    if not _agree(by_ids, by_vectors, near):
        return "inputs_embeds and input_ids give different logits for the same tokens"
    if prompted.shape[1] != TOKENS + VIRTUAL:
        return f"{TOKENS + VIRTUAL} vectors give {prompted.shape[1]} positions"
    if (prompted[:, VIRTUAL:] - by_vectors).abs().max() <= near / 10:
        return "vectors before the text change nothing"
    if (by_other[:, :-1] - by_ids[:, :-1]).abs().max() > near:
        return "it is not causal: a later token changes the logits of earlier ones"
    return None


def _find_cut(checkpoint: Checkpoint) -> str | None:
    """What is wrong with the gradient of the loss on (1, T, D) vectors, or None."""
    ids = random_ids(checkpoint, 1, TOKENS)
    vectors = checkpoint.embed(ids).detach().clone().requires_grad_()
    try:
        loss = _loss(checkpoint, vectors, ids)
        if not loss.requires_grad:
            return "no gradient flows back to inputs_embeds"
        (gradient,) = torch.autograd.grad(loss, vectors)
    except (RuntimeError, NotImplementedError) as error:
        if checkpoint.quantization is None or is_out_of_memory(error):
            raise
        return f"no gradient flows back to inputs_embeds ({brief(error)})"
    if not torch.isfinite(gradient).all():
        return f"its gradient is not finite in {checkpoint.dtype}; try another --dtype"
    if not gradient.abs().sum() > 0:
        return "the gradient with respect to inputs_embeds is zero"
    if checkpoint.is_packed and not _foretells(checkpoint, vectors, gradient, ids):
        return "the gradient that comes back to inputs_embeds is wrong"
    return None


@torch.no_grad()
def _foretells(
    checkpoint: Checkpoint, vectors: torch.Tensor, gradient: torch.Tensor, ids: torch.Tensor
) -> bool:
    """Whether small steps from (1, T, D) vectors change the loss about as the gradient says.

    Kernels for quantised weights may have no way back, and what arrives is then the gradient of
    the rest of the network alone. Off in norm, over random directions: 0.02 to 0.19 where the
    gradient is right, inputs rounded or not, and 1 where it is cut (four targets of up to 7M
    parameters, steps of a tenth of the vectors' norm).
    """
    rng = torch.Generator().manual_seed(0)
    told, found = [], []
    for _ in range(DIRECTIONS):
        way = torch.randn(vectors.shape, generator=rng).to(vectors.device)
        step = (way * (STEP * vectors.float().norm() / way.norm())).to(vectors.dtype)
        there, back = (_loss(checkpoint, vectors + sign * step, ids) for sign in (1, -1))
        found.append(float(there - back))
        told.append(2 * float((gradient.double() * step).sum()))
    return math.dist(told, found) < MOST_OFF * math.hypot(*found)


def _loss(checkpoint: Checkpoint, vectors: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of ids (1, T) behind their own vectors (1, T, D), nats/token."""
    logits = _logits(checkpoint, inputs_embeds=vectors)
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])


def _logits(checkpoint: Checkpoint, **inputs: torch.Tensor) -> torch.Tensor:
    """(1, T, X) float32 for one row of ids or vectors."""
    ((name, given),) = inputs.items()
    mask = torch.ones(given.shape[:2], dtype=torch.long, device=checkpoint.device)
    # CTRL scales its inputs in place, so they are not handed over themselves.
    output = checkpoint.model(**{name: given.clone()}, attention_mask=mask, use_cache=False)
    logits: torch.Tensor = output.logits.float()
    return logits


def random_ids(checkpoint: Checkpoint, rows: int, count: int) -> torch.Tensor:
    """(rows, count) ordinary token ids, always the same, different while there are enough;
    global seeds are untouched.
    """
    entries = min(checkpoint.vocabulary, len(checkpoint.tokenizer))
    special = torch.tensor(sorted(checkpoint.tokenizer.all_special_ids), dtype=torch.long)
    usual = torch.arange(entries)
    usual = usual[~torch.isin(usual, special)]
    order = torch.randperm(len(usual), generator=torch.Generator().manual_seed(0))
    repeats = -(-rows * count // len(usual))
    return usual[order.repeat(repeats)[: rows * count]].view(rows, count).to(checkpoint.device)


def _tolerance(checkpoint: Checkpoint, logits: torch.Tensor) -> float:
    """Largest difference that rounding alone explains."""
    # The best logits, not the largest: unused rows may be masked with a huge negative number.
    return TOLERANCE.get(checkpoint.precision, 5e-2) * max(1.0, float(logits.amax(-1).abs().max()))


def _agree(one: torch.Tensor, two: torch.Tensor, near: float) -> bool:
    """Whether two (1, T, X) logits agree; two best tokens may swap where they are that near."""
    if one.shape != two.shape or not bool((one - two).abs().max() <= near):
        return False
    picked = one.gather(-1, two.argmax(-1, keepdim=True))
    return bool((one.max(-1, keepdim=True).values - picked).max() <= near)
