"""JSON from a file that anybody may have written: bounded, and only what JSON can say.

Knows JSON. Knows nothing of what a document should hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memaudit.errors import UsageError

MOST_DIGITS = 18
"""Of a whole number: what 64 bits hold."""


def read_json(path: Path, longest: int) -> Any:
    """The document of a file of at most ``longest`` bytes.

    Raises:
        UsageError: for a file that is too large or is not JSON, for a number that is not finite or
            has more digits than 64 bits hold, and for an object with one name twice.
        OSError: where the file cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise UsageError(f"{path}: is larger than {longest >> 20} MiB, more than memaudit writes")
    try:
        return json.loads(
            content,
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=_no_constant,
            object_pairs_hook=_distinct,
        )
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: is not JSON, or not all of it; have it written again") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError
    return int(text)


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made
