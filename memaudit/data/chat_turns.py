"""A chat's turns in its rendering: each one verbatim, in order, once, close together, and nothing
beside them that depends on their words.

Knows what honest chat templates do to turns. Must not know templates, token ids or windows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields with a turn's train of thought, as chat templates name them."""

_TOOLS = ("tool", "function", "ipython")
"""Roles of a tool's output."""

MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""Marks that chat templates put around words, such as ``<think>``, ``<|end|>`` or ``[/THINK]``."""

_END_OF_THOUGHT = re.compile(
    r"<[/|][^<>\s]{0,20}(?:think|thought|reason)[^<>\s]{0,20}>|\[/THINK\]|<channel\|>",
    re.IGNORECASE,
)
"""Marks behind which templates keep the words of an earlier answer."""
_STEERING = (
    r"<[/|]?[a-z_]{0,20}(?:think|thought|reason|response|tool)[a-z_]{0,20}\|?>|\[/?THINK\]"
    r"|/(?:no_?)?think|thinking o(?:n|ff)"
)
"""Words in a turn by which honest templates decide what to write, such as the end of a thought."""
_STAND_IN = re.compile(r"Qv\d+jx")
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


def steering_words(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that splits a turn at the words that may steer a template.

    ``tokens``: the tokenizer's special and added tokens. Only marks among them count, since a
    checkpoint may declare any words special.
    """
    marks = sorted(map(re.escape, filter(MARK.fullmatch, set(tokens))), key=len, reverse=True)
    return re.compile(f"({'|'.join([*marks, _STEERING])})", re.IGNORECASE)


def with_stand_ins(
    chat: Sequence[Mapping[str, str]], steering: re.Pattern[str]
) -> tuple[list[dict[str, str]], dict[str, tuple[str, str]]]:
    """Return a chat with stand-ins for its words, and the words of each stand-in.

    Steering words, and blanks at both ends of a turn, stay. Words come as they are and as a tool's
    output in JSON.
    """
    words: dict[str, tuple[str, str]] = {}
    changed = [dict(turn) for turn in chat]
    for turn in changed:
        for name in (*THOUGHTS, "content"):
            parts = steering.split(turn.get(name, ""))
            for place in range(0, len(parts), 2):
                if core := parts[place].strip():
                    stand_in = f"Qv{len(words)}jx"
                    parts[place] = parts[place].replace(core, stand_in)
                    words[stand_in] = core, _as_json(core) if turn["role"] in _TOOLS else core
            turn |= {name: "".join(parts)} if name in turn else {}
    return changed, words


def is_same_chat(whole: str, rendered: str, words: Mapping[str, tuple[str, str]]) -> bool:
    """Return True if a rendering of stand-ins becomes the chat's own with the words put back.

    If not, the template writes something that depends on the words. It may recognise the stand-ins,
    but cannot know the words that they replace.
    """
    parts = _STAND_IN.split(rendered)
    names = _STAND_IN.findall(rendered)
    for form in (0, 1):
        restored = [words.get(name, (name, name))[form] for name in names]
        if whole == "".join(chain.from_iterable(zip(parts, [*restored, ""], strict=True))):
            return True
    return False


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
    if turn["role"] in _TOOLS:
        yield _as_json(content)


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _is_header(text: str) -> bool:
    """Return True if a text is short enough to be the border between two turns."""
    return len(text) <= _MOST_HEADER and len(MARK.sub("", text).strip()) <= _MOST_WORDS


def _is_repeated(whole: str, words: str, chat: Sequence[Mapping[str, str]]) -> bool:
    """Return True if a rendering has words more often than the chat; short ones stand anywhere."""
    if len(words) < _SHORT:
        return False
    given = sum(part.count(words) for turn in chat for part in turn.values())
    return whole.count(words) > given
