"""Check that a target can be audited: embeddings give the same logits as their token ids.

Knows the loaded target only. Runs it on a few tokens; changes nothing.

Every pass of an audit goes through ``inputs_embeds``. Models that look up more than
the embedding by token id (per-layer embeddings, as in Gemma 3n) answer wrongly or not at all when
given vectors (PEFT issue 3201), and so do adapters that search their input for tokens (activated
LoRA).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from memaudit.errors import RunError, TargetError
from memaudit.system.memory import is_out_of_memory
from memaudit.target.adapters import adapter_kind, has_adapter, named_ids, without_adapter
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.placement import base_of
from memaudit.target.refusals import refusal

TOKENS = 8
"""T: tokens of the trial input. Few, because a model with per-layer embeddings may search its
whole vocabulary for each vector."""
VIRTUAL = 2
"""V: vectors of the trial prompt."""
MAX_SPECIAL = 16
"""Most special and added tokens that are tried."""
MAX_TEXTS = 6
"""Most trial inputs."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between two passes that should agree, as a share of the best logit."""

ALIKE = "inputs_embeds and input_ids give different logits for the same tokens"
LOST = 0.05
"""Share of an adapter's effect on the logits that may be missing through embeddings."""

SAME = {torch.float32: 1e-4}
"""Largest difference between logits of token ids and of their embeddings, as a share of the best
logit. Both go through the same products: 1e-3 in half precision. The difference is 0 in float32 and
in bfloat16 for 52 architectures (tests/architectures, on the CPU)."""

DIRECTIONS = 8
"""Random directions in which the gradient of a quantised target is tried."""
STEP = 0.1
"""Length of a step in each direction, as a share of the vectors' norm."""
MAX_OFF = 0.5
"""Largest error of the predicted changes, as a share of the measured ones."""


def check_soft_prompts(
    checkpoint: Checkpoint,
    *,
    gradients: bool = True,
    prompts: bool = True,
    window_ids: Iterable[int] = (),
) -> None:
    """Check that the target can be audited through ``inputs_embeds``, its adapter included.

    Args:
        checkpoint: the loaded target.
        gradients: also check that a gradient reaches the embeddings, which only tuning a prompt
            needs.
        prompts: also check that vectors before a text change its logits.
        window_ids: token ids of the windows, whose special and added tokens are tried.

    Raises:
        TargetError: the check fails; the message names the model's class, and the adapter's kind
            if the adapter is the cause.
        RunError: memory does not suffice for the check.
    """
    try:
        with quiet_transformers():
            fault = _find_fault(checkpoint, prompts)
            if fault is None:
                fault = _find_difference(checkpoint, _texts(checkpoint, window_ids))
            elif _is_of_adapter(checkpoint, prompts):
                fault += (
                    f"; without its adapter ({adapter_kind(checkpoint.model)}) this does not happen"
                )
            cut = _find_cut(checkpoint) if gradients and fault is None else None
    except FAILURES as error:
        if is_out_of_memory(error):
            raise RunError(
                f"{checkpoint.name}: no memory left on {checkpoint.device} for {TOKENS} tokens; "
                "use --device spread, --quantize int8 or nf4, or --dtype bfloat16"
            ) from error
        raise unfit(checkpoint, _explain_error(checkpoint, error)) from error
    if fault:
        raise unfit(checkpoint, fault)
    if cut:
        raise unfit(
            checkpoint, f"{cut}, and constant and dynamic need it; {_gradient_remedy(checkpoint)}"
        )


def _explain_error(checkpoint: Checkpoint, error: BaseException) -> str:
    """Describe the fault of a target whose pass failed."""
    refused = "inputs_embeds" if _takes_ids(checkpoint) else "input_ids"
    fault = f"it refuses {refused} ({brief(error)})"
    if has_adapter(checkpoint.model):
        fault = f"with its adapter ({adapter_kind(checkpoint.model)}) {fault}"
    if checkpoint.quantization is not None:
        fault += f"; it is quantised as {checkpoint.quantization.name}: audit it unquantised"
    return fault


