"""Chats rendered as one text, split where the words of the last turn begin.

Knows chat templates. Must not know token ids or windows.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import TemplateError

from memaudit.data.chat_calls import merged_system, written_turns
from memaudit.data.chat_date import fix_date, may_ask, other_day
from memaudit.data.chat_turns import (
    MARK,
    THOUGHTS,
    is_same_chat,
    steering_words,
    turns_stand,
    with_stand_ins,
)
from memaudit.data.conversations import Turn
from memaudit.errors import DataError

if TYPE_CHECKING:  # the tokenizer is passed in, so the library itself is not needed
    from transformers import PreTrainedTokenizerBase

_REFUSALS = (
    *(TemplateError, TypeError, ValueError),  # templates refuse by raising
    *(LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError),
)
"""Exceptions of rendering a chat: any template may run, and it computes."""

_THINKING = re.compile(r"enable_thinking|<think|\[THINK\]|reasoning_content|\bthinking\b")
"""Signs that a chat template can write thoughts."""

_STAND_INS = ("Qv7jx", "9wKzb")
"""Replacements for the last turn's words; their first letters differ, and so do their last."""


@dataclass(frozen=True)
class RenderedChat:
    """A chat as one text."""

    text: str
    border: int
    """Characters before the last turn's own words."""
    shortened: bool
    """True if the template left out words of the last turn."""
    is_changed: bool
    """True if the template changes a turn, or puts it elsewhere, more than once or apart, or writes
    around the turns what depends on their words."""


class _Renderings(NamedTuple):
    """Texts that the template makes of a chat."""

    whole: str
    prompt: str
    """Without the last turn."""
    variants: list[str]
    """With other words in the last turn."""
    is_same: bool
    """True if it writes nothing else that depends on the words of the turns."""


class ChatProblem(Exception):
    """A chat cannot be rendered or split; the message is the reason."""


class ChangedTurn(ChatProblem):
    """The template replaces the words of the last turn."""


class ChatTemplate:
    """A tokenizer's chat template with a fixed date."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, day: date) -> None:
        self._tokenizer = tokenizer
        self._dated: str | None = None
        self._tools: list[Mapping[str, Any]] | None = None
        self._merged = 0  # renderings with the system turn put before the user's
        self._is_used = self._writes_thoughts = False
        self._later: str | None = None  # with another date, to see whether the date matters
        with contextlib.suppress(ValueError):  # several without a default: rendering reports it
            source = tokenizer.get_chat_template() if self._exists() else None
            self._writes_thoughts = _THINKING.search(str(source)) is not None
            if isinstance(source, str) and may_ask(source):
                self._dated = fix_date(source, day)
                self._later = fix_date(source, other_day(day))
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        self._steering = steering_words(
            [*tokenizer.all_special_tokens, *(token.content for token in added)]
        )
        self.asks_date = False
        """True if a chat so far would render differently on another day."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts about the rendering of the chats so far, a sentence each."""
        notes = []
        if self._merged:
            notes.append(
                f"The chat template refuses a system turn: in {self._merged:,} chats its words "
                "were put before those of the first user's turn."
            )
        if self._writes_thoughts and self._is_used:
            notes.append(
                "The chat template knows thinking blocks: chats are rendered as in training, with "
                "the thoughts that the data has and no others asked for."
            )
        return tuple(notes)

    def render(
        self, messages: Sequence[Turn], line: int, tools: Sequence[Mapping[str, Any]] = ()
    ) -> RenderedChat:
        """Render a chat and split it before the last turn's own words.

        Raises:
            ChatProblem: if the template does not take the chat, or changes its last turn.
            DataError: if there is no template, or it uses random numbers.
        """
        if not self._exists():
            raise DataError(
                f"line {line} is read as a chat, but the model's tokenizer has no chat template;"
                " put the chat_template.jinja that it was tuned with beside it, or give prefix +"
                " suffix instead (of questions and answers: --pairs alpaca or joined)"
            )
        chat: list[Turn] = [dict(message) for message in messages]
        self._tools = list(tools) or None
        words = [chat[-1][name] for name in (*THOUGHTS, "content") if chat[-1].get(name)]
        if not "".join(words).strip():
            raise ChatProblem("the last turn has no words")
        chat, texts = self._renderings(chat, line)
        self._is_used = True
        if not texts.whole.startswith(texts.prompt):
            raise ChatProblem("the chat template changes earlier turns once the last one is there")
        split = _split(texts.whole, len(texts.prompt), texts.variants, words)
        turns = written_turns(texts.whole, chat)
        stand = turns is not None and turns_stand(texts.whole, turns, split.border)
        return split if stand and texts.is_same else replace(split, is_changed=True)

    def _renderings(self, chat: list[Turn], line: int) -> tuple[list[Turn], _Renderings]:
        """Return a chat as the template takes it, and what it renders.

        Raises ChatProblem if the template refuses it.
        """
        try:
            return chat, self._render_all(chat, line)
        except _REFUSALS:
            merged = merged_system(chat)
        try:
            if merged is None:
                raise ValueError
            texts = self._render_all(merged, line)
        except _REFUSALS:
            raise ChatProblem("the chat template refuses these messages") from None
        self._merged += 1
        return merged, texts

    def _render_all(self, chat: Sequence[Turn], line: int) -> _Renderings:
        whole = self._render_twice(chat, line)
        prompt = self._rendered(chat[:-1], add_generation_prompt=True)
        if not whole.startswith(prompt):  # such as if it opens a train of thought
            prompt = self._rendered(chat[:-1])
        variants = [
            self._rendered([*chat[:-1], _with_words(chat[-1], words)]) for words in _STAND_INS
        ]
        others, stand_ins = with_stand_ins(chat, self._steering)
        is_same = is_same_chat(whole, self._rendered(others), stand_ins)
        self._note_date(chat, whole)
        return _Renderings(whole, prompt, variants, is_same)

    def _exists(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))  # some have no such attribute

    def _rendered(self, chat: Sequence[Turn], *, later: bool = False, **options: bool) -> str:
        template = self._later if later else self._dated
        fixed = {} if template is None else {"chat_template": template}
        rendered = self._tokenizer.apply_chat_template(
            list(chat), tools=self._tools, tokenize=False, **fixed, **options
        )
        return str(rendered)

    def _render_twice(self, chat: Sequence[Turn], line: int) -> str:
        """Render a chat twice to detect randomness. Jinja uses Python's global generator."""
        before = random.getstate()
        rendered = self._rendered(chat)
        if self._rendered(chat) != rendered or random.getstate() != before:
            raise DataError(
                f"line {line}: the chat template renders the same messages differently each time; "
                "remove its random choices, or give prefix + suffix instead"
            )
        return rendered

    def _note_date(self, chat: Sequence[Turn], rendered: str) -> None:
        if self._later is None or self.asks_date:
            return
        try:
            self.asks_date = self._rendered(chat, later=True) != rendered
        except _REFUSALS:
            self.asks_date = True


