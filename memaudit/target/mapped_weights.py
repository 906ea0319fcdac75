"""Weights that the safetensors library leaves mapped to their file, copied into memory.

Knows how Linux lists mapped files. Overwriting a mapped file changes the audited model, and
shortening it ends the process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from memaudit.target.placement import SHARE, free_bytes

MAPS = Path("/proc/self/maps")


def copy_mapped(model: Any, files: Collection[Path]) -> None:
    """Copy the weights that are mapped to these files into memory, if they fit.

    Systems other than Linux list no mappings; there, all weights on the CPU are copied.
    """
    ranges = list(_mapped_ranges(files)) if sys.platform == "linux" else [(0, sys.maxsize)]
    mapped = [
        weight
        for weight in chain(model.parameters(), model.buffers())
        if type(weight.data) is torch.Tensor
        and weight.device.type == "cpu"
        and any(start <= weight.data_ptr() < end for start, end in ranges)
    ]
    cpu = torch.device("cpu")
    if sum(weight.nbytes for weight in mapped) <= SHARE * free_bytes(cpu):
        for weight in mapped:
            weight.data = weight.data.clone()


def _mapped_ranges(files: Collection[Path]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each address range that these files are mapped to."""
    paths = {os.path.realpath(path) for path in files}
    for line in MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        if path in paths:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
