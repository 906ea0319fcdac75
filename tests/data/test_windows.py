from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from memaudit.config.settings import WindowSettings
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample, Skipped
from memaudit.data.windows import PADDING, Windows, cut_windows, fitting_window
from memaudit.errors import DataError

WORDS = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(
        models.WordLevel({"[UNK]": 0} | {str(n): n for n in range(1, 500)}, unk_token="[UNK]")
    ),
    model_max_length=8,  # shorter than most texts here: nothing may be cut off or warned about
)
"""One token for each number from 1, of the same id."""
WORDS.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()


BPE = build_tokenizer()
TRIMMED = build_tokenizer()
"""The same, but no token's span has the blanks around its word, as in Llama 3's tokenizer."""
TRIMMED.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)


class SlowPairs(PreTrainedTokenizer):
    """Two equal letters side by side are one token. Written in Python, so it knows no offsets."""

    def __init__(self, **kwargs: Any) -> None:
        letters = "abcdefghijklmnopqrstuvwxyz "
        self._names = ["<unk>", *letters, *(2 * letter for letter in letters)]
        super().__init__(unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def get_vocab(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        tokens: list[str] = []
        while text:
            width = 2 if text[:2] in self._names[28:] else 1
            tokens.append(text[:width])
            text = text[width:]
        return tokens

    def _convert_token_to_id(self, token: str) -> int:
        return self._names.index(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]


def words(*numbers: int) -> str:
    return " ".join(map(str, numbers))


def counting(tokens: int, line: int = 1, **extra: str) -> Sample:
    """A sample of the tokens 1, 2, 3, ..."""
    return Sample(f"s{line}", line, text=words(*range(1, tokens + 1)), extra=extra)


def cut(samples: Iterable[Sample | Skipped], tokenizer: Any = WORDS, **settings: Any) -> Windows:
    return cut_windows(samples, tokenizer, WindowSettings(**settings), np.random.default_rng(0))


def shape(prefix: int, suffix: int) -> dict[str, int]:
    return {"prefix_tokens": prefix, "suffix_tokens": suffix}


# Where windows lie.


@pytest.mark.parametrize(
    ("placement", "starts"),
    [
        ({"placement": "start"}, [1]),
        ({"placement": "end"}, [6]),
        ({"placement": "auto"}, [1]),
        ({"placement": "sliding"}, [1, 4, 6]),
        ({"placement": "sliding", "stride": 2}, [1, 3, 5, 6]),
        ({"placement": "sliding", "stride": 20}, [1, 6]),
    ],
)
def test_placement(placement: dict[str, Any], starts: list[int]) -> None:
    windows = cut([counting(10, line=4)], **shape(2, 3), **placement)
    assert windows.prefix_ids.tolist() == [[start, start + 1] for start in starts]
    assert windows.suffix_ids.tolist() == [[start + 2, start + 3, start + 4] for start in starts]
    assert windows.window.tolist() == list(range(len(starts)))
    assert windows.sample.tolist() == [0] * len(starts)
    assert windows.line.tolist() == [4] * len(starts)
    assert windows.sample_id == ("s4",) * len(starts)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    prefix=st.integers(1, 6),
    suffix=st.integers(1, 6),
    placement=st.sampled_from(["start", "end", "sliding"]),
    stride=st.integers(1, 9),
)
def test_windows_are_slices_of_the_ids(
    lengths: list[int], prefix: int, suffix: int, placement: str, stride: int
) -> None:
    samples = [counting(length, line) for line, length in enumerate([*lengths, 12], 1)]
    chosen = {"stride": stride} if placement == "sliding" else {}
    windows = cut(samples, **shape(prefix, suffix), placement=placement, **chosen)

    length = prefix + suffix  # here P is less than the prefix with which sliding windows begin
    expected = []
    for sample in samples:
        ids = [int(word) for word in (sample.text or "").split()]
        last = len(ids) - length
        slides = sorted({*range(0, last + 1, stride), last})
        starts = {"start": [0], "end": [last], "sliding": slides}[placement]
        expected += [(sample.line, ids[s : s + length]) for s in starts if last >= 0]
    assert list(zip(windows.line.tolist(), windows.ids.tolist(), strict=True)) == expected
    short = [sample.line for sample in samples if len((sample.text or "").split()) < length]
    assert [skipped.line for skipped in windows.skipped] == short
    assert windows.samples == len(samples)


@pytest.mark.parametrize(
    ("tokens", "suffix", "windows"),
    [
        (100, 50, [(0, 8, 58), (0, 50, 100)]),  # prefix from, suffix from, suffix to
        (200, 50, [(0, 8, 58), (8, 58, 108), (58, 108, 158), (100, 150, 200)]),
        (22, 8, [(0, 8, 16), (0, 12, 20), (0, 14, 22)]),  # short suffixes overlap by half
        (16, 8, [(0, 8, 16)]),
    ],
)
def test_sliding_windows_cover_a_text(
    tokens: int, suffix: int, windows: list[tuple[int, int, int]]
) -> None:
    made = cut([counting(tokens), counting(15)], **shape(50, suffix), placement="sliding")
    ids = list(range(1, tokens + 1))
    assert [
        (ids_of[ids_of != PADDING].tolist(), follow.tolist())
        for ids_of, follow in zip(made.prefix_ids, made.suffix_ids, strict=True)
    ] == [(ids[first:border], ids[border:end]) for first, border, end in windows]
    audited = tokens - windows[0][1]
    assert made.new_tokens.sum() == audited
    assert made.record_tokens == tokens + 15
    assert made.audited_share == audited / (tokens + 15)
    (short,) = made.skipped
    assert short.reason == f"15 tokens, the window needs {8 + suffix}"


def test_arrays_have_their_types_and_shapes() -> None:
    windows = cut([counting(9)], **shape(2, 3), placement="sliding", stride=1)
    assert len(windows) == 5
    assert windows.prefix_ids.shape == (5, 2)
    assert windows.suffix_ids.shape == (5, 3)
    assert windows.ids.shape == (5, 5)
    for ids in (windows.prefix_ids, windows.suffix_ids, windows.ids):
        assert ids.dtype == np.int32
    for numbers in (windows.sample, windows.line, windows.window):
        assert numbers.dtype == np.int64


def test_long_texts_are_neither_truncated_nor_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        windows = cut([counting(400)], **shape(200, 200))
    finally:
        logger.removeHandler(caplog.handler)
    assert windows.ids.tolist() == [list(range(1, 401))]
    assert not caplog.records


def test_special_tokens_are_not_added(bos_tokenizer: Any) -> None:
    text = "A model is trained on text, and some of the text comes back."
    windows = cut([Sample("a", 1, text=text)], bos_tokenizer, **shape(4, 4))
    ids = bos_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert windows.ids.tolist() == [ids[:8]]


def test_many_samples_keep_their_order() -> None:
    samples = [
        Skipped(f"s{line}", line, "bad") if line % 7 == 0 else counting(line % 5, line)
        for line in range(1, 700)
    ]
    windows = cut(samples, **shape(2, 2))
    good = [sample for sample in samples if isinstance(sample, Sample)]
    kept = [(number, sample.line) for number, sample in enumerate(good) if sample.line % 5 == 4]
    assert list(zip(windows.sample.tolist(), windows.line.tolist(), strict=True)) == kept
    lines = [skipped.line for skipped in windows.skipped]
    assert sorted([*lines, *windows.line.tolist()]) == list(range(1, 700))
    assert lines == sorted(lines)


# Prefix and suffix as two strings.


def pair(prefix: str, suffix: str) -> Sample:
    return Sample("a", 1, prefix=prefix, suffix=suffix)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("start", [[1, 2, 3, 4, 5]]),
        ("end", [[4, 5, 6, 7, 8]]),
        ("sliding", [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [4, 5, 6, 7, 8]]),
    ],
)
def test_windows_of_a_given_suffix(placement: str, expected: list[list[int]]) -> None:
    windows = cut([pair("0 1 2 3 ", "4 5 6 7 8")], **shape(3, 2), placement=placement)
    assert windows.ids.tolist() == expected
    assert windows.boundary_shifts == 0


