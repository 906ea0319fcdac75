"""Fingerprints: what tells that a window of one run is a window of another.

Knows token ids and the project's key. Must not know text, models or what was extracted.

A plain hash of a short secret can be looked up by hashing every candidate; a fingerprint is an
HMAC-SHA256 under the project's key, which whoever holds the report or the baseline does not have.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from memaudit.data.project_key import ProjectKey
from memaudit.data.windows import Windows

FORM = "w1"
"""What every fingerprint starts with: raised when one and the same window would get another."""
_DIGITS = 32
"""Hexadecimal digits that are kept: 128 bits, the least that RFC 2104 advises."""
FINGERPRINT = rf"{FORM}-[0-9a-f]{{{_DIGITS}}}"
"""Regular expression of a whole fingerprint."""


def fingerprint_windows(windows: Windows, key: ProjectKey) -> tuple[str, ...]:
    """A fingerprint of every window, of length N, no two of them alike.

    It is made of the suffix's ids and the prefix's, for a suffix may follow several prefixes, each
    as a little-endian 32-bit number whatever the arrays hold; and of how many windows before this
    one are the same in both. File, line and sample's name have no part in it. Another tokenizer
    cuts other ids, and so gives other fingerprints.
    """
    prefixes = windows.prefix_ids.astype("<i4", copy=False)
    suffixes = windows.suffix_ids.astype("<i4", copy=False)
    head = b"memaudit window 1\n" + struct.pack("<II", prefixes.shape[1], suffixes.shape[1])
    met: dict[bytes, int] = {}
    made = []
    for prefix, suffix in zip(prefixes, suffixes, strict=True):
        content = head + suffix.tobytes() + prefix.tobytes()
        first = key.sign(content + struct.pack("<I", 0))
        before = met.get(first, 0)
        met[first] = before + 1
        signed = key.sign(content + struct.pack("<I", before)) if before else first
        made.append(f"{FORM}-{signed.hex()[:_DIGITS]}")
    return tuple(made)


def digest_of(fingerprints: Iterable[str]) -> str:
    """One digest of a set of fingerprints, whatever their order: 32 hexadecimal digits."""
    ordered = "\n".join(sorted(fingerprints))
    return hashlib.sha256(ordered.encode()).hexdigest()[:_DIGITS]
