"""Signs that a run means nothing: windows without text, templates, a model that cannot read.

Knows token ids, decoded text, log-likelihoods and which ids have a special meaning. Knows nothing
of tokenizers, models or verdicts: it only counts. N stands for windows, P and S for the tokens of
prefix and suffix, T for those of either side, X for the rows of the model's vocabulary.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING
from memaudit.score.stats import Bools, Floats

Ids = NDArray[np.integer]
Decode = Callable[[Ids], tuple[str, ...]]
"""Rows of ids (N,T) as N texts."""

REPEATED = 0.9
"""A side is a repetition if this share of its tokens equals the token one period earlier."""
_LEAST_REPEATED = 4
"""Tokens below which a side is too short to be called a repetition."""
_CONTROL, _REPLACED = 0.25, 0.9
"""Shares of characters above which a side is not text. Control characters: UTF-16 decoded as
something else is half NULs; sound text has none. Replacement characters: a window cut from bytes
has some at its ends, so only a side that is almost all of them counts."""
TEMPLATE_SHARE, TEMPLATE_NEIGHBOURS = 0.05, 3
"""A side is template if it occurs in at least this share of the windows, next to at least this many
different other sides."""
_IN_CONTROLS_TOKENS = 8
"""Tokens that a suffix needs before finding it in a control is more than chance."""
_MIN_OF_UNIFORM, _MAX_OF_UNIFORM = 0.8, 0.96
"""Shares of the NLL of a uniform guess: the lowest limit, and the cap on the guess by token
frequencies. Evenly distributed words have no informative frequencies; random weights give ln X."""
_ROWS = 4096
"""Windows decoded at a time."""
END_WITHIN = 2
"""A continuation that ends within this many tokens ends at once."""


@dataclass(frozen=True)
class TokenRoles:
    """Special meanings of some ids of a vocabulary."""

    vocabulary: int
    """X."""
    unknown: int | None
    """Id for text that the tokenizer cannot write; None if it can write any text."""
    special: tuple[int, ...]
    """Padding, markers and the like, without the unknown token."""
    end: tuple[int, ...]
    """Ids with which the model ends its answer."""


@dataclass(frozen=True, eq=False)
class TextFaults:
    """Windows, of N, with a side that is not text. All arrays are (N,)."""

    control: Bools
    """Only blanks, or many control or replacement characters."""
    repeated: Bools
    """A few tokens, repeated over and over."""
    unknown: Bools
    """More than half the unknown token."""
    special: Bools
    """More than half padding and other special tokens."""
    unknown_tokens: float
    """Share of the unknown token in all tokens of the windows, fraction in [0,1]."""

    @property
    def any(self) -> Bools:
        """Windows with any of these faults."""
        return self.control | self.repeated | self.unknown | self.special


@dataclass(frozen=True, eq=False)
class Templates:
    """Windows, of N, with a side shared by many others. All arrays are (N,)."""

    suffix: Bools
    """The suffix also follows several other prefixes."""
    prefix: Bools
    """The prefix also precedes several other suffixes."""
    in_controls: Bools
    """The whole suffix occurs in a control."""

    @property
    def any(self) -> Bools:
        """Windows with a template on either side."""
        return self.suffix | self.prefix | self.in_controls


@dataclass(frozen=True)
class Reading:
    """How well a model predicts the suffixes of some windows. All in nats/token."""

    nll: float
    """Median over the windows."""
    frequencies: float
    """Median for a guess by the frequency of each token in these suffixes."""
    uniform: float
    """NLL of a uniform guess: ln X."""

    @property
    def limit(self) -> float:
        """NLL from which a model reads these suffixes no better than by chance.

        Half-way from the guess by frequencies to the uniform guess, and no less than 80 % of the
        latter. Measured as NLL over limit, medians of 200 windows of 50+50 tokens, X = 8,192. A
        small trained model reads its training text at 0.17, unseen text of the same kind at 0.73,
        hashes, digits, base64 and code at 0.79 to 0.89, Chinese in bytes at 0.62, random letters
        of DNA at 0.96. Noise of half a standard deviation in its weights puts training text at
        0.33, of a whole one at 0.95. Damaged models are at 1.01 (norms of zeros), 1.12 (a head of
        zeros), 1.15 and 1.25 (head, embedding reinitialised), 1.4 to 2.3 (layers), 1.26 to 1.36
        (another tokenizer), 1.64 (permuted ids). Random weights are at 1.10 to 1.45 (eight set-ups
        of five architectures).
        """
        frequencies = min(self.frequencies, _MAX_OF_UNIFORM * self.uniform)
        return max((frequencies + self.uniform) / 2, _MIN_OF_UNIFORM * self.uniform)

    @property
    def is_chance(self) -> bool:
        """True if the model reads these suffixes no better than by chance."""
        return self.nll >= self.limit


@dataclass(frozen=True)
class Continuations:
    """Continuations of the windows whose suffix was not extracted."""

    windows: int
    """Windows whose suffix was not extracted."""
    ended: int
    """Windows among them whose continuation ends at once although the suffix does not."""
    alike: int
    """Windows among them that share the most common continuation."""


def find_text_faults(
    prefix_ids: Ids, suffix_ids: Ids, roles: TokenRoles, decode: Decode
) -> TextFaults:
    """Find prefixes (N,P) and suffixes (N,S) that are not text."""
    sides = (prefix_ids, suffix_ids)
    unknown = [_share(side, () if roles.unknown is None else (roles.unknown,)) for side in sides]
    tokens = [int((side != PADDING).sum()) for side in sides]
    return TextFaults(
        control=_either([_without_text(side, decode) for side in sides]),
        repeated=_either([_repeated(side) for side in sides]),
        unknown=_either([share > 0.5 for share in unknown]),
        special=_either([_share(side, roles.special) > 0.5 for side in sides]),
        unknown_tokens=float(np.average(np.array(unknown).mean(axis=1), weights=tokens)),
    )


def find_templates(prefix_ids: Ids, suffix_ids: Ids, controls: Ids | None) -> Templates:
    """Find sides that are template; ``controls`` are whole windows (M,P+S)."""
    inside = np.zeros(len(suffix_ids), dtype=np.bool_)
    if controls is not None and suffix_ids.shape[1] >= _IN_CONTROLS_TOKENS:
        length = suffix_ids.shape[1]
        known = np.unique(run_hashes(controls, length))
        inside = np.isin(run_hashes(suffix_ids, length)[:, 0], known)
    return Templates(
        suffix=_template(suffix_ids, prefix_ids),
        prefix=_template(prefix_ids, suffix_ids),
        in_controls=inside,
    )


def measure_reading(suffix_ids: Ids, suffix_nll: Floats, vocabulary: int) -> Reading | None:
    """Return how well suffixes (N,S) with NLLs (N,) are predicted; None if no NLL is known."""
    known = np.isfinite(suffix_nll)
    if not known.any():
        return None
    return Reading(
        nll=float(np.median(suffix_nll[known])),
        frequencies=float(np.median(_frequency_nll(suffix_ids[known], vocabulary))),
        uniform=math.log(vocabulary),
    )


def count_continuations(continuation_ids: Ids, suffix_ids: Ids, roles: TokenRoles) -> Continuations:
    """Count how windows (N,S) that were not extracted are continued; -1 stands for no token."""
    missed = (continuation_ids != suffix_ids).any(axis=1)
    continued, suffixes = continuation_ids[missed], suffix_ids[missed]
    ends = np.array([-1, *roles.end])
    ended = np.isin(continued[:, :END_WITHIN], ends).any(axis=1)
    ended &= ~np.isin(suffixes[:, :END_WITHIN], ends).any(axis=1)
    counts = np.unique(run_hashes(continued, continued.shape[1]), return_counts=True)[1]
    return Continuations(
        windows=len(continued), ended=int(ended.sum()), alike=int(counts.max(initial=0))
    )


def _either(sides: Sequence[Bools]) -> Bools:
    return np.asarray(sides[0] | sides[1])


def _share(ids: Ids, which: Sequence[int]) -> Floats:
    """Return the share (N,) of the given tokens in each row, without padding."""
    has = np.isin(ids, np.array(which, dtype=np.int64)) & (ids != PADDING)
    return np.asarray(has.sum(axis=1) / (ids != PADDING).sum(axis=1))


def _repeated(ids: Ids) -> Bools:
    """Mark rows (N,T) that repeat a few tokens, at least eight times if T allows it: (N,)."""
    repeated = np.zeros(len(ids), dtype=np.bool_)
    lengths = (ids != PADDING).sum(axis=1)
    for tokens in np.unique(lengths[lengths >= _LEAST_REPEATED]).tolist():
        rows = np.flatnonzero(lengths == tokens)
        own = ids[rows, -tokens:]
        for period in range(1, max(2, tokens // 8) + 1):
            repeated[rows] |= (own[:, period:] == own[:, :-period]).mean(axis=1) >= REPEATED
    return repeated


def _without_text(ids: Ids, decode: Decode) -> Bools:
    """Mark rows (N,T) that decode to no text: (N,). Only rows with many odd tokens are decoded."""
    tokens = np.unique(ids[ids != PADDING])
    texts = decode(tokens[:, None])
    odd = tokens[[not text.strip() or _is_odd(text, 0, 0) for text in texts]]
    without_text = np.zeros(len(ids), dtype=np.bool_)
    rows = np.flatnonzero(_share(ids, odd.tolist()) > _CONTROL / 2)
    for start in range(0, len(rows), _ROWS):
        chunk = rows[start : start + _ROWS]
        without_text[chunk] = [
            not text.strip() or _is_odd(text, _CONTROL, _REPLACED) for text in decode(ids[chunk])
        ]
    return without_text


def _is_odd(text: str, control: float, replaced: float) -> bool:
    """Return True if more than these shares of a text are control or replacement characters."""
    controls = sum(unicodedata.category(sign) == "Cc" and sign not in "\t\n\r" for sign in text)
    broken = text.count("�")
    return controls > control * len(text) or controls + broken > replaced * len(text)


def _template(ids: Ids, neighbour_ids: Ids) -> Bools:
    """Mark rows (N,T) that many windows share, next to several different neighbours: (N,)."""
    _, group, counts = np.unique(
        run_hashes(ids, ids.shape[1])[:, 0], return_inverse=True, return_counts=True
    )
    hashes = run_hashes(neighbour_ids, neighbour_ids.shape[1])[:, 0]
    pairs = np.stack([group, hashes.view(np.int64)], axis=1)
    neighbours = np.bincount(np.unique(pairs, axis=0)[:, 0], minlength=len(counts))
    common = (counts >= TEMPLATE_SHARE * len(ids)) & (neighbours >= TEMPLATE_NEIGHBOURS)
    return np.asarray(common[group])


def _frequency_nll(ids: Ids, vocabulary: int) -> Floats:
    """Return the mean NLL (N,) of rows (N,S) under their own leave-one-out token frequencies.

    A token that occurs once gets the probability of a new token, as estimated by Witten and Bell
    (1991), shared evenly over all tokens that do not occur.
    """
    _, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    kinds, total = len(counts), int(counts.sum())
    new = kinds / (total + kinds) / max(1, vocabulary - kinds)
    chance = np.where(counts > 1, (counts - 1) / (total + kinds), new)
    return np.asarray(-np.log(chance)[place.reshape(ids.shape)].mean(axis=1))
