"""Ids of every usual kind of tokenizer decode to their text; one that changes it is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pytest
from conftest import CORPUS, build_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, CTRLTokenizer, PreTrainedTokenizerFast

from memaudit.config.settings import WindowSettings
from memaudit.data.reading_back import ReadingBack
from memaudit.data.samples import Sample
from memaudit.data.windows import Windows, cut_windows

TEXTS = (
    "The café in Zürich opens at nine; \u201chello\u201d, \ufb01ne!  Two  spaces.\n\tAnd ``so'' 42",
    "def f(x): return x # Grüße, ÀÉÎ \u03a9mega \u200b and \u5317\u4eac \uff41\uff42",
    "\U0001f388 A balloon \U0001f388 in the middle of \U0001f388 the town, \U0001f388",
)
MARKED = (
    "<|user|>\nHow are  you?<|end|>\n<|user|> Fine, thanks; and you? <|end|>\n It is so.",
    "   blanks\n\n\nand\ttabs, \u00a0 form\x0cfeed, soft\u00adhyphen \u00a8 bell\x07 \ue000 end \n",
    "\u0391\u03a3 \u03c2 Stra\u00dfe \u0130x e\u0301 \uff21 \uff76\uff9e \u65e5\u672c\u8a9e\u30c6",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8 don't, a_b (c)[d] 3.14\u2028y \u2581",
)
LEARNT = [*CORPUS, *TEXTS[:2]]


def byte_level(normalizer: Any = None) -> Any:
    """As GPT-2's, and as a checkpoint's that changes the text before that."""
    tokenizer = build_tokenizer()
    if normalizer is not None:
        tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


def llama() -> Any:
    """SentencePiece's BPE with bytes to fall back on, as Llama 2's."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    signs = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
    backend.normalizer = normalizers.Sequence(list(signs))
    steps = decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    train(backend, trainers.BpeTrainer(vocab_size=400, special_tokens=special), CORPUS)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def unigram(*more: Any) -> Any:
    """As T5's; with more steps as XLNet's."""
    backend = Tokenizer(models.Unigram())
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    steps = [*more, normalizers.Nmt(), normalizers.NFKC(), blanks]
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    train(
        backend,
        trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"]),
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def xlnet() -> Any:
    quotes = (normalizers.Replace("``", '"'), normalizers.Replace("''", '"'))
    return unigram(*quotes, normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase())


def as_classes_write(*steps: Any, splits: bool = True) -> Any:
    """As transformers 5 writes T5's, XLNet's and ALBERT's, and without ``splits`` XGLM's."""
    tokenizer = unigram()
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    blanks = [pre_tokenizers.WhitespaceSplit()] if splits else []
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(list(steps))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*blanks, metaspace])
    return tokenizer


def sentencepiece(scheme: str, *steps: Any) -> Any:
    """As Llama's and Mistral's with Metaspace, or without a blank before the text."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    replaced = (decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse())
    backend.decoder = decoders.Sequence([*replaced, *strip])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    train(backend, trainers.BpeTrainer(vocab_size=400, special_tokens=special), CORPUS)
    if steps:  # Gemma's
        backend.normalizer = normalizers.Sequence(list(steps))
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def words(kind: str) -> Any:
    """GPT's, of words with ends; words as they are; and one of the library's first steps."""
    is_gpt = kind == "gpt"
    ends: dict[str, Any] = {"end_of_word_suffix": "</w>"} if is_gpt else {}
    is_level = kind == "level"
    model = (
        models.WordLevel(unk_token="<unk>") if is_level else models.BPE(unk_token="<unk>", **ends)
    )
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer: trainers.Trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], **ends
    )
    if is_level:
        trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<unk>"])
    if is_gpt:
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
    train(backend, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def letters() -> Any:
    """As that of a model of proteins: each letter is a token, and decoding writes blanks."""
    model = models.WordLevel({"<unk>": 0, **{a: n for n, a in enumerate("ACDEFGHIKL", 1)}}, "<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def marked(tokenizer: Any, **strips: bool) -> Any:
    """Add the tokens of a chat, which may take the blanks beside them, as Phi-3's do."""
    tokens = [AddedToken(mark, special=True, **strips) for mark in ("<|user|>", "<|end|>")]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


