"""A private copy of a checkpoint's config, tokenizer and templates: bytes read are bytes hashed.

Knows which keys of these files name further files, and lets none of them lead out of the copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from memaudit.config.settings import TargetSettings
from memaudit.target.failures import explained
from memaudit.target.folders import CONFIG, PLAIN_NAME, SETTINGS, TOKENIZER, read_json
from memaudit.target.openings import hash_file, note_hash
from memaudit.target.refusals import refusal
from memaudit.target.source import Source, read_files

TOKENIZER_CONFIG = "tokenizer_config.json"
VERSIONED = {CONFIG: "configuration_files", TOKENIZER_CONFIG: "fast_tokenizer_files"}
"""File -> its key that names other files, one of which transformers reads instead."""
OF_TOKENIZER = (TOKENIZER_CONFIG, "special_tokens_map.json")
"""Files whose values become arguments of the tokenizer's class."""
FILE_KEY = "_file"
"""Ending of arguments that name a file. Older versions of transformers stored paths of the machine
on which a tokenizer was made, so such keys are left out of the copy."""

OF_TEXT = ("_token", "_tokens", "_tokens_decoder", "chat_template")
"""Endings of keys whose values are text, and may by chance be the name of a file."""


@contextmanager
def private_copy(source: Source, settings: TargetSettings) -> Iterator[Source]:
    """Copy all files of a source and its base except weights; yield a source of the copies.

    A GGUF file is not copied, nor is a checkpoint whose own code may run and read any file.

    Raises:
        TargetError: a file cannot be read, or names a file that is not part of the checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="memaudit-") as folder:
        yield _copied(source, settings, Path(folder))


def _copied(source: Source, settings: TargetSettings, folder: Path) -> Source:
    if source.gguf_file is not None:
        return source
    base = source.base and _copied(source.base, settings, folder)
    weights = {*source.stored.files, source.stored.index}
    original = Path(os.path.abspath(source.location))
    # transformers treats some models specially by their path.
    copy = Path(folder, *original.parts[1:])
    own_code = settings.trust_remote_code
    with explained(source.name):
        copy.mkdir(parents=True, exist_ok=True)
        for path in read_files(source, own_code=own_code):
            if path.name in weights:
                continue
            if own_code:
                hash_file(path)
                continue
            place = copy / path.relative_to(source.location)
            place.parent.mkdir(exist_ok=True)
            _copy(path, place)
            _close(source.name, place)
    return replace(source, location=source.location if own_code else str(copy), base=base)


def _copy(path: Path, place: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as original, place.open("wb") as copy:
        while block := original.read(1 << 20):
            digest.update(block)
            copy.write(block)
    note_hash(path, digest.hexdigest())


def _close(name: str, path: Path) -> None:
    """Refuse names of files outside the checkpoint in a copied file, and remove stored paths.

    Raises:
        TargetError: a key names a file outside; the message names the key.
    """
    if path.name not in {*VERSIONED, *OF_TOKENIZER}:
        return
    try:
        values = read_json(path)
    except ValueError:  # transformers refuses it too
        return
    key = VERSIONED.get(path.name, "")
    names = values.get(key, [])
    if not isinstance(names, list) or not all(map(_is_read, names)):
        raise refusal(
            name,
            f"{key} in {path.name} names a file that is not one of the checkpoint's own "
            "beside it; remove that line",
        )
    if path.name not in OF_TOKENIZER:
        return
    if values.get("init_inputs"):
        raise refusal(name, f"init_inputs in {path.name} is not empty; remove that line")
    rest = {key: value for key, value in values.items() if not key.endswith(FILE_KEY)}
    for key, value in rest.items():
        if not key.endswith(OF_TEXT) and _names_file(value):
            raise refusal(
                name,
                f"{key} in {path.name} names a file that is not part of the checkpoint; "
                "remove that line",
            )
    if len(rest) < len(values):
        path.write_text(json.dumps(rest), encoding="utf-8")


def _is_read(name: Any) -> bool:
    """Return True if a name is that of a file beside the config that is copied and hashed."""
    patterns = (*SETTINGS, *TOKENIZER)
    return (
        isinstance(name, str)
        and PLAIN_NAME.fullmatch(name) is not None
        and any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def _names_file(value: Any) -> bool:
    """Return True if a value holds the path of a file on this machine."""
    if isinstance(value, str):
        try:
            return os.path.isfile(value)
        except ValueError:  # a null character
            return False
    parts = value.values() if isinstance(value, Mapping) else value
    return isinstance(value, Mapping | list) and any(map(_names_file, parts))
