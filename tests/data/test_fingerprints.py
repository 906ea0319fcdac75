from __future__ import annotations

import hashlib
import hmac
import re
import struct
from dataclasses import replace
from typing import Any

import numpy as np

from memaudit.data.fingerprints import (
    FINGERPRINT,
    SHORT_DIGITS,
    fingerprint_windows,
    shorten_fingerprint,
)
from memaudit.data.project_key import ProjectKey
from memaudit.data.windows import Windows

KEY = ProjectKey(bytes(range(32)))


def windows(rows: list[list[int]], prefix: int = 2, dtype: Any = np.int32) -> Windows:
    ids, n = np.array(rows, dtype=dtype), len(rows)
    return Windows(
        ids=ids,
        longest_prefix=prefix,
        sample=np.arange(n),
        line=np.arange(1, n + 1),
        window=np.zeros(n, dtype=np.int64),
        sample_tokens=np.full(n, ids.shape[1]),
        new_tokens=np.full(n, ids.shape[1] - prefix),
        sample_id=tuple(map(str, range(n))),
        group=(None,) * n,
        extra=({},) * n,
        skipped=(),
        boundary_shifts=0,
        columns=(),
        samples=n,
    )


def test_a_fingerprint_is_an_hmac_of_what_it_says() -> None:
    content = b"memaudit window 1\n" + struct.pack("<6I", 2, 3, 30, 40, 50, 10)
    content += struct.pack("<2I", 20, 0)
    signed = hmac.new(KEY.secret, content, hashlib.sha256).hexdigest()
    assert fingerprint_windows(windows([[10, 20, 30, 40, 50]]), KEY) == (f"w1-{signed[:32]}",)
    assert re.fullmatch(FINGERPRINT, f"w1-{signed[:32]}")


def test_prefix_and_suffix_both_count_and_so_does_where_they_meet() -> None:
    rows = [[1, 2, 3, 4, 5], [9, 2, 3, 4, 5], [1, 2, 3, 4, 6]]
    made = fingerprint_windows(windows(rows), KEY)
    assert len(set(made)) == 3
    assert fingerprint_windows(windows(rows, prefix=3), KEY)[0] not in made


def test_equal_windows_are_told_apart_by_their_order() -> None:
    rows = [[1, 2, 3], [7, 8, 9], [1, 2, 3], [1, 2, 3]]
    made = fingerprint_windows(windows(rows), KEY)
    assert len(set(made)) == 4
    # One of them less: the others keep their names, whichever it was.
    assert set(fingerprint_windows(windows(rows[1:]), KEY)) == set(made[:3])


def test_names_lines_and_number_formats_have_no_part_in_it() -> None:
    plain = windows([[1, 2, 3], [4, 5, 6]])
    other = windows([[4, 5, 6], [1, 2, 3]], dtype=np.int64)
    other = replace(other, line=np.array([70, 80]), sample_id=("x", "y"))
    assert fingerprint_windows(other, KEY) == fingerprint_windows(plain, KEY)[::-1]


def test_another_key_gives_other_fingerprints() -> None:
    made = fingerprint_windows(windows([[1, 2, 3]]), KEY)
    assert made != fingerprint_windows(windows([[1, 2, 3]]), ProjectKey(bytes(32)))
    ids = struct.pack("<3I", 3, 1, 2)
    assert hashlib.sha256(ids).hexdigest()[:8] not in made[0]


def test_a_short_fingerprint_stays_short() -> None:
    (made,) = fingerprint_windows(windows([[1, 2, 3]]), KEY)
    short = shorten_fingerprint(made)
    assert made.startswith(f"w1-{short}")
    assert len(short) == SHORT_DIGITS
    assert shorten_fingerprint(short) == short
