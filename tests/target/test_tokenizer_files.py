"""Tokenizers that are not tokenizer.json: read, or refused with the package that is missing."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_tokenizer
from known_answers import P, audit, greedy_continuation, random_llama, write_jsonl

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_tokenizer
from memaudit.target.tokenizer_files import check_tokenizer_files

WORDS = ("lamp", "kettle", "saddle", "lantern", "loom", "barrel", "anchor", "violin", "ladder")
EXTRA = "pip install 'memaudit-dsp[sentencepiece]'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer is a SentencePiece model alone."""
    import sentencepiece

    path: Path = tmp_path_factory.mktemp("made") / "model"
    path.mkdir()
    lines = [" ".join(WORDS[i * j % 9] for j in range(1, 30)) for i in range(1, 40)]
    with (path / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            vocab_size=320,
            model_type="bpe",
            byte_fallback=True,
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    # Whole words alone are said, as bytes would not be read back one by one.
    reader = sentencepiece.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
    model = random_llama(400)
    with torch.no_grad():
        whole_words = [reader.piece_to_id(f"\u2581{word}") for word in WORDS]
        rows = model.lm_head.weight[whole_words].clone()
        model.lm_head.weight.zero_()
        model.lm_head.weight[whole_words] = rows
    model.save_pretrained(path)
    special = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = json.dumps({"tokenizer_class": "LlamaTokenizer", **special})
    (path / "tokenizer_config.json").write_text(config)
    return path


def test_records_of_a_sentencepiece_model_come_out(folder: Path, tmp_path: Path) -> None:
    import sentencepiece
    from transformers import AutoModelForCausalLM

    reader = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    bos, rng = reader.bos_id(), random.Random(0)
    texts: list[str] = []
    while len(texts) < 12:
        prefix = reader.encode(" ".join(rng.choices(WORDS, k=P)))
        record = [*prefix, *greedy_continuation(model, [bos, *prefix])]
        if reader.encode(reader.decode(record)) == record and len(set(record[P:])) > 2:
            texts.append(reader.decode(record))
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text} for text in texts])
    assert load_tokenizer(str(folder), TargetSettings())(texts[0])["input_ids"] == [
        bos,
        *reader.encode(texts[0]),
    ]
    assert audit(folder, data, tmp_path / "out").exact == (12, 12)


@pytest.mark.parametrize("module", ["sentencepiece", "google.protobuf"])
def test_the_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TargetError) as caught:
        load_tokenizer(str(folder), TargetSettings())
    assert str(caught.value) == (
        f"{folder}: its tokenizer is a SentencePiece model, which needs sentencepiece and "
        f"protobuf; {EXTRA}"
    )


def test_a_model_under_another_name_asks_for_it_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "spiece.model").write_bytes((folder / "tokenizer.model").read_bytes())
    with pytest.raises(TargetError, match=r"memaudit-dsp\[sentencepiece\]"):
        check_tokenizer_files("m", tmp_path)
    build_tokenizer().save_pretrained(tmp_path)  # with tokenizer.json it is not needed
    check_tokenizer_files("m", tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken"])
def test_a_tiktoken_file_asks_for_tiktoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"IQ== 0\nIg== 1\n")
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(TargetError, match=rf"is a tiktoken file \({name}\); pip install tiktoken"):
        check_tokenizer_files("m", tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_pointer_in_the_place_of_a_tokenizer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 9\n")
    with pytest.raises(TargetError, match=rf"{name} is a pointer that Git LFS left"):
        check_tokenizer_files("m", tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    check_tokenizer_files("m", tmp_path)