def _takes_ids(checkpoint: Checkpoint) -> bool:
    """Return True if a pass over token ids alone succeeds."""
    try:
        with torch.no_grad(), quiet_transformers():
            _logits(checkpoint, input_ids=random_ids(checkpoint, 1, TOKENS))
    except FAILURES:
        return False
    return True


def _is_of_adapter(checkpoint: Checkpoint, prompts: bool) -> bool:
    """Return True if the fault disappears without the adapter."""
    if not has_adapter(checkpoint.model):
        return False
    with without_adapter(checkpoint.model):
        return _find_fault(checkpoint, prompts) is None


def _gradient_remedy(checkpoint: Checkpoint) -> str:
    """Return the remedy for a target without a gradient."""
    leave = "leave them out (--attacks none,copy,dynamic-hard)"
    quantised = checkpoint.quantization
    if quantised is None:
        return leave
    return f"it is quantised as {quantised.name}: {leave}, or audit it unquantised"


def architecture_of(checkpoint: Checkpoint) -> str:
    """Return the name of the model's class, or of its base's class under an adapter."""
    return type(base_of(checkpoint.model)).__name__


def unfit(checkpoint: Checkpoint, fault: str) -> TargetError:
    """Return the error for a loaded model that fails a check."""
    return refusal(checkpoint.name, fault, architecture=architecture_of(checkpoint))


def _find_fault(checkpoint: Checkpoint, prompts: bool) -> str | None:
    """Return the first fault, or None. Shapes: ids (1, T), logits (1, T, X)."""
    ids = random_ids(checkpoint, 1, TOKENS + VIRTUAL)
    spare, ids = ids[:, :VIRTUAL], ids[:, VIRTUAL:]
    embedded = checkpoint.embed(ids)
    with torch.no_grad():
        by_ids = _logits(checkpoint, input_ids=ids)
        again = _logits(checkpoint, input_ids=ids)
        by_vectors = _logits(checkpoint, inputs_embeds=embedded)
        # Between two rows of the embedding, so that no vector of the prompt is a token's.
        prompt = (checkpoint.embed(spare) + checkpoint.embed(spare.flip(1)) * 0.5) / 1.5
        prompted = _logits(checkpoint, inputs_embeds=torch.cat([prompt, embedded], dim=1))
        other = torch.cat([ids[:, :-1], spare[:, :1]], dim=1)
        by_other = _logits(checkpoint, input_ids=other)
    if not torch.isfinite(by_ids).all():
        return _explain_not_finite(checkpoint)
    near = _tolerance(checkpoint, by_ids)
    if not _agree(by_ids, again, near):
        return "two passes over the same tokens give different logits, so it samples at random"
    if not _agree(by_ids, by_vectors, _rounding(checkpoint, by_ids, again)):
        return ALIKE
    if prompted.shape[1] != TOKENS + VIRTUAL:
        return f"{TOKENS + VIRTUAL} vectors give {prompted.shape[1]} positions"
    if prompts and (prompted[:, VIRTUAL:] - by_vectors).abs().max() <= near / 10:
        return "vectors before the text change nothing"
    if (by_other[:, :-1] - by_ids[:, :-1]).abs().max() > near:
        return "it is not causal: a later token changes the logits of earlier ones"
    return None


def _explain_not_finite(checkpoint: Checkpoint) -> str:
    """Explain logits that are not finite, by the weights or by their number format."""
    remedy = "" if checkpoint.precision == torch.float32 else "; try --dtype float32"
    for name, weight in checkpoint.model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            return (
                f"its weights hold numbers that are not finite (first: {name})"
                f"{remedy or '; fetch or save the checkpoint again'}"
            )
    return (
        f"its logits are not finite in {checkpoint.dtype}, although its weights are"
        f"{remedy or ', so the checkpoint is damaged or its config belongs to another'}"
    )


