"""Whether a target can be audited: does it take a soft prompt as every attack gives it one?

Knows the loaded target only. Runs it on a handful of random tokens; changes nothing.

Models that look up something by token id beside the embedding (per-layer embeddings, as Gemma 3n
has) answer wrongly or not at all when given vectors: PEFT issue 3201.
"""

from __future__ import annotations

import torch

from memaudit.errors import RunError, TargetError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers

TOKENS = 8
"""T: tokens of the trial input. Few, because a model with per-layer embeddings may search its
whole vocabulary for each vector."""
VIRTUAL = 2
"""V: vectors of the trial prompt."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between two passes that should agree, as a share of the best logit."""


def check_soft_prompts(checkpoint: Checkpoint) -> None:
    """Make sure that the target takes soft prompts through ``inputs_embeds``, and is causal.

    Raises:
        TargetError: it does not; the message names the model's class and what it did.
        RunError: there is no memory for even this.
    """
    try:
        with quiet_transformers():
            fault = _find_fault(checkpoint)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"{checkpoint.name}: no memory left on {checkpoint.device} for {TOKENS} tokens; use a "
            "larger --device, or --dtype bfloat16"
        ) from error
    except FAILURES as error:
        fault = f"it refuses inputs_embeds ({brief(error)})"
        raise _refusal(checkpoint, fault) from error
    if fault:
        raise _refusal(checkpoint, fault)


def architecture_of(checkpoint: Checkpoint) -> str:
    """The name of the model's class, an adapter's base's where it is under one."""
    model = checkpoint.model
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


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
    return _gradient_fault(checkpoint, embedded, ids)


def _gradient_fault(
    checkpoint: Checkpoint, embedded: torch.Tensor, ids: torch.Tensor
) -> str | None:
    """What is wrong with the gradient of the loss on (1, T, D) vectors, or None."""
    vectors = embedded.detach().clone().requires_grad_()
    logits = _logits(checkpoint, inputs_embeds=vectors)
    if not logits.requires_grad:
        return "no gradient flows back to inputs_embeds"
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    (gradient,) = torch.autograd.grad(loss, vectors)
    if not torch.isfinite(gradient).all():
        return f"its gradient is not finite in {checkpoint.dtype}; try another --dtype"
    if not gradient.abs().sum() > 0:
        return "the gradient with respect to inputs_embeds is zero"
    return None


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
    return TOLERANCE.get(checkpoint.dtype, 5e-2) * max(1.0, float(logits.amax(-1).abs().max()))


def _agree(one: torch.Tensor, two: torch.Tensor, near: float) -> bool:
    """Whether two (1, T, X) logits agree; two best tokens may swap where they are that near."""
    if one.shape != two.shape or not bool((one - two).abs().max() <= near):
        return False
    picked = one.gather(-1, two.argmax(-1, keepdim=True))
    return bool((one.max(-1, keepdim=True).values - picked).max() <= near)