def test_a_given_prefix_may_be_shorter() -> None:
    windows = cut([pair("3 ", "4 5 6 7")], **shape(4, 2), placement="sliding")
    padding = [PADDING] * 3
    assert windows.ids.tolist() == [[*padding, 3, 4, 5], [PADDING, 3, 4, 5, 6, 7]]
    assert windows.prefix_tokens.tolist() == [1, 3]
    assert windows.notes == ()


def test_what_is_not_shown_is_noted_and_what_is_audited_is_counted() -> None:
    records = [pair("1 2 3 ", "4 5 6 7"), pair("1 ", "2 3 4 5 6 7")]
    assert cut(records, **shape(2, 2)).notes == (
        "1 of 2 records have more than 2 tokens before an audited suffix, and the model is shown "
        "only the last of them. That can hide what it has memorized: use a larger "
        "--prefix-tokens; the longest of these prefixes has 3 tokens.",
    )
    assert cut(records, **shape(2, 2)).audited_share == 4 / 10
    whole = cut(records, **shape(6, 2), placement="sliding")
    assert (whole.notes, whole.audited_share) == ((), 1)


@pytest.mark.parametrize("tokenizer", [WORDS, SlowPairs()], ids=["offsets", "none"])
def test_a_token_across_the_border_starts_the_suffix(tokenizer: Any) -> None:
    prefix, suffix = ("1 2 3", "4 5") if tokenizer is WORDS else ("x y a", "a ")
    windows = cut([pair(prefix, suffix)], tokenizer, **shape(2, 2))
    ids = tokenizer(prefix + suffix, add_special_tokens=False)["input_ids"]
    assert windows.ids.tolist() == [ids[-4:]]
    assert windows.boundary_shifts == 1


