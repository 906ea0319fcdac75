"""Weights files, checked before a library opens them: readable, complete, and their shapes.

Knows the header of a safetensors file, and a pointer that Git LFS leaves in place of a file.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from memaudit.target.failures import explained
from memaudit.target.refusals import refusal

LONGEST_HEADER = 100_000_000
"""Most bytes of a header, as in the safetensors library."""
WRAPPERS = re.compile(r"(?:module\.|_orig_mod\.)+")
"""Prefix that DistributedDataParallel and torch.compile put before every name of a model."""
GIT_LFS = b"version https://git-lfs"


def refuse_unusable(name: str, path: Path) -> None:
    """Refuse a file that cannot be read, is empty, or is a pointer of Git LFS.

    name: name that the user gave the model.

    Raises:
        TargetError: the message names the file and the remedy.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(GIT_LFS))
    except OSError as error:
        remedy = "make it readable for this user" if path.exists() else "fetch or write it again"
        raise refusal(name, f"{path.name}: cannot be read ({error.strerror}); {remedy}") from error
    if not head:
        raise refusal(name, f"{path.name} is empty (0 bytes); fetch or write it again")
    if head == GIT_LFS:
        raise refusal(
            name,
            f"{path.name} is a pointer that Git LFS left in place of the file; run "
            "`git lfs pull` in the clone",
        )


def stored_shapes(name: str, path: Path) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the weights in a file, by name.

    A pickle is opened, so pass one only if that is allowed.

    Raises:
        TargetError: the file cannot be read, or is damaged or cut short.
    """
    refuse_unusable(name, path)
    if path.suffix == ".safetensors":
        return _safetensors_shapes(name, path)
    with explained(name):
        weights = torch.load(
            path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
        return {str(key): tuple(getattr(value, "shape", ())) for key, value in weights.items()}


def _safetensors_shapes(name: str, path: Path) -> Mapping[str, tuple[int, ...]]:
    size = path.stat().st_size
    damaged = refusal(name, f"{path.name} is damaged or cut short; fetch or write it again")
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else LONGEST_HEADER + 1
        if length > min(LONGEST_HEADER, size - 8):
            raise damaged
        header = file.read(length)
    try:
        entries: dict[str, Any] = json.loads(header)
        shapes = {
            key: tuple(map(int, entry["shape"]))
            for key, entry in entries.items()
            if key != "__metadata__"
        }
        ends = (e["data_offsets"][1] for key, e in entries.items() if key != "__metadata__")
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise damaged from None
    if wanted > size:
        raise refusal(
            name,
            f"{path.name} is cut short: {size:,} of {wanted:,} bytes are there; fetch or "
            "write it again",
        )
    return shapes


def wrapper_prefix(name: str, paths: Collection[Path]) -> str:
    """Check the files of one checkpoint; return the prefix that a wrapper put before all names.

    Raises:
        TargetError: a file cannot be used, or two of them hold the same weight.
    """
    names: set[str] = set()
    for path in paths:
        shapes = stored_shapes(name, path)
        if twice := names & set(shapes):
            raise refusal(
                name,
                f"{min(twice)} is in two of its weights files, and it is unclear which is "
                "meant; write the checkpoint again",
            )
        names |= set(shapes)
    wrapped = WRAPPERS.match(min(names, default=""))
    prefix = wrapped.group() if wrapped else ""
    return prefix if all(key.startswith(prefix) for key in names) else ""
