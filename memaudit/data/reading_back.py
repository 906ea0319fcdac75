"""Whether token ids say what their text says: decoded again, and held against it.

Knows how a tokenizer may change a text without changing the question: white space, Unicode forms,
and lower case or accents where it declares them. Must not know windows' lengths or models.

A checkpoint brings its tokenizer. One that writes other words than were given would have an audit
ask the model about a text that nobody has, and find that it does not come out.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the tokenizer is handed in, so the library itself is not needed here
    from transformers import PreTrainedTokenizerBase

_METASPACE = "\u2581"
_REPLACEMENT = "\ufffd"
_UNREADABLE = "\0"
"""What no folded text holds."""
_QUESTION = "QUESTION"
_BLOCK = 1 << 17
"""Tokens that are decoded at a time. Where one ends inside a character, windows tell the rest."""
_LEAST_READ = 0.9
"""Share of a text's characters that its ids have to read back as."""
_MOST_SEARCHED = 10**9
"""Characters of one text that are looked through for windows that do not stand in it."""
_SAFE_KINDS = ("Cc", "Cf")
"""Characters that SentencePiece and BERT drop: controls and marks without a width."""


@dataclass(frozen=True)
class Mismatch:
    """A text whose ids, decoded, are not the text."""

    text: str
    """What its windows are looked for in, without what a tokenizer may change."""
    is_partial: bool
    """The ids read back as so little of the text that no window of it can be trusted."""


@dataclass(frozen=True)
class _Changes:
    """What a tokenizer declares that it does to a text before it reads it."""

    lowers: bool = False
    takes_accents: bool = False
    is_compatible: bool = False
    """It replaces compatibility characters (NFKC), as a ligature by its letters."""
    replaced: tuple[tuple[str, str], ...] = ()
    """Signs that it replaces by others; no letter or digit is among them."""


