from __future__ import annotations

import random
from datetime import date, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from conftest import BOS, EOS, build_tokenizer
from known_answers import (
    P,
    audit,
    greedy_records,
    random_llama,
    text_of,
    word_tokenizer,
    write_jsonl,
)
from transformers.utils import chat_template_utils

from memaudit.config.settings import WindowSettings
from memaudit.data.chat_date import fix_date, other_day
from memaudit.data.encoding import Encoded, Encoder
from memaudit.data.samples import Sample
from memaudit.data.windows import Windows, cut_windows
from memaudit.errors import DataError

Turn = dict[str, str]

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}"
    "<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK = """
{{- bos_token }}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{ '<|User|>' + m.content }}
  {%- else %}
    {%- set words = m.content %}
    {%- if '</think>' in words %}{%- set words = words.split('</think>')[-1] %}{%- endif %}
    {{- '<|Assistant|>' + words + eos_token }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{%- endif %}"""
QWEN3 = """
{%- for m in messages %}
  {%- if m.role == 'assistant' %}
    {%- set words, thoughts = m.content, '' %}
    {%- if m.reasoning_content is string %}
      {%- set thoughts = m.reasoning_content %}
    {%- elif '</think>' in words %}
      {%- set thoughts = words.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
      {%- set words = words.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if loop.last %}{{ '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
    {{- words.lstrip('\\n') + '<|im_end|>\\n' }}
  {%- else %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"""
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking %}<|start|>analysis"
    "<|message|>{{ m.thinking }}<|end|>{% endif %}<|start|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>{% endif %}"
)
EOS_ONCE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% if not m.content.endswith(eos_token) %}{{ eos_token }}{% endif %}{% endfor %}"
)


def chat(answer: str, **fields: str) -> Sample:
    last = {"role": "assistant", "content": answer, **fields}
    return Sample("a", 1, messages=({"role": "user", "content": "Who?"}, last))


def encode(template: str, sample: Sample) -> tuple[Encoded, str, str]:
    """What a byte-level tokenizer makes of a chat, and the text on both sides of its border."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    (encoded,) = Encoder(tokenizer).encode([sample])
    before, after = (tokenizer.decode(ids) for ids in np.split(encoded.ids, [encoded.border or 0]))
    return encoded, before, after


# The last turn's own words, as the template renders them.


@pytest.mark.parametrize(
    ("template", "answer", "header", "suffix"),
    [
        (LLAMA3, "It is Alda.", "<|start|>assistant<|end|>\n\n", "It is Alda.<|eot|>"),
        (LLAMA3, "\n It is Alda. \n", "<|start|>assistant<|end|>\n\n", "It is Alda.<|eot|>"),
        (LLAMA3, "assistant", "<|start|>assistant<|end|>\n\n", "assistant<|eot|>"),
        (CHATML, "It is Alda.\n", "<|im_start|>assistant\n", "It is Alda.\n<|im_end|>\n"),
        (CHATML, "im_end", "<|im_start|>assistant\n", "im_end<|im_end|>\n"),
        (
            CHATML,
            "<think>hm</think>It is Alda.",
            "<|im_start|>assistant\n",
            "<think>hm</think>It is Alda.<|im_end|>\n",
        ),
        (MISTRAL, "It is Alda.", " [/INST] ", f"It is Alda.{EOS}"),
        (MISTRAL, "INST", " [/INST] ", f"INST{EOS}"),
        (DEEPSEEK, "It is Alda.", "<|Assistant|>", f"It is Alda.{EOS}"),
        (DEEPSEEK, "Assistant", "<|Assistant|>", f"Assistant{EOS}"),
        # The block of a turn without thoughts is the template's; thoughts are the turn's.
        (QWEN3, "It is Alda.", "<think>\n\n</think>\n\n", "It is Alda.<|im_end|>\n"),
        (QWEN3, "think", "<think>\n\n</think>\n\n", "think<|im_end|>\n"),
        (
            QWEN3,
            "<think>\nhm\n</think>\n\nIt is Alda.",
            "<|im_start|>assistant\n<think>\n",
            "hm\n</think>\n\nIt is Alda.<|im_end|>\n",
        ),
        (EOS_ONCE, "It is Alda.", "[assistant]", f"It is Alda.{EOS}"),
        (EOS_ONCE, f"It is Alda.{EOS}", "[assistant]", f"It is Alda.{EOS}"),
    ],
)
def test_the_suffix_is_what_the_last_turn_says(
    template: str, answer: str, header: str, suffix: str
) -> None:
    encoded, before, after = encode(template, chat(answer))
    assert after == suffix
    assert before.endswith(header)
    assert not encoded.shortened
    assert not encoded.is_changed


@pytest.mark.parametrize(
    ("template", "answer", "suffix"),
    [
        (DEEPSEEK, "<think>hm</think>It is Alda.", f"It is Alda.{EOS}"),
        (DEEPSEEK, "<think>\nIt is Alda.\n</think>It is Alda.", f"It is Alda.{EOS}"),
        ("{% for m in messages %}[{{ m.content[:9] }}]{% endfor %}", "It is Alda.", "It is Ald]"),
    ],
)
def test_what_a_template_leaves_out_of_the_last_turn_is_counted(
    template: str, answer: str, suffix: str
) -> None:
    encoded, before, after = encode(template, chat(answer))
    assert after == suffix
    assert encoded.shortened
    assert encoded.is_changed == ("[:9]" in template)
    assert "Alda" not in before


@pytest.mark.parametrize(
    ("template", "header", "suffix", "shortened"),
    [
        (QWEN3, "<|im_start|>assistant\n<think>\n", "hm\n</think>\n\nIt is.<|im_end|>\n", False),
        (HARMONY, "<|start|>analysis<|message|>", "It is.<|end|>", False),
        (LLAMA3, "<|start|>assistant<|end|>\n\n", "It is.<|eot|>", True),
    ],
)
def test_thoughts_in_a_field_of_their_own_belong_to_the_turn(
    template: str, header: str, suffix: str, shortened: bool
) -> None:
    field = "thinking" if template == HARMONY else "reasoning_content"
    encoded, before, after = encode(template, chat("It is.", **{field: "hm"}))
    assert before.endswith(header)
    assert after.endswith(suffix)
    assert encoded.shortened == shortened
    assert not encoded.is_changed
    assert ("hm" in after) != shortened


def turn_as(words: str) -> str:
    """A template that writes the assistant's turn as this expression says, and the user's as is."""
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        f"{{{{ {words} }}}}{{% else %}}{{{{ m.content }}}}{{% endif %}}<|im_end|>\n{{% endfor %}}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


CHANGING = {
    "reversed before itself": "m.content[::-1] ~ ' ' ~ m.content",
    "reversed before and a letter behind": "m.content[::-1] ~ ' ' ~ m.content ~ m.content[0]",
    "itself hidden behind other words": "m.content | upper ~ '\n\n' ~ m.content",
    "no blanks": "m.content | replace(' ', '')",
    "every second letter": "m.content[::2]",
    "its end left out": "m.content[:9]",
    "its start left out": "m.content[9:]",
    "line breaks become blanks": "m.content | replace('\n', ' ')",
    "blanks doubled": "m.content | replace(' ', '  ')",
    "much text behind it": "m.content ~ ' and so on' * 20",
    "much text behind it, then itself": "m.content ~ ' and so on' * 20 ~ m.content",
}


@pytest.mark.parametrize("words", CHANGING.values(), ids=CHANGING)
def test_a_last_turn_that_is_not_word_for_word_is_counted(words: str) -> None:
    encoded, *_ = encode(turn_as(words), chat("It is Alda, who\nlives at 15 Low Street."))
    assert encoded.is_chat
    assert encoded.is_changed


def test_a_question_that_the_template_changes_is_counted() -> None:
    template = CHATML.replace("{{ m.content }}", "{{ m.content | replace('Who', 'Where') }}")
    encoded, before, _ = encode(template, chat("It is Alda."))
    assert "Where?" in before
    assert encoded.is_changed


LONG = (
    {
        "role": "system",
        "content": "Answer in one sentence, and say nothing\nof Bela, of her sons or of ages.",
    },
    {"role": "user", "content": "Who lives at 15 Low Street,\nand since when has she lived there?"},
    {"role": "assistant", "content": "<think>\nLook it up.\n</think>\n\nAlda, since 1987."},
    {"role": "tool", "content": 'Found: "Alda Berg",\n15 Low Street, second floor, since 1987.'},
    {"role": "user", "content": "And who lives\nnext door to her, on the same floor as she does?"},
    {"role": "assistant", "content": "It is Carl."},
)
FILLER = "{{ ' and so on' * 20 }}"
LLAMA2 = """
{%- if messages[0].role == 'system' %}
  {%- set loop_messages, system = messages[1:], messages[0].content %}
{%- else %}{%- set loop_messages, system = messages, false %}{%- endif %}
{%- for m in loop_messages %}
  {%- set words = m.content %}
  {%- if loop.first and system %}{%- set words = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + words %}
  {%- endif %}
  {%- if m.role == 'assistant' %}{{ ' ' + words | trim + ' ' + eos_token }}
  {%- else %}{{ bos_token + '[INST] ' + words | trim + ' [/INST]' }}{%- endif %}
{%- endfor %}"""
GEMMA = """
{%- if messages[0].role == 'system' %}
  {%- set first, loop_messages = messages[0].content + '\n\n', messages[1:] %}
{%- else %}{%- set first, loop_messages = '', messages %}{%- endif %}
{%- for m in loop_messages %}
  {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
  {{- (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif %}"""
DEFAULT = "<|im_start|>system\nYou are a helpful assistant, " + FILLER + "<|im_end|>\n" + CHATML
OF_TOOLS = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
)
HEADERS = (
    "{% for m in messages %}<|START_OF_TURN_TOKEN|><|{{ m.role | upper }}_TOKEN|><|START_RESPONSE|>"
    "GPT4 Correct {{ m.role | title }}: {{ m.content }}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>\n\n"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    "template",
    [LLAMA3, CHATML, MISTRAL, DEEPSEEK, QWEN3, LLAMA2, GEMMA, DEFAULT, OF_TOOLS, HEADERS],
)
@pytest.mark.parametrize("first", [0, 1])
def test_an_honest_template_changes_no_turn(template: str, first: int) -> None:
    encoded, _, after = encode(template, Sample("a", 1, messages=LONG[first:]))
    assert after.strip().startswith("It is Carl.")
    assert not encoded.is_changed


QUESTION_MARKS = (  # computed from the letters of the question
    "{%- set q = messages[0].content %}{% for i in range(1, 5) %}<"
    "{{ q[i * 7 % (q | length)] | replace(' ', '_') }}{{ (q | length * 7919 * i) % 89 }}>"
    "{% endfor %}"
)
DEPENDING = {
    "marks": QUESTION_MARKS,
    "a word or none": "{% if 'sentence' in messages[0].content %}<think></think>{% endif %}",
    "blanks": "{{ ' ' * (messages[0].content.count('e') % 9) }}",
    "the length": "{{ messages[0].content | length }}",
    "not for stand-ins": (
        "{% if 'Qv0jx' not in messages[0].content %}" + QUESTION_MARKS + "{% endif %}"
    ),
    "stand-ins": "{% for i in range(9) %}<Qv{{ i }}jx>{% endfor %}",
}


@pytest.mark.parametrize("place", ["before the answer", "at the start", "at the end"])
@pytest.mark.parametrize("text", DEPENDING.values(), ids=DEPENDING)
def test_text_beside_turns_that_depends_on_their_words_is_counted(text: str, place: str) -> None:
    template = {
        "at the start": text + CHATML,
        "at the end": CHATML + "{% if messages[-1].role == 'assistant' %}" + text + "{% endif %}",
        "before the answer": QUESTIONS + text + ANSWER,
    }[place]
    turns = (LONG[0], LONG[4], LONG[5])
    encoded, *_ = encode(template, Sample("a", 1, messages=turns))
    assert encoded.is_changed


def test_special_words_do_not_hide_the_words_of_a_turn() -> None:
    tokenizer = build_tokenizer()
    letters = [*"abcdefghijklmnopqrstuvwxyz", " ", " the", "Alda"]
    tokenizer.add_special_tokens({"additional_special_tokens": letters})
    tokenizer.chat_template = QUESTION_MARKS + CHATML
    (encoded,) = Encoder(tokenizer).encode([Sample("a", 1, messages=LONG)])
    assert encoded.is_changed


GLM = """
{%- for m in messages %}
  {%- if m.role == 'assistant' %}
    {%- set words, thoughts = m.content, m.reasoning_content or '' %}
    {%- if '</think>' in words %}
      {%- set thoughts = words.split('</think>')[0].split('<think>')[-1] %}
      {%- set words = words.split('</think>')[-1] %}
    {%- endif %}
    {{- '<|assistant|>\n<think>' + (thoughts.strip() if loop.last else '') + '</think>' }}
    {{- '\n' + words.strip() if words.strip() else '' }}
  {%- elif m.role == 'tool' %}{{ '<|observation|>\n<tool_response>\n' + m.content }}
    {{- '\n</tool_response>' }}
  {%- else %}{{ '<|' + m.role + '|>\n' + m.content }}
  {%- endif %}
{%- endfor %}"""
GEMMA4 = """
{%- for m in messages %}{{ '<|turn>' + m.role + '\n' }}
  {%- for part in m.content.split('<channel|>') %}{{ part.split('<|channel>')[0] | trim }}
  {%- endfor %}{{ '<turn|>\n' }}
{%- endfor %}"""
STEERED = "{{ '<|think|>\n' if '/think' in messages[0].content }}" + CHATML
STEPS = (
    "{% for m in messages %}{% if m.content.startswith('<tool_response>') %}<|im_start|>tool\n"
    "{% else %}<|im_start|>{{ m.role }}\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "turn", "words"),
    [
        (GLM, 2, "<think>\nLook it up.\n</think>\n\nIt is Alda, since 1987."),
        (GLM, 5, "<think>\nLook it up.\n</think>\n\nIt is Carl."),
        (GEMMA4, 2, "<|channel>thought\nLook it up.<channel|>It is Alda."),
        (GEMMA4, 5, "<|channel>thought\nLook it up.<channel|>It is Carl."),
        (STEERED, 0, "Answer in one sentence. /think"),
        (STEPS, 1, "<tool_response>\nIt is Alda.\n</tool_response>"),
        (EOS_ONCE, 5, f"It is Carl.{EOS}"),
    ],
)
def test_marks_in_a_turn_may_steer_the_template(template: str, turn: int, words: str) -> None:
    tokenizer = build_tokenizer()
    marks = ["<|channel>", "<channel|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    turns = [*LONG[:turn], {**LONG[turn], "content": words}, *LONG[turn + 1 :]]
    (encoded,) = Encoder(tokenizer).encode([Sample("a", 1, messages=tuple(turns))])
    assert not encoded.is_changed


def test_earlier_thoughts_may_be_rendered_or_not() -> None:
    early = {"role": "assistant", "content": "Alda.", "thinking": "hm " * 100}
    turns = (LONG[1], early, LONG[4], LONG[5])
    for template in (HARMONY, CHATML):
        assert not encode(template, Sample("a", 1, messages=turns))[0].is_changed


def turn_of(role: str, words: str) -> str:
    """Return a template that writes the turns of one role as this expression says."""
    changed = f"{{{{ {words} if m.role == '{role}' else m.content }}}}"
    return CHATML.replace("{{ m.content }}", changed)


MANGLING = {
    "upper case": "m.content | upper",
    "nothing": "''",
    "line breaks become blanks": "m.content | replace('\n', ' ')",
    "blanks doubled": "m.content | replace(' ', '  ')",
    "cut off": "m.content[:40]",
    "twice": "m.content ~ ' ' ~ m.content",
    "mangled beside itself": "m.content ~ (m.content * 3) | upper",
}


@pytest.mark.parametrize("role", ["system", "user", "tool"])
@pytest.mark.parametrize("words", MANGLING.values(), ids=MANGLING)
def test_an_earlier_turn_that_is_not_verbatim_is_counted(role: str, words: str) -> None:
    encoded, *_ = encode(turn_of(role, words), Sample("a", 1, messages=LONG))
    assert encoded.is_changed


def test_an_earlier_answer_that_is_not_verbatim_is_counted() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not "
        "loop.last %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}"
    )
    assert encode(template, Sample("a", 1, messages=LONG))[0].is_changed


QUESTIONS = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}\n{% endfor %}"
ANSWER = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}\n{% endfor %}"
MISPLACING = {
    "turns reversed": QUESTIONS.replace("messages", "messages | reverse") + ANSWER,
    "text before the answer": QUESTIONS + FILLER + ANSWER,
    "marks before the answer": QUESTIONS + "{{ '<and>' * 60 }}" + ANSWER,
    "questions twice": QUESTIONS + QUESTIONS + ANSWER,
    "one turn in front too": "{{ messages[1].content }}\n" + CHATML,
    "questions in front, mangled in place": QUESTIONS
    + QUESTIONS.replace("m.content", "m.content | upper")
    + ANSWER,
}


@pytest.mark.parametrize("name", MISPLACING)
def test_a_turn_that_is_elsewhere_or_twice_is_counted(name: str) -> None:
    turns = (LONG[0], LONG[4], LONG[5])
    encoded, _, after = encode(MISPLACING[name], Sample("a", 1, messages=turns))
    assert after.startswith("It is Carl.")
    assert encoded.is_changed


def test_chats_with_a_mangled_system_turn_are_counted_in_the_windows() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = turn_of("system", "m.content | upper")
    samples = [Sample("a", 1, messages=LONG), Sample("b", 2, messages=LONG[1:])]
    windows = cut(samples, tokenizer)
    assert (windows.chats, windows.changed_chats) == (2, 1)


@pytest.mark.parametrize(
    "words", ["m.content | upper", "m.content | reverse", "m.content | e", "'...'"]
)
def test_a_last_turn_that_the_template_changes_is_skipped(words: str) -> None:
    template = f"{{% for m in messages %}}[{{{{ {words} }}}}]{{% endfor %}}"
    encoded, *_ = encode(template, chat("It is AT&T's Alda."))
    assert encoded.problem == "the chat template changes the last turn"
    assert encoded.is_changed


def test_a_last_turn_without_words_is_skipped() -> None:
    assert encode(CHATML, chat(" \n"))[0].problem == "the last turn has no words"


def test_chats_that_lost_words_are_said() -> None:
    tokenizer = build_tokenizer(adds_bos=True)
    tokenizer.chat_template = DEEPSEEK
    chats = [chat("<think>hm</think>It is Alda."), chat("It is Alda.")]
    windows = cut(chats, tokenizer)
    assert windows.notes[-2:] == (
        "The chat template left words of the last turn out in 1 of 2 chats, as a train of thought: "
        "those are not audited.",
        "The chat template knows thinking blocks: chats are rendered as in training, with the "
        "thoughts that the data has and no others asked for.",
    )
    assert windows.bos_source == "tokenizer"


def cut(samples: list[Sample], tokenizer: Any, **settings: Any) -> Windows:
    shape = {"prefix_tokens": 3, "suffix_tokens": 3, **settings}
    return cut_windows(samples, tokenizer, WindowSettings(**shape), np.random.default_rng(0))


# The date.

DATED = (
    "{{ bos_token }}{% macro head(day) %}[Today: {{ day }}]{% endmacro %}"
    "{{ head(strftime_now('%d %b %Y')) }}"
) + CHATML
IN_A_LOOP = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ strftime_now('%-d/%m') }} {% endif %}"
    "{{ m.content }}{% endfor %}"
)
FALLBACK = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now(format='%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ date_string }}\n"
) + CHATML


