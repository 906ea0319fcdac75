"""Files of a tokenizer, checked before a library opens them for damage and missing packages.

Knows how the formats that are not tokenizer.json begin.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from memaudit.target.failures import explained
from memaudit.target.folders import matching_files, read_json
from memaudit.target.refusals import refusal
from memaudit.target.weight_files import refuse_unusable

SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
"""Module needed to read a SentencePiece model -> its package."""
FIRST_FIELD = b"\x0a"
"""First byte of a SentencePiece model: the tag of its first piece, in protobuf's format."""


def check_tokenizer_files(name: str, folder: Path) -> None:
    """Refuse a damaged tokenizer.json, and a format whose package is missing.

    name: name that the user gave the model.

    Raises:
        TargetError: the message names the file or package.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        refuse_unusable(name, path)
        with explained(name):  # the tokenizers library raises a bare Exception for a damaged one
            read_json(path)
        return
    pieces = sorted(matching_files(folder, ("*.model", "*.spm")))
    tiktoken = sorted(matching_files(folder, ("*.tiktoken",)))
    for file in pieces:
        refuse_unusable(name, file)
        with explained(name), file.open("rb") as opened:
            if opened.read(1) == FIRST_FIELD:
                _require_sentencepiece(name)
            else:
                tiktoken.append(file)
    if tiktoken and not _is_there("tiktoken"):
        raise refusal(
            name,
            f"its tokenizer is a tiktoken file ({tiktoken[0].name}); pip install tiktoken, "
            "or put its tokenizer.json beside it",
        )


def _require_sentencepiece(name: str) -> None:
    if all(map(_is_there, SENTENCEPIECE)):
        return
    raise refusal(
        name,
        f"its tokenizer is a SentencePiece model, which needs "
        f"{' and '.join(SENTENCEPIECE.values())}; pip install 'memaudit-dsp[sentencepiece]'",
    )


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True
