"""Samples into token ids: every text is encoded once, and the border of its prefix found.

Knows tokenizers and chat templates. Must not know how long a window is or where it lies, and
never turns ids back into text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from memaudit.data.pieces import LONGEST_PIECE, cut_text
from memaudit.data.samples import Sample
from memaudit.errors import DataError

if TYPE_CHECKING:  # the tokenizer is handed in, so the library itself is not needed here
    from transformers import PreTrainedTokenizerBase


_REFUSALS = (
    *(TemplateError, TypeError, ValueError),  # templates refuse by raising
    *(LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError),
)
"""What rendering a chat raises: a template may be any, and it computes."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The token ids of one sample."""

    ids: NDArray[np.int32]
    """(tokens,) int32, without special tokens that the text does not have."""
    border: int | None = None
    """Tokens before the suffix; none where the sample has no suffix of its own."""
    shifted: bool = False
    """The suffix's first token begins inside the prefix string."""
    problem: str | None = None
    """Why the sample could not be made one text; then there are no ids."""


@dataclass(frozen=True)
class _Document:
    """A sample as one text."""

    text: str
    border: int | None = None
    """Characters of the prefix; none where the sample has no suffix of its own."""


class _Tokens(NamedTuple):
    """What a tokenizer makes of a text."""

    ids: NDArray[np.int32]
    """(tokens,)."""
    spans: Sequence[tuple[int, int]] | None
    """Of each token, its first character and the one after its last; None where not asked for."""


class _NoDocument(Exception):
    """The sample cannot be made one text; the message is the reason."""


class Encoder:
    """A tokenizer, with what has to be known about it before a sample can be encoded."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # A BOS that the tokenizer adds by itself is put before every input later. One that a
        # chat template writes as well would be a second, and would count as a prefix token.
        added = leading_ids(tokenizer)
        self._bos = str(tokenizer.convert_ids_to_tokens(added[0])) if added else ""

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encode a batch of samples, in their order.

        Raises:
            DataError: if a sample is a chat and the tokenizer has no chat template.
        """
        documents: list[_Document] = []
        problems: list[str | None] = []
        for sample in samples:
            try:
                documents.append(self._document(sample))
                problems.append(None)
            except _NoDocument as problem:
                problems.append(str(problem))
        encoded = iter(self._encode(documents))
        nothing = np.empty(0, dtype=np.int32)
        return [
            next(encoded) if problem is None else Encoded(nothing, problem=problem)
            for problem in problems
        ]

    def _document(self, sample: Sample) -> _Document:
        if sample.messages is not None:
            return self._chat(sample.messages, sample.line)
        if sample.text is not None:
            _require_words(sample.text, "the text")
            return _Document(sample.text)
        _require_words(sample.suffix or "", "the suffix")
        prefix = sample.prefix or ""
        return _Document(prefix + (sample.suffix or ""), border=len(prefix))

    def _chat(self, messages: Sequence[Mapping[str, str]], line: int) -> _Document:
        if not self._tokenizer.chat_template:
            raise DataError(
                f"line {line} has messages, but the model's tokenizer has no chat template;"
                " put the chat_template.jinja that it was tuned with beside it, or give prefix +"
                " suffix instead"
            )
        chat = [dict(message) for message in messages]
        try:
            whole = self._rendered(chat)
            prefix = self._rendered(chat[:-1], add_generation_prompt=True)
            if not whole.startswith(prefix):  # as where it opens a train of thought
                prefix = self._rendered(chat[:-1])
        except _REFUSALS:
            raise _NoDocument(self._refusal(chat)) from None
        if not whole.startswith(prefix):
            raise _NoDocument("the chat template changes earlier turns once the last one is there")
        return _Document(whole, border=_start_of(chat[-1]["content"], whole, len(prefix)))

    def _rendered(self, chat: Sequence[Mapping[str, str]], **more: bool) -> str:
        rendered = self._tokenizer.apply_chat_template(list(chat), tokenize=False, **more)
        return str(rendered).removeprefix(self._bos)

    def _refusal(self, chat: Sequence[Mapping[str, str]]) -> str:
        """Why the template does not take a chat, as far as another try can tell."""
        spoken = [message for message in chat if message["role"] != "system"]
        if 1 < len(spoken) < len(chat):
            with contextlib.suppress(*_REFUSALS):
                self._rendered(spoken)
                return "the chat template refuses a system message; leave it out of the data"
        return "the chat template refuses these messages"

    def _encode(self, documents: Sequence[_Document]) -> list[Encoded]:
        offsets = self._tokenizer.is_fast and any(one.border is not None for one in documents)
        tokenized = self._tokenize([one.text for one in documents], offsets)
        return [self._bordered(one, *own) for one, own in zip(documents, tokenized, strict=True)]

    def _tokenize(self, texts: Sequence[str], offsets: bool) -> list[_Tokens]:
        """The tokens of each text; texts of several pieces piece by piece."""
        whole = [text for text in texts if len(text) <= LONGEST_PIECE]
        found = iter(self._at_once(whole, offsets))
        return [
            next(found) if len(text) <= LONGEST_PIECE else self._in_pieces(text, offsets)
            for text in texts
        ]

    def _in_pieces(self, text: str, offsets: bool) -> _Tokens:
        ids: list[NDArray[np.int32]] = []
        spans: list[tuple[int, int]] = []
        start = 0
        for piece in cut_text(text):
            ((own, placed),) = self._at_once([piece], offsets)
            ids.append(own)
            spans += [(start + first, start + end) for first, end in placed or ()]
            start += len(piece)
        return _Tokens(np.concatenate(ids), spans if offsets else None)

    def _at_once(self, texts: Sequence[str], offsets: bool) -> list[_Tokens]:
        if not texts:
            return []
        encoding = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            verbose=False,  # a text longer than the model's context is no mistake here
        )
        spans = encoding["offset_mapping"] if offsets else [None] * len(texts)
        return [
            _Tokens(np.asarray(ids, dtype=np.int32), own)
            for ids, own in zip(encoding["input_ids"], spans, strict=True)
        ]

    def _bordered(
        self, document: _Document, ids: NDArray[np.int32], spans: Sequence[tuple[int, int]] | None
    ) -> Encoded:
        if document.border is None:
            return Encoded(ids)
        if spans is not None:
            return _border_by_spans(ids, spans, document.border)
        (prefix,) = self._tokenize([document.text[: document.border]], False)
        return _border_by_prefix(ids, prefix.ids)