class _Passes(NamedTuple):
    """Logits (1, T, X) of a text from three passes: token ids twice, then their embeddings."""

    by_ids: torch.Tensor
    again: torch.Tensor
    by_vectors: torch.Tensor


@torch.no_grad()
def _pass(checkpoint: Checkpoint, ids: torch.Tensor) -> _Passes:
    """Run all three passes over the ids (1, T), the adapter as it is set."""
    vectors = checkpoint.embed(ids)
    return _Passes(
        _logits(checkpoint, input_ids=ids),
        _logits(checkpoint, input_ids=ids),
        _logits(checkpoint, inputs_embeds=vectors),
    )


def _differs(checkpoint: Checkpoint, passes: _Passes) -> bool:
    """Return True if embeddings and token ids give different logits."""
    by_ids, again, by_vectors = passes
    return not _agree(by_ids, by_vectors, _rounding(checkpoint, by_ids, again))


def _find_difference(checkpoint: Checkpoint, texts: list[torch.Tensor]) -> str | None:
    """Describe a difference between embeddings (1, T, D) and token ids (1, T), or None."""
    acts = False
    for ids in texts:
        on = _pass(checkpoint, ids)
        if not has_adapter(checkpoint.model):
            if _differs(checkpoint, on):
                return ALIKE
            continue
        with without_adapter(checkpoint.model):
            off = _pass(checkpoint, ids)
        if _differs(checkpoint, off):
            return ALIKE
        # A small adapter may change less than rounding does, so its own effect is the scale.
        effect = on.by_ids - off.by_ids
        lost = effect - (on.by_vectors - off.by_vectors)
        noise = (on.by_ids - on.again).norm() + (off.by_ids - off.again).norm()
        if _differs(checkpoint, on) or lost.norm() > LOST * effect.norm() + 4 * noise:
            return _explain_adapter(checkpoint)
        acts = acts or bool(effect.any())
    if texts and has_adapter(checkpoint.model) and not (acts or checkpoint.replaces_base):
        return (
            f"its adapter ({adapter_kind(checkpoint.model)}) changes nothing: with it and without "
            f"it the logits are the same in {checkpoint.dtype}; it may be untrained or saved "
            "wrongly. To audit its base, give the base as MODEL"
        )
    return None


def _explain_adapter(checkpoint: Checkpoint) -> str:
    return (
        f"its adapter ({adapter_kind(checkpoint.model)}) acts on input_ids and not in the same way "
        "on inputs_embeds, and every pass of an audit goes through inputs_embeds; merge it into "
        "its base if PEFT can, and audit the result"
    )


def _texts(checkpoint: Checkpoint, window_ids: Iterable[int]) -> list[torch.Tensor]:
    """Return trial inputs (1, T).

    They hold ordinary tokens, token ids that an adapter may look for among them, and the special
    and added tokens of the windows.
    """
    ordinary = random_ids(checkpoint, 1, TOKENS)[0].tolist()
    half = TOKENS // 2
    rows = []
    if has_adapter(checkpoint.model):
        rows.append(ordinary)
        for named in named_ids(checkpoint.model, checkpoint.vocabulary):
            rows.append([*ordinary[:half], *named, *ordinary[half:]])
    added = {*checkpoint.tokenizer.all_special_ids, *checkpoint.tokenizer.added_tokens_decoder}
    present = sorted(added & set(window_ids))[:MAX_SPECIAL]
    lead = [] if checkpoint.bos_id is None else [checkpoint.bos_id]
    if lead or present:
        rows.append([*lead, *ordinary[:half], *present, *ordinary[half:]])
    limit = checkpoint.max_tokens if rows else None
    return [torch.tensor([row[:limit]], device=checkpoint.device) for row in rows[-MAX_TEXTS:]]


def _find_cut(checkpoint: Checkpoint) -> str | None:
    """Describe a fault in the gradient of the loss on (1, T, D) vectors, or None."""
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
    if checkpoint.is_packed and not _predicts_steps(checkpoint, vectors, gradient, ids):
        return "the gradient that reaches inputs_embeds is wrong"
    return None