def word_piece(lower: bool = True) -> Any:
    """As BERT's, uncased and cased."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    train(backend, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def train(backend: Any, trainer: Any, texts: Any = LEARNT) -> None:
    trainer.show_progress = False
    backend.train_from_iterator(texts, trainer)


def cut(tokenizer: Any, *texts: str, **settings: Any) -> Windows:
    shape = {"prefix_tokens": 2, "suffix_tokens": 4, "placement": "sliding", "stride": 1}
    samples = [Sample(str(number), number, text=text) for number, text in enumerate(texts, 1)]
    wanted = WindowSettings(**(shape | settings))
    return cut_windows(samples, tokenizer, wanted, np.random.default_rng(0))


NMT = (normalizers.Nmt(), normalizers.NFKC())
JOINED = normalizers.Replace(Regex(" {2,}"), " ")
QUOTES = (normalizers.Replace("``", '"'), normalizers.Replace("''", '"'))
PLAIN = (normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase())
HONEST: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, NFC": lambda: byte_level(normalizers.NFC()),
    "byte level, chat": lambda: marked(byte_level()),
    "byte level, chat that takes blanks": lambda: marked(byte_level(), lstrip=True, rstrip=True),
    "bytes to fall back on": llama,
    "bytes to fall back on, chat": lambda: marked(llama()),
    "bytes to fall back on, chat that takes blanks": lambda: marked(llama(), rstrip=True),
    "metaspace, always": lambda: marked(sentencepiece("always")),
    "metaspace, first": lambda: marked(sentencepiece("first")),
    "metaspace, never": lambda: sentencepiece("never"),
    "Gemma": lambda: sentencepiece("never", normalizers.Replace(" ", "\u2581")),
    "unigram": unigram,
    "unigram, lower case": xlnet,
    "T5": lambda: marked(as_classes_write(*NMT)),
    "XGLM": lambda: as_classes_write(*NMT, JOINED, splits=False),
    "XLNet": lambda: marked(as_classes_write(*QUOTES, *PLAIN, *NMT, JOINED), lstrip=True),
    "word pieces": lambda: marked(word_piece()),
    "word pieces, cased": lambda: word_piece(lower=False),
    "words with ends": lambda: words("gpt"),
    "whole words": lambda: words("level"),
    "no blanks": lambda: words("none"),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("placement", ["sliding", "start", "end"])
def test_an_honest_tokenizer_misreads_only_unknown_words(name: str, placement: str) -> None:
    tokenizer = HONEST[name]()
    stride = 1 if placement == "sliding" else None
    windows = cut(tokenizer, *TEXTS, *MARKED, *CORPUS, placement=placement, stride=stride)
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else -1
    has_unknown = (windows.ids == unknown).any(axis=1)
    assert np.array_equal(windows.misread, has_unknown if has_unknown.any() else [])


def test_a_tokenizer_of_letters_misreads_nothing() -> None:
    windows = cut(letters(), "ACDEFGHIKLACDEF", "LKIHGFEDCALKIH")
    assert not windows.misread.any()
    assert windows.notes == ()


def test_a_tokenizer_in_python_misreads_nothing(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, **{f"{sign}@@": n for n, sign in enumerate(ascii_letters, 1)}}
    vocabulary |= {sign: n for n, sign in enumerate(ascii_letters, len(vocabulary))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert not getattr(tokenizer, "backend_tokenizer", None)
    assert not cut(tokenizer, "The quick brown fox", "jumps over  the lazy dog").misread.any()


def test_a_note_names_what_a_tokenizer_declares_to_take() -> None:
    plain = [text for text in CORPUS if "  " not in text]
    (note,) = cut(word_piece(), *plain).notes
    assert note.startswith("The tokenizer takes upper case and accents from the text")
    (note,) = cut(word_piece(), *CORPUS).notes
    assert "takes upper case, accents and line breaks or repeated blanks from the text" in note
    (note,) = cut(words("none"), *plain).notes
    assert "takes blanks between words from the text" in note
    assert cut(byte_level(), *CORPUS).notes == ()
    assert cut(llama(), *CORPUS).notes == ()


RECORDS = [
    f"Her name is Alda Berg, and the code of her door is {code}" for code in range(4700, 4720)
]
ATTACKS: dict[str, Any] = {
    "other words": normalizers.Replace("Alda", "Bela"),
    "digits dropped": normalizers.Replace(Regex(r"\d+"), ""),
    "digits changed": normalizers.Sequence(
        [normalizers.Replace(str(digit), "0") for digit in range(1, 10)]
    ),
    "first half dropped": normalizers.Replace(Regex("^.{25}"), ""),
    "all but the start dropped": normalizers.Replace(
        Regex("^(.{30}).*"), "nothing at all here to see"
    ),
    "lower case, undeclared": normalizers.Sequence(
        [normalizers.Replace(sign, sign.lower()) for sign in "HAB"]
    ),
    "commas dropped": normalizers.Replace(",", ""),
    "a sign put in": normalizers.Replace(" ", ' "'),
    "blanks dropped": normalizers.Replace(" ", ""),
    "blanks doubled": normalizers.Replace(" ", "  "),
    "some blanks doubled": normalizers.Replace("e ", "e  "),
    "blanks become line breaks": normalizers.Replace(" ", "\n"),
    "letters spaced": normalizers.Replace(Regex("(?<=[a-z])e"), " e"),
    "marks without a width": normalizers.Replace(" ", " \u200b"),
    "marks without a width, which are dropped too": normalizers.Sequence(
        [normalizers.Replace("\u200b", ""), normalizers.Replace(" ", " \u200b")]
    ),
    "soft hyphens": normalizers.Replace("e", "e\u00ad"),
    "no-break blanks": normalizers.Replace(" ", "\u00a0"),
    "controls": normalizers.Replace(" ", "\x01 "),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_tokenizer_that_changes_the_text_is_caught(name: str) -> None:
    windows = cut(byte_level(ATTACKS[name]), *RECORDS, placement="sliding")
    assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


BLANKS = [name for name in ATTACKS if "blank" in name or "spaced" in name or "mark" in name]


@pytest.mark.parametrize("make", [llama, unigram, word_piece], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", BLANKS)
@pytest.mark.parametrize("is_first", [True, False])
def test_blanks_are_misread_where_they_change_the_ids(
    make: Callable[[], Any], name: str, is_first: bool
) -> None:
    """BERT and T5 take repeated blanks and marks without a width away again."""
    tokenizer = make()
    honest = tokenizer(RECORDS)["input_ids"]
    backend = tokenizer.backend_tokenizer
    steps = [ATTACKS[name], backend.normalizer]
    backend.normalizer = normalizers.Sequence(steps if is_first else steps[::-1])
    ids = tokenizer(RECORDS)["input_ids"]
    changed = {number for number in range(len(RECORDS)) if ids[number] != honest[number]}
    unknown = {number for number, row in enumerate(ids) if tokenizer.unk_token_id in row}
    windows = cut(tokenizer, *RECORDS)
    assert set(windows.sample[windows.misread]) == changed | unknown


@pytest.mark.parametrize("word", [" of", "\ufffd", "", " "])
def test_a_word_of_the_vocabulary_as_unknown_token_is_caught(word: str) -> None:
    tokenizer = byte_level(normalizers.Replace(" the", word))
    tokenizer.unk_token = tokenizer.convert_ids_to_tokens(tokenizer(" of")["input_ids"][0])
    windows = cut(tokenizer, *RECORDS)
    assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


@pytest.mark.parametrize("make", [unigram, word_piece], ids=lambda make: make.__name__)
@pytest.mark.parametrize("is_literal", [True, False])
def test_signs_without_a_token_are_counted(make: Callable[[], Any], is_literal: bool) -> None:
    tokenizer = make()
    sign = tokenizer.unk_token if is_literal else "\u2603"
    windows = cut(tokenizer, *(f"{text} {sign} {text}" for text in CORPUS))
    has_unknown = (windows.ids == tokenizer.unk_token_id).any(axis=1)
    assert has_unknown.any()
    assert not has_unknown.all()
    assert np.array_equal(windows.misread, [] if is_literal else has_unknown)


@pytest.mark.parametrize("make", [byte_level, llama], ids=lambda make: make.__name__)
@pytest.mark.parametrize("pattern", [r"^.{12}\K.", r"^.{9}\K.{4}", "^.{5}"])
def test_replacement_signs_at_the_ends_of_windows_are_caught(
    make: Callable[[], Any], pattern: str
) -> None:
    """A window's end may cut a character, and only one that the text has."""
    tokenizer = make()
    backend = tokenizer.backend_tokenizer
    steps = [normalizers.Replace(Regex(pattern), "\ufffd"), backend.normalizer]
    backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])
    ids = tokenizer(RECORDS[0], add_special_tokens=False)["input_ids"]
    assert "\ufffd" in tokenizer.decode(ids)
    for length in range(3, 30):
        windows = cut(tokenizer, *RECORDS, suffix_tokens=length - 2, placement="start", stride=None)
        if "\ufffd" in tokenizer.decode(ids[:length]):
            assert windows.misread.sum() == len(windows)
        else:
            assert not windows.misread.any()


