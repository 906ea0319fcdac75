"""Places of a chat's turns in its rendering: each one verbatim, in order, once, close together.

Knows what honest chat templates do to turns. Must not know templates, token ids or windows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields with a turn's train of thought, as chat templates name them."""

MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""Marks that chat templates put around words, such as ``<think>``, ``<|end|>`` or ``[/THINK]``."""

_END_OF_THOUGHT = re.compile(
    r"<[/|][^<>\s]{0,20}(?:think|thought|reason)[^<>\s]{0,20}>|\[/THINK\]", re.IGNORECASE
)
"""Marks behind which templates keep the words of an earlier answer."""
_MOST_WORDS, _MOST_HEADER = 64, 256
"""Characters that a template may put between two turns or after the last one: outside marks, and in
all. The longest known headers have 30 and 130. Much more text would take the question's place in
the prefix, or the answer's in the suffix."""
_SHORT = 24
"""Characters of words that may stand anywhere in a template by chance."""


def turns_stand(whole: str, chat: Sequence[Mapping[str, str]], border: int) -> bool:
    """Return True if a rendering has every turn verbatim, in order and once, and little between.

    What stands before the first turn, such as a default system turn, is not limited. A template may
    strip white space around a turn, drop trains of thought and write a tool's output as JSON.

    Args:
        whole: the rendered chat.
        chat: its turns.
        border: characters of the rendering before the last turn's own words.
    """
    end = border
    for turn in reversed(chat[:-1]):
        start = _place_before(whole, end, turn)
        if start is None:
            return False
        end = start
    if not _is_header(_text_after(whole, chat[-1], border)):
        return False
    return not any(_is_repeated(whole, turn["content"].strip(), chat) for turn in chat)


def _text_after(whole: str, last: Mapping[str, str], border: int) -> str:
    """Return what stands after the last turn; nothing if the turn is not found there."""
    for thoughts in (last.get(name, "").strip() for name in THOUGHTS):
        at = whole.find(thoughts, border)
        border = at + len(thoughts) if at >= 0 else border
    for words in _wordings(last):
        at = whole.find(words, border)
        if at >= 0:
            return whole[at + len(words) :]
    return ""


def _place_before(whole: str, end: int, turn: Mapping[str, str]) -> int | None:
    """Return where a turn starts that stands right before ``end``; None if it does not."""
    if not turn["content"].strip():
        return end
    for words in _wordings(turn):
        start = whole.rfind(words, 0, end)
        if start >= 0 and _is_header(whole[start + len(words) : end]):
            break
    else:
        return None
    for thoughts in (turn.get(name, "").strip() for name in THOUGHTS):
        before = whole.rfind(thoughts, 0, start) if thoughts else -1
        if before >= 0 and _is_header(whole[before + len(thoughts) : start]):
            return before
    return start


def _wordings(turn: Mapping[str, str]) -> Iterator[str]:
    """Yield the forms in which a template may render a turn."""
    content = turn["content"].strip()
    yield content
    if turn["role"] == "assistant":
        answer = _END_OF_THOUGHT.split(content)[-1].strip()
        if answer:
            yield answer
    if turn["role"] in ("tool", "function", "ipython"):
        yield json.dumps(content, ensure_ascii=False)[1:-1]


def _is_header(text: str) -> bool:
    """Return True if a text is short enough to be the border between two turns."""
    return len(text) <= _MOST_HEADER and len(MARK.sub("", text).strip()) <= _MOST_WORDS


def _is_repeated(whole: str, words: str, chat: Sequence[Mapping[str, str]]) -> bool:
    """Return True if a rendering has words more often than the chat; short ones stand anywhere."""
    if len(words) < _SHORT:
        return False
    given = sum(part.count(words) for turn in chat for part in turn.values())
    return whole.count(words) > given
