"""Contents of a folder: a whole checkpoint, an adapter, or neither; and its weights files.

Knows which files transformers and PEFT open, in which order. Reads indexes, opens no weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from memaudit.target.failures import explained
from memaudit.target.layouts import DISTRIBUTED_SHARD, SHARD, TRAINING_STATE, explain_layout
from memaudit.target.refusals import refusal

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Files that transformers opens, by priority; a name plus ``.index.json`` lists its shards."""
OF_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
"""Files that PEFT opens, by priority."""
TEMPLATES = "additional_chat_templates"
SETTINGS = (CONFIG, "config.*.json", "generation_config.json")
TOKENIZER = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*vocab*.json"),
    *("*vocab*.txt", "merges.txt", "dict.txt", "bpe.codes", "emoji.json", "byte_maps.json"),
    *("normalizer.json", "word_*.json", "tekken.json", "*.model", "*.spm", "*.tiktoken"),
    *("prophetnet.tokenizer", "*.jinja", f"{TEMPLATES}/*.jinja"),
)
"""Files of tokenizers and chat templates that transformers' classes ask for."""
OF_OWN_CODE = ("*.py", "*.json", "*.txt")
"""Further files that a checkpoint's own code may read."""
OTHER_WEIGHTS = (
    *("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack"),
)
"""Other files that hold weights, which the report names as not read."""
MAX_FOLDERS = 1000
"""Most folders inside a model's folder that are listed."""
PLAIN_NAME = re.compile(r"[^./\\*?\[][^/\\*?\[]*")
"""Name of a file in the same folder, without wildcards."""


@dataclass(frozen=True)
class Folder:
    """A model's local folder, or a repository on the hub."""

    name: str
    """Name that the user gave."""
    path: Path
    """Local folder of its files; for a repository, at least of those without weights."""
    names: frozenset[str]
    """Paths of its files and of those in its folders, relative to it; ``name/`` is a folder."""
    on_hub: bool = False

    @property
    def top(self) -> frozenset[str]:
        """Files at its top level."""
        return frozenset(name for name in self.names if "/" not in name)


@dataclass(frozen=True)
class Weights:
    """Files that hold the weights of one checkpoint or adapter."""

    files: tuple[str, ...]
    """Names of the files to open, sorted."""
    index: str | None = None
    """File that lists them, if any."""
    unread: tuple[str, ...] = ()
    """Other weights files in the folder."""

    @property
    def is_pickled(self) -> bool:
        """True if opening them may run code."""
        return any(file.endswith(".bin") for file in self.files)


def list_folder(name: str, path: Path) -> Folder:
    """List a local folder and the folders in it, without names that no library asks for.

    Raises:
        TargetError: it cannot be read.
    """
    with explained(name):
        names = set()
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_dir():
                names.add(f"{entry.name}/")
            elif entry.is_file():  # a pipe or a device is never opened
                names.add(entry.name)
        for inner in sorted(name for name in names if name.endswith("/"))[:MAX_FOLDERS]:
            names.update(f"{inner}{file}" for file in _files_in(path / inner))
    return Folder(name, path, frozenset(filter(str.isprintable, names)))


def _files_in(path: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_file()]
    except OSError:  # not readable, or removed: no file of it can be used
        return []


def is_adapter(folder: Folder) -> bool:
    """Tell an adapter from a whole checkpoint.

    Raises:
        TargetError: it is both, or neither.
    """
    whole = _first_whole(folder)
    if ADAPTER_CONFIG in folder.top:
        if whole is not None:
            raise refusal(
                folder.name,
                f"holds whole weights ({whole}) and an adapter "
                f"({ADAPTER_CONFIG}). If the weights have the adapter merged in, move "
                f"{ADAPTER_CONFIG} away; if the adapter is to be audited, move {whole} away"
                + (" (in a copy here)" if folder.on_hub else ""),
            )
        return True
    if CONFIG in folder.top:
        return False
    if whole is not None:
        raise refusal(
            folder.name, f"holds {whole} and no {CONFIG}; put the model's {CONFIG} beside it"
        )
    layout = explain_layout(folder.names, folder.name, on_hub=folder.on_hub)
    raise refusal(
        folder.name,
        layout
        or f"this folder has neither {CONFIG} nor {ADAPTER_CONFIG}, so it is no checkpoint; "
        "check the path",
    )


def _first_whole(folder: Folder) -> str | None:
    """Return a file with weights of a whole model, under any of the usual names."""
    named = sorted(name for name in folder.top if SHARD.fullmatch(name))
    indexes = [f"{name}.index.json" for name in WHOLE]
    other = sorted(name for name in folder.top if fnmatchcase(name, "consolidated*.safetensors"))
    candidates = [*WHOLE, *indexes, *named, *other]
    if CONFIG in folder.top and ADAPTER_CONFIG in folder.top:
        candidates += filter(None, [_named_by_config(folder)])
    return next((name for name in candidates if name in folder.top), None)


