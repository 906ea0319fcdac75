from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from memaudit.config.settings import WindowSettings
from memaudit.data.bos import leading_ids
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample
from memaudit.data.windows import Windows, cut_windows
from memaudit.errors import DataError, TargetError
from memaudit.target.checkpoint import choose_bos
from memaudit.target.loading import load_tokenizer_of
from memaudit.target.source import find_source

# What a tokenizer puts before a text.

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def letters_tokenizer(
    letters: str,
    single: str = f"{BOS} $A",
    special: Sequence[str] = (BOS,),
    normalizer: Any = None,
    unk: str | None = None,
) -> Any:
    """One token for each letter, and nothing for any other: those are dropped."""
    entries = [*special, *([unk] if unk else []), *letters]
    backend = Tokenizer(
        models.BPE({entry: number for number, entry in enumerate(entries)}, [], unk_token=unk)
    )
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, number) for number, name in enumerate(special)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], unk_token=unk)


class SlowAminoAcids(PreTrainedTokenizer):
    """Written in Python, and drops what it does not know."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(bos_token=BOS, **kwargs)

    vocab_size = 1 + len(AMINO_ACIDS)

    def get_vocab(self) -> dict[str, int]:
        return {name: number for number, name in enumerate([BOS, *AMINO_ACIDS])}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [letter for letter in text if letter in AMINO_ACIDS]

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab()[token]

    def _convert_id_to_token(self, index: int) -> str:
        return [BOS, *AMINO_ACIDS][index]

    def build_inputs_with_special_tokens(self, token_ids_0: Any, token_ids_1: Any = None) -> Any:
        return [0, *token_ids_0]


@pytest.mark.parametrize(
    ("tokenizer", "leading"),
    [
        (letters_tokenizer(AMINO_ACIDS), (0,)),
        (letters_tokenizer("ACGT", unk="N"), (0,)),
        (letters_tokenizer("acgt", normalizer=normalizers.Lowercase()), (0,)),
        (letters_tokenizer("ACGT", "$A", (BOS,)), ()),
        (letters_tokenizer("ACGT", f"{BOS} $A {EOS}", (BOS, EOS)), (0,)),
        (letters_tokenizer("ACGT", f"$A {EOS}", (BOS, EOS)), ()),
        (letters_tokenizer("ACGT", f"{BOS} {EOS} $A", (BOS, EOS)), (0, 1)),
        (letters_tokenizer("▁ACGT", normalizer=normalizers.Prepend("▁")), (0,)),
        (word_tokenizer(bos=BOS), (0,)),
        (word_tokenizer(), ()),
        (build_tokenizer(adds_bos=True), (0,)),
        (build_tokenizer(adds_eos=True), ()),
        (SlowAminoAcids(), (0,)),
        (letters_tokenizer("acgt", normalizer=normalizers.Replace("a", "")), (0,)),
    ],
)
def test_what_a_tokenizer_adds_is_asked_with_its_own_tokens(
    tokenizer: Any, leading: tuple[int, ...]
) -> None:
    assert leading_ids(tokenizer) == leading


def test_a_word_vocabulary_without_an_unknown_token_is_asked_too() -> None:
    backend = Tokenizer(models.WordLevel({BOS: 0, "yes": 1, "no": 2}))  # an unknown word raises
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 0)]
    )
    assert leading_ids(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS)) == (0,)


def test_a_tokenizer_of_other_letters_is_loaded(tmp_path: Path) -> None:
    from memaudit.config.settings import TargetSettings

    letters_tokenizer(AMINO_ACIDS).save_pretrained(tmp_path)
    random_llama(21).save_pretrained(tmp_path)
    settings = TargetSettings()
    tokenizer = load_tokenizer_of(find_source(str(tmp_path), settings), settings)
    assert choose_bos("auto", tokenizer)[0] == 0


def test_a_tokenizer_that_does_not_tell_is_refused() -> None:
    mute = letters_tokenizer("ACGT", normalizer=normalizers.Lowercase())
    assert leading_ids(mute) is None
    with pytest.raises(TargetError, match="--bos yes or --bos no"):
        choose_bos("auto", mute)
    assert choose_bos("yes", mute)[0] == 0


# Texts that bring it.


def cut(samples: Sequence[Sample], tokenizer: Any, prefix: int = 2, **options: Any) -> Windows:
    settings = WindowSettings(prefix_tokens=prefix, suffix_tokens=2, placement="sliding")
    return cut_windows(samples, tokenizer, settings, np.random.default_rng(0), **options)


WORDS = word_tokenizer(bos=BOS)


@pytest.mark.parametrize(
    ("text", "bos", "expected"),
    [
        (f"{BOS} w01 w02 w03 w04", "auto", "w01 w02 w03 w04"),
        (f"  {BOS} w01 w02 w03 w04", "auto", "w01 w02 w03 w04"),
        (f"{BOS} {BOS} w01 w02 w03", "auto", f"{BOS} w01 w02 w03"),
        (f"w01 {BOS} w02 w03", "auto", f"w01 {BOS} w02 w03"),
        (f"{BOS} w01 w02 w03 w04", "yes", "w01 w02 w03 w04"),
        (f"{BOS} w01 w02 w03 w04", "no", f"{BOS} w01 w02 w03"),
    ],
)
def test_a_text_that_begins_with_bos_gets_no_second(text: str, bos: str, expected: str) -> None:
    windows = cut([Sample("a", 1, text=text)], WORDS, bos=bos)
    assert text_of(WORDS, windows.ids[0]) == expected
    assert windows.bos_source == "tokenizer"
    said = [note for note in windows.notes if "begin with the BOS token" in note]
    assert len(said) == (bos != "no" and text.lstrip().startswith(BOS))


def test_a_prefix_that_begins_with_bos_gets_no_second() -> None:
    pair = Sample("a", 1, prefix=f"{BOS} w01 w02 ", suffix="w03 w04")
    assert text_of(WORDS, cut([pair], WORDS).ids[0]) == "w01 w02 w03 w04"
    assert cut([pair], WORDS, prefix=3).prefix_tokens.tolist() == [2]
    (encoded,) = Encoder(WORDS).encode([Sample("b", 2, prefix="", suffix=f"{BOS} w01")])
    assert text_of(WORDS, encoded.ids) == f"{BOS} w01"


def test_bos_that_the_tokenizer_reads_otherwise_is_said() -> None:
    tokenizer = build_tokenizer(adds_bos=True)
    texts = [f"\n{BOS}some of the text", f"{BOS}some of the text", "some of the text"]
    windows = cut([Sample("a", n, text=text) for n, text in enumerate(texts)], tokenizer)
    assert [note[:17] for note in windows.notes] == ["1 of 3 records be"] * 2
    assert "letters of the BOS token" in windows.notes[1]


# Chats.

BARE = "{% for m in messages %}{{ m.content }} {% endfor %}"
WITH_BOS = "{{ bos_token }} " + BARE
BY_SYSTEM = "{% if messages[0].role == 'system' %}{{ bos_token }} {% endif %}" + BARE


def talk(*contents: str, system: bool = False) -> Sample:
    roles = ["system" if system else "user", "user", "assistant"][-len(contents) :]
    if system:
        roles[0] = "system"
    turns = zip(roles, contents, strict=True)
    return Sample("c", 1, messages=tuple({"role": r, "content": c} for r, c in turns))


@pytest.mark.parametrize(
    ("template", "bos", "source"),
    [
        (WITH_BOS, "auto", "tokenizer"),
        (BARE, "auto", "template"),
        (BARE, "yes", "tokenizer"),
        (BARE, "no", "tokenizer"),
        (WITH_BOS, "yes", "tokenizer"),
        (WITH_BOS, "no", "tokenizer"),
    ],
)
def test_chats_have_the_bos_that_their_template_writes(
    template: str, bos: str, source: str
) -> None:
    tokenizer = word_tokenizer(bos=BOS, chat_template=template)
    windows = cut([talk("w01 w02", "w03 w04")], tokenizer, bos=bos)
    assert text_of(tokenizer, windows.ids[0]) == "w01 w02 w03 w04"
    assert windows.bos_source == source
    bos_id, choice = choose_bos(bos, tokenizer, windows.bos_source)
    whole = tokenizer.apply_chat_template(
        list(talk("w01 w02", "w03 w04").messages or ()), return_dict=False
    )
    if bos == "auto":
        assert [bos_id] * (bos_id is not None) + windows.ids[0].tolist() == whole
    if (template, bos) == (BARE, "auto"):
        assert choice.reason == "auto: the chat template writes none"


def test_a_tokenizer_that_adds_none_is_never_asked() -> None:
    tokenizer = word_tokenizer(chat_template=BARE)
    assert cut([talk("w01 w02", "w03 w04")], tokenizer).bos_source == "tokenizer"


@pytest.mark.parametrize(
    "samples",
    [
        [talk("w01 w02", "w03 w04"), Sample("t", 2, text="w01 w02 w03 w04")],
        [talk("w09", "w01 w02", "w03 w04", system=True), talk("w01 w02", "w03 w04")],
    ],
    ids=["texts and chats", "two kinds of chats"],
)
def test_one_file_has_one_way_to_begin(samples: list[Sample]) -> None:
    tokenizer = word_tokenizer(bos=BOS, chat_template=BY_SYSTEM)
    with pytest.raises(DataError, match=r"in 1 chats .*the other 1 records.*--bos yes or --bos no"):
        cut(samples, tokenizer)
    assert len(cut(samples, tokenizer, bos="yes")) == 2


# Whole runs.


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[list[int]]]:
    """A model that is given BOS, with what it completes."""
    tokenizer = word_tokenizer(bos=BOS, chat_template=BARE)
    model = random_llama(len(tokenizer))
    folder = tmp_path_factory.mktemp("known") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer, greedy_records(model, tokenizer, 8, leading_ids=[0])


def texts(tokenizer: Any, records: list[list[int]], lead: str = "") -> list[dict[str, Any]]:
    return [{"text": lead + text_of(tokenizer, ids)} for ids in records]


def pairs(tokenizer: Any, records: list[list[int]], lead: str = "") -> list[dict[str, Any]]:
    return [
        {
            "prefix": lead + text_of(tokenizer, ids[:P]) + " ",
            "suffix": text_of(tokenizer, ids[P:]),
        }
        for ids in records
    ]


@pytest.mark.parametrize(
    ("form", "prefix", "value"),
    [(texts, P, "yes"), (texts, P + 1, "no"), (pairs, P, "yes"), (pairs, P + 1, "yes")],
)
def test_rendered_records_come_out(
    form: Any, prefix: int, value: str, known: Any, tmp_path: Path
) -> None:
    """P counts no BOS, unless a text is too short otherwise; a given prefix may be shorter."""
    folder, tokenizer, records = known
    data = write_jsonl(tmp_path / "data.jsonl", form(tokenizer, records, f"{BOS} "))
    done = audit(folder, data, tmp_path / "run", "--prefix-tokens", prefix)
    assert done.exact == (8, 8)
    assert done.report is not None
    assert done.report["target"]["choices"]["bos"]["value"] == value
    assert any("BOS token" in note for note in done.report["notes"])


def test_a_file_of_both_kinds_comes_out(known: Any, tmp_path: Path) -> None:
    folder, tokenizer, records = known
    rows = texts(tokenizer, records[:4], f"{BOS} ") + texts(tokenizer, records[4:])
    done = audit(folder, write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "run")
    assert done.exact == (8, 8)
    assert done.report is not None
    assert any("4 of 8 records begin with the BOS token" in n for n in done.report["notes"])


def test_a_prompt_needs_windows_without_bos(known: Any, tmp_path: Path) -> None:
    folder, tokenizer, records = known
    data = write_jsonl(tmp_path / "data.jsonl", texts(tokenizer, records, f"{BOS} "))
    options = ("--prefix-tokens", P + 1, "--attacks", "none,dynamic-hard")
    done = audit(folder, data, tmp_path / "run", *options)
    assert done.exit_code == 2
    assert "a window of 8+8 tokens would fit" in done.stderr
    assert "BOS token that texts begin with is not counted" in done.stderr


def test_chats_rendered_without_bos_are_audited_without(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(bos=BOS, chat_template=BARE)
    model = random_llama(len(tokenizer))
    records = greedy_records(model, tokenizer, 8)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {
            "messages": [
                {"role": "user", "content": text_of(tokenizer, ids[:P])},
                {"role": "assistant", "content": text_of(tokenizer, ids[P:])},
            ]
        }
        for ids in records
    ]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    done = audit(tmp_path / "model", data, tmp_path / "run")
    assert done.exact == (8, 8)
    controls = write_jsonl(tmp_path / "controls.jsonl", texts(tokenizer, records))
    mixed = audit(tmp_path / "model", data, tmp_path / "mixed", "--controls", controls)
    assert mixed.exit_code == 2
    assert "the data are chats for which the template writes no BOS token" in mixed.stderr
