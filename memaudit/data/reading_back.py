"""The check that token ids decode back to the text they came from.

Knows how windows are found in a text. Must not know models.

A checkpoint brings its tokenizer. If it writes other words than were given, or other spaces between
them, an audit asks the model about a text that nobody has, and finds that it is not extracted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memaudit.data.declared import Declared

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
_UNREADABLE = "\0"
"""Text of ids that the tokenizer cannot decode; no window of a text is equal to it."""
_MOST_CUT = 3
"""Tokens beyond a window that may hold the rest of a character cut by its end."""
_BLOCK = 1 << 17
"""Tokens decoded at a time. A block may end inside a character; the windows are then checked one by
one."""
_LEAST_READ = 0.9
"""Share of a text's characters that its ids have to decode to."""
_MOST_SEARCHED = 10**9
"""Limit on the characters searched in one text for windows that are not in it."""


@dataclass(frozen=True)
class Mismatch:
    """A text that its ids do not decode to."""

    text: str
    """Text in which its windows are searched, after the changes that the tokenizer declares."""
    is_partial: bool
    """True if the ids decode to so little of the text that no window of it can be trusted."""


class ReadingBack:
    """A tokenizer, and the comparison of its ids with their text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._declared = Declared(tokenizer)

    @property
    def loses(self) -> str | None:
        """Losses that the tokenizer declares, as case or accents, for a note; None without any."""
        return self._declared.loses

    def check(self, text: str, ids: NDArray[np.integer[Any]]) -> Mismatch | None:
        """Compare a text with its decoded ids (tokens,).

        Return None if they agree, else the mismatch, from which `misread` finds the windows that
        differ.
        """
        blocks = [ids[at : at + _BLOCK].tolist() for at in range(0, len(ids), _BLOCK)]
        plain = [self._decode(block) or "" for block in blocks]
        if self._declared.adds_signs(text, "".join(plain)):
            return Mismatch("", True)
        decoded = [self._declared.fold_decoded(part) for part in plain[:1]]
        decoded += [self._decode_part(block) for block in blocks[1:]]
        read, expected = "".join(decoded), self._declared.expected(text)
        if self._declared.trims:
            read, expected = read.strip(), expected.strip()
        if read == expected or (self._declared.has_dummy and read == f" {expected}"):
            return None
        is_partial = _countable(read) < _LEAST_READ * _countable(expected)
        return Mismatch(f" {expected}" if self._declared.has_dummy else expected, is_partial)

    def misread(
        self,
        mismatch: Mismatch,
        ids: NDArray[np.integer[Any]],
        spans: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which windows of a text do not decode to a part of it: (N,).

        The first window has to begin as the text begins, and the last one has to end as it ends.

        Args:
            mismatch: result of `check` for the text.
            ids: (tokens,), all of the text but special tokens at its start.
            spans: (N,2) first token of each window and the one after its last, in order.
        """
        misread = np.ones(len(spans), dtype=np.bool_)
        if mismatch.is_partial:
            return misread
        place = searched = 0
        for number, (start, end) in enumerate(spans.tolist()):
            part = self._text_of(ids, start, end)
            is_last = end == len(ids)
            at = mismatch.text.find(part, place)
            if is_last and at >= 0:
                at = len(mismatch.text) - len(part) if mismatch.text.endswith(part) else -1
            if at >= 0 and (start or self._is_start(mismatch.text[:at])):
                misread[number], place = False, at
                continue
            searched += len(mismatch.text) - place
            if searched > _MOST_SEARCHED:
                break
        return misread

    def _is_start(self, before: str) -> bool:
        """Return True if only special tokens come before, which decoding does not return."""
        for token in self._tokenizer.all_special_tokens:
            before = before.replace(self._declared.fold(token), "")
        return not before.strip(" " if self._declared.has_dummy else "\0")

    def _text_of(self, ids: NDArray[np.integer[Any]], start: int, end: int) -> str:
        """Return the folded text of a window, with the rest of a character that its ends cut."""
        text = ""
        for before, after in product(range(min(_MOST_CUT, start) + 1), range(_MOST_CUT + 1)):
            longer = self._decode_part(ids[start - before : end + after].tolist())
            text = text or longer
            if not longer.startswith(_REPLACEMENT) and not longer.endswith(_REPLACEMENT):
                text = longer
                break
        if self._declared.trims:
            return text.strip()
        return text.removeprefix(" ") if self._declared.has_dummy else text

    def _decode_part(self, ids: list[int]) -> str:
        """Return the folded text of ids from the middle of a text.

        A decoder may take a space from the first token, so a copy of it is decoded in front.
        """
        if not ids:
            return ""
        first, both = self._decode(ids[:1]), self._decode([*ids[:1], *ids])
        if first is None or both is None:
            return _UNREADABLE
        if first.startswith(_REPLACEMENT):  # a byte, which takes no space; a copy would spoil it
            return self._declared.fold_decoded(self._decode(ids) or _UNREADABLE)
        start, folded = self._declared.fold_decoded(first), self._declared.fold_decoded(both)
        return folded[len(start) :] if folded.startswith(start) else folded

    def _decode(self, ids: list[int]) -> str | None:
        """Return the text of ids; None if the tokenizer cannot decode what it wrote.

        The checkpoint's decoder is used only if it writes what the tokens stand for, blanks
        included.
        """
        try:
            if self._declared.is_honest and not self._declared.marks_words:
                return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
            tokens = [str(token) for token in self._tokenizer.convert_ids_to_tokens(ids)]
        except (ValueError, LookupError, TypeError):
            return None
        return self._spaced(tokens) if self._declared.marks_words else "".join(tokens)

    def _spaced(self, tokens: list[str]) -> str:
        """Return tokens as text with a blank between words."""
        continues, ends = self._declared.continues, self._declared.ends
        parts: list[str] = []
        for token in tokens:
            if continues and token.startswith(continues):
                parts.append(token.removeprefix(continues))
            elif ends and token.endswith(ends):
                parts.append(token.removesuffix(ends) + " ")
            else:
                parts.append(token if ends else " " + token)
        return re.sub(r"\s+", " ", "".join(parts))


def _countable(text: str) -> int:
    """Return how many characters of a text are neither white space nor replaced."""
    return len("".join(text.split()).replace(_REPLACEMENT, ""))
