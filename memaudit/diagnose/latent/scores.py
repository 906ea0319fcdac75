"""What one pass says of how well a suffix is remembered, whether or not it comes out.

Knows logits and suffixes. Knows nothing of models or groups of windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.passes import Pass

_AT_A_TIME = (2**26, 2**18)
"""Logits whose probabilities are held at a time, on a GPU and on a CPU."""
_LEAST_LOG_P = -100.0
"""What a less likely token counts as, nats, so that one impossible token makes no mean infinite."""
_LEAST_SPREAD = 1e-6
"""Of a distribution that is all but one token: log p - mu is about 0 there too."""


def read_plain(made: Pass) -> Mapping[str, Tensor]:
    """Suffix NLL and tokens before the first mismatch, each (B,)."""
    return {"nll": -_log_p(made).mean(dim=1), "matched": _matched(made)}


def read_scores(made: Pass, share: float) -> Mapping[str, Tensor]:
    """The same, and Min-K% and Min-K%++ over the suffix, each (B,) and higher if remembered.

    share: k, of the S suffix tokens; at least one token counts.

    Min-K% (Shi et al. 2024, arXiv 2310.16789): mean of log p(x_t) over the k % of the tokens where
    it is lowest. Min-K%++ (Zhang et al. 2024, arXiv 2404.02936): the same of (log p(x_t) - mu) /
    sigma, with mean and standard deviation of log p(z) over z drawn from the model's p at t.
    """
    log_p = _log_p(made)
    least = max(1, int(share * log_p.shape[1]))
    mean, spread = _moments(made.logits)
    return {
        "nll": -log_p.mean(dim=1),
        "matched": _matched(made),
        "min_k": _mean_of_least(log_p, least),
        "min_k_plus": _mean_of_least((log_p - mean) / spread, least),
    }


def _log_p(made: Pass) -> Tensor:
    """(B,S) float64."""
    return log_likelihood(made.logits, made.tokens).double().clamp_min(_LEAST_LOG_P)


def _matched(made: Pass) -> Tensor:
    right = most_likely(made.logits) == made.tokens
    return right.long().cumprod(dim=1).sum(dim=1)


def _mean_of_least(values: Tensor, count: int) -> Tensor:
    """(B,S) -> (B,)."""
    return values.topk(count, dim=1, largest=False).values.mean(dim=1)


def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of log p(z) under p, of logits (B,S,X): each (B,S) float64."""
    flat = logits.flatten(0, 1)
    # Little is allocated, and nothing that stays: temporaries between would scatter the memory.
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
    spread = spread.sqrt().double().clamp_min(_LEAST_SPREAD)
    return mean.double().view(shape), spread.view(shape)