def find_weights(folder: Folder, allow_pickle: bool) -> Weights:
    """Find the files that transformers opens of a whole checkpoint.

    Raises:
        TargetError: weights are missing or incomplete, or belong to two checkpoints; or they are
            pickled, which was not allowed.
    """
    if any(map(DISTRIBUTED_SHARD.fullmatch, folder.top)):
        raise refusal(folder.name, _layout(folder))
    named = _named_by_config(folder)
    candidates = [named] if named else [n for name in WHOLE for n in (name, f"{name}.index.json")]
    first = next((name for name in candidates if name in folder.top), None)
    if first is None:
        raise refusal(folder.name, _layout(folder))
    index = first if first.endswith(".index.json") else None
    pickled = first.removesuffix(".index.json").endswith(".bin")
    if pickled and not allow_pickle:
        raise refusal(
            folder.name,
            "holds only pickled weights (.bin), and opening a pickle can run code; "
            "convert it to safetensors, or trust it with --allow-pickle",
        )
    files = (first,) if index is None else _shards(folder, index, ".bin" if pickled else None)
    if named is None:
        _refuse_another(folder, files, first)
    return Weights(files, index, _unread(folder, files))


def find_adapter_weights(folder: Folder, allow_pickle: bool) -> Weights:
    """Find the file that PEFT opens of an adapter.

    Raises:
        TargetError: it is missing; or it is pickled, which was not allowed.
    """
    safe, pickled = OF_ADAPTER
    if safe in folder.top:
        return Weights((safe,), None, _unread(folder, (safe,)))
    if pickled not in folder.top:
        raise refusal(
            folder.name,
            f"has {ADAPTER_CONFIG} and no {safe}; "
            + (_in_folder(folder) or "save the adapter again, or check the path"),
        )
    if not allow_pickle:
        raise refusal(
            folder.name,
            f"holds only a pickled adapter ({pickled}), and opening a pickle can "
            "run code; convert it to safetensors, or trust it with --allow-pickle",
        )
    return Weights((pickled,), None, _unread(folder, (pickled,)))


def _in_folder(folder: Folder) -> str | None:
    inner = [name for name in folder.names if "/" in name]
    return explain_layout(inner, folder.name, on_hub=folder.on_hub)


def _layout(folder: Folder) -> str:
    layout = explain_layout(folder.names, folder.name, on_hub=folder.on_hub)
    return layout or "holds no weights (*.safetensors); check the path"


def _named_by_config(folder: Folder) -> str | None:
    """Return the file that config.json has transformers open instead of the usual ones."""
    with explained(folder.name):
        config = read_json(folder.path / CONFIG)
    named = config.get("transformers_weights")
    inner = [part for part in config.values() if isinstance(part, dict)]
    if any("transformers_weights" in part for part in inner):
        # Whether transformers follows it depends on what it loads: the whole or its text part.
        named = ""
    if named is None:
        return None
    plain = isinstance(named, str) and PLAIN_NAME.fullmatch(named)
    if not plain or not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise refusal(
            folder.name,
            f"transformers_weights in {CONFIG} is not the name of a safetensors "
            "file beside it; remove that line",
        )
    if named not in folder.top:
        raise refusal(folder.name, f"{CONFIG} names {named}, which is not there")
    return str(named)


def _shards(folder: Folder, index: str, ending: str | None) -> tuple[str, ...]:
    """Return the files that an index names, all of them present beside it.

    Raises:
        TargetError: the index is damaged, or names a file that is elsewhere, of another kind or
            missing.
    """
    with explained(folder.name):
        names = read_json(folder.path / index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise refusal(folder.name, f"{index} has no weight_map; fetch or write it again")
    ending = ending or ".safetensors"
    files = set(names.values())
    for file in files:
        plain = isinstance(file, str) and PLAIN_NAME.fullmatch(file) and file.endswith(ending)
        if not plain:
            raise refusal(
                folder.name,
                f"{index} names weights that are in no *{ending} file beside it; write it again",
            )
    if missing := sorted(files - folder.top):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise refusal(
            folder.name,
            f"{index} names {missing[0]}{more} of {len(files)} weights files, which "
            "is not there; fetch it again",
        )
    return tuple(sorted(files))


def _refuse_another(folder: Folder, files: Collection[str], first: str) -> None:
    """Refuse a folder with the files of two checkpoints in one format.

    transformers prefers the whole file to the index. Nothing tells which of them was saved last or
    is meant: an interrupted save leaves new shards beside an old file.
    """
    ending = Path(first.removesuffix(".index.json")).suffix
    whole = next(name for name in WHOLE if name.endswith(ending))
    rivals = {n for n in folder.top - set(files) if SHARD.fullmatch(n) and n.endswith(ending)}
    index = f"{whole}.index.json"
    if first == whole and index in folder.top and _shards(folder, index, ending) != (whole,):
        rivals.add(index)
    if rivals:
        raise refusal(
            folder.name,
            f"holds the weights of two checkpoints, {first} and "
            f"{min(rivals)}; keep only the files of the checkpoint to audit",
        )


def _unread(folder: Folder, files: Collection[str]) -> tuple[str, ...]:
    left = (name for name in folder.names - set(files) if not _is_training_state(name))
    return tuple(sorted(n for n in left if any(fnmatchcase(n, p) for p in OTHER_WEIGHTS)))


def _is_training_state(name: str) -> bool:
    file = name.rpartition("/")[2]
    return any(fnmatchcase(file, pattern) for pattern in TRAINING_STATE)


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: the file is not JSON, or not an object; the message names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def matching_files(path: Path, patterns: Collection[str]) -> Iterator[Path]:
    """Yield the files of a folder that match, each once, without names that no library asks for."""
    matching = {file for pattern in patterns for file in path.glob(pattern) if file.is_file()}
    yield from (file for file in matching if file.name.isprintable())
