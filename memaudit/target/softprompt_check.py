"""Whether a target can be audited: does it say of embeddings what it says of token ids?

Knows the loaded target only. Runs it on a handful of tokens; changes nothing.

Every pass of an audit goes through ``inputs_embeds``. Models that look up something by token id
beside the embedding (per-layer embeddings, as Gemma 3n has) answer wrongly or not at all when given
vectors (PEFT issue 3201), and so do adapters that look for tokens in their input (activated LoRA).
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

TOKENS = 8
"""T: tokens of the trial input. Few, because a model with per-layer embeddings may search its
whole vocabulary for each vector."""
VIRTUAL = 2
"""V: vectors of the trial prompt."""
MOST_SPECIAL = 16
"""Special and added tokens that are tried."""
MOST_TEXTS = 6
"""Trial inputs at most."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between two passes that should agree, as a share of the best logit."""

ALIKE = "inputs_embeds and input_ids give different logits for the same tokens"
LOST = 0.05
"""Share of an adapter's effect on the logits that may be missing through embeddings."""

SAME = {torch.float32: 1e-4}
"""The same for token ids and their own embeddings, which go through the same products: 1e-3 in half
precision. The difference is 0 in float32 and in bfloat16 for 52 architectures (tests/architectures,
on the CPU)."""

DIRECTIONS = 8
"""Random ways in which the gradient of a quantised target is tried."""
STEP = 0.1
"""Of each, as a share of the vectors' norm."""
MOST_OFF = 0.5
"""Share of the changes found that those foretold may be off by."""


def check_soft_prompts(
    checkpoint: Checkpoint,
    *,
    gradients: bool = True,
    prompts: bool = True,
    window_ids: Iterable[int] = (),
) -> None:
    """Make sure that the target can be audited through ``inputs_embeds``, its adapter included.

    Args:
        checkpoint: the loaded target.
        gradients: also that a gradient flows back to them, which only fitting a prompt needs.
        prompts: also that vectors before a text change what is said of it.
        window_ids: token ids of the windows, whose special and added tokens are tried.

    Raises:
        TargetError: it cannot; the message names the model's class, and the adapter's kind where
            that is to blame.
        RunError: there is no memory for even this.
    """
    try:
        with quiet_transformers():
            fault = _find_fault(checkpoint, prompts)
            if fault is None:
                fault = _find_difference(checkpoint, _texts(checkpoint, window_ids))
            elif _is_of_adapter(checkpoint, prompts):
                fault += (
                    f"; without its adapter ({adapter_kind(checkpoint.model)}) it would not be so"
                )
            cut = _find_cut(checkpoint) if gradients and fault is None else None
    except FAILURES as error:
        if is_out_of_memory(error):
            raise RunError(
                f"{checkpoint.name}: no memory left on {checkpoint.device} for {TOKENS} tokens; "
                "use --device spread, --quantize int8 or nf4, or --dtype bfloat16"
            ) from error
        raise _refusal(checkpoint, _explain_error(checkpoint, error)) from error
    if fault:
        raise _refusal(checkpoint, fault)
    if cut:
        raise _refusal(
            checkpoint, f"{cut}, and constant and dynamic need it; {_way_out(checkpoint)}"
        )


def _explain_error(checkpoint: Checkpoint, error: BaseException) -> str:
    """What a pass that failed says of the target."""
    refused = "inputs_embeds" if _takes_ids(checkpoint) else "input_ids"
    fault = f"it refuses {refused} ({brief(error)})"
    if has_adapter(checkpoint.model):
        fault = f"with its adapter ({adapter_kind(checkpoint.model)}) {fault}"
    if checkpoint.quantization is not None:
        fault += f"; it is quantised as {checkpoint.quantization.name}: audit it unquantised"
    return fault


def _takes_ids(checkpoint: Checkpoint) -> bool:
    """Whether a pass over token ids alone goes through."""
    try:
        with torch.no_grad(), quiet_transformers():
            _logits(checkpoint, input_ids=random_ids(checkpoint, 1, TOKENS))
    except FAILURES:
        return False
    return True


def _is_of_adapter(checkpoint: Checkpoint, prompts: bool) -> bool:
    """Whether a fault goes away with the adapter."""
    if not has_adapter(checkpoint.model):
        return False
    with without_adapter(checkpoint.model):
        return _find_fault(checkpoint, prompts) is None


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
        f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be audited: {fault}"
    )


