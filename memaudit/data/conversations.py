"""Conversations of records, in any of the usual forms, as turns with role and content.

Knows how fine-tuning data writes turns, calls of tools and parts of text. Must not know files or
chat templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memaudit.data.fields import BadRecord, from_json, kind_of, string_of

Turn = Mapping[str, Any]
"""A message: ``role``, ``content`` and other texts, and perhaps ``tool_calls``."""

MOST_TURNS = 100
"""Assistant turns of a chat that are audited. Each is rendered with all turns before it, so a line
of a hundred thousand turns would take days."""
PARTS, CALLS = "joined the text parts of messages", "gave calls of tools to the chat template"
NO_WORDS = "did not audit assistant turns without words, such as calls of tools"
NO_WEIGHT = "did not audit assistant turns of weight 0, which fine-tuning leaves out"
MANY = (
    "made a record of each assistant turn, named by the chat and the turn's number, with the turns "
    "before it as its prompt"
)
TOO_MANY = f"did not audit the assistant turns of a chat after the first {MOST_TURNS}"
_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
    "system": "system",
    "function_call": "assistant",
}
"""Roles of ShareGPT's ``from``, as chat templates name them."""
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Conversation:
    """The turns of a record, and how they were read."""

    turns: tuple[Turn, ...]
    audited: tuple[int, ...]
    """Positions of the assistant turns to audit, in order."""
    notes: frozenset[str]


def read_conversation(value: Any, name: str) -> Conversation:
    """Read a list of messages, or its JSON. name: the field that holds it.

    Raises BadRecord for what is no conversation, or has no assistant turn to audit.
    """
    value = from_json(value)
    if not isinstance(value, list):
        raise BadRecord(f"field {name} is {kind_of(value)}, not a list")
    notes: set[str] = set()
    turns = tuple(_turn(number, message, notes) for number, message in enumerate(value, 1))
    weightless = {place for place, message in enumerate(value) if message.get("weight") == 0}
    return choose_turns(turns, notes, weightless)


def choose_turns(
    turns: Sequence[Turn], notes: set[str], weightless: set[int] | None = None
) -> Conversation:
    """Choose the assistant turns to audit: those with words that follow another turn.

    If none has words, it is the last, which is then skipped with that reason. weightless: positions
    of turns that fine-tuning leaves out. Raises BadRecord if no turn is left.
    """
    replies = [place for place, turn in enumerate(turns) if turn["role"] == "assistant" and place]
    worded = [place for place in replies if _has_words(turns[place])]
    audited = [place for place in worded if place not in (weightless or ())]
    if worded and not audited:
        raise BadRecord("every assistant turn has weight 0, so fine-tuning leaves the chat out")
    if not replies:
        raise BadRecord("messages have no assistant turn that follows another turn")
    audited = audited or replies[-1:]
    if 0 < len(worded) < len(replies):
        notes.add(NO_WORDS)
    if len(audited) < len(worded):
        notes.add(NO_WEIGHT)
    if len(audited) > MOST_TURNS:
        notes.add(TOO_MANY)
    if len(audited) > 1:
        notes.add(MANY)
    return Conversation(tuple(turns), tuple(audited[:MOST_TURNS]), frozenset(notes))


def read_tools(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the tools that a record offers, as chat templates take them. Raises BadRecord."""
    name = "tools" if fields.get("tools") else "functions"
    tools = from_json(fields.get(name) or [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRecord(f"field {name} is not a list of objects")
    if name == "functions":
        tools = [{"type": "function", "function": tool} for tool in tools]
    return tuple(tools)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a value of JSON, but no names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_in(part)


def _has_words(turn: Turn) -> bool:
    return any(
        isinstance(value, str) and value.strip()
        for name, value in turn.items()
        if name not in ("role", "name", "tool_call_id")
    )


def _turn(number: int, value: Any, notes: set[str]) -> Turn:
    """Return a message with only the fields that a template may render."""
    if not isinstance(value, dict):
        raise BadRecord(f"message {number} is {kind_of(value)}, not an object")
    if "from" in value and "value" in value and "role" not in value:
        value = _from_sharegpt(number, value)
    calls = _calls(number, value)
    content = value.get("content")
    if isinstance(content, list) and content:
        content = _joined(number, content)
        notes.add(PARTS)
    if content is None and (calls or _thoughts_only(value)):
        content = ""
    value = {**value, "content": content}
    for name in ("role", "content"):
        if not isinstance(value.get(name), str):
            raise BadRecord(f"message {number}: {name} is {kind_of(value.get(name))}, not a string")
    for name, part in value.items():
        if part and isinstance(part, (list, dict)) and name not in ("tool_calls", "function_call"):
            raise BadRecord(
                f"message {number} has a field beside role and content, which is not text"
            )
    turn = {name: string_of(value, name) for name, part in value.items() if isinstance(part, str)}
    if not calls:
        return turn
    notes.add(CALLS)
    return {**turn, "tool_calls": calls}


def _thoughts_only(value: Mapping[str, Any]) -> bool:
    return any(isinstance(value.get(name), str) for name in ("reasoning_content", "thinking"))


def _from_sharegpt(number: int, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message with ``from`` and ``value`` as one with role and content."""
    sender = value["from"]
    role = _ROLES.get(sender.lower()) if isinstance(sender, str) else None
    if role is None:
        raise BadRecord(f"message {number}: from is none of {', '.join(_ROLES)}")
    bare = {name: part for name, part in value.items() if name not in ("from", "value")}
    if sender.lower() == "function_call":
        return {**bare, "role": role, "content": None, "function_call": from_json(value["value"])}
    return {**bare, "role": role, "content": value["value"]}


def _joined(number: int, parts: Sequence[Any]) -> str:
    """Join parts of text, without anything between, as chat templates do."""
    texts = [part if isinstance(part, str) else _text_of_part(part) for part in parts]
    if None in texts:
        raise BadRecord(f"message {number} has a part that is not text, such as an image")
    return "".join(filter(None, texts))


def _text_of_part(part: Any) -> str | None:
    is_text = isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS
    text = part.get("text") if is_text else None
    return text if isinstance(text, str) else None


def _calls(number: int, message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the calls of tools in a message, their arguments as objects, as templates take them.

    Raises BadRecord.
    """
    calls = from_json(message.get("tool_calls") or [])
    if single := from_json(message.get("function_call")):
        calls = [*calls, {"type": "function", "function": single}] if calls == [] else calls
    if not isinstance(calls, list):
        raise BadRecord(f"message {number}: tool_calls is {kind_of(calls)}, not a list")
    read: list[Mapping[str, Any]] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRecord(f"message {number} has a call of a tool without a name")
        arguments = from_json(function.get("arguments", {}))
        function = {"name": function["name"], "arguments": arguments}
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        read.append({**identity, "type": "function", "function": function})
    return read