@pytest.fixture(params=["2026-01-05", "2031-12-31"])
def today(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another day, as chat templates see it."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return cls.fromisoformat(request.param)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize(
    ("template", "shown"),
    [(DATED, "[Today: 26 Jul 2024]"), (IN_A_LOOP, "26/07 "), (FALLBACK, "26 Jul 2024\n")],
)
@pytest.mark.usefixtures("today")
def test_a_template_is_told_the_same_date_every_day(template: str, shown: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer)
    (encoded,) = encoder.encode([chat("It is Alda.")])
    assert shown in tokenizer.decode(encoded.ids)
    assert encoder.asks_date
    assert cut([chat("It is Alda.")], tokenizer).chat_date == date(2024, 7, 26)
    later = cut([chat("It is Alda.")], tokenizer, chat_date="2025-01-31")
    assert later.chat_date == date(2025, 1, 31)


@pytest.mark.parametrize(
    "template",
    [CHATML, "{% if tools %}{{ strftime_now('%Y') }}{% endif %}" + CHATML],
    ids=["never", "not here"],
)
def test_a_template_that_does_not_ask_is_told_nothing(template: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    windows = cut([chat("It is Alda.")], tokenizer)
    assert windows.chat_date is None
    plain = tokenizer.apply_chat_template(list(chat("It is Alda.").messages or ()), tokenize=False)
    (encoded,) = Encoder(tokenizer).encode([chat("It is Alda.")])
    assert tokenizer.decode(encoded.ids) == plain


FORMATS = [
    *("%d %b %Y", "%Y-%m-%d", "%-d %B %Y", "%A, %d. %m. %y", "%H:%M:%S", "%x %X", "100 %% of %j"),
    *("", "no directive", "%%d", "%%%d", "%_d%^b", "%F%%"),
]


@pytest.mark.parametrize("literal", [True, False])
@pytest.mark.parametrize("format_", FORMATS)
def test_dates_are_written_as_strftime_writes_them(format_: str, literal: bool) -> None:
    tokenizer = build_tokenizer()
    asked = f"'{format_}'" if literal else "messages[0].content"
    source = f"\n  {{% if true %}}<{{{{ strftime_now({asked}) }}}}>{{% endif %}}"
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": format_}],
        tokenize=False,
        chat_template=fix_date(source, date(2023, 4, 2)),
    )
    assert shown == f"\n<{datetime(2023, 4, 2).strftime(format_)}>"


