"""Read one teacher-forced pass: how far the suffix is extracted, and how likely it is.

Knows logits and suffixes. Knows nothing of prompts or decoding. A window with logits that are not
finite would count as not extracted and pass a gate, so it is refused.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from memaudit.config.settings import ScoreSettings
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint

# Bytes of logits whose softmax is held at a time, elsewhere and on a CPU. Elsewhere this takes few
# passes; on a CPU it fits the cache (X = 8192: a third of the time of logsumexp over the batch).
_CHUNK_BYTES = (2**28, 2**21)
_MIN_LOGIT = 8.0  # the rounding error of a logit near zero is that of the larger numbers before it


class Verified(NamedTuple):
    """One teacher-forced pass over B windows."""

    continuation_ids: Tensor
    """(B,S) arg-max at every suffix position up to and including the first mismatch."""
    matched: Tensor
    """(B,) tokens before the first mismatch."""
    nll: Tensor
    """(B,) float64, nats/token."""
    log_p_z: Tensor
    """(B,) float64."""
    undecided: Tensor
    """(B,) bool: a near-tie decides whether the window is exact."""


def verify_logits(
    logits: Tensor, suffix: Tensor, settings: ScoreSettings, near_tie: float
) -> Verified:
    """Compare the logits (B,S,X) float32 with the suffixes (B,S).

    near_tie: share of the largest logit below which a difference is undecided. Most windows are
    not memorized, so the arg-max past the first mismatch, the runners-up and the sampler's top k
    are computed only for windows that may be.
    """
    top = logits.amax(dim=-1)  # (B,S)
    target = logits.gather(-1, suffix[..., None])[..., 0]
    log_p = log_likelihood(logits, suffix)
    margin = near_tie * top.abs().clamp_min(_MIN_LOGIT)
    maybe = (top - target < margin).all(dim=1)  # every suffix token is the arg-max, or nearly
    rival = _rivals(logits, suffix, maybe)
    continuation, matched = _arg_max_to_mismatch(logits, suffix, target >= top, target > rival)
    return Verified(
        continuation_ids=continuation,
        matched=matched,
        nll=-log_p.double().mean(dim=1),
        log_p_z=_log_p_z(logits, target, log_p, settings),
        undecided=maybe & ((target - rival).abs() < margin).any(dim=1),
    )


def most_likely(logits: Tensor) -> Tensor:
    """Greedy choice: the arg-max over the last dimension, the lowest id in a tie."""
    if logits.device.type == "cpu":
        # numpy's is vectorised: a fifth of torch's time for (240,8192).
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def log_likelihood(logits: Tensor, suffix: Tensor) -> Tensor:
    """(B,S) float32: log-probability of each suffix token, computed a few positions at a time.

    logits: (B,S,X) in any format; differentiable.
    """
    flat, tokens = logits.flatten(0, 1), suffix.flatten()
    step = max(1, _CHUNK_BYTES[logits.device.type == "cpu"] // (4 * logits.shape[-1]))
    chunks = zip(torch.split(flat, step), torch.split(tokens, step), strict=True)
    losses = [F.cross_entropy(chunk.float(), ids, reduction="none") for chunk, ids in chunks]
    return -torch.cat(losses).view_as(suffix)


def _rivals(logits: Tensor, suffix: Tensor, rows: Tensor) -> Tensor:
    """(B,S) largest logit of any other token, for the rows (B,) bool that are set; else inf."""
    rival = torch.full_like(logits[..., 0], torch.inf)
    for row in torch.nonzero(rows).flatten().tolist():
        # Masked and restored in place: a copy, or the two largest, takes several times as long.
        row_logits, tokens = logits[row], suffix[row][:, None]
        masked = row_logits.gather(-1, tokens)
        row_logits.scatter_(-1, tokens, -torch.inf)
        rival[row] = row_logits.amax(dim=-1)
        row_logits.scatter_(-1, tokens, masked)
    return rival


def _arg_max_to_mismatch(
    logits: Tensor, suffix: Tensor, highest: Tensor, unique: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the arg-max up to and including each first mismatch, and the tokens before it.

    highest: (B,S) True if no logit exceeds the suffix token's. In a tie the arg-max decides, as in
    greedy decoding; unique: (B,S) True if a tie is ruled out.
    """
    before = highest.long().cumprod(dim=1)
    reach = torch.ones_like(highest)
    reach[:, 1:] = before[:, :-1] > 0
    open_ = reach & ~unique
    continuation = suffix.clone()
    continuation[open_] = most_likely(logits[open_])
    equal = (continuation == suffix).logical_and(reach)
    return continuation, equal.long().cumprod(dim=1).sum(dim=1)


