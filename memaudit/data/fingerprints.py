"""Fingerprints, which identify a window or a sample across runs.

Knows token ids and the project key. Must not know text, models or what was extracted.

A plain hash of a short secret can be found by hashing every candidate. A fingerprint is an
HMAC-SHA256 under the project key, which readers of a report or baseline do not have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from memaudit.data.project_key import ProjectKey
from memaudit.data.windows import PADDING, Windows

FORM, SAMPLE_FORM = "w1", "s1"
"""Version prefixes of the fingerprints of windows and samples; raise one when fingerprints of the
same ids change."""
_DIGITS = 32
"""Hexadecimal digits of a fingerprint: 128 bits, the minimum that RFC 2104 recommends."""
FINGERPRINT, SAMPLE_FINGERPRINT = (rf"{form}-[0-9a-f]{{{_DIGITS}}}" for form in (FORM, SAMPLE_FORM))
"""Regular expressions of a whole fingerprint of a window, and of a sample."""
SHORT_DIGITS = 10
"""Hexadecimal digits of a short fingerprint: two of a million samples are equal with a probability
of 37 %, a given sample is equal to one of a million with 1 in a million."""


def fingerprint_windows(windows: Windows, key: ProjectKey) -> tuple[str, ...]:
    """Return a fingerprint of every window: N distinct strings.

    It is computed from the ids of suffix and prefix (a suffix may follow several prefixes), each a
    little-endian 32-bit number, and from the number of earlier windows with the same ids. File,
    line and sample id play no part. Another tokenizer gives other ids and other fingerprints.
    """
    contents = (b"memaudit window 1\n" + content for content in _contents(windows))
    return _signed(contents, key, FORM)


def fingerprint_samples(windows: Windows, key: ProjectKey) -> tuple[str, ...]:
    """Return a fingerprint of every sample with a window: M distinct strings, in file order.

    It is computed from the ids of all its windows, as `fingerprint_windows`.
    """
    contents: dict[int, bytes] = {}
    for number, content in zip(windows.sample.tolist(), _contents(windows), strict=True):
        contents[number] = contents.get(number, b"memaudit sample 1\n") + content
    return _signed((contents[number] for number in sorted(contents)), key, SAMPLE_FORM)


def _contents(windows: Windows) -> Iterator[bytes]:
    """Yield the lengths and ids of each window."""
    prefixes = windows.prefix_ids.astype("<i4", copy=False)
    suffixes = windows.suffix_ids.astype("<i4", copy=False)
    for padded, suffix in zip(prefixes, suffixes, strict=True):
        prefix = padded[padded != PADDING]
        yield struct.pack("<II", len(prefix), len(suffix)) + suffix.tobytes() + prefix.tobytes()


def _signed(contents: Iterable[bytes], key: ProjectKey, form: str) -> tuple[str, ...]:
    """Return a fingerprint of each content; equal ones are numbered."""
    counts: dict[bytes, int] = {}
    fingerprints = []
    for content in contents:
        first = key.sign(content + struct.pack("<I", 0))
        before = counts.get(first, 0)
        counts[first] = before + 1
        signed = key.sign(content + struct.pack("<I", before)) if before else first
        fingerprints.append(f"{form}-{signed.hex()[:_DIGITS]}")
    return tuple(fingerprints)


def shorten_fingerprint(fingerprint: str) -> str:
    """Return the first digits of a fingerprint without its form; a short one stays as it is."""
    return fingerprint.rpartition("-")[2][:SHORT_DIGITS]