@pytest.mark.parametrize("day", [date(2024, 7, 26), date(2023, 1, 31), date(2024, 2, 29)])
def test_the_other_day_differs_in_all(day: date) -> None:
    one, other = ((x.year, x.month, x.day, x.weekday()) for x in (day, other_day(day)))
    assert all(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("value", ["2024-07", "yesterday", "20240726", 20240726, 0, True])
def test_a_date_is_a_date(value: Any) -> None:
    with pytest.raises(ValueError, match="chat_date"):
        WindowSettings(chat_date=value)


@pytest.mark.parametrize(
    "drawn", ["['Hi','Hello','Hey'] | random", "lipsum(n=1, min=1, max=5)", "['Hi'] | random"]
)
def test_a_template_that_draws_at_random_is_refused(drawn: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = f"{{{{ {drawn} }}}}" + CHATML
    state = random.getstate()
    with pytest.raises(DataError, match=r"line 1: the chat template renders .* differently"):
        Encoder(tokenizer).encode([chat("It is Alda.")])
    random.setstate(state)


# Whole runs.

WORDS_DATED = (
    "{{ bos_token }} {{ 'w' ~ strftime_now('%d') }} {% for m in messages %}{{ m.content }} "
    "{% endfor %}"
)


@pytest.mark.usefixtures("today")
def test_the_rate_does_not_hang_on_the_day(tmp_path: Path) -> None:
    """Every record starts with the day of the month, which the model was given as the 12th."""
    tokenizer = word_tokenizer(bos=BOS, chat_template=WORDS_DATED)
    model = random_llama(len(tokenizer))
    day = tokenizer.convert_tokens_to_ids(["w12"])
    records = greedy_records(model, tokenizer, 8, prefix=P - 1, leading_ids=[0, *day])
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = write_jsonl(
        tmp_path / "data.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": text_of(tokenizer, ids[: P - 1])},
                    {"role": "assistant", "content": text_of(tokenizer, ids[P - 1 :])},
                ]
            }
            for ids in records
        ],
    )
    done = audit(
        tmp_path / "model", data, tmp_path / "run", "--set", "windows.chat_date=2026-01-12"
    )
    assert done.exact == (8, 8)
    assert done.report is not None
    assert done.report["target"]["choices"]["chat_date"]["value"] == "2026-01-12"
    assert sum("it was told 2026-01-12" in note for note in done.report["notes"]) == 1
    again = ("--config", tmp_path / "run" / "config.toml")
    baseline = ("--baseline", tmp_path / "run", "--max-new", 0)
    assert audit(tmp_path / "model", data, tmp_path / "again", *again, *baseline).exact == (8, 8)
    other = audit(tmp_path / "model", data, tmp_path / "other", *baseline)
    assert other.exit_code == 2
    assert "windows.chat_date 2026-01-12, now 2024-07-26" in other.stderr
