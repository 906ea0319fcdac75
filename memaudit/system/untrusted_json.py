"""Untrusted JSON files: bounded in size, and strictly JSON.

Knows JSON. Knows nothing of what a document should hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memaudit.errors import UsageError
from memaudit.system.files import open_regular

MAX_DIGITS = 18
"""Digits of an integer that 64 bits always hold."""


def read_json(path: Path, max_bytes: int) -> Any:
    """Read a JSON document of up to ``max_bytes`` bytes.

    Raises:
        UsageError: if the file is too large or is not JSON, if a number is not finite or has more
            digits than 64 bits hold, or if an object has a name twice.
        OSError: if the file cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UsageError(f"{path}: is larger than {max_bytes >> 20} MiB, more than memaudit writes")
    try:
        return json.loads(
            content,
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=_no_constant,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not valid JSON, or is cut off; write it again") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError
    return int(text)


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError
    return members
