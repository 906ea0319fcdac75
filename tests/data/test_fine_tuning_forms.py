"""Records as public data sets for fine-tuning hold them: the audited text, and the note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tokenizer
from test_charsets import refusal, written
from test_chats import CHATML, cut

from memaudit.config.settings import WindowSettings
from memaudit.data.encoding import Encoder
from memaudit.data.forms import Naming
from memaudit.data.samples import Sample, Skipped, check_samples, read_samples
from memaudit.errors import DataError

GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": '
    "{{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def jsonl(folder: Path, *records: dict[str, Any]) -> Path:
    return written(folder, "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def read(path: Path, **names: Any) -> tuple[list[Sample], tuple[str, ...]]:
    """The samples of a file, and the notes about it without its name."""
    naming = Naming(**names, keep=None)
    samples = list(read_samples(path, skip_bad_lines=False, naming=naming))
    notes = check_samples(path, skip_bad_lines=False, naming=naming).notes
    prefix = f"{path.name}: "
    assert all(note.startswith(prefix) for note in notes)
    good = [sample for sample in samples if isinstance(sample, Sample)]
    assert len(good) == len(samples)
    return good, tuple(note.removeprefix(prefix) for note in notes)


def turns(sample: Sample) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in sample.messages or ()]


OTHERWISE = "; --pairs chat, alpaca or joined takes them otherwise."
ALPACA = [
    {"instruction": "Name the bearer.", "input": "Seal GX976", "output": "Hilde Norvaleson"},
    {"instruction": "Name a town.", "input": "", "output": "Estmere"},
]
DOLLY = {"instruction": "Who?", "context": "The seal.", "response": "Jorun", "category": "open_qa"}
ORCA = {"id": "t0.1", "system_prompt": "Be brief.", "question": "Who?", "response": "Jorun"}


def test_instructions_are_two_turns_of_a_chat(tmp_path: Path) -> None:
    samples, notes = read(jsonl(tmp_path, *ALPACA))
    assert turns(samples[0]) == [
        ("user", "Name the bearer.\n\nSeal GX976"),
        ("assistant", "Hilde Norvaleson"),
    ]
    assert turns(samples[1]) == [("user", "Name a town."), ("assistant", "Estmere")]
    assert set(notes) == {
        f"took {asked} as the user's turn and output as the assistant's{OTHERWISE}"
        for asked in ("instruction", "instruction with input")
    }
    assert [sample.extra for sample in samples] == [{}, {}]  # no text is passed through
    (dolly,), _ = read(jsonl(tmp_path, DOLLY))
    assert turns(dolly) == [("user", "Who?\n\nThe seal."), ("assistant", "Jorun")]
    assert dolly.extra == {"category": "open_qa"}
    (orca,), notes = read(jsonl(tmp_path, ORCA))
    assert turns(orca)[0] == ("system", "Be brief.")
    assert "took system_prompt as the system turn." in notes
    assert (orca.sample_id, orca.extra) == ("t0.1", {})


def test_instructions_may_be_put_into_alpacas_prompt_or_joined(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *ALPACA)
    (given, bare), notes = read(path, pairs="alpaca")
    assert given.suffix == "Hilde Norvaleson"
    assert given.prefix == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Name the bearer.\n\n### Input:\nSeal GX976\n\n### Response:"
    )
    assert "describes a task. Write" in (bare.prefix or "")
    assert "Input" not in (bare.prefix or "")
    assert "put instruction into Alpaca's prompt as the prefix" in notes[1]
    (given, bare), _ = read(path, pairs="joined")
    assert (given.prefix, bare.prefix) == ("Name the bearer.\nSeal GX976\n", "Name a town.")


def test_a_completion_is_what_follows_its_prompt(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "prompt,completion\nThe seal reads, GX976\n")
    (sample,), notes = read(path)
    assert (sample.prefix, sample.suffix) == ("The seal reads", " GX976")
    assert notes == (
        f"took prompt as the prefix and completion as the suffix, joined as they are{OTHERWISE}",
    )
    (sample,), _ = read(path, pairs="chat")
    assert turns(sample) == [("user", "The seal reads"), ("assistant", " GX976")]
    ask, reply = ({"role": role, "content": role} for role in ("user", "assistant"))
    (sample,), notes = read(jsonl(tmp_path, {"prompt": [ask, reply, ask], "completion": [reply]}))
    assert [role for role, _ in turns(sample)] == ["user", "assistant", "user", "assistant"]
    assert "took prompt and completion as the messages of one chat." in notes


@pytest.mark.parametrize("pair", [("prompt", "response"), ("question", "answer")])
def test_questions_and_answers(tmp_path: Path, pair: tuple[str, str]) -> None:
    asked, told = pair
    path = written(tmp_path, "a.csv", f"id;{asked};{told}\n7;Who?;Jorun\n")
    (sample,), notes = read(path)
    assert turns(sample) == [("user", "Who?"), ("assistant", "Jorun")]
    assert (sample.sample_id, sample.extra) == ("7", {})
    assert f"took {asked} as the user's turn and {told} as the assistant's{OTHERWISE}" in notes


SHAREGPT = {
    "id": "x_1",
    "system": "Be brief.",
    "conversations": [
        {"from": "human", "value": "Who bears GX976?"},
        {"from": "gpt", "value": "Hilde."},
        {"from": "human", "value": "And RZ66B?"},
        {"from": "gpt", "value": "Jorun."},
        {"from": "human", "value": "Thanks"},
    ],
}


def test_each_turn_of_a_conversation_is_audited(tmp_path: Path) -> None:
    (first, second), notes = read(jsonl(tmp_path, SHAREGPT))
    assert [first.sample_id, second.sample_id] == ["x_1#1", "x_1#2"]
    assert first.line == second.line == 1
    assert turns(first) == [
        ("system", "Be brief."),
        ("user", "Who bears GX976?"),
        ("assistant", "Hilde."),
    ]
    assert turns(second)[:3] == turns(first)
    assert turns(second)[3:] == [("user", "And RZ66B?"), ("assistant", "Jorun.")]
    assert first.group == second.group is not None
    assert set(notes) == {
        "took conversations as messages.",
        "took system as the system turn.",
        "made a record of each assistant turn, named by the chat and the turn's number, with the "
        "turns before it as its prompt.",
    }
    other = written(tmp_path, "b.jsonl", json.dumps(SHAREGPT))
    assert read(other)[0][0].group != first.group  # controls share no group with the data


def test_a_chat_of_very_many_turns_is_bounded(tmp_path: Path) -> None:
    messages = [
        {"role": role, "content": "a"} for _ in range(5000) for role in ("user", "assistant")
    ]
    samples, notes = read(jsonl(tmp_path, {"messages": messages}))
    assert len(samples) == 100
    assert "did not audit the assistant turns of a chat after the first 100." in notes


CALL = {"id": "call_1", "type": "function"}
TOOLS = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Who bears"}, " GX976?"]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {**CALL, "function": {"name": "find_seal", "arguments": '{"seal": "GX\\u00e976"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"bearer": "Hilde"}'},
        {"role": "assistant", "content": "It is Hilde.", "weight": 1},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No.", "weight": 0},
    ],
    "tools": [{"type": "function", "function": {"name": "find_seal", "parameters": {}}}],
    "parallel_tool_calls": False,
}


def test_a_fine_tuning_file_with_tools(tmp_path: Path) -> None:
    (sample,), notes = read(jsonl(tmp_path, TOOLS))
    assert sample.sample_id == "1#2"
    assert len(sample.messages or ()) == 4
    assert sample.extra == {"parallel_tool_calls": "false"}
    assert set(notes) == {
        "joined the text parts of messages.",
        "gave calls of tools to the chat template.",
        "gave the record's tools to the chat template.",
        "did not audit assistant turns without words, such as calls of tools.",
        "did not audit assistant turns of weight 0, which fine-tuning leaves out.",
    }
    tokenizer = build_tokenizer()
    tokenizer.chat_template = WITH_TOOLS
    (encoded,) = Encoder(tokenizer).encode([sample])
    before, after = (tokenizer.decode(ids) for ids in np.split(encoded.ids, [encoded.border or 0]))
    assert after == "It is Hilde.<|im_end|>\n"
    assert before.startswith('<|im_start|>system\n[{"type": "function", "function": {"name": "find')
    assert '<tool_call>{"name": "find_seal", "arguments": {"seal": "GXé76"}}</tool_call>' in before
    assert "Who bears GX976?" in before
    assert not encoded.is_changed
    older = {**TOOLS, "functions": [TOOLS["tools"][0]["function"]], "tools": None}  # type: ignore[index]
    (again,), _ = read(jsonl(tmp_path, older))
    assert (again.messages, again.tools) == (sample.messages, sample.tools)


@pytest.mark.parametrize(
    "change",
    [
        ("call.function.name", "'another'"),
        ("call.function.arguments | tojson", "{} | tojson"),
        ("call.function.arguments | tojson", "'x' * 300 ~ (call.function.arguments | tojson)"),
    ],
)
def test_a_template_that_changes_a_call_is_counted(tmp_path: Path, change: tuple[str, str]) -> None:
    (sample,), _ = read(jsonl(tmp_path, TOOLS))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = WITH_TOOLS.replace(*change)
    (encoded,) = Encoder(tokenizer).encode([sample])
    assert encoded.is_changed


def test_a_call_behind_words_is_part_of_the_turn(tmp_path: Path) -> None:
    messages = [*TOOLS["messages"][:2]]  # type: ignore[index]
    messages[1] = {**messages[1], "content": "Let me look."}
    (sample,), _ = read(jsonl(tmp_path, {"messages": messages}))
    tokenizer = build_tokenizer()
    tokenizer.chat_template = WITH_TOOLS
    (encoded,) = Encoder(tokenizer).encode([sample])
    after = tokenizer.decode(encoded.ids[encoded.border or 0 :])
    assert after.startswith("Let me look.<tool_call>")
    assert not encoded.is_changed


def test_a_system_turn_that_the_template_refuses_joins_the_users() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = GEMMA
    system, ask = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}
    reply = {"role": "assistant", "content": "It is Hilde."}
    whole = Sample("a", 1, messages=(system, ask, reply))
    (encoded,) = Encoder(tokenizer).encode([whole])
    assert "<|im_start|>user\nBe brief.\n\nWho?<|im_end|>" in tokenizer.decode(encoded.ids)
    assert not encoded.is_changed
    windows = cut([whole, Sample("b", 2, messages=(ask, reply))], tokenizer)
    assert windows.notes[-1] == (
        "The chat template refuses a system turn: in 1 chats its words were put before those of "
        "the first user's turn."
    )


def test_pairs_without_a_chat_template_name_the_flag(tmp_path: Path) -> None:
    samples, _ = read(jsonl(tmp_path, *ALPACA))
    with pytest.raises(DataError, match="of questions and answers: --pairs alpaca or joined"):
        cut(samples, build_tokenizer())


# Fields that the user names.


def test_named_fields(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"body": "It is Hilde.", "text": None, "prompt": "a", "completion": "b"})
    (sample,), notes = read(path, text="body")
    assert (sample.text, notes) == ("It is Hilde.", ("took body as the text.",))
    table = written(tmp_path, "a.csv", "source;target;text\nWho?;Hilde;x\n")
    (sample,), notes = read(table, prefix="source", suffix="target")
    assert (sample.prefix, sample.suffix, sample.extra) == ("Who?", "Hilde", {})
    assert "took source as the prefix and target as the suffix." in notes
    (skipped,) = read_samples(
        jsonl(tmp_path, {"question": "SECRET", "SECRET": 1}),
        skip_bad_lines=True,
        naming=Naming(text="body"),
    )
    assert isinstance(skipped, Skipped)
    assert skipped.reason == "has no field body (it has question and 1 more)"
    assert "no column body" in refusal_of(table, Naming(text="body"))


def refusal_of(path: Path, naming: Naming) -> str:
    with pytest.raises(DataError) as error:
        check_samples(path, skip_bad_lines=False, naming=naming)
    return str(error.value)


def test_one_form_is_named() -> None:
    with pytest.raises(ValueError, match="text_field cannot be combined"):
        WindowSettings(text_field="a", suffix_field="b")


# Spreadsheets.


def test_an_export_of_a_german_spreadsheet(tmp_path: Path) -> None:
    table = 'Nr;question;answer\r\n1;Wer trägt GX976?;"Hilde; Jörun"\r\n'
    (sample,), notes = read(written(tmp_path, "a.csv", table.encode("utf-8-sig")))
    assert turns(sample)[1] == ("assistant", "Hilde; Jörun")
    assert "its columns are separated by semicolons, as its header shows." in notes
    message = refusal(written(tmp_path, "b.csv", table.encode("cp1252")))
    assert "iconv -f WINDOWS-1252 -t UTF-8" in message
    assert "or save the table as CSV UTF-8" in message
