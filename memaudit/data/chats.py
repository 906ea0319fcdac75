"""Chats as one text: rendered by the chat template, and where the last turn's own words begin.

Knows chat templates. Must not know token ids or windows.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from memaudit.data.chat_date import fix_date, may_ask, other_day
from memaudit.errors import DataError

if TYPE_CHECKING:  # the tokenizer is handed in, so the library itself is not needed here
    from transformers import PreTrainedTokenizerBase

_REFUSALS = (
    *(TemplateError, TypeError, ValueError),  # templates refuse by raising
    *(LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError),
)
"""What rendering a chat raises: a template may be any, and it computes."""

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a turn that hold its train of thought, by the names that chat templates know."""

_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""What chat templates set words off by, as ``<think>``, ``<|end|>`` or ``[/THINK]``."""

_STAND_INS = ("Qv7jx", "9wKzb")
"""Words in place of the last turn's; they share neither the first letter nor the last."""


@dataclass(frozen=True)
class RenderedChat:
    """A chat as one text."""

    text: str
    border: int
    """Characters before the last turn's own words."""
    shortened: bool
    """The template left words of the last turn out."""
    is_changed: bool
    """What it leaves of the turn is not word for word, or a user's turn is not."""


class ChatProblem(Exception):
    """A chat cannot be rendered, or not split; the message is the reason."""


class ChangedTurn(ChatProblem):
    """The template writes other words in the last turn's place."""


class ChatTemplate:
    """A tokenizer's chat template, which is told one date whenever it asks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, day: date) -> None:
        self._tokenizer = tokenizer
        self._dated: str | None = None
        self._later: str | None = None  # the same on another day, to see whether that matters
        with contextlib.suppress(ValueError):  # no default among several: rendering says so
            source = tokenizer.get_chat_template() if self._exists() else None
            if isinstance(source, str) and may_ask(source):
                self._dated = fix_date(source, day)
                self._later = fix_date(source, other_day(day))
        self.asks_date = False
        """Whether a chat so far would read otherwise on another day."""

    def render(self, messages: Sequence[Mapping[str, str]], line: int) -> RenderedChat:
        """Render a chat and split it before the last turn's own words.

        Raises:
            ChatProblem: if the template does not take the chat, or changes its last turn.
            DataError: if there is no template, or it draws at random.
        """
        if not self._exists():
            raise DataError(
                f"line {line} has messages, but the model's tokenizer has no chat template;"
                " put the chat_template.jinja that it was tuned with beside it, or give prefix +"
                " suffix instead"
            )
        chat = [dict(message) for message in messages]
        words = [chat[-1][name] for name in (*_THOUGHTS, "content") if chat[-1].get(name)]
        if not "".join(words).strip():
            raise ChatProblem("the last turn has no words")
        try:
            whole = self._same_twice(chat, line)
            prompt = self._rendered(chat[:-1], add_generation_prompt=True)
            if not whole.startswith(prompt):  # as where it opens a train of thought
                prompt = self._rendered(chat[:-1])
            others = [
                self._rendered([*chat[:-1], _with_words(chat[-1], words)]) for words in _STAND_INS
            ]
            self._note_date(chat, whole)
        except _REFUSALS:
            raise ChatProblem(self._refusal(chat)) from None
        if not whole.startswith(prompt):
            raise ChatProblem("the chat template changes earlier turns once the last one is there")
        split = _split(whole, len(prompt), others, words)
        asked = [turn["content"] for turn in chat[:-1] if turn["role"] == "user"]
        is_asked = all(_stands_in(whole, question) for question in asked)
        return split if is_asked else replace(split, is_changed=True)

    def _exists(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))  # some have no such attribute

    def _rendered(
        self, chat: Sequence[Mapping[str, str]], *, later: bool = False, **options: bool
    ) -> str:
        template = self._later if later else self._dated
        fixed = {} if template is None else {"chat_template": template}
        rendered = self._tokenizer.apply_chat_template(
            list(chat), tokenize=False, **fixed, **options
        )
        return str(rendered)

    def _same_twice(self, chat: Sequence[Mapping[str, str]], line: int) -> str:
        """Render a chat twice. What Jinja draws comes from Python's global generator."""
        before = random.getstate()
        rendered = self._rendered(chat)
        if self._rendered(chat) != rendered or random.getstate() != before:
            raise DataError(
                f"line {line}: the chat template renders the same messages differently each time; "
                "take out what it draws at random, or give prefix + suffix instead"
            )
        return rendered

    def _note_date(self, chat: Sequence[Mapping[str, str]], rendered: str) -> None:
        if self._later is None or self.asks_date:
            return
        try:
            self.asks_date = self._rendered(chat, later=True) != rendered
        except _REFUSALS:
            self.asks_date = True

    def _refusal(self, chat: Sequence[Mapping[str, str]]) -> str:
        """Return why the template does not take a chat, as far as another try can tell."""
        spoken = [message for message in chat if message["role"] != "system"]
        if 1 < len(spoken) < len(chat):
            with contextlib.suppress(*_REFUSALS):
                self._rendered(spoken)
                return "the chat template refuses a system message; leave it out of the data"
        return "the chat template refuses these messages"


