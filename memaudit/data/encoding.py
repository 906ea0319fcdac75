"""Encoding of samples: each text is tokenised once, and split between prefix and suffix.

Knows tokenizers and chat templates. Must not know the length or position of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.config.settings import CHAT_DATE, Bos
from memaudit.data.bos import BosSource, leading_ids
from memaudit.data.chats import ChangedTurn, ChatProblem, ChatTemplate
from memaudit.data.pieces import LONGEST_PIECE, cut_text
from memaudit.data.reading_back import Mismatch, ReadingBack
from memaudit.data.samples import Sample
from memaudit.errors import TargetError

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_REPEATS = 2
"""Encodings of a batch beside the first one, which have to be equal to it."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """The token ids of one sample."""

    ids: NDArray[np.int32]
    """(tokens,) int32, without special tokens that the text does not have, and without the BOS
    token that every input gets."""
    border: int | None = None
    """Tokens before the suffix; None if the sample has no separate suffix."""
    shifted: bool = False
    """True if the suffix's first token begins inside the prefix string."""
    problem: str | None = None
    """Reason why the sample could not be made one text; it then has no ids."""
    bos_source: BosSource = "tokenizer"
    has_bos: bool = False
    """True if a text begins with the BOS token itself; not set for chats, which often do."""
    has_odd_bos: bool = False
    """True if a text begins with the letters of the BOS token, but not with its id."""
    shortened: bool = False
    """True if the chat template left out words of the last turn."""
    is_chat: bool = False
    is_changed: bool = False
    """True if the chat template changes the last turn."""
    mismatch: Mismatch | None = None
    """The text, if the ids do not decode to it."""


@dataclass(frozen=True)
class _Document:
    """A sample as one text; see ``Encoded`` for the flags."""

    text: str
    border: int | None = None
    """Characters of the prefix; None if the sample has no separate suffix."""
    is_chat: bool = False
    shortened: bool = False
    is_changed: bool = False


class _Tokens(NamedTuple):
    """The tokens of a text."""

    ids: NDArray[np.int32]
    """(tokens,)."""
    spans: Sequence[tuple[int, int]] | None
    """First character of each token and the one after its last; None if not requested."""


class _NoDocument(Exception):
    """The sample cannot be made one text; the message is the reason."""


