from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from memaudit.attack.verification import _largest, verify_logits
from memaudit.config.settings import ScoreSettings

NEAR = 2**-6
LEAST = 8 * NEAR  # logits here are below the least one that counts


def plainly(logits: np.ndarray, suffix: np.ndarray, k: int) -> tuple[list[int], int, float, bool]:
    """One window (S,X), by the definitions: output, matched, log p_z, undecided."""
    continuation, matched = suffix.tolist(), 0
    for place, token in enumerate(suffix):
        continuation[place] = int(logits[place].argmax())
        if continuation[place] != token:
            break
        matched += 1
    target = logits[np.arange(len(suffix)), suffix]
    ordered = np.sort(logits, axis=1)[:, ::-1]
    best = ordered[:, : min(k, logits.shape[1])]
    inside = target >= best[:, -1]
    log_p = np.where(inside, target - np.log(np.exp(best).sum(axis=1)), -np.inf).sum()
    near = bool((ordered[:, 0] - target < LEAST).all())
    tied = bool((ordered[:, 0] - ordered[:, 1] < LEAST).any())
    return continuation, matched, float(log_p), near and tied


@given(data=st.data())
def test_a_pass_says_what_the_definitions_say(data: st.DataObject) -> None:
    """Logits of few values, so that ties, near-ties and windows that come out are all common."""
    windows, length, vocabulary, k = (
        data.draw(st.integers(*r)) for r in ((1, 4), (1, 4), (2, 6), (1, 7))
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    steps = data.draw(st.sampled_from([0.5 * LEAST, 3 * LEAST]))
    logits = (rng.integers(0, 4, (windows, length, vocabulary)) * steps).astype(np.float32)
    suffix = rng.integers(0, vocabulary, (windows, length))
    likely = rng.random((windows, length)) < 0.8
    suffix = np.where(likely, logits.argmax(axis=-1), suffix)
    given_logits = torch.as_tensor(logits.copy())
    verified = verify_logits(given_logits, torch.as_tensor(suffix), ScoreSettings(top_k=k), NEAR)
    assert torch.equal(given_logits, torch.as_tensor(logits))  # put back as they were
    for row in range(windows):
        continuation, matched, log_p_z, undecided = plainly(
            logits[row].astype(np.float64), suffix[row], k
        )
        upto = min(matched + 1, length)
        assert verified.continuation_ids[row].tolist()[:upto] == continuation[:upto]
        assert verified.matched[row] == matched
        assert bool(verified.undecided[row]) == undecided
        np.testing.assert_allclose(float(verified.log_p_z[row]), log_p_z, rtol=1e-5, atol=1e-5)
    log_p = torch.as_tensor(logits).double().log_softmax(dim=-1)
    nll = -log_p.gather(-1, torch.as_tensor(suffix)[..., None])[..., 0].mean(dim=1)
    torch.testing.assert_close(verified.nll, nll, rtol=1e-5, atol=1e-6)


@given(data=st.data())
def test_the_largest_are_those_of_a_sorted_row(data: st.DataObject) -> None:
    """Few values, so that the k-th is often shared by several groups."""
    size, k = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = rng.integers(0, data.draw(st.sampled_from([3, 1000])), (5, size)).astype(np.float32)
    k = min(k, size)
    largest = _largest(torch.as_tensor(logits), k).sort(descending=True).values
    np.testing.assert_array_equal(largest.numpy(), -np.sort(-logits, axis=1)[:, :k])