def _log_p_z(logits: Tensor, target: Tensor, log_p: Tensor, settings: ScoreSettings) -> Tensor:
    """(B,) log p_z of suffixes under top-k sampling at a temperature.

    log p_t = l_t/T - logsumexp(top-k of l/T), -inf outside the top k (arXiv 2410.19482).
    """
    k = min(settings.top_k, logits.shape[-1])
    row = torch.arange(len(logits), device=logits.device)
    worst = log_p.argmin(dim=1)
    above = (logits[row, worst] > target[row, worst, None]).sum(dim=1)
    possible = above < k
    result = torch.full(above.shape, -torch.inf, dtype=torch.float64, device=logits.device)
    rows = torch.nonzero(possible).flatten().tolist()
    if not rows:
        return result
    # Row by row: logits[possible] would be a copy that costs as much as the rest.
    best = torch.stack([_largest(logits[row], k) for row in rows])  # (b,S,k)
    token = target[possible]
    log_p_k = token / settings.temperature - (best / settings.temperature).logsumexp(dim=-1)
    log_p_k = torch.where(token >= best.amin(dim=-1), log_p_k, -torch.inf)
    result[possible] = log_p_k.double().sum(dim=1)
    return result


def _largest(logits: Tensor, k: int) -> Tensor:
    """(S,X) -> (S,k): the k largest of each row, in any order.

    On a CPU only the k groups with the largest maxima are searched: no other group can hold one.
    For (50,49152) and k = 40 this takes 1.1 ms, topk 2.5 ms and numpy's partition 14 ms; for
    (50,8192) 0.5, 0.4 and 2.1 ms (two threads of a Zen 4; with one thread it is the fastest there
    too).
    """
    rows, size = logits.shape
    # Group size at which k groups hold about as many numbers as there are groups.
    members = max(1, round(math.sqrt(size / k)))
    groups = size // members
    if logits.device.type != "cpu" or groups <= k:
        return logits.topk(k, dim=-1, sorted=False).values
    grouped = logits[:, : members * groups].view(rows, members, groups)
    best = grouped.amax(dim=1).topk(k, dim=-1, sorted=False).indices  # (S,k)
    held = grouped.gather(2, best[:, None].expand(rows, members, k)).flatten(1)
    rest = logits[:, members * groups :]
    return torch.cat([held, rest], dim=1).topk(k, dim=-1, sorted=False).values


class NotFinite(RunError):
    """Logits of the target are not finite: these windows cannot be scored."""

    def __init__(self, message: str, ids: NDArray[np.int64]) -> None:
        super().__init__(message)
        self.ids = ids
        """(windows,P+S) the windows; empty if unknown."""


def require_finite(checkpoint: Checkpoint, finite: Tensor, ids: Tensor | None = None) -> None:
    """Raise NotFinite unless every window is finite. finite: (B,) bool; ids: (B,P+S) if known."""
    if not finite.all():
        bad = np.empty((0, 0), dtype=np.int64) if ids is None else ids[~finite].cpu().numpy()
        raise NotFinite(
            f"{checkpoint.name} gives logits that are not finite in "
            f"{str(checkpoint.dtype).removeprefix('torch.')}; use --dtype float32, or "
            "lower learning_rate if it was fitting a prompt",
            bad,
        )


def next_token(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greedy choice (B,) of logits (B,1,X), and True (B,) where its logit is finite.

    Pass the latter to `require_finite` after decoding: a check at each step would make a GPU wait.
    """
    last = logits[:, 0].float()
    token = most_likely(last)  # the arg-max treats NaN as the largest
    return token, last.gather(-1, token[:, None])[:, 0].isfinite()