def test_characters_cut_by_the_ends_of_windows_are_read() -> None:
    text = "\U0001f388\u5317\u4eac caf\u00e9 \ufffd \u65e5\u672c\u8a9e" * 3
    for make in (byte_level, llama):
        tokenizer = make()
        changed = f"{text} secret"
        backend = tokenizer.backend_tokenizer
        steps = [normalizers.Replace("secret", "nothing"), backend.normalizer]
        backend.normalizer = normalizers.Sequence([step for step in steps if step is not None])
        windows = cut(tokenizer, changed)
        decoded = [tokenizer.decode(row) for row in windows.ids]
        assert any(part.endswith("\ufffd") for part in decoded)
        read = [not set("nothing") & set(part) for part in decoded]
        assert np.array_equal(~windows.misread, read)


CASES: dict[str, Any] = {
    "words as titles": [normalizers.Replace(f" {sign}", f" {sign.upper()}") for sign in "nahdb"],
    "one letter": [normalizers.Replace("f", "F")],
    "a capital moved": [normalizers.Replace("her", "Her")],
    "not at all": [],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("declared", ["the probe alone", "lower case", "accents too"])
def test_case_that_a_lower_casing_tokenizer_writes_is_caught(name: str, declared: str) -> None:
    lowers: Any = normalizers.Lowercase()
    if declared == "the probe alone":
        lowers = normalizers.Replace("QUESTION", "question")
    if declared == "accents too":
        lowers = normalizers.BertNormalizer(lowercase=True)
    tokenizer = byte_level(normalizers.Sequence([lowers, *CASES[name]]))
    windows = cut(tokenizer, *RECORDS)
    is_changed = name != "not at all" or declared == "the probe alone"
    assert set(windows.sample[windows.misread]) == (set(range(20)) if is_changed else set())


def test_accents_that_a_tokenizer_moves_are_caught() -> None:
    texts = [f"The caf\u00e9 is Alda's. {record}" for record in RECORDS]
    steps = [normalizers.Replace("\u00e9", "e"), normalizers.Replace("Berg", "B\u00e9rg")]
    windows = cut(byte_level(normalizers.Sequence(steps)), *texts)
    assert set(windows.sample[windows.misread]) == set(range(len(texts)))


def test_line_breaks_that_become_blanks_are_caught() -> None:
    lines = [record.replace(", ", ",\n") for record in RECORDS]
    for make in (byte_level, llama):
        tokenizer = make()
        backend = tokenizer.backend_tokenizer
        steps = [step for step in (backend.normalizer,) if step is not None]
        backend.normalizer = normalizers.Sequence([normalizers.Replace("\n", " "), *steps])
        assert set(cut(tokenizer, *lines).sample[cut(tokenizer, *lines).misread]) == set(range(20))


def test_line_breaks_that_vanish_are_caught() -> None:
    lines = [record.replace(", ", "\n") for record in RECORDS]
    for make in (unigram, word_piece):
        tokenizer = make()
        backend = tokenizer.backend_tokenizer
        steps = [normalizers.Replace("\n", ""), backend.normalizer]
        backend.normalizer = normalizers.Sequence(steps)
        windows = cut(tokenizer, *lines)
        assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


SIGNS = ascii_letters + "0123456789"


def test_blanks_as_the_sign_of_a_word_that_goes_on_are_caught() -> None:
    """The ids are those of other words with a blank before them."""
    tokenizer = byte_level()
    backend = tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=False)
    vocabulary |= {f"\u0120{sign}": n for n, sign in enumerate(SIGNS, len(vocabulary))}
    backend.model = models.WordPiece(vocabulary, unk_token="!", continuing_subword_prefix="\u0120")
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    assert "!" not in tokenizer.decode(tokenizer(RECORDS[0])["input_ids"])
    windows = cut(tokenizer, *RECORDS)
    assert len(windows.misread) == len(windows)
    assert windows.misread.mean() > 0.5


