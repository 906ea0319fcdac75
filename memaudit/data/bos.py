"""The tokens before a text: what a tokenizer puts there by itself, and where inputs get BOS from.

Knows tokenizers. Must not know chat templates, windows or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the tokenizer is handed in, so the library itself is not needed here
    from transformers import PreTrainedTokenizerBase

BosSource = Literal["tokenizer", "template", "text"]
"""Who decides on BOS: the tokenizer, which puts it before a text or does not; a chat template that
writes none; or the text, whose own BOS is the first token of the window."""

_PROBES = 64


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...] | None:
    """Return the ids that a tokenizer puts before a text by itself, and None where no text tells.

    What it puts after a text does not count.
    """
    for text in chain(own_texts(tokenizer), ["x"]):
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        dressed = list(tokenizer(text)["input_ids"])
        starts = range(len(dressed) - len(plain) + 1)
        places = [at for at in starts if dressed[at : at + len(plain)] == plain]
        if plain and len(places) == 1:  # two where the text is itself a token that is added
            return tuple(int(id_) for id_ in dressed[: places[0]])
    return None


def own_texts(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield texts of single tokens of the vocabulary, from its middle outwards.

    A vocabulary of amino acids, nucleotides or words has no token for an arbitrary letter.
    """
    size, special = len(tokenizer), set(tokenizer.all_special_ids)
    spread = range(0, size, max(1, size // _PROBES))
    for id_ in sorted(spread, key=lambda id_: abs(id_ - size // 2)):
        if id_ in special or not isinstance(tokenizer.convert_ids_to_tokens(id_), str):
            continue
        text = tokenizer.decode([id_])
        if isinstance(text, str) and text.strip():
            yield text
