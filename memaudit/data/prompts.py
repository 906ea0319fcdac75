"""Text, prefix and suffix, or chat of a record, whatever form it has.

Knows the forms of fine-tuning data. Must not know files, tokenizers or chat templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memaudit.config.settings import Pairs
from memaudit.data.conversations import (
    Conversation,
    Turn,
    choose_turns,
    read_conversation,
    read_tools,
)
from memaudit.data.fields import BadRecord, kind_of, string_of
from memaudit.data.forms import (
    COMPLETION,
    CONVERSATIONS,
    FORMS,
    INPUTS,
    INSTRUCTION,
    NATIVE,
    SYSTEMS,
    Naming,
    form_of,
)

_ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n{given}### Response:"
)
_PAIRED = ", paired with an input that provides further context"
_OTHERWISE = "; --pairs chat, alpaca or joined takes them otherwise"


@dataclass(frozen=True)
class Content:
    """What a record holds: one of text, prefix with suffix, and a chat."""

    fields: frozenset[str]
    """Names of the fields that hold text."""
    text: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    chat: Conversation | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    notes: frozenset[str] = frozenset()
    """What was taken as what, each the end of a sentence."""


def read_content(fields: Mapping[str, Any], naming: Naming) -> Content:
    """Read a record's fields. Raises BadRecord."""
    form = form_of(fields, naming)
    names = naming.forms[form]
    used = frozenset(names) | _fields_of_forms(fields)
    if form == "text":
        note = {f"took {names[0]} as the text"} if naming.is_given else set[str]()
        return Content(used, text=string_of(fields, names[0]), notes=frozenset(note))
    if form == "prefix + suffix":
        prefix, suffix = (string_of(fields, name) for name in names)
        note = {f"took {names[0]} as the prefix and {names[1]} as the suffix"}
        notes = frozenset(note if naming.is_given else ())
        return Content(used, prefix=prefix, suffix=suffix, notes=notes)
    if form == "messages" or form in CONVERSATIONS:
        return _chat(fields, form, used)
    return _pair(fields, names, naming.pairs, used)


def _fields_of_forms(fields: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that hold text in any form that is there as a whole."""
    whole = [form for form in FORMS.values() if all(fields.get(name) is not None for name in form)]
    beside = (*INPUTS, *SYSTEMS, "history") if any(INSTRUCTION in form for form in whole) else ()
    native = (name for form in NATIVE.values() for name in form)
    return frozenset((*beside, *native, *(name for form in whole for name in form)))


def _chat(fields: Mapping[str, Any], name: str, used: frozenset[str]) -> Content:
    chat = read_conversation(fields[name], name)
    tools = read_tools(fields)
    notes = set(chat.notes)
    if name != "messages":
        notes.add(f"took {name} as messages")
    if tools:
        notes.add("gave the record's tools to the chat template")
    if name != "messages" and (system := _system(fields)):
        turns = ({"role": "system", "content": fields[system]}, *chat.turns)
        if chat.turns[0]["role"] != "system":
            chat = Conversation(turns, tuple(place + 1 for place in chat.audited), chat.notes)
            notes.add(f"took {system} as the system turn")
        used |= {system}
    return Content(used | {"tools", "functions"}, chat=chat, tools=tools, notes=frozenset(notes))


def _system(fields: Mapping[str, Any]) -> str | None:
    """Return the field with the words of a system turn, if there is one."""
    return next(
        (name for name in SYSTEMS if isinstance(fields.get(name), str) and fields[name].strip()),
        None,
    )


def _pair(
    fields: Mapping[str, Any], names: tuple[str, ...], pairs: Pairs, used: frozenset[str]
) -> Content:
    question, answer = names
    if isinstance(fields[question], list) or isinstance(fields[answer], list):
        return _listed_pair(fields, question, answer, used)
    if fields.get("history"):
        raise BadRecord("has a history beside its question; write all turns as messages")
    if pairs == "auto":
        pairs = "joined" if names == COMPLETION else "chat"
    given = next((name for name in INPUTS if fields.get(name)), None)
    if question != INSTRUCTION:
        given = None
    system = _system(fields)
    asked = string_of(fields, question)
    told = string_of(fields, given) if given else ""
    suffix = string_of(fields, answer)
    what = f"{question} with {given}" if question == INSTRUCTION and given else question
    used |= {name for name in (given, system) if name}
    if pairs == "chat":
        turns: list[Turn] = [{"role": "system", "content": fields[system]}] if system else []
        turns.append({"role": "user", "content": "\n\n".join(filter(None, (asked, told)))})
        turns.append({"role": "assistant", "content": suffix})
        note = f"took {what} as the user's turn and {answer} as the assistant's{_OTHERWISE}"
        notes = {note} | ({f"took {system} as the system turn"} if system else set())
        return Content(used, chat=choose_turns(turns, notes), notes=frozenset(notes))
    if system:
        asked = f"{fields[system]}\n\n{asked}"
    if pairs == "alpaca":
        prefix = _ALPACA.format(
            paired=_PAIRED if told else "",
            instruction=asked,
            given=f"### Input:\n{told}\n\n" if told else "",
        )
        note = f"put {what} into Alpaca's prompt as the prefix, and took {answer} as the suffix"
    else:
        prefix = "\n".join((asked, told, "")) if told else asked
        note = f"took {what} as the prefix and {answer} as the suffix, joined as they are"
    return Content(used, prefix=prefix, suffix=suffix, notes=frozenset({f"{note}{_OTHERWISE}"}))


def _listed_pair(
    fields: Mapping[str, Any], question: str, answer: str, used: frozenset[str]
) -> Content:
    """Read a pair of which one or both are lists of messages."""
    roles = {question: "user", answer: "assistant"}
    messages: list[Any] = []
    for name, role in roles.items():
        value = fields[name]
        if not isinstance(value, (list, str)):
            raise BadRecord(f"field {name} is {kind_of(value)}, not a string or a list")
        messages += value if isinstance(value, list) else [{"role": role, "content": value}]
    chat = read_conversation(messages, question)
    first = len(fields[question]) if isinstance(fields[question], list) else 1
    kept = tuple(place for place in chat.audited if place >= first)
    if not kept:
        raise BadRecord(f"field {answer} has no assistant turn with words")
    notes = frozenset({*chat.notes, f"took {question} and {answer} as the messages of one chat"})
    return Content(
        used | {"tools"},
        chat=Conversation(chat.turns, kept, notes),
        tools=read_tools(fields),
        notes=notes,
    )
