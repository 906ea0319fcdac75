"""Tokens that a tokenizer adds before a text, and the source of the BOS token.

Knows tokenizers. Must not know chat templates, windows or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import PreTrainedTokenizerBase

BosSource = Literal["tokenizer", "template", "text"]
"""Source of the decision on BOS: the tokenizer, which adds it or not; a chat template that writes
none; or the text, whose own BOS is the first token of the window."""

_PROBES = 64


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...] | None:
    """Return the ids that a tokenizer adds before a text, None if no text shows it.

    Ids added after a text do not count.
    """
    for text in chain(own_texts(tokenizer), ["x"]):
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        with_special = list(tokenizer(text)["input_ids"])
        starts = range(len(with_special) - len(plain) + 1)
        matches = [start for start in starts if with_special[start : start + len(plain)] == plain]
        if plain and len(matches) == 1:  # two if the text itself is a token that is added
            return tuple(int(id_) for id_ in with_special[: matches[0]])
    return None


def own_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield texts of single tokens of the vocabulary, from its middle outwards.

    A vocabulary of amino acids, nucleotides or words may have no token for an arbitrary letter.
    """
    size, special = len(tokenizer), set(tokenizer.all_special_ids)
    spread = range(0, size, max(1, size // _PROBES))
    for id_ in sorted(spread, key=lambda id_: abs(id_ - size // 2)):
        if id_ in special or not isinstance(tokenizer.convert_ids_to_tokens(id_), str):
            continue
        text = tokenizer.decode([id_])
        if isinstance(text, str) and text.strip():
            yield text
