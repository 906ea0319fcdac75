"""Tokenizers that draw ids at random, or whose decoder multiplies text, are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from tokenizers import decoders

from memaudit.config.settings import TargetSettings
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_tokenizer
from memaudit.target.tokenizer_limits import check_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "model")


def load(folder: Path) -> Any:
    return load_tokenizer(str(folder), TargetSettings(device="cpu"))


def change(path: Path, part: str, value: Any) -> None:
    stored = json.loads(path.read_text())
    stored[part] = stored[part] | value if part == "model" else value
    path.write_text(json.dumps(stored))


# Random ids.


def test_dropout_is_refused(folder: Path) -> None:
    change(folder / "tokenizer.json", "model", {"dropout": 0.001})
    with pytest.raises(TargetError, match=r"samples the ids of a text at random \(dropout\)"):
        load(folder)


def test_dropout_in_another_file_of_the_tokenizer_is_refused(folder: Path) -> None:
    other = folder / "tokenizer.1.0.json"
    other.write_text((folder / "tokenizer.json").read_text())
    change(other, "model", {"dropout": 0.3})
    settings = folder / "tokenizer_config.json"
    stored = json.loads(settings.read_text()) | {"fast_tokenizer_files": [other.name]}
    settings.write_text(json.dumps(stored))
    with pytest.raises(TargetError, match="at random"):
        load(folder)


@pytest.mark.parametrize("dropout", [None, 0.0])
def test_no_dropout_is_none(folder: Path, dropout: float | None) -> None:
    change(folder / "tokenizer.json", "model", {"dropout": dropout})
    load(folder)


def test_sampling_of_sentencepiece_is_refused() -> None:
    sampling = SimpleNamespace(sp_model_kwargs={"enable_sampling": True, "alpha": 0.1})
    with pytest.raises(TargetError, match="enable_sampling"):
        check_tokenizer("m", sampling)


def test_ids_that_differ_from_time_to_time_are_refused() -> None:
    """Ids are compared, whatever makes them random."""
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.model.dropout = 0.5
    samples = [Sample(str(number), number, text="the suffix followed") for number in range(1, 9)]
    with pytest.raises(TargetError, match="different ids each time"):
        Encoder(tokenizer).encode(samples)


# Decoders that multiply text.


def replace(old: dict[str, str], new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": old, "content": new}


BOMBS: dict[str, list[dict[str, Any]]] = {
    "one step": [replace({"String": "e"}, "x" * 10**6)],
    "a chain": [replace({"String": "x"}, "xx")] * 30,
    "a pattern, at a length of windows only": [
        replace({"Regex": r"\A[\s\S]{60,420}\z"}, "\ue000" * 1000),
        replace({"String": "\ue000"}, "z" * 60),
    ],
    "between all characters": [replace({"Regex": ""}, "x")] * 12,
    "between all characters, of no string": [replace({"String": ""}, "x")] * 12,
    "a suffix of no characters": [{"type": "BPEDecoder", "suffix": ""}] * 12,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_decoder_that_multiplies_text_is_refused(folder: Path, name: str) -> None:
    steps = [{"type": "Sequence", "decoders": [*BOMBS[name], {"type": "Fuse"}]}, {"type": "Fuse"}]
    change(folder / "tokenizer.json", "decoder", {"type": "Sequence", "decoders": steps})
    with pytest.raises(TargetError, match=r"lets the decoder write [\d,]+ characters for a token"):
        load(folder)


def test_a_token_of_a_million_characters_is_refused(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"]["x" * 10**6] = len(stored["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    with pytest.raises(TargetError, match="1,000,000 characters for a token"):
        load(folder)


LLAMA = (decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse())


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.ByteLevel(),
        decoders.Metaspace(),
        decoders.WordPiece(),
        decoders.BPEDecoder(),
        decoders.CTC(),
        decoders.Sequence([*LLAMA, decoders.Strip(" ", 1, 0)]),
    ],
)
def test_usual_decoders_are_not_refused(decoder: Any) -> None:
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoder
    check_tokenizer("m", tokenizer)