@torch.no_grad()
def _predicts_steps(
    checkpoint: Checkpoint, vectors: torch.Tensor, gradient: torch.Tensor, ids: torch.Tensor
) -> bool:
    """Return True if the gradient predicts how small steps from (1, T, D) vectors change the loss.

    Kernels for quantised weights may lack a backward pass; the gradient is then that of the rest of
    the network alone. Relative error in norm, over random directions: 0.02 to 0.19 if the gradient
    is right, inputs rounded or not, and 1 if it is cut (four targets of up to 7M parameters, steps
    of a tenth of the vectors' norm).
    """
    rng = torch.Generator().manual_seed(0)
    predicted, measured = [], []
    for _ in range(DIRECTIONS):
        direction = torch.randn(vectors.shape, generator=rng).to(vectors.device)
        step = (direction * (STEP * vectors.float().norm() / direction.norm())).to(vectors.dtype)
        ahead, behind = (_loss(checkpoint, vectors + sign * step, ids) for sign in (1, -1))
        measured.append(float(ahead - behind))
        predicted.append(2 * float((gradient.double() * step).sum()))
    return math.dist(predicted, measured) < MAX_OFF * math.hypot(*measured)


def _loss(checkpoint: Checkpoint, vectors: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of ids (1, T) given their vectors (1, T, D), nats/token."""
    logits = _logits(checkpoint, inputs_embeds=vectors)
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])


def _logits(checkpoint: Checkpoint, **inputs: torch.Tensor) -> torch.Tensor:
    """Return float32 logits (1, T, X) of one row of ids or vectors."""
    ((name, values),) = inputs.items()
    mask = torch.ones(values.shape[:2], dtype=torch.long, device=checkpoint.device)
    # CTRL scales its inputs in place, so it gets a copy.
    output = checkpoint.model(**{name: values.clone()}, attention_mask=mask, use_cache=False)
    logits: torch.Tensor = output.logits.float()
    return logits


def random_ids(checkpoint: Checkpoint, rows: int, count: int) -> torch.Tensor:
    """Return (rows, count) ordinary token ids, the same at every call.

    Ids repeat only if there are too few. Global seeds are untouched.
    """
    entries = min(checkpoint.vocabulary, len(checkpoint.tokenizer))
    special = torch.tensor(sorted(checkpoint.tokenizer.all_special_ids), dtype=torch.long)
    usual = torch.arange(entries)
    usual = usual[~torch.isin(usual, special)]
    order = torch.randperm(len(usual), generator=torch.Generator().manual_seed(0))
    repeats = -(-rows * count // len(usual))
    return usual[order.repeat(repeats)[: rows * count]].view(rows, count).to(checkpoint.device)


def _tolerance(checkpoint: Checkpoint, logits: torch.Tensor) -> float:
    """Return the largest difference that rounding alone explains."""
    # The best logits, not the largest: unused rows may be masked with a huge negative number.
    return TOLERANCE.get(checkpoint.precision, 5e-2) * max(1.0, float(logits.amax(-1).abs().max()))


def _rounding(checkpoint: Checkpoint, by_ids: torch.Tensor, again: torch.Tensor) -> float:
    """Return the largest difference between ids and embeddings that rounding explains.

    by_ids, again: logits (1, T, X) of two passes over the ids.
    """
    share = SAME.get(checkpoint.precision, 1e-3)
    near = share * max(1.0, float(by_ids.amax(-1).abs().max()))
    return near + 4 * float((by_ids - again).abs().max())


def _agree(left: torch.Tensor, right: torch.Tensor, near: float) -> bool:
    """Return True if two (1, T, X) logits agree; best tokens within ``near`` may swap."""
    if left.shape != right.shape or not bool((left - right).abs().max() <= near):
        return False
    picked = left.gather(-1, right.argmax(-1, keepdim=True))
    return bool((left.max(-1, keepdim=True).values - picked).max() <= near)
