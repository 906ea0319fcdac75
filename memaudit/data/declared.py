"""Changes that a tokenizer declares to make to a text before it reads it.

Knows the parts of which tokenizers are made. Must not know windows or models.

Only changes that real tokenizers make are accepted, each as far as those make it: Unicode forms,
lower case, accents, quotation marks, controls, and white space of tokenizers that are not
byte-level. All else that a checkpoint's files ask for counts as a change of the text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import PreTrainedTokenizerBase

METASPACE = "\u2581"
_QUESTION = "QUESTION"
_QUOTES = (("``", '"'), ("''", '"'))
"""Quotation marks that XLNet and ALBERT replace."""
_CLEANING = frozenset({"Precompiled", "Nmt", "BertNormalizer"})
"""Normalisers that drop controls, or replace them and white space by blanks."""
_DECODERS = frozenset({"Sequence", "ByteLevel", "Metaspace", "ByteFallback", "Fuse"})
"""Decoders that write only what the tokens stand for."""
_FORMAT = ("Cc", "Cf")
"""Controls, and marks without a width."""
_IDEOGRAPH = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ceaf\uf900-\ufaff"
    "\U0002f800-\U0002fa1f]"
)
"""Characters that BERT reads as words of their own."""
_UNSPACED = re.compile(f"{_IDEOGRAPH.pattern}|[\u3040-\u30ff]")
"""Characters of words that are written without blanks between them."""
_FEW_BLANKS = 0.001
"""Share of a vocabulary that may begin with blanks if the tokenizer writes none."""
_LOST = "\U0010fffd"
"""Mark of a letter that the tokenizer declares to take. It has no other use."""
_MARK = re.compile(r"\W.*\W", re.DOTALL)
"""A token that is a mark, such as ``<s>``, rather than words."""


class Declared:
    """The changes of one tokenizer, applied to texts before they are compared."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.is_python = backend is None
        """The tokenizer is written in Python, and declares nothing but lower case."""
        self._lowers = bool(getattr(tokenizer, "do_lower_case", False))
        self._form = "NFKC" if self.is_python else ""  # SentencePiece's usual form
        self._takes_accents = self._cleans = self._joins = self._pads = False
        self._splits = False  # at white space, which it takes away
        self._glues = False  # ids do not tell where a word ends
        self._has_dummy = False  # a blank before a text, and after added tokens
        self._replaced: tuple[tuple[str, str], ...] = ()
        self._pre_tokenizer: Any = None
        self._normal: Callable[[str], str] = str
        self._cleaned: dict[str, str] = {}
        self.is_byte_level = False
        self.is_honest = self.is_python
        """The decoder writes what the tokens stand for."""
        self.marks_words = False
        """Words are told apart by tokens without blanks, as BERT's."""
        self.continues, self.ends = "", ""
        """Sign of a token that continues a word, and of one that ends it."""
        if backend is not None:
            self._lowers = False  # the backend's normaliser does it, or nothing
            self._read_backend(backend)
        self._verbatim = self._added_tokens(tokenizer, str)
        self._added = self._added_tokens(tokenizer, self._letters)
        self._beside = tuple(self._blanks_beside(tokenizer))
        self.has_lost_blanks = False
        """A text so far has line breaks or repeated blanks that the tokenizer takes away."""

    def _read_backend(self, backend: Any) -> None:
        steps = list(read_steps(backend.normalizer))
        decoders = list(read_steps(backend.decoder))
        self.is_byte_level = any(step.get("type") == "ByteLevel" for step in decoders)
        self.is_honest = bool(decoders) and all(map(_is_honest, decoders))
        pre_steps = list(read_steps(backend.pre_tokenizer))
        self._has_dummy = any(map(_adds_blank, [*steps, *pre_steps]))
        if backend.normalizer is not None:
            self._normal = backend.normalizer.normalize_str
            self._read_normalizer(steps)
        if self.is_byte_level or backend.pre_tokenizer is None:
            return
        self._pre_tokenizer = backend.pre_tokenizer
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("a b")]
        self._splits = words in (["a", "b"], [f"{METASPACE}a", f"{METASPACE}b"])
        model = backend.model
        self.continues = getattr(model, "continuing_subword_prefix", None) or ""
        self.ends = getattr(model, "end_of_word_suffix", None) or ""
        if words == ["a", "b"] and not _writes_blanks(backend):
            is_word_level = type(model).__name__ == "WordLevel"
            self.marks_words = is_word_level or bool(self.continues or self.ends)
            self._glues = not self.marks_words

    def _read_normalizer(self, steps: Sequence[dict[str, Any]]) -> None:
        kinds = {step.get("type") for step in steps}
        self._lowers = self._bare(_QUESTION) == _QUESTION.lower()
        self._takes_accents = self._bare("\u00e9") == "e"
        if self._bare("\ufb01") == "fi":
            self._form = "NFKC"
        elif steps and self._bare("e\u0301") != "e\u0301":
            self._form = "NFC"
        if self.is_byte_level:
            return
        self._cleans = bool(kinds & _CLEANING)
        self._joins = self._bare("a  b") == "a b"
        self._pads = any(step.get("handle_chinese_chars") for step in steps)
        declared = set(_replacements(steps))
        self._replaced = tuple(pair for pair in _QUOTES if pair in declared)

    def _bare(self, text: str) -> str:
        """Return a normalised text without the blank before it."""
        return self._normal(text).replace(METASPACE, " ").strip(" ")

    @property
    def loses(self) -> str | None:
        """Losses of the words, for a note; None if there are none."""
        losses = (
            (self._lowers, "upper case"),
            (self._takes_accents, "accents"),
            (self._glues, "blanks between words"),
            (self.has_lost_blanks and not self._glues, "line breaks or repeated blanks"),
        )
        names = [name for is_lost, name in losses if is_lost]
        return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names) or None

    @property
    def trims(self) -> bool:
        """True if blanks at both ends of a text may be lost."""
        return self.is_python or self._splits or self._joins or self._cleans

    @property
    def has_dummy(self) -> bool:
        """True if the tokenizer may put a blank before a text."""
        return self._has_dummy or self.trims

    def expected(self, text: str) -> str:
        """Return what the ids of a text should decode to."""
        for old, new in self._replaced:
            text = text.replace(old, new)
        if self._cleans:
            text = self._without_controls(text)
        text = self.fold(text)
        if self._splits or self._joins:
            spaced = " ".join(text.split()) if self._splits else re.sub(" {2,}", " ", text)
            self.has_lost_blanks |= spaced.strip() != text.strip()
            text = spaced
        if self._pads:
            text = " ".join(_IDEOGRAPH.sub(r" \g<0> ", text).split())
        if self._glues:
            return "".join(text.split())
        return " ".join(self._words(text)) if self.marks_words else text

    def fold(self, text: str) -> str:
        """Return a given text in the form in which it is compared with a decoded one."""
        if self._verbatim is not None and (self._lowers or self._takes_accents):
            text = self._verbatim.sub(lambda match: self._mark_losses(match[0]), text)
        return self._folded(text)

    def fold_decoded(self, text: str) -> str:
        """Return a decoded text in the same form. Letters in it that the tokenizer declares to take
        are marked, so that they differ from those of the text.
        """
        return self._folded(self._mark_losses(text))

    def _mark_losses(self, text: str) -> str:
        """Return a text with a mark before upper case and accents that the tokenizer takes."""
        if text.isascii() and not (self._lowers and text.lower() != text):
            return text
        return "".join(_LOST * self._is_lost(sign) + sign for sign in text)

    def _is_lost(self, sign: str) -> bool:
        if self._lowers and sign.lower() != sign:
            return True
        accents = self._takes_accents and not sign.isascii()
        return accents and unicodedata.category(unicodedata.normalize("NFD", sign)[-1]) == "Mn"

    def _folded(self, text: str) -> str:
        if self._form and not text.isascii():
            text = unicodedata.normalize(self._form, text)  # type: ignore[arg-type]
        if self._lowers:
            text = text.casefold()
        if self._takes_accents and not text.isascii():
            text = unicodedata.normalize("NFD", text)
            text = "".join(sign for sign in text if unicodedata.category(sign) != "Mn")
        if not self.is_byte_level:
            text = text.replace(METASPACE, " ")
        for pattern in self._beside:
            text = pattern.sub(r"\g<mark>", text)
        return _without_loose_blanks(text) if self.is_python else text

    def adds_signs(self, text: str, decoded: str) -> bool:
        """Return True if a decoded text has signs that the normaliser would change, and more of
        them than the given text.

        Both are compared in one Unicode form, so a normaliser that writes such signs itself, as a
        no-break space for a space, would not be seen otherwise.
        """
        if self._form != "NFKC" or self.is_python or decoded.isascii():
            return False
        unstable = {sign for sign in set(decoded) if self._is_unstable(sign)}
        return any(decoded.count(sign) > text.count(sign) for sign in unstable)

    @staticmethod
    def _is_unstable(sign: str) -> bool:
        if sign.isascii() or sign in (METASPACE, "\ufffd"):
            return False
        return unicodedata.normalize("NFKC", sign) != sign

    def _without_controls(self, text: str) -> str:
        """Return a text without the controls and white space that the normaliser cleans away.

        A control may vanish or become a blank, white space may become a blank. Nothing else that
        the normaliser makes of them is accepted.
        """
        if text.isascii() and text.isprintable():
            return text
        for sign in set(text) - {" "}:
            if unicodedata.category(sign)[0] not in "CZ" and sign not in "\ufffd":
                continue
            if sign not in self._cleaned:
                results = {"a a": " "} if _is_blank(sign) else {"aa": "", "a a": " "}
                self._cleaned[sign] = results.get(self._bare(f"a{sign}a"), sign)
            self.has_lost_blanks |= sign in "\n\r\t" and self._cleaned[sign] != sign
            text = text.replace(sign, self._cleaned[sign])
        return text

    def _words(self, text: str) -> Iterator[str]:
        """Yield the words of a text between which the tokenizer writes no blanks."""
        parts = [text] if self._added is None else self._added.split(text)
        for number, part in enumerate(parts):
            if number % 2:  # an added token
                yield part
                continue
            words = [word for word, _ in self._pre_tokenizer.pre_tokenize_str(part)]
            is_whole = "".join("".join(words).split()) == "".join(part.split())
            yield from " ".join(words if is_whole else [part]).split()

    def _blanks_beside(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[re.Pattern[str]]:
        """Yield patterns of added marks with the blanks that they take or that follow them."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        marks = [token for token in added if _MARK.fullmatch(token.content.strip(f"{METASPACE} "))]
        sides = (
            (r"\s*{}", [token.content for token in marks if token.lstrip]),
            (r"{}\s*", [token.content for token in marks if token.rstrip]),
            ("{} *", [token.content for token in marks if self._has_dummy]),
        )
        for form, contents in sides:
            if contents:
                yield re.compile(form.format(f"(?P<mark>{_any_of(map(self._letters, contents))})"))

    @staticmethod
    def _added_tokens(
        tokenizer: PreTrainedTokenizerBase, letters: Callable[[str], str]
    ) -> re.Pattern[str] | None:
        """Return a pattern that splits a text at the tokens added to the vocabulary."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        contents = [letters(token.content) for token in added if token.content]
        return re.compile(f"({_any_of(contents)})") if contents else None

    def _letters(self, token: str) -> str:
        """Return an added token as it stands in a folded text."""
        marked = self._mark_losses(token)
        return marked.casefold() if self._lowers else marked


def _state(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as its tokenizer.json has it; {} if the library hides it."""
    try:
        state = json.loads(part.__getstate__())
    except (ValueError, TypeError, AttributeError):
        return {}
    return state if isinstance(state, dict) else {}


def read_steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normaliser, pre-tokenizer or decoder, in their order."""
    waiting = [] if part is None else [_state(part)]
    while waiting:
        state = waiting.pop(0)
        inner = [state.get(name) for name in ("normalizers", "pretokenizers", "decoders")]
        nested = [step for steps in inner for step in steps or () if isinstance(step, dict)]
        waiting[:0] = nested
        if not nested:
            yield state


def _is_honest(step: dict[str, Any]) -> bool:
    """Return True if a step of a decoder writes only what the tokens stand for."""
    kind = step.get("type")
    if kind == "Replace":
        pattern = step.get("pattern") or {}
        return bool((pattern.get("String"), step.get("content")) == (METASPACE, " "))
    if kind == "Strip":
        return bool(step.get("content") == " ")
    return kind in _DECODERS and step.get("replacement", METASPACE) == METASPACE


def _adds_blank(step: dict[str, Any]) -> bool:
    """Return True if a step puts a blank before a text."""
    kind = step.get("type")
    return (
        (kind == "Prepend" and step.get("prepend") == METASPACE)
        or (kind == "Metaspace" and step.get("prepend_scheme") != "never")
        or (kind == "ByteLevel" and bool(step.get("add_prefix_space")))
    )


def _replacements(steps: Sequence[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
    for step in steps:
        if step.get("type") == "Replace":
            yield (step.get("pattern") or {}).get("String"), step.get("content")


def _writes_blanks(backend: Any) -> bool:
    """Return True if tokens of a vocabulary begin with a blank, in whatever spelling."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    blanks = sum(token.startswith((METASPACE, "\u0120", " ")) for token in vocabulary)
    return bool(blanks > _FEW_BLANKS * len(vocabulary))


def _any_of(contents: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(contents, key=len, reverse=True)))


def _without_loose_blanks(text: str) -> str:
    """Return a text without controls, and without blanks but those between two words.

    Tokenizers in Python move the blanks around punctuation, each in its own way.
    """
    if not text.isascii() or not text.isprintable():
        text = "".join(
            sign for sign in text if sign.isspace() or unicodedata.category(sign) not in _FORMAT
        )
    parts: list[str] = []
    for word in text.split():
        if parts and _is_word(parts[-1][-1]) and _is_word(word[0]):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)


def _is_blank(sign: str) -> bool:
    """Return True for white space that ends a word, which no tokenizer may drop."""
    return sign in "\n\r\t" or unicodedata.category(sign)[0] == "Z"


def _is_word(sign: str) -> bool:
    return sign.isalnum() and not _UNSPACED.match(sign)
