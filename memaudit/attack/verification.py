"""What one teacher-forced pass says of a suffix: how far it is extracted, and how likely it is.

Knows logits and suffixes. Knows nothing of models, prompts or decoding.
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

# Bytes of logits whose softmax is held at a time: elsewhere few passes, on a CPU what its cache
# holds (X = 8192: a third of the time of logsumexp over the whole batch).
_AT_A_TIME = (2**28, 2**21)
_LEAST_LOGIT = 8.0  # rounding on the way to a logit near zero is that of larger numbers


class Verified(NamedTuple):
    """One teacher-forced pass over B windows."""

    said: Tensor
    """(B,S) arg-max at every suffix position up to and with the first mismatch."""
    matched: Tensor
    """(B,) tokens before the first mismatch."""
    nll: Tensor
    """(B,) float64, nats/token."""
    log_p_z: Tensor
    """(B,) float64."""
    undecided: Tensor
    """(B,) bool: exactness hangs on a near-tie."""


def verify_logits(
    logits: Tensor, suffix: Tensor, settings: ScoreSettings, near_tie: float
) -> Verified:
    """Read off everything that the logits (B,S,X) float32 say of the suffixes (B,S).

    near_tie: share of the largest logit below which a difference is left open.
    Most windows are not memorized, so what only matters for one that may be (the arg-max past
    the first mismatch, the runners-up, the sampler's top k) is computed for those alone.
    """
    top = logits.amax(dim=-1)  # (B,S)
    target = logits.gather(-1, suffix[..., None])[..., 0]
    log_p = log_likelihood(logits, suffix)
    least = near_tie * top.abs().clamp_min(_LEAST_LOGIT)
    maybe = (top - target < least).all(dim=1)  # every suffix token is the arg-max, or nearly
    rival = _rivals(logits, suffix, maybe)
    said, matched = _arg_max_to_mismatch(logits, suffix, target >= top, target > rival)
    return Verified(
        said=said,
        matched=matched,
        nll=-log_p.double().mean(dim=1),
        log_p_z=_log_p_z(logits, target, log_p, settings),
        undecided=maybe & ((target - rival).abs() < least).any(dim=1),
    )


def most_likely(logits: Tensor) -> Tensor:
    """Greedy choice: the arg-max over the last dimension, the lowest id where some are equal."""
    if logits.device.type == "cpu":
        # numpy's is vectorised: (240,8192) takes a fifth of the time of torch's.
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def log_likelihood(logits: Tensor, suffix: Tensor) -> Tensor:
    """(B,S) float32: log of the probability of each suffix token, a few positions at a time.

    logits: (B,S,X) in any format; the gradient goes through.
    """
    flat, tokens = logits.flatten(0, 1), suffix.flatten()
    step = max(1, _AT_A_TIME[logits.device.type == "cpu"] // (4 * logits.shape[-1]))
    parts = zip(torch.split(flat, step), torch.split(tokens, step), strict=True)
    lost = [F.cross_entropy(part.float(), some, reduction="none") for part, some in parts]
    return -torch.cat(lost).view_as(suffix)


def _rivals(logits: Tensor, suffix: Tensor, rows: Tensor) -> Tensor:
    """(B,S) the largest logit beside the suffix token's, in these rows (B,) bool; inf in others."""
    rival = torch.full_like(logits[..., 0], torch.inf)
    for row in torch.nonzero(rows).flatten().tolist():
        # Masked and put back in place: a copy, or the two largest, takes several times as long.
        mine, at = logits[row], suffix[row][:, None]
        kept = mine.gather(-1, at)
        mine.scatter_(-1, at, -torch.inf)
        rival[row] = mine.amax(dim=-1)
        mine.scatter_(-1, at, kept)
    return rival


def _arg_max_to_mismatch(
    logits: Tensor, suffix: Tensor, highest: Tensor, alone: Tensor
) -> tuple[Tensor, Tensor]:
    """The arg-max up to and with each first mismatch, and the tokens before it.

    highest: (B,S) whether no logit is above the suffix token's. Where another one equals it,
    the arg-max decides, as it does in greedy decoding; alone: (B,S) where none is known to.
    """
    before = highest.long().cumprod(dim=1)
    reach = torch.ones_like(highest)
    reach[:, 1:] = before[:, :-1] > 0
    open_ = reach & ~alone
    said = suffix.clone()
    said[open_] = most_likely(logits[open_])
    return said, (said == suffix).logical_and(reach).long().cumprod(dim=1).sum(dim=1)


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
    # Row by row, since logits[possible] would be a copy that costs as much as the rest.
    best = torch.stack([_largest(logits[row], k) for row in rows])  # (b,S,k)
    mine = target[possible]
    log_p_k = mine / settings.temperature - (best / settings.temperature).logsumexp(dim=-1)
    log_p_k = torch.where(mine >= best.amin(dim=-1), log_p_k, -torch.inf)
    result[possible] = log_p_k.double().sum(dim=1)
    return result


def _largest(logits: Tensor, k: int) -> Tensor:
    """(S,X) -> (S,k): the k largest of each row, in any order.

    On a CPU only groups whose own largest is among the k largest of theirs are looked through,
    since no other holds one. Of (50,49152) and k = 40 that takes 1.1 ms, topk 2.5 ms and numpy's
    partition 14 ms; of (50,8192) 0.5, 0.4 and 2.1 ms (two threads of a Zen 4; with one it is the
    fastest of them there too).
    """
    rows, size = logits.shape
    # So many members that k groups hold about as many as there are groups.
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
    """The target gives logits that are no numbers: nothing can be said of these windows."""

    def __init__(self, message: str, ids: NDArray[np.int64]) -> None:
        super().__init__(message)
        self.ids = ids
        """(windows,P+S): the windows; none where it is not known which."""


def require_finite(checkpoint: Checkpoint, finite: Tensor, ids: Tensor | None = None) -> None:
    """Raise NotFinite unless all are.

    finite: (B,) bool, by window; ids: (B,P+S), where they are at hand.
    """
    if not finite.all():
        bad = np.empty((0, 0), dtype=np.int64) if ids is None else ids[~finite].cpu().numpy()
        raise NotFinite(
            f"{checkpoint.name} gives logits that are not finite in "
            f"{str(checkpoint.dtype).removeprefix('torch.')}; use --dtype float32, or "
            "lower learning_rate if it was fitting a prompt",
            bad,
        )


def next_token(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The greedy choice (B,) of logits (B,1,X), and whether it was made among numbers, (B,) bool.

    The latter is for `require_finite` once decoding is done: to look at it after each step would
    make a GPU wait for every one.
    """
    last = logits[:, 0].float()
    token = most_likely(last)  # what is no number counts as the largest, wherever there is one
    return token, last.gather(-1, token[:, None])[:, 0].isfinite()