def _find_fault(checkpoint: Checkpoint, prompts: bool) -> str | None:
    """The first thing that is wrong, or None. Shapes: ids (1, T), logits (1, T, X)."""
    ids = random_ids(checkpoint, 1, TOKENS + VIRTUAL)
    spare, ids = ids[:, :VIRTUAL], ids[:, VIRTUAL:]
    embedded = checkpoint.embed(ids)
    with torch.no_grad():
        by_ids = _logits(checkpoint, input_ids=ids)
        again = _logits(checkpoint, input_ids=ids)
        by_vectors = _logits(checkpoint, inputs_embeds=embedded)
        # Between two rows of the embedding: no vector of the prompt is a token's.
        prompt = (checkpoint.embed(spare) + checkpoint.embed(spare.flip(1)) * 0.5) / 1.5
        prompted = _logits(checkpoint, inputs_embeds=torch.cat([prompt, embedded], dim=1))
        other = torch.cat([ids[:, :-1], spare[:, :1]], dim=1)
        by_other = _logits(checkpoint, input_ids=other)
    if not torch.isfinite(by_ids).all():
        return _explain_not_finite(checkpoint)
    near = _tolerance(checkpoint, by_ids)
    if not _agree(by_ids, again, near):
        return "two passes over the same tokens give different logits, so it draws at random"
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
    """Why logits are not finite: by the weights themselves, or by the format they are in."""
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
    """Logits (1, T, X) of one text, by token ids, by the same again, and by their embeddings."""

    by_ids: torch.Tensor
    again: torch.Tensor
    by_vectors: torch.Tensor


@torch.no_grad()
def _pass(checkpoint: Checkpoint, ids: torch.Tensor) -> _Passes:
    """Every way through the target as it stands. ids: (1, T)."""
    vectors = checkpoint.embed(ids)
    return _Passes(
        _logits(checkpoint, input_ids=ids),
        _logits(checkpoint, input_ids=ids),
        _logits(checkpoint, inputs_embeds=vectors),
    )


def _differs(checkpoint: Checkpoint, passes: _Passes) -> bool:
    """Whether embeddings give other logits than token ids."""
    by_ids, again, by_vectors = passes
    return not _agree(by_ids, by_vectors, _rounding(checkpoint, by_ids, again))


def _find_difference(checkpoint: Checkpoint, texts: list[torch.Tensor]) -> str | None:
    """What is said otherwise of embeddings (1, T, D) than of token ids (1, T), or None."""
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
        # A small adapter may change less than rounding does, so its effect is held against itself.
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
            "wrongly. To audit its base, name that"
        )
    return None


def _explain_adapter(checkpoint: Checkpoint) -> str:
    return (
        f"its adapter ({adapter_kind(checkpoint.model)}) acts on input_ids and not in the same way "
        "on inputs_embeds, and every pass of an audit goes through inputs_embeds; merge it into "
        "its base if PEFT can, and audit the result"
    )


def _texts(checkpoint: Checkpoint, window_ids: Iterable[int]) -> list[torch.Tensor]:
    """Trial inputs (1, T): ordinary tokens, what an adapter may look for among such, and the
    special and added tokens of the windows.
    """
    ordinary = random_ids(checkpoint, 1, TOKENS)[0].tolist()
    half = TOKENS // 2
    rows = []
    if has_adapter(checkpoint.model):
        rows.append(ordinary)
        for named in named_ids(checkpoint.model, checkpoint.vocabulary):
            rows.append([*ordinary[:half], *named, *ordinary[half:]])
    added = {*checkpoint.tokenizer.all_special_ids, *checkpoint.tokenizer.added_tokens_decoder}
    present = sorted(added & set(window_ids))[:MOST_SPECIAL]
    lead = [] if checkpoint.bos_id is None else [checkpoint.bos_id]
    if lead or present:
        rows.append([*lead, *ordinary[:half], *present, *ordinary[half:]])
    limit = checkpoint.max_tokens if rows else None
    return [torch.tensor([row[:limit]], device=checkpoint.device) for row in rows[-MOST_TEXTS:]]


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


def _rounding(checkpoint: Checkpoint, by_ids: torch.Tensor, again: torch.Tensor) -> float:
    """Largest difference of token ids and their embeddings that rounding explains, where two passes
    over the ids gave these logits (1, T, X).
    """
    share = SAME.get(checkpoint.precision, 1e-3)
    near = share * max(1.0, float(by_ids.amax(-1).abs().max()))
    return near + 4 * float((by_ids - again).abs().max())


def _agree(one: torch.Tensor, two: torch.Tensor, near: float) -> bool:
    """Whether two (1, T, X) logits agree; two best tokens may swap where they are that near."""
    if one.shape != two.shape or not bool((one - two).abs().max() <= near):
        return False
    picked = one.gather(-1, two.argmax(-1, keepdim=True))
    return bool((one.max(-1, keepdim=True).values - picked).max() <= near)