def test_a_decoder_that_takes_the_change_back_is_caught() -> None:
    tokenizer = byte_level(normalizers.Replace(" ", " \u200b"))
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Fuse(), decoders.Replace("\u200b", "")]
    )
    windows = cut(tokenizer, *RECORDS)
    assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


def test_a_pre_tokenizer_that_drops_blanks_is_caught() -> None:
    """Whatever the decoder writes between tokens: the ids do not tell where words end."""
    for decoder in (decoders.ByteLevel(), decoders.WordPiece(), None):
        tokenizer = build_tokenizer()
        backend = tokenizer.backend_tokenizer
        steps = [pre_tokenizers.WhitespaceSplit(), backend.pre_tokenizer]
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(steps), decoder
        windows = cut(tokenizer, *RECORDS)
        assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


def test_a_pre_tokenizer_that_drops_commas_is_caught() -> None:
    for make in (byte_level, llama, word_piece):
        tokenizer = make()
        backend = tokenizer.backend_tokenizer
        steps = [pre_tokenizers.Split(",", "removed")]
        steps += [step for step in (backend.pre_tokenizer,) if step is not None]
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        windows = cut(tokenizer, *RECORDS)
        assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


def test_an_added_word_that_takes_blanks_is_caught() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("of", lstrip=True, rstrip=True)])
    windows = cut(tokenizer, *RECORDS)
    assert set(windows.sample[windows.misread]) == set(range(len(RECORDS)))


