"""Letters that the ids of a tokenizer stand for.

Knows tokenizers. Must not know windows, files or models. A text is as long as its letters: three
tokens may be three words, or the three bytes of one letter.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import PreTrainedTokenizerBase

UNKNOWN = 2.0
"""Letters of each token if nobody counted them: fewer than most have."""
_WIDE = 3.0
"""Letters that an ideograph or a syllable stands for, as it takes about a third of the signs to
write a text in them."""
_PART = 0.25
"""Letters of a token that is part of a sign: no sign has more than four bytes."""


def count_letters(
    tokenizer: PreTrainedTokenizerBase, ids: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return how many letters each id up to the largest of ``ids`` stands for, 0 for others: (V,).

    Blanks are no letters.
    """
    known = np.unique(ids[ids >= 0])
    letters = np.zeros(int(known.max(initial=-1)) + 1, dtype=np.float32)
    texts = (str(tokenizer.decode([number])) for number in known.tolist())
    letters[known] = [sum(map(_weigh, "".join(text.split()))) for text in texts]
    return letters


def running_letters(ids: NDArray[np.integer], letters: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the letters before each of the tokens (N,T), and of all: (N,T+1).

    letters: (V,) letters of each id; empty if unknown.
    """
    sums = np.zeros((len(ids), ids.shape[1] + 1))
    each = letters[np.maximum(ids, 0)] if len(letters) else np.full(ids.shape, UNKNOWN)
    np.cumsum(np.where(ids < 0, 0, each), axis=1, out=sums[:, 1:])
    return sums


def _weigh(sign: str) -> float:
    if sign == "\ufffd":
        return _PART
    return _WIDE if unicodedata.east_asian_width(sign) in "WF" else 1.0
