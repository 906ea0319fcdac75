"""Tokenizers of every usual kind read back as their text; those that change it are caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import CORPUS, build_tokenizer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memaudit.config.settings import WindowSettings
from memaudit.data.samples import Sample
from memaudit.data.windows import Windows, cut_windows

TEXTS = (
    "The café in Zürich opens at nine; \u201chello\u201d, \ufb01ne!  Two  spaces.\n\tAnd ``so'' 42",
    "def f(x): return x # Grüße, ÀÉÎ \u03a9mega \u200b and \u5317\u4eac \uff41\uff42",
    "\U0001f388 A balloon \U0001f388 in the middle of \U0001f388 the town, \U0001f388",
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


HONEST: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, NFC": lambda: byte_level(normalizers.NFC()),
    "bytes to fall back on": llama,
    "unigram": unigram,
    "unigram, lower case": xlnet,
    "word pieces": word_piece,
    "word pieces, cased": lambda: word_piece(lower=False),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("placement", ["sliding", "start", "end"])
def test_an_honest_tokenizer_misreads_nothing(name: str, placement: str) -> None:
    tokenizer = HONEST[name]()
    stride = 1 if placement == "sliding" else None
    windows = cut(tokenizer, *TEXTS, *CORPUS, placement=placement, stride=stride)
    assert not windows.misread.any()


def test_what_a_tokenizer_declares_to_take_is_said() -> None:
    (note,) = cut(word_piece(), *CORPUS).notes
    assert note.startswith("The tokenizer takes upper case and accents from the text")
    assert cut(byte_level(), *CORPUS).notes == ()


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
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_tokenizer_that_changes_the_text_is_caught(name: str) -> None:
    windows = cut(byte_level(ATTACKS[name]), *RECORDS, placement="sliding")
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
