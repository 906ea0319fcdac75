"""Calls of tools in a chat's rendering, and system turns that a template does not take.

Knows turns and texts. Must not know templates, token ids or windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memaudit.data.conversations import Turn

_MOST_BESIDE = 256
"""Characters that a template may put between a turn's words and its calls, and around the names and
values of a call."""


def written_turns(whole: str, chat: Sequence[Turn]) -> list[dict[str, str]] | None:
    """Return the turns with their calls of tools as words: what the rendering makes of them.

    None if a name or a value of a call is missing, out of order or far from the others.
    """
    turns: list[dict[str, str]] = []
    end = 0
    for turn in chat:
        words = turn["content"].strip()
        start = whole.find(words, end)
        written = {name: value for name, value in turn.items() if isinstance(value, str)}
        if calls := turn.get("tool_calls"):
            after = max(start, end) + len(words) * (start >= 0)
            place = _place_of_calls(whole, after, calls)
            if start < 0 or place is None or (words and place[0] - after > _MOST_BESIDE):
                return None
            start, end = start if words else place[0], place[1]
            written["content"] = whole[start:end]
        elif start >= 0:
            end = start + len(words)
        turns.append(written)
    return turns


def merged_system(chat: Sequence[Turn]) -> list[Turn] | None:
    """Return a chat with its first system turns put before the words of the first user's turn.

    None if it begins with no system turn, or no user's turn follows.
    """
    count = next((at for at, turn in enumerate(chat) if turn["role"] != "system"), len(chat))
    if not 0 < count < len(chat) or chat[count]["role"] != "user":
        return None
    words = "\n\n".join(turn["content"] for turn in chat[: count + 1])
    return [{**chat[count], "content": words}, *chat[count + 1 :]]


def _place_of_calls(
    whole: str, after: int, calls: Sequence[Mapping[str, Any]]
) -> tuple[int, int] | None:
    """Return where the calls of a turn begin and end in a rendering; None if they do not stand."""
    first, end = None, after
    for call in calls:
        function = call["function"]
        start = whole.find(function["name"], end)
        if start < 0:
            return None
        first = start if first is None else first
        end = start + len(function["name"])
        for text in _names_and_texts(function["arguments"]):
            places = [(whole.find(form, end), form) for form in _forms(text)]
            at, form = min((place for place in places if place[0] >= 0), default=(-1, ""))
            if at < 0 or at - end > _MOST_BESIDE:
                return None
            end = at + len(form)
    return None if first is None else (first, end)


def _names_and_texts(value: Any) -> Iterator[str]:
    """Yield the names of fields and the texts of a value of JSON, in order."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield str(name)
            yield from _names_and_texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _names_and_texts(part)
    elif value is not None and not isinstance(value, bool):  # None and null, True and true
        yield str(value).strip()


def _forms(text: str) -> set[str]:
    """Return a text as it is and as JSON writes it, with and without escapes of other letters."""
    return {text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]}
