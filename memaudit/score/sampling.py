"""Probabilistic extraction: how many samples it takes to see a suffix of a known probability.

Knows log-probabilities as arrays, and nothing else.
"""

from __future__ import annotations

import numpy as np

from memaudit.score.stats import Floats


def queries(log_p_z: Floats, p: float) -> Floats:
    """Return the smallest n (N,) such that n samples contain the suffix with probability p.

    A window is (n,p)-discoverable iff 1 - (1 - p_z)^n >= p (Hayes et al. 2024, arXiv
    2410.19482), so n = ceil(ln(1 - p) / ln(1 - p_z)), accurate however small p_z is.
    inf if p_z is 0 or n is beyond the range of a float; NaN if ln p_z is NaN.
    """
    log_p = np.minimum(log_p_z, 0.0)  # a sum of rounded terms can end a little above 0
    goal = np.log1p(-p)
    with np.errstate(divide="ignore", over="ignore"):
        # ln(1 - p_z), by whichever of the two forms does not cancel (Maechler 2012).
        log_miss = np.where(log_p > -np.log(2), np.log(-np.expm1(log_p)), np.log1p(-np.exp(log_p)))
        # Below e^-40, ln(1 - p_z) is -p_z to the last digit, and p_z may underflow.
        ratio = np.where(log_p < -40, np.exp(np.log(-goal) - log_p), goal / log_miss)
    whole = np.rint(ratio)
    # p_z = 0.1 and p = 0.19 give 2.0000000000000004; the answer is 2.
    needed = np.where(np.isclose(ratio, whole, rtol=1e-12, atol=0), whole, np.ceil(ratio))
    return np.asarray(np.maximum(needed, 1.0))
