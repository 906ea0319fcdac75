"""Signals of a prefix: what its text, the model's certainty and its state say before decoding.

Knows ids of prefixes, and what was read off a pass over them. Must not know suffixes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.data.clusters import run_hashes
from memaudit.diagnose.signals.readings import PrefixReading
from memaudit.score.stats import Bools, Floats, Ints

Ids = NDArray[np.int32]
Kind = Literal["text", "logits", "state", "suffix"]
"""What a signal takes: the prefixes alone, a pass over them (its logits, or its states), or the
suffix too."""
_ROWS = 4096
"""Windows looked through at a time."""
_CELLS = 1 << 24
"""Numbers held at once."""
LONGEST_RUN = 20
"""The most last tokens that are looked up elsewhere."""
GRAM = 3
"""Tokens of a run whose return within a prefix counts as repetition."""


PREFIX_LOG_P = "prefix: log p"
"""What predictors are compared with: the one figure that every pass gives."""
COPIES = "other prefixes with the same run"
COUNTED = frozenset({COPIES})
"""Signals without an end above, of which a predictor is given ln(1 + n)."""


class Signal(NamedTuple):
    """One figure of each window."""

    name: str
    kind: Kind
    values: Floats
    """(N,)."""


class Prefixes(NamedTuple):
    """Windows of which the prefix is known, beside all prefixes of the data."""

    ids: Ids
    """(N,P)."""
    own: Ints
    """(N,) row of each in ``file``; -1 for what is not in it, as controls."""
    file: Ids
    """(M,P) of every window of the data."""


def text_signals(prefixes: Prefixes, run: int, tokenizer: Any) -> list[Signal]:
    """Signals that need no model. run: tokens that near-duplicates share, as the scan has it."""
    ids = prefixes.ids
    inside, counts = prefixes.own >= 0, np.bincount(prefixes.file.ravel())
    found = {
        "characters per prefix token": characters(ids, tokenizer),
        "rarity of prefix tokens": rarity(ids, counts, inside),
        "distinct share of prefix tokens": distinct_share(ids),
        "repeated runs in the prefix": repetition(ids),
        COPIES: copies(prefixes, run),
        "last tokens found in another prefix": last_run_elsewhere(prefixes),
    }
    return [Signal(name, "text", values) for name, values in found.items()]


def logit_signals(reading: PrefixReading, near: int) -> list[Signal]:
    """Signals of what the model foretells. near: how many last tokens stand near the border.

    Those of the prefix's own tokens are left out where P is 1.
    """
    found: dict[str, NDArray[Any]] = {
        "next token: entropy": reading.entropy[:, -1],
        "next token: largest p": reading.top_p[:, -1],
    }
    if reading.log_p.shape[1]:
        found |= {
            PREFIX_LOG_P: reading.log_p.mean(axis=1),
            f"last {near}: log p": reading.log_p[:, -near:].mean(axis=1),
            "prefix: entropy": reading.entropy[:, :-1].mean(axis=1),
            f"last {near}: entropy": reading.entropy[:, :-1][:, -near:].mean(axis=1),
            "prefix: largest p": reading.top_p[:, :-1].mean(axis=1),
            "prefix: share ranked first": reading.first.mean(axis=1),
            "tokens ranked first up to the border": last_run(reading.first),
        }
    return [Signal(name, "logits", values.astype(np.float64)) for name, values in found.items()]


def characters(ids: Ids, tokenizer: Any) -> Floats:
    """(N,) characters of text per token of ids (N,T); special tokens have none."""
    texts = tokenizer.batch_decode(
        ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return np.asarray([len(text) / ids.shape[1] for text in texts], dtype=np.float64)


def rarity(ids: Ids, counts: NDArray[np.integer[Any]], inside: Bools) -> Floats:
    """(N,) mean -ln of the share that a token has of the counted ones, one added to each, nats.

    ids: (N,T). counts: (tokens,) how often each token was counted. inside: (N,) whether a window
    is among those counted, and so is taken out before its own tokens are looked up.
    """
    known = np.zeros(max(len(counts), int(ids.max(initial=0)) + 1), dtype=np.float64)
    known[: len(counts)] = counts
    total, width, found = known.sum() + len(known), ids.shape[1], np.empty(len(ids))
    step = max(1, _CELLS // max(1, width * width))
    for start in range(0, len(ids), step):
        rows = ids[start : start + step]
        mine = inside[start : start + step].astype(np.float64)
        times = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
        others = known[rows] - times * mine[:, None] + 1
        share = others / (total - width * mine)[:, None]
        found[start : start + step] = -np.log(share).mean(axis=1)
    return found


def distinct_share(ids: Ids) -> Floats:
    """(N,) different tokens of ids (N,T), as a share of T."""
    return np.asarray(_different(ids.astype(np.int64)) / ids.shape[1])


def repetition(ids: Ids) -> Floats:
    """(N,) share of the runs of three tokens of ids (N,T) that were there before."""
    runs = run_hashes(ids, GRAM)
    return np.asarray(1 - _different(runs) / runs.shape[1])


def _different(values: NDArray[Any]) -> Floats:
    ordered = np.sort(values, axis=1)
    return np.asarray(1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1))


def copies(prefixes: Prefixes, run: int) -> Floats:
    """(N,) other prefixes of the file that have the run of ``run`` tokens most of them share."""
    known = np.sort(run_hashes(prefixes.file, run), axis=1)
    repeated = np.zeros(known.shape, dtype=bool)
    repeated[:, 1:] = known[:, 1:] == known[:, :-1]
    hashes, times = np.unique(known[~repeated], return_counts=True)
    asked = run_hashes(prefixes.ids, run)
    spot = np.minimum(np.searchsorted(hashes, asked), len(hashes) - 1)
    found = np.where(hashes[spot] == asked, times[spot], 0).max(axis=1)
    return np.asarray(found - (prefixes.own >= 0), dtype=np.float64)


def last_run_elsewhere(prefixes: Prefixes) -> Floats:
    """(N,) most last tokens of a prefix that stand together in another prefix, up to 20.

    If the last L stand somewhere, so do the last L-1: the first length that does not ends it.
    """
    found = np.zeros(len(prefixes.ids))
    going = np.arange(len(prefixes.ids))
    for length in range(1, min(LONGEST_RUN, prefixes.ids.shape[1]) + 1):
        rows = Prefixes(prefixes.ids[going], prefixes.own[going], prefixes.file)
        going = going[_ends_elsewhere(rows, length)]
        if not len(going):
            break
        found[going] = length
    return found


def _ends_elsewhere(prefixes: Prefixes, length: int) -> Bools:
    """(N,) whether the last so many tokens stand in a prefix of the file that is not their own."""
    ends = run_hashes(prefixes.ids[:, -length:], length)[:, 0]
    asked, which = np.unique(ends, return_inverse=True)
    low = np.full(len(asked), len(prefixes.file), dtype=np.int64)
    high = np.full(len(asked), -1, dtype=np.int64)  # first and last prefix that has it
    for start in range(0, len(prefixes.file), _ROWS):
        hashes = run_hashes(prefixes.file[start : start + _ROWS], length)
        spot = np.minimum(np.searchsorted(asked, hashes), len(asked) - 1)
        row, column = np.nonzero(asked[spot] == hashes)
        np.minimum.at(low, spot[row, column], start + row)
        np.maximum.at(high, spot[row, column], start + row)
    there = high[which] >= 0
    return np.asarray(there & ((low[which] != prefixes.own) | (high[which] != prefixes.own)))


def last_run(first: Bools) -> Floats:
    """(N,) how many of the last columns of (N,T) are true without a gap."""
    broken = ~first[:, ::-1]
    found = np.where(broken.any(axis=1), broken.argmax(axis=1), first.shape[1])
    return np.asarray(found, dtype=np.float64)


def nearest_similarity(
    states: NDArray[np.float32], clusters: Ints, known: NDArray[np.float32], known_clusters: Ints
) -> Floats:
    """(N,) cosine of a state (N,D) and the most similar known one (M,D) of another cluster.

    All are taken from the mean of the known first: states of a language model lie in a narrow
    cone, in which every cosine is near 1 (Ethayarajh 2019). NaN where no other cluster is known.
    """
    mean = known.mean(axis=0, dtype=np.float64).astype(np.float32)
    there, found = _unit(known - mean), np.empty(len(states))
    step = max(1, _CELLS // max(1, len(known)))
    for start in range(0, len(states), step):
        rows = slice(start, start + step)
        cosine = _unit(states[rows] - mean) @ there.T
        cosine[clusters[rows, None] == known_clusters[None, :]] = -np.inf
        found[rows] = cosine.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(found), found, np.nan)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)
