"""Scores of how well a suffix is remembered, from one pass.

Knows logits and suffixes. Knows nothing of models or groups of windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.passes import Pass

_AT_A_TIME = (2**26, 2**18)
"""Logits whose probabilities are in memory at a time, on a GPU and on a CPU."""
_MIN_LOG_P = -100.0
"""Lower bound of log p, nats: one impossible token must not make a mean infinite."""
_MIN_SPREAD = 1e-6
"""Lower bound of sigma, for distributions of nearly one token; log p - mu is about 0 there too."""


def read_plain(batch: Pass) -> Mapping[str, Tensor]:
    """Return the suffix NLL and the tokens before the first mismatch, each (B,)."""
    return {"nll": -_log_p(batch).mean(dim=1), "matched": _matched(batch)}


def read_scores(batch: Pass, share: float) -> Mapping[str, Tensor]:
    """Return the figures of `read_plain`, and Min-K% and Min-K%++ over the suffix, each (B,).

    Min-K% and Min-K%++ are higher if remembered. share: k, of the S suffix tokens, rounded down to
    at least one token.

    Min-K% (Shi et al. 2024, arXiv 2310.16789): mean of log p(x_t) over the k % of the tokens where
    it is lowest. Min-K%++ (Zhang et al. 2024, arXiv 2404.02936): that mean of (log p(x_t) - mu) /
    sigma, with mean and standard deviation of log p(z) over z sampled from the model's p at t.
    """
    log_p = _log_p(batch)
    count = max(1, int(share * log_p.shape[1]))
    mean, spread = _moments(batch.logits)
    return {
        "nll": -log_p.mean(dim=1),
        "matched": _matched(batch),
        "min_k": _mean_of_lowest(log_p, count),
        "min_k_plus": _mean_of_lowest((log_p - mean) / spread, count),
    }


def _log_p(batch: Pass) -> Tensor:
    """(B,S) float64."""
    return log_likelihood(batch.logits, batch.tokens).double().clamp_min(_MIN_LOG_P)


def _matched(batch: Pass) -> Tensor:
    right = most_likely(batch.logits) == batch.tokens
    return right.long().cumprod(dim=1).sum(dim=1)


def _mean_of_lowest(values: Tensor, count: int) -> Tensor:
    """(B,S) -> (B,)."""
    return values.topk(count, dim=1, largest=False).values.mean(dim=1)


def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (B,S) float64 of log p(z) under p, for logits (B,S,X)."""
    flat = logits.flatten(0, 1)
    # Allocates once: temporaries in between would fragment the memory.
    mean, spread = torch.empty(2, len(flat), dtype=torch.float32, device=logits.device)
    step = max(1, _AT_A_TIME[logits.device.type == "cpu"] // logits.shape[-1])
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        log_p = flat[part].log_softmax(dim=-1)
        p = log_p.exp()
        log_p.masked_fill_(p == 0, 0.0)  # 0 log 0 = 0, where a logit is -inf
        torch.linalg.vecdot(p, log_p, out=mean[part])
        log_p.sub_(mean[part, None]).square_()
        torch.linalg.vecdot(p, log_p, out=spread[part])
    shape = logits.shape[:2]
    spread = spread.sqrt().double().clamp_min(_MIN_SPREAD)
    return mean.double().view(shape), spread.view(shape)
