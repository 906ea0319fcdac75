"""Signals of a prefix before decoding: its text, the model's certainty and its state.

Knows ids of prefixes and the figures of a pass over them. Only `split_border` knows suffixes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING
from memaudit.diagnose.passes import Found, by_length
from memaudit.diagnose.signals.readings import PrefixReading
from memaudit.score.stats import Bools, Floats, Ints

Ids = NDArray[np.int32]
Kind = Literal["text", "logits", "state", "suffix"]
"""Input of a signal: the prefixes alone, a pass over them (its logits, or its states), or also
the suffix."""
_ROWS = 4096
"""Windows searched at a time."""
_CELLS = 1 << 24
"""Numbers in memory at once."""
LONGEST_RUN = 20
"""Most last tokens that are searched for in other prefixes."""
GRAM = 3
"""Tokens of a run that counts as repetition if it recurs within a prefix."""


PREFIX_LOG_P = "prefix: log p"
"""Baseline of the predictors: the one figure that every pass gives."""
COPIES = "other prefixes with the same run"
COUNTED = frozenset({COPIES})
"""Counts without an upper bound; a predictor gets ln(1 + n) of them."""


class Signal(NamedTuple):
    """One figure of each window."""

    name: str
    kind: Kind
    values: Floats
    """(N,)."""


class Prefixes(NamedTuple):
    """Prefixes of some windows, and all prefixes of the data."""

    ids: Ids
    """(N,P); PADDING comes before shorter prefixes, as in ``file``."""
    own: Ints
    """(N,) row of each in ``file``; -1 for windows that are not in it, such as controls."""
    file: Ids
    """(M,P) of every window of the data."""


def text_signals(prefixes: Prefixes, run: int, tokenizer: Any) -> list[Signal]:
    """Return the signals that need no model. run: tokens that near-duplicates share in the scan."""
    inside, counts = prefixes.own >= 0, count_tokens(prefixes.file)
    parts = [
        (
            rows,
            {
                "characters per prefix token": characters(ids, tokenizer),
                "rarity of prefix tokens": rarity(ids, counts, inside[rows]),
                "distinct share of prefix tokens": distinct_share(ids),
                "repeated runs in the prefix": repetition(ids),
            },
        )
        for rows, ids in by_length(prefixes.ids)
    ]
    signals = put_together(parts) | {
        COPIES: copies(prefixes, run),
        "last tokens found in another prefix": last_run_elsewhere(prefixes),
    }
    return [Signal(name, "text", values) for name, values in signals.items()]


def count_tokens(file: Ids) -> NDArray[np.integer[Any]]:
    """Count each token in ids (N,P) with padding: (tokens,)."""
    return np.bincount(file[file != PADDING])


def put_together(
    parts: Sequence[tuple[Ints, Mapping[str, NDArray[Any]]]],
) -> dict[str, NDArray[Any]]:
    """Return the figures (N,...) that all parts have, each of them for some of the N rows."""
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return {
        name: np.concatenate([figures[name] for _, figures in parts])[order]
        for name in parts[0][1]
        if all(name in figures for _, figures in parts)
    }


def logit_signals(readings: Sequence[tuple[Ints, PrefixReading]], near: int) -> list[Signal]:
    """Return signals of the model's predictions. near: last tokens that count as near the border.

    readings: rows and the reading of their prefixes. If one has prefixes of one token, there are no
    signals of the prefixes' own tokens.
    """
    signals = put_together([(rows, _of_logits(reading, near)) for rows, reading in readings])
    return [Signal(name, "logits", values.astype(np.float64)) for name, values in signals.items()]


def _of_logits(reading: PrefixReading, near: int) -> dict[str, NDArray[Any]]:
    signals: dict[str, NDArray[Any]] = {
        "next token: entropy": reading.entropy[:, -1],
        "next token: largest p": reading.top_p[:, -1],
    }
    if reading.log_p.shape[1]:
        signals |= {
            PREFIX_LOG_P: reading.log_p.mean(axis=1),
            f"last {near}: log p": reading.log_p[:, -near:].mean(axis=1),
            "prefix: entropy": reading.entropy[:, :-1].mean(axis=1),
            f"last {near}: entropy": reading.entropy[:, :-1][:, -near:].mean(axis=1),
            "prefix: largest p": reading.top_p[:, :-1].mean(axis=1),
            "prefix: share ranked first": reading.first.mean(axis=1),
            "tokens ranked first up to the border": last_run(reading.first),
        }
    return signals


def characters(ids: Ids, tokenizer: Any) -> Floats:
    """(N,) characters of text per token of ids (N,T); special tokens have none."""
    texts = tokenizer.batch_decode(
        ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return np.asarray([len(text) / ids.shape[1] for text in texts], dtype=np.float64)


def rarity(ids: Ids, counts: NDArray[np.integer[Any]], inside: Bools) -> Floats:
    """(N,) mean -ln of each token's share of all counts, with add-one smoothing, nats.

    ids: (N,T). counts: (tokens,) how often each token was counted. inside: (N,) whether a window
    is among the counted windows; its own tokens are then subtracted first.
    """
    known = np.zeros(max(len(counts), int(ids.max(initial=0)) + 1), dtype=np.float64)
    known[: len(counts)] = counts
    total, width, values = known.sum() + len(known), ids.shape[1], np.empty(len(ids))
    step = max(1, _CELLS // max(1, width * width))
    for start in range(0, len(ids), step):
        rows = ids[start : start + step]
        is_inside = inside[start : start + step].astype(np.float64)
        times = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
        outside = known[rows] - times * is_inside[:, None] + 1
        share = outside / (total - width * is_inside)[:, None]
        values[start : start + step] = -np.log(share).mean(axis=1)
    return values


def distinct_share(ids: Ids) -> Floats:
    """(N,) different tokens of ids (N,T), as a share of T."""
    return np.asarray(_different(ids.astype(np.int64)) / ids.shape[1])


def repetition(ids: Ids) -> Floats:
    """(N,) share of the runs of three tokens of ids (N,T) that occurred earlier in the window."""
    runs = run_hashes(ids, GRAM)
    return np.asarray(1 - _different(runs) / runs.shape[1])


def _different(values: NDArray[Any]) -> Floats:
    ordered = np.sort(values, axis=1)
    return np.asarray(1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1))


def copies(prefixes: Prefixes, run: int) -> Floats:
    """(N,) most other prefixes of the file that share one run of ``run`` tokens with the prefix.

    A prefix of fewer tokens has no such run.
    """
    known = np.sort(run_hashes(prefixes.file, run), axis=1)
    repeated = np.zeros(known.shape, dtype=bool)
    repeated[:, 1:] = known[:, 1:] == known[:, :-1]
    hashes, times = np.unique(known[~repeated], return_counts=True)
    asked = run_hashes(prefixes.ids, run)
    spot = np.minimum(np.searchsorted(hashes, asked), len(hashes) - 1)
    is_run = prefixes.ids[:, : asked.shape[1]] != PADDING
    shared = np.where((hashes[spot] == asked) & is_run, times[spot], 0).max(axis=1)
    return np.asarray(np.maximum(shared - (prefixes.own >= 0), 0), dtype=np.float64)


def last_run_elsewhere(prefixes: Prefixes) -> Floats:
    """(N,) most last tokens of a prefix that also occur as a run in another prefix, up to 20.

    If the last L tokens occur, so do the last L-1: the search ends at the first length that fails.
    """
    lengths = np.zeros(len(prefixes.ids))
    open_rows = np.arange(len(prefixes.ids))
    for length in range(1, min(LONGEST_RUN, prefixes.ids.shape[1]) + 1):
        open_rows = open_rows[prefixes.ids[open_rows, -length] != PADDING]
        rows = Prefixes(prefixes.ids[open_rows], prefixes.own[open_rows], prefixes.file)
        open_rows = open_rows[_ends_elsewhere(rows, length)]
        if not len(open_rows):
            break
        lengths[open_rows] = length
    return lengths


def _ends_elsewhere(prefixes: Prefixes, length: int) -> Bools:
    """(N,) whether the last ``length`` tokens occur in another prefix of the file."""
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
    occurs = high[which] >= 0
    return np.asarray(occurs & ((low[which] != prefixes.own) | (high[which] != prefixes.own)))


def last_run(first: Bools) -> Floats:
    """(N,) number of last columns of (N,T) that are true without a gap."""
    broken = ~first[:, ::-1]
    lengths = np.where(broken.any(axis=1), broken.argmax(axis=1), first.shape[1])
    return np.asarray(lengths, dtype=np.float64)


def nearest_similarity(
    states: NDArray[np.float32], clusters: Ints, known: NDArray[np.float32], known_clusters: Ints
) -> Floats:
    """(N,) cosine of a state (N,D) and the most similar known state (M,D) of another cluster.

    The mean of the known states is subtracted first: states of a language model lie in a narrow
    cone, in which every cosine is near 1 (Ethayarajh 2019). NaN if no other cluster is known.
    """
    mean = known.mean(axis=0, dtype=np.float64).astype(np.float32)
    known_units, nearest = _unit(known - mean), np.empty(len(states))
    step = max(1, _CELLS // max(1, len(known)))
    for start in range(0, len(states), step):
        rows = slice(start, start + step)
        cosine = _unit(states[rows] - mean) @ known_units.T
        cosine[clusters[rows, None] == known_clusters[None, :]] = -np.inf
        nearest[rows] = cosine.max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(nearest), nearest, np.nan)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)


def split_border(figures: Found, name: str, prefix_tokens: int, near: int) -> tuple[Floats, Floats]:
    """Return means of a figure (N,P+S-1) over the last prefix and the first suffix tokens (N,).

    Both sides of a window have the same number of tokens, at most ``near``; the figure is NaN at
    the positions that a shorter prefix lacks. If it has one token, nothing predicts a prefix token,
    and the mean before the border is NaN.
    """
    values = figures[name].astype(np.float64)
    before, after = values[:, : prefix_tokens - 1], values[:, prefix_tokens - 1 :]
    counts = np.minimum((~np.isnan(before)).sum(axis=1), min(near, after.shape[1]))
    means = np.full((2, len(values)), np.nan)
    for count in np.unique(counts):
        rows = counts == count
        if count:
            means[0, rows] = before[rows, -count:].mean(axis=1)
        means[1, rows] = after[rows, : count or near].mean(axis=1)
    return means[0], means[1]