class ReadingBack:
    """A tokenizer, and what its ids may differ in from the text they were made of."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._changes = _declared(tokenizer)
        self._unknown = tokenizer.unk_token_id

    @property
    def loses(self) -> str | None:
        """What the tokenizer declares that it takes from the words, to be told to a reader."""
        lost = (
            (self._changes.lowers, "upper case"),
            (self._changes.takes_accents, "accents"),
        )
        return " and ".join(name for is_lost, name in lost if is_lost) or None

    def check(self, text: str, ids: NDArray[np.integer[Any]]) -> Mismatch | None:
        """Return None where the ids (tokens,) of a text decode to it, else what is needed to tell
        which of its windows do.
        """
        blocks = [ids[at : at + _BLOCK].tolist() for at in range(0, len(ids), _BLOCK)]
        decoded = [self._decode(block) for block in blocks]
        if _squeezed("".join(part or "" for part in decoded)) == _squeezed(text):
            return None
        wanted = self._folded(text)
        read = "".join(self._folded(part or "") for part in decoded)
        if read == wanted:
            return None
        enough = _LEAST_READ * len(wanted.replace(_REPLACEMENT, ""))
        is_partial = len(read.replace(_REPLACEMENT, "")) < enough
        return Mismatch(wanted, is_partial and not self._has_unknown(ids))

    def misread(
        self,
        mismatch: Mismatch,
        ids: NDArray[np.integer[Any]],
        starts: NDArray[np.int64],
        length: int,
    ) -> NDArray[np.bool_]:
        """Return which windows of a text do not decode to a part of it: (N,).

        Unknown tokens stand for anything, and so do characters that a window's ends cut. What the
        first window begins with and the last ends with, the text does too.

        Args:
            mismatch: of the text.
            ids: (tokens,), all of the text but special tokens at its start.
            starts: (N,) first token of each window, in order.
            length: tokens of a window.
        """
        found = np.ones(len(starts), dtype=np.bool_)
        if mismatch.is_partial:
            return found
        place = searched = 0
        for number, start in enumerate(starts.tolist()):
            pieces = self._pieces(ids[start : start + length])
            is_last = start + length == len(ids)
            at = _find(mismatch.text, pieces, place, is_last)
            if at is not None and (start or self._is_start(mismatch.text[:at])):
                found[number], place = False, at
                continue
            searched += len(mismatch.text) - place
            if searched > _MOST_SEARCHED:
                break
        return found

    def _is_start(self, before: str) -> bool:
        """Whether nothing stands before a place but special tokens, which are put there anew."""
        for token in self._tokenizer.all_special_tokens:
            before = before.replace(self._folded(token), "")
        return not before

    def _has_unknown(self, ids: NDArray[np.integer[Any]]) -> bool:
        return self._unknown is not None and bool((ids == self._unknown).any())

    def _pieces(self, row: NDArray[np.integer[Any]]) -> list[str]:
        """What a window decodes to between its unknown tokens, empty where one stands at an end;
        likewise where a character is cut.
        """
        cuts = [] if self._unknown is None else np.flatnonzero(row == self._unknown).tolist()
        bounds = zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(row)], strict=True)
        pieces = [self._decode_part(row[at:end].tolist()) for at, end in bounds]
        is_cut_before = pieces[0].startswith(_REPLACEMENT)
        is_cut_after = pieces[-1].endswith(_REPLACEMENT)
        pieces[0] = pieces[0].lstrip(_REPLACEMENT)
        pieces[-1] = pieces[-1].rstrip(_REPLACEMENT)
        return [*[""] * is_cut_before, *pieces, *[""] * is_cut_after]

    def _decode_part(self, ids: list[int]) -> str:
        """Ids as folded text. A first token that goes on with a word would keep its mark (``##``),
        so it is decoded with another one before it.
        """
        if not ids:
            return ""
        first, both = self._decode(ids[:1]), self._decode([*ids[:1], *ids])
        if first is None or both is None:
            return _UNREADABLE
        start, folded = self._folded(first), self._folded(both)
        return folded[len(start) :] if folded.startswith(start) else folded

    def _decode(self, ids: list[int]) -> str | None:
        """The text of ids; None where the tokenizer cannot decode what it wrote."""
        try:
            return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        except (ValueError, LookupError, TypeError):
            return None

    def _folded(self, text: str) -> str:
        """A text without what the tokenizer may change in it."""
        changes = self._changes
        for old, new in changes.replaced:
            text = text.replace(old, new)
        text = unicodedata.normalize("NFKC" if changes.is_compatible else "NFC", text)
        if changes.lowers:
            text = text.casefold()
        if changes.takes_accents:
            text = unicodedata.normalize("NFD", text)
            text = "".join(sign for sign in text if unicodedata.category(sign) != "Mn")
        if not text.isascii() or not text.isprintable():
            text = "".join(sign for sign in text if unicodedata.category(sign) not in _SAFE_KINDS)
        return _squeezed(text)


def _squeezed(text: str) -> str:
    """A text without white space, which nearly every tokenizer adds, joins or takes away."""
    return "".join(text.replace(_METASPACE, " ").split())


def _find(text: str, pieces: list[str], start: int, is_last: bool) -> int | None:
    """Where in a text, from ``start``, its pieces stand one after the other; None if nowhere.

    An empty piece stands for a gap at either end. ``is_last``: they have to reach the text's end.
    """
    first, at = None, start
    for number, piece in enumerate(pieces):
        if is_last and piece and number == len(pieces) - 1:
            found = len(text) - len(piece)
            at = found if found >= at and text.endswith(piece) else -1
        else:
            at = text.find(piece, at)
        if at < 0:
            return None
        first = at if first is None else first
        at += len(piece)
    return start if first is None else first


def _declared(tokenizer: PreTrainedTokenizerBase) -> _Changes:
    """What the tokenizer's own normaliser does, asked with letters of which nothing is left in
    doubt.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    lowers = bool(getattr(tokenizer, "do_lower_case", False))
    if backend is None:  # written in Python: SentencePiece, whose usual form is NFKC
        return _Changes(lowers=lowers, is_compatible=True)
    normalizer = backend.normalizer
    if normalizer is None:
        return _Changes()

    def normal(text: str) -> str:
        return _squeezed(str(normalizer.normalize_str(text)))

    return _Changes(
        lowers=normal(_QUESTION) == _QUESTION.lower(),
        takes_accents=normal("\u00e9") == "e",
        is_compatible=normal("\ufb01") == "fi",
        replaced=tuple(_replaced_signs(_state(normalizer))),
    )


def _state(normalizer: Any) -> Any:
    """The normaliser as tokenizer.json has it; {} where the library does not tell."""
    try:
        return json.loads(normalizer.__getstate__())
    except (ValueError, TypeError, AttributeError):
        return {}


def _replaced_signs(state: Any) -> Iterator[tuple[str, str]]:
    """The signs that a normaliser replaces by others, as XLNet's does quotation marks."""
    if not isinstance(state, dict):
        return
    for part in state.get("normalizers") or ():
        yield from _replaced_signs(part)
    if state.get("type") == "Replace":
        pattern, content = state.get("pattern"), state.get("content")
        old = pattern.get("String") if isinstance(pattern, dict) else None
        if not (isinstance(old, str) and old and isinstance(content, str)):
            return
        if not any(sign.isalnum() for sign in old + content):
            yield old, content