def no_blank(suffix: str) -> bool:
    """Whether it is no mere white space, which is skipped."""
    return not suffix or bool(suffix.strip())


@given(prefix=st.text("ab ", max_size=12), suffix=st.text("ab ", max_size=12).filter(no_blank))
def test_without_offsets_the_border_is_found_all_the_same(prefix: str, suffix: str) -> None:
    tokenizer = SlowPairs()
    (encoded,) = Encoder(tokenizer).encode([pair(prefix, suffix)])
    tokens = tokenizer.tokenize(prefix + suffix)
    ends = np.cumsum([len(token) for token in tokens], dtype=int).tolist()
    border = next((n for n, end in enumerate(ends) if end > len(prefix)), len(tokens))
    assert encoded.border == border
    assert encoded.shifted == (len("".join(tokens[:border])) < len(prefix))


PIECES = st.lists(
    st.sampled_from(["the ", "prefix", " text", "wo", "rd ", "é", "漢", "🙂", "1", "\n"])
).map("".join)


@pytest.mark.parametrize("tokenizer", [BPE, TRIMMED], ids=["whole spans", "trimmed spans"])
@given(prefix=PIECES, suffix=PIECES.filter(no_blank))
def test_the_border_splits_the_text_where_it_was(tokenizer: Any, prefix: str, suffix: str) -> None:
    (encoded,) = Encoder(tokenizer).encode([pair(prefix, suffix)])
    assert encoded.border is not None
    before, after = encoded.ids[: encoded.border], encoded.ids[encoded.border :]
    assert [*before, *after] == BPE(prefix + suffix, add_special_tokens=False)["input_ids"]
    if encoded.shifted:
        assert len(BPE.decode(before)) < len(prefix)
    else:
        assert BPE.decode(before) == prefix
        assert BPE.decode(after) == suffix


@pytest.mark.parametrize("tokenizer", [BPE, TRIMMED], ids=["whole spans", "trimmed spans"])
@pytest.mark.parametrize(
    ("prefix", "suffix", "shifts"),
    [
        ("some of the ", "text comes", 1),  # one token stands for " text"
        ("some of the", " text comes", 0),
        ("some of the  ", "text comes", 1),
        ("some of the ", " text comes", 0),
        ("some of te", "xt comes", 1),
    ],
)
def test_a_straddling_blank_counts(tokenizer: Any, prefix: str, suffix: str, shifts: int) -> None:
    windows = cut([pair(prefix, suffix)], tokenizer, **shape(1, 1))
    assert windows.boundary_shifts == shifts