def _with_words(turn: Turn, words: str) -> Turn:
    """Return a turn with its words replaced in every field."""
    return {
        name: words if value and name in (*THOUGHTS, "content") else value
        for name, value in turn.items()
    }


def _split(whole: str, prompt: int, variants: Sequence[str], words: Sequence[str]) -> RenderedChat:
    """Find the words of the last turn: the text that changes with them.

    Searching for the words would find a turn "think" inside the template's "<think>", and would
    fail if the template trims the turn or drops a train of thought.

    Args:
        whole: the rendered chat.
        prompt: characters of it that the model always gets.
        variants: the chat rendered with other words in its last turn.
        words: words of the last turn, field by field.
    """
    renderings = [whole, *variants]
    border = max(prompt, _shared_prefix(renderings))
    tail = _shared_prefix([text[::-1] for text in renderings])
    end = max(border, len(whole) - tail)
    content = words[-1].strip()
    is_changed = not _is_verbatim(whole[border:end], words)
    if len(words) == 1:
        if whole[border:].lstrip().startswith(content):
            return RenderedChat(whole, border, shortened=False, is_changed=False)
        turn = whole[border:end].rstrip()
        if turn.endswith(content):  # after a header that depends on the words
            border += len(turn) - len(content)
            return RenderedChat(whole, border, shortened=False, is_changed=is_changed)
    before, rendered = _without_blanks(whole[:border]), _without_blanks(whole[border:end])
    fields = [_without_blanks(field) for field in words]
    complete = [_continues(before, rendered, field) for field in fields]
    if all(complete):
        return RenderedChat(whole, border, shortened=False, is_changed=is_changed)
    if rendered and (complete[-1] or _is_subsequence(rendered, "".join(fields))):
        return RenderedChat(whole, border, shortened=True, is_changed=is_changed)
    raise ChangedTurn("the chat template changes the last turn")


def _is_verbatim(turn: str, words: Sequence[str]) -> bool:
    """Return True if the rendered turn begins and ends with the words of the turn, verbatim.

    A template may leave out a train of thought, put marks such as ``<think>`` around it, and change
    white space next to marks. The words are therefore compared between marks: they may begin late,
    but must then continue to the last.
    """
    parts = [part for field in words for part in _between_marks(field)]
    rendered = _between_marks(turn)
    if not parts or not rendered:
        return not parts and not rendered
    starts = [start for start, part in enumerate(parts) if part == rendered[0]]
    return rendered[-1] == parts[-1] and any(
        _is_subsequence(parts[start:], rendered) for start in starts
    )


def _between_marks(text: str) -> list[str]:
    """Return the words between the marks of a text."""
    parts = (part.strip() for part in MARK.split(text))
    return [part for part in parts if part]


def _shared_prefix(texts: Sequence[str]) -> int:
    """Return the length of the common prefix; the smallest and the largest text decide it."""
    pairs = enumerate(zip(min(texts), max(texts), strict=False))
    return next((place for place, (low, high) in pairs if low != high), len(min(texts)))


def _without_blanks(text: str) -> str:
    """Remove white space, which templates trim and add."""
    return "".join(text.split())


def _continues(before: str, rendered: str, field: str) -> bool:
    """Return True if the rendered turn contains a field; its first letters may come before, such as
    a ``<think>`` that the template writes for every turn.
    """
    before = before[max(0, len(before) - len(field)) :]
    start = (before + rendered).rfind(field)
    return start >= 0 and (not field or start + len(field) > len(before))


def _is_subsequence(items: Sequence[str], sequence: Sequence[str]) -> bool:
    """Return True if deleting items from the sequence leaves ``items``."""
    remaining = iter(sequence)
    return all(item in remaining for item in items)
