"""Fingerprints, which identify a window across runs.

Knows token ids and the project key. Must not know text, models or what was extracted.

A plain hash of a short secret can be found by hashing every candidate. A fingerprint is an
HMAC-SHA256 under the project key, which readers of a report or baseline do not have.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

from memaudit.data.project_key import ProjectKey
from memaudit.data.windows import PADDING, Windows

FORM = "w1"
"""Version prefix of every fingerprint; raise it when fingerprints of the same window change."""
_DIGITS = 32
"""Hexadecimal digits of a fingerprint: 128 bits, the minimum that RFC 2104 recommends."""
FINGERPRINT = rf"{FORM}-[0-9a-f]{{{_DIGITS}}}"
"""Regular expression of a whole fingerprint."""


def fingerprint_windows(windows: Windows, key: ProjectKey) -> tuple[str, ...]:
    """Return a fingerprint of every window: N distinct strings.

    It is computed from the ids of suffix and prefix (a suffix may follow several prefixes), each a
    little-endian 32-bit number, and from the number of earlier windows with the same ids. File,
    line and sample id play no part. Another tokenizer gives other ids and other fingerprints.
    """
    prefixes = windows.prefix_ids.astype("<i4", copy=False)
    suffixes = windows.suffix_ids.astype("<i4", copy=False)
    counts: dict[bytes, int] = {}
    fingerprints = []
    for padded, suffix in zip(prefixes, suffixes, strict=True):
        prefix = padded[padded != PADDING]
        head = b"memaudit window 1\n" + struct.pack("<II", len(prefix), len(suffix))
        content = head + suffix.tobytes() + prefix.tobytes()
        first = key.sign(content + struct.pack("<I", 0))
        before = counts.get(first, 0)
        counts[first] = before + 1
        signed = key.sign(content + struct.pack("<I", before)) if before else first
        fingerprints.append(f"{FORM}-{signed.hex()[:_DIGITS]}")
    return tuple(fingerprints)


def digest_of(fingerprints: Iterable[str]) -> str:
    """Return a digest of a set of fingerprints, in any order: 32 hexadecimal digits."""
    ordered = "\n".join(sorted(fingerprints))
    return hashlib.sha256(ordered.encode()).hexdigest()[:_DIGITS]