def test_a_tokenizer_file_neither_cuts_texts_nor_pads_them(tmp_path: Path) -> None:
    """Some are saved with a maximum length, or with padding to it, switched on."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.truncation
    text = "A model is trained on text, and some of the text comes back."
    (encoded,) = Encoder(loaded).encode([Sample("a", 1, text=text)])
    assert encoded.ids.tolist() == BPE(text)["input_ids"]


@pytest.mark.parametrize(
    ("prefix", "suffix", "reason"),
    [
        ("1 2 ", "3", "suffix of 1 tokens, the window needs 2"),
        ("", "1 2", "prefix of 0 tokens, the window needs 1"),
        ("1 2", "", "suffix of 0 tokens, the window needs 2"),
        ("1 2 3", "4", "suffix of 1 tokens, the window needs 2"),
        ("", "", "prefix of 0 tokens, the window needs 1"),
    ],
)
def test_both_sides_have_to_be_long_enough(prefix: str, suffix: str, reason: str) -> None:
    windows = cut([counting(4), pair(prefix, suffix)], **shape(2, 2))
    assert [skipped.reason for skipped in windows.skipped] == [reason]


# Chats.

PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
REWRITING = "{{ messages | length }}" + PLAIN
REFUSING = "{{ raise_exception('roles must alternate: ' + messages[0].content) }}"


def chat(line: int = 1) -> Sample:
    question = {"role": "user", "content": "Which text comes back?"}
    answer = {"role": "assistant", "content": "The text that was read many times."}
    return Sample("a", line, messages=(question, answer))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_last_turn_is_the_suffix(
    adds_bos: bool, tiny_tokenizer: Any, bos_tokenizer: Any
) -> None:
    tokenizer = bos_tokenizer if adds_bos else tiny_tokenizer
    tokenizer.chat_template = PLAIN
    (encoded,) = Encoder(tokenizer).encode([chat()])
    border, messages = encoded.border, chat().messages
    assert border is not None
    assert messages is not None
    assert tokenizer.decode(encoded.ids[border:]) == messages[1]["content"] + "\n"
    before = tokenizer.decode(encoded.ids[:border])
    bos = "" if adds_bos else "<s>"  # the target gets it apart where the tokenizer adds it
    assert before == f"{bos}[user] Which text comes back?\n[assistant] "

    windows = cut([chat()], tokenizer, **shape(3, 4))
    assert windows.ids.tolist() == [encoded.ids[border - 3 : border + 4].tolist()]


@pytest.mark.parametrize(
    ("template", "reason"), [(REWRITING, "changes earlier turns"), (REFUSING, "refuses these")]
)
def test_a_chat_the_template_cannot_take_is_skipped(
    template: str, reason: str, tiny_tokenizer: Any
) -> None:
    tiny_tokenizer.chat_template = template
    text = Sample("b", 2, text="some of the text comes back word for word")
    windows = cut([chat(), text], tiny_tokenizer, **shape(2, 2))
    assert windows.line.tolist() == [2]
    assert reason in windows.skipped[0].reason
    assert "Which" not in windows.skipped[0].reason
    assert windows.samples == 2


TURNS = ("system", "user", "assistant", "user", "assistant")
NO_HEADER = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
THINKING = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> <think>\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role') }}"
    "{% endif %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
)


def talk(*roles: str) -> Sample:
    return Sample(
        "a", 1, messages=tuple({"role": r, "content": f" words {n} "} for n, r in enumerate(roles))
    )


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (PLAIN, "<s>[system]  words 0 \n[user]  words 1 \n[assistant]  words 2 \n", " words 4 \n"),
        (NO_HEADER, "<system>  words 0 \n<user>  words 1 \n<assistant>  words 2 \n", " words 4 \n"),
        (THINKING, "<system> words 0\n<user> words 1\n<assistant> words 2\n", "words 4\n"),
    ],
)
def test_of_several_turns_the_last_is_the_suffix_without_its_header(
    template: str, before: str, after: str, tiny_tokenizer: Any
) -> None:
    tiny_tokenizer.chat_template = template
    (encoded,) = Encoder(tiny_tokenizer).encode([talk(*TURNS)])
    text = tiny_tokenizer.decode(encoded.ids)
    assert text.startswith(before)
    suffix = tiny_tokenizer.decode(encoded.ids[encoded.border :])
    assert suffix.strip() == after.strip()
    assert "assistant" not in suffix


def test_a_template_that_takes_no_system_message_gets_it_with_the_users(
    tiny_tokenizer: Any,
) -> None:
    tiny_tokenizer.chat_template = NO_SYSTEM
    merged, taken = Encoder(tiny_tokenizer).encode([talk(*TURNS), talk(*TURNS[1:])])
    assert merged.problem is taken.problem is None
    assert len(merged.ids) > len(taken.ids)
    (only,) = Encoder(tiny_tokenizer).encode([talk("system", "assistant")])
    assert only.problem == "the chat template refuses these messages"


def test_a_chat_needs_a_template() -> None:
    with pytest.raises(DataError, match=r"line 7 is read as a chat.*no chat template"):
        cut([chat(line=7)])


# Which samples.


def test_limit_draws_samples_in_file_order() -> None:
    samples = [
        Skipped("bad", line, "bad") if line % 10 == 0 else counting(4, line)
        for line in range(1, 101)
    ]
    windows = cut(samples, **shape(2, 2), limit=12)
    assert windows.samples == len(windows) == 12
    assert len(windows.skipped) == 10
    assert np.all(np.diff(windows.line) > 0)
    good = [sample.line for sample in samples if isinstance(sample, Sample)]
    assert [good[number] for number in windows.sample] == windows.line.tolist()
    assert cut(samples, **shape(2, 2), limit=12).line.tolist() == windows.line.tolist()


@pytest.mark.parametrize("limit", [5, 6, 1000])
def test_a_limit_that_is_not_reached_changes_nothing(limit: int) -> None:
    samples = [counting(4, line) for line in range(1, 6)]
    windows = cut(samples, **shape(2, 2), limit=limit)
    assert windows.line.tolist() == [1, 2, 3, 4, 5]


def test_limit_favours_no_sample() -> None:
    samples = [counting(2, line) for line in range(10)]
    rng, drawn = np.random.default_rng(1), np.zeros(10)
    for _ in range(600):
        settings = WindowSettings(**shape(1, 1), limit=3)
        drawn[cut_windows(samples, WORDS, settings, rng).sample] += 1
    # 600 draws at 3 in 10: 180 each, standard deviation 11.2
    assert drawn.min() > 180 - 5 * 11.2
    assert drawn.max() < 180 + 5 * 11.2


# What is passed on, and what is said.


def test_columns_and_groups_go_with_their_windows() -> None:
    samples: list[Sample | Skipped] = [
        counting(4, line=1, dup="3"),
        Skipped("b", 2, "bad", {"source": "x"}),
        Sample("c", 3, text=words(1), group="g", extra={"dup": "1", "short": "y"}),
        Sample("d", 4, text=words(*range(1, 7)), group="g", extra={"last": "z"}),
    ]
    columns = ("dup", "source", "short", "last")
    windows = cut(samples, **shape(2, 2), placement="sliding", keep_columns=columns)
    assert windows.columns == columns
    assert windows.group == (None, "g", "g")
    assert windows.extra[0] == {"dup": "3"}
    assert windows.extra[1] is windows.extra[2] is samples[3].extra
    assert windows.sample.tolist() == [0, 2, 2]
    assert [(skipped.line, skipped.reason) for skipped in windows.skipped] == [
        (2, "bad"),
        (3, "1 tokens, the window needs 4"),
    ]
    assert windows.skipped[1].extra == {"dup": "1", "short": "y"}
    assert windows.notes == ()


def test_a_note_names_a_window_that_fits() -> None:
    samples = [counting(tokens) for tokens in (100, 8, 9, 60, 11)]
    windows = cut(samples, **shape(30, 30))
    assert len(windows) == 2
    assert windows.notes == (
        "3 of 5 samples are too short for a window of 30+30 tokens;"
        " a window of 4+4 tokens would fit 90 % of the samples",
    )


def test_no_window_at_all_is_an_error() -> None:
    with pytest.raises(DataError) as error:
        cut([counting(8, line=3), counting(0, line=4)], **shape(30, 30))
    assert str(error.value) == (
        "none of 2 samples gives a window of 30+30 tokens; line 3: 8 tokens, the window needs 60;"
        " no window would fit 90 % of the samples"
    )
    with pytest.raises(DataError, match=r"line 5: bad$"):
        cut([Skipped("a", 5, "bad")])


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_the_fitting_window_fits_nine_in_ten_and_is_the_largest(lengths: list[int]) -> None:
    def fitting(half: int) -> float:
        return sum(length >= 2 * half for length in lengths) / len(lengths)

    said = fitting_window(lengths)
    if said == "no window would fit 90 % of the samples":
        half = 0
    else:
        half = int(said.split("+")[1].split()[0])
        assert said == f"a window of {half}+{half} tokens would fit 90 % of the samples"
        assert fitting(half) >= 0.9
    assert fitting(half + 1) < 0.9