def _with_words(turn: Mapping[str, str], words: str) -> dict[str, str]:
    """Return a turn with other words in every field that holds words."""
    return {
        name: words if value and name in (*_THOUGHTS, "content") else value
        for name, value in turn.items()
    }


def _split(whole: str, prompt: int, others: Sequence[str], words: Sequence[str]) -> RenderedChat:
    """Find the last turn's own words: what differs where it has other words.

    A search for the words themselves would find a turn "think" inside the template's "<think>", and
    nothing where the template drops a train of thought or trims.

    Args:
        whole: the rendered chat.
        prompt: characters of it that the model is given in any case.
        others: the same chat with other words in its last turn.
        words: of the last turn, field by field.
    """
    renderings = [whole, *others]
    border = max(prompt, _shared_letters(renderings))
    tail = _shared_letters([text[::-1] for text in renderings])
    end = max(border, len(whole) - tail)
    content = words[-1].strip()
    is_changed = not _is_verbatim(whole[border:end], words)
    if len(words) == 1:
        if whole[border:].lstrip().startswith(content):
            return RenderedChat(whole, border, shortened=False, is_changed=False)
        turn = whole[border:end].rstrip()
        if turn.endswith(content):  # behind a header that hangs on the words
            border += len(turn) - len(content)
            return RenderedChat(whole, border, shortened=False, is_changed=is_changed)
    before, shown = _squeezed(whole[:border]), _squeezed(whole[border:end])
    given = [_squeezed(field) for field in words]
    complete = [_continues(before, shown, field) for field in given]
    if all(complete):
        return RenderedChat(whole, border, shortened=False, is_changed=is_changed)
    if shown and (complete[-1] or _is_subsequence(shown, "".join(given))):
        return RenderedChat(whole, border, shortened=True, is_changed=is_changed)
    raise ChangedTurn("the chat template changes the last turn")


def _is_verbatim(turn: str, words: Sequence[str]) -> bool:
    """Return whether what hangs on a turn's words begins and ends with them, word for word.

    A template may leave a train of thought out, put marks such as ``<think>`` around it, and lay
    out anew what stands beside marks. So the words are compared between marks: they may begin late,
    but then go on to the last.
    """
    given = [part for field in words for part in _between_marks(field)]
    shown = _between_marks(turn)
    if not given or not shown:
        return not given and not shown
    begins = [at for at, part in enumerate(given) if part == shown[0]]
    return shown[-1] == given[-1] and any(_is_subsequence(given[at:], shown) for at in begins)


def _stands_in(whole: str, words: str) -> bool:
    """Return whether a turn's words stand in the rendered chat, up to white space."""
    return words.strip() in whole or " ".join(words.split()) in " ".join(whole.split())


def _between_marks(text: str) -> list[str]:
    """The words between the marks of a text, with single blanks."""
    parts = (" ".join(part.split()) for part in _MARK.split(text))
    return [part for part in parts if part]


def _shared_letters(texts: Sequence[str]) -> int:
    """Return how many letters all texts begin with: the first and the last in order decide."""
    pairs = enumerate(zip(min(texts), max(texts), strict=False))
    return next((at for at, (one, other) in pairs if one != other), len(min(texts)))


def _squeezed(text: str) -> str:
    """Return a text without white space, which templates trim and add."""
    return "".join(text.split())


def _continues(before: str, shown: str, field: str) -> bool:
    """Return whether a field stands in what is shown; its first letters may stand before, as a
    ``<think>`` that the template writes for every turn.
    """
    before = before[max(0, len(before) - len(field)) :]
    at = (before + shown).rfind(field)
    return at >= 0 and (not field or at + len(field) > len(before))


def _is_subsequence(letters: Sequence[str], text: Sequence[str]) -> bool:
    """Return whether deleting letters from the text leaves ``letters``."""
    rest = iter(text)
    return all(letter in rest for letter in letters)