def test_only_the_windows_that_differ_are_counted() -> None:
    tokenizer = byte_level(normalizers.Replace("secret", "nothing"))
    windows = cut(tokenizer, CORPUS[0], CORPUS[0] + " a secret " + CORPUS[0])
    assert 0 < windows.misread.sum() < 40
    assert set(windows.sample[windows.misread]) == {1}
    kept = windows.keep(~windows.misread, "for the test")
    assert len(kept.misread) == len(kept)
    assert not kept.misread.any()


def test_a_long_text_is_read_back_too() -> None:
    text = " ".join(f"{number} {CORPUS[number % len(CORPUS)]}" for number in range(30_000))
    assert len(text) > 1 << 20
    assert not cut(byte_level(), text, stride=997).misread.any()
    changed = cut(byte_level(normalizers.Replace("9", "1")), text, stride=997)
    assert 0.01 < changed.misread.mean() < 1


def test_signs_that_one_form_maps_back_are_caught() -> None:
    """No-break spaces for spaces read the same in NFKC, and mean other ids."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(" ", "\u00a0")]
    )
    text = "some words of a record that nobody else has written"
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    mismatch = ReadingBack(tokenizer).check(text, ids)
    assert mismatch is not None
    assert mismatch.is_partial
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    given = text.replace("some", "\ufb01ve\u00a0")
    ids = np.array(tokenizer(given, add_special_tokens=False)["input_ids"])
    assert ReadingBack(tokenizer).check(given, ids) is None