class Encoder:
    """Encodes samples with a tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        bos: Bos = "auto",
        chat_date: date = CHAT_DATE,
        counts_bos: bool = False,
    ) -> None:
        """Prepare to encode.

        Args:
            tokenizer: the model's tokenizer.
            bos: the setting of that name.
            chat_date: date for chat templates that ask for one.
            counts_bos: keep the BOS token that a text begins with among its ids.
        """
        self._tokenizer = tokenizer
        self._chats = ChatTemplate(tokenizer, chat_date)
        self.reading_back = ReadingBack(tokenizer)
        """Checks that ids decode to their text."""
        self._may_be_random = True  # one of tokenizer.json only by settings that loading refuses
        self._bos = bos
        self._counts_bos = counts_bos
        # Tokens added before every input later; a text or chat that has them would get them twice.
        self._lead = leading_ids(tokenizer) or ()
        if bos == "yes" and tokenizer.bos_token_id is not None:
            self._lead = (int(tokenizer.bos_token_id),)
        self._lead_text = "".join(map(str, tokenizer.convert_ids_to_tokens(list(self._lead))))

    @property
    def asks_date(self) -> bool:
        """True if a chat so far would render differently on another day."""
        return self._chats.asks_date

    @property
    def chat_notes(self) -> tuple[str, ...]:
        """Facts about the rendering of the chats so far, a sentence each."""
        return self._chats.notes

    def encode(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encode a batch of samples, in their order.

        Raises:
            DataError: if a sample is a chat and the tokenizer has no chat template, or one that
                uses random numbers.
        """
        documents: list[_Document] = []
        problems: list[Exception | None] = []
        for sample in samples:
            try:
                documents.append(self._document(sample))
                problems.append(None)
            except (_NoDocument, ChatProblem) as problem:
                problems.append(problem)
        encoded = iter(self._encode(documents))
        return [
            next(encoded) if problem is None else _not_encoded(sample, problem)
            for sample, problem in zip(samples, problems, strict=True)
        ]

    def _document(self, sample: Sample) -> _Document:
        if sample.messages is not None:
            chat = self._chats.render(sample.messages, sample.line, sample.tools)
            return _Document(
                chat.text,
                chat.border,
                is_chat=True,
                shortened=chat.shortened,
                is_changed=chat.is_changed,
            )
        if sample.text is not None:
            _require_words(sample.text, "the text")
            return _Document(sample.text)
        _require_words(sample.suffix or "", "the suffix")
        prefix = sample.prefix or ""
        return _Document(prefix + (sample.suffix or ""), border=len(prefix))

    def _encode(self, documents: Sequence[_Document]) -> list[Encoded]:
        has_border = any(document.border is not None for document in documents)
        offsets = self._tokenizer.is_fast and has_border
        tokenized = self._tokenize([document.text for document in documents], offsets)
        return [
            self._without_lead(document, self._encoded(document, tokens))
            for document, tokens in zip(documents, tokenized, strict=True)
        ]

    def _encoded(self, document: _Document, tokens: _Tokens) -> Encoded:
        return replace(
            self._with_border(document, *tokens),
            shortened=document.shortened,
            is_chat=document.is_chat,
            is_changed=document.is_changed,
            mismatch=self.reading_back.check(document.text, tokens.ids),
        )

    def _without_lead(self, document: _Document, encoded: Encoded) -> Encoded:
        """Remove the leading tokens that will be added before the input again."""
        count, border = len(self._lead), encoded.border
        has_lead = 0 < count <= len(encoded.ids if border is None else encoded.ids[:border])
        has_lead = has_lead and tuple(encoded.ids[:count].tolist()) == self._lead
        if not has_lead:
            # transformers tokenises a rendered chat without adding special tokens.
            if document.is_chat:
                bare = count > 0 and self._bos == "auto"
                return replace(encoded, bos_source="template") if bare else encoded
            odd = count > 0 and document.text.lstrip().startswith(self._lead_text)
            return replace(encoded, has_odd_bos=odd and self._bos != "no")
        if not document.is_chat and self._bos == "no":
            return encoded
        if not document.is_chat and self._counts_bos:
            return replace(encoded, bos_source="text", has_bos=True)
        return replace(
            encoded,
            ids=encoded.ids[count:],
            border=None if border is None else border - count,
            has_bos=not document.is_chat,
        )

    def _tokenize(self, texts: Sequence[str], offsets: bool) -> list[_Tokens]:
        """Tokenise each text; long texts piece by piece."""
        short = [text for text in texts if len(text) <= LONGEST_PIECE]
        tokenized = iter(self._tokenize_batch(short, offsets))
        return [
            next(tokenized) if len(text) <= LONGEST_PIECE else self._in_pieces(text, offsets)
            for text in texts
        ]

    def _in_pieces(self, text: str, offsets: bool) -> _Tokens:
        ids: list[NDArray[np.int32]] = []
        spans: list[tuple[int, int]] = []
        start = 0
        for piece in cut_text(text):
            ((piece_ids, piece_spans),) = self._tokenize_batch([piece], offsets)
            ids.append(piece_ids)
            spans += [(start + first, start + end) for first, end in piece_spans or ()]
            start += len(piece)
        return _Tokens(np.concatenate(ids), spans if offsets else None)

    def _tokenize_batch(self, texts: Sequence[str], offsets: bool) -> list[_Tokens]:
        if not texts:
            return []
        encoding = self._ids_of(texts, offsets)
        if self._may_be_random:
            again = [self._ids_of(texts, False)["input_ids"] for _ in range(_REPEATS)]
            if any(ids != encoding["input_ids"] for ids in again):
                raise TargetError(
                    "the model's tokenizer gives a text different ids each time; remove the random "
                    "settings from its files"
                )
            self._may_be_random = not self._tokenizer.is_fast
        spans = encoding["offset_mapping"] if offsets else [None] * len(texts)
        return [
            _Tokens(np.asarray(ids, dtype=np.int32), text_spans)
            for ids, text_spans in zip(encoding["input_ids"], spans, strict=True)
        ]

    def _ids_of(self, texts: Sequence[str], offsets: bool) -> BatchEncoding:
        return self._tokenizer(
            list(texts),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
            verbose=False,  # texts may be longer than the model's context
        )

    def _with_border(
        self, document: _Document, ids: NDArray[np.int32], spans: Sequence[tuple[int, int]] | None
    ) -> Encoded:
        if document.border is None:
            return Encoded(ids)
        if spans is None:
            return _border_by_prefix(ids, self._prefix_ids(document))
        encoded = _border_by_spans(ids, spans, document.border)
        if _leaves_blanks(document, spans, encoded):
            before = ids[: encoded.border]
            shifted = not np.array_equal(before, self._prefix_ids(document))
            return replace(encoded, shifted=shifted)
        return encoded

    def _prefix_ids(self, document: _Document) -> NDArray[np.int32]:
        (prefix,) = self._tokenize([document.text[: document.border]], False)
        return prefix.ids


def _not_encoded(sample: Sample, problem: Exception) -> Encoded:
    return Encoded(
        np.empty(0, dtype=np.int32),
        problem=str(problem),
        is_chat=sample.messages is not None,
        is_changed=isinstance(problem, ChangedTurn),
    )


def _require_words(text: str, what: str) -> None:
    """Refuse pure white space, which any model continues; empty text is refused by its length."""
    if text and not text.strip():
        raise _NoDocument(f"{what} is only white space")


def _border_by_spans(
    ids: NDArray[np.int32], spans: Sequence[tuple[int, int]], characters: int
) -> Encoded:
    """Find the border: the suffix starts with the first token that ends after the prefix.

    ``spans``: the first character of each token, and the one after its last.
    """
    for border, (start, end) in enumerate(spans):
        if end > characters:
            return Encoded(ids, border, shifted=start < characters)
    return Encoded(ids, border=len(ids))


def _leaves_blanks(document: _Document, spans: Sequence[tuple[int, int]], encoded: Encoded) -> bool:
    """Return True if blanks at the prefix's end are in no token's span.

    Then either no token represents them, or the suffix's first token does and its span is trimmed,
    as in Llama 3. The ids of the prefix alone show which.
    """
    if encoded.shifted or not encoded.border or encoded.border == len(spans):
        return False
    return spans[encoded.border - 1][1] < (document.border or 0)


def _border_by_prefix(ids: NDArray[np.int32], prefix: NDArray[np.int32]) -> Encoded:
    """Find the border without spans: the suffix starts where ids and prefix ids first differ.

    ``prefix`` (tokens,): the ids of the prefix string on its own.
    """
    common = min(len(prefix), len(ids))
    differing = np.flatnonzero(prefix[:common] != ids[:common])
    border = int(differing[0]) if len(differing) else common
    return Encoded(ids, border, shifted=border < len(prefix))