def _require_words(text: str, what: str) -> None:
    """Refuse white space, which any model goes on with; where nothing is there at all, the number
    of tokens says so.
    """
    if text and not text.strip():
        raise _NoDocument(f"{what} is nothing but white space")


def leading_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer puts before a text by itself; what it puts after does not count."""
    dressed = list(tokenizer("x")["input_ids"])
    plain = list(tokenizer("x", add_special_tokens=False)["input_ids"])
    starts = range(len(dressed) - len(plain) + 1)
    at = next((i for i in starts if dressed[i : i + len(plain)] == plain), 0)
    return [int(i) for i in dressed[:at]]


def _start_of(content: str, whole: str, least: int) -> int:
    """Where in a rendered chat the last turn's own words start, at ``least`` or behind it.

    What a template puts before them, its header of the turn, is no part of the suffix: it is the
    same for every chat, and the model is given it.
    """
    for words in (content, content.strip()):
        if (at := whole.find(words, least)) >= 0:
            return at
    return least


def _border_by_spans(
    ids: NDArray[np.int32], spans: Sequence[tuple[int, int]], characters: int
) -> Encoded:
    """The suffix starts with the first token that ends after the prefix's last character.

    ``spans``: the first character of each token, and the one after its last.
    """
    for border, (start, end) in enumerate(spans):
        if end > characters:
            return Encoded(ids, border, shifted=start < characters)
    return Encoded(ids, border=len(ids))


def _border_by_prefix(ids: NDArray[np.int32], prefix: NDArray[np.int32]) -> Encoded:
    """Where a tokenizer tells no spans: the suffix starts where the prefix alone goes other ways.

    ``prefix`` (tokens,): the ids of the prefix string on its own.
    """
    common = min(len(prefix), len(ids))
    differing = np.flatnonzero(prefix[:common] != ids[:common])
    border = int(differing[0]) if len(differing) else common
    return Encoded(ids, border, shifted=border < len(prefix))
