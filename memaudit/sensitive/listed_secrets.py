"""Secrets that the user lists: exact strings, found in any Unicode form.

Knows the file, and keeps its strings in memory only: no message, method or repr shows any.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from memaudit.errors import UsageError
from memaudit.sensitive.categories import CATEGORY_FORM, SECRETS, Category
from memaudit.sensitive.detectors import Detector
from memaudit.sensitive.shapes import Span
from memaudit.system.files import read_bounded

SHORTEST = 4
"""Characters of the shortest secret: a shorter one stands in any text by chance."""
_LONGEST_FILE = 16 << 20
"""Bytes of the longest file of secrets."""
_FORM: Final = "NFKC"
"""Unicode form in which secrets and texts are compared; texts equal in NFC are equal in it."""


def read_secrets(path: Path, sign: Callable[[str], str]) -> tuple[Detector, ...]:
    """Read a file of secrets, and return a detector for each category in it.

    A string a line; a ``.csv`` has the columns ``value`` and, if wanted, ``category``. sign: gives
    the keyed hash of a SHA-256, by which the report names the file.

    Raises UsageError, by line and without any content, for what cannot be used.
    """
    named = f"--secrets {path}"
    by_category: dict[Category, set[str]] = {}
    content = read_bounded(path, _LONGEST_FILE, named)
    digest = sign(hashlib.sha256(content).hexdigest())
    for line, value, category in _entries(content, path.suffix.lower() == ".csv", named):
        secret = unicodedata.normalize(_FORM, value)
        if len(secret) < SHORTEST:
            raise UsageError(
                f"{named}:{line}: shorter than {SHORTEST} characters, which stand in any text by "
                "chance; remove it"
            )
        by_category.setdefault(category, set()).add(secret)
    if not by_category:
        raise UsageError(f"{named}: holds no secret; give one a line")
    return tuple(
        Detector(
            category,
            "secrets",
            f"exact strings: {len(secrets):,} of {path.name} (HMAC-SHA256 {digest[:16]})",
            _Finder(secrets).find,
        )
        for category, secrets in by_category.items()
    )


def _entries(content: bytes, is_csv: bool, named: str) -> Iterator[tuple[int, str, Category]]:
    """Yield line, secret and category of each entry that is not blank."""
    try:
        text = content.decode("utf-8-sig")
        if is_csv:
            yield from _csv_entries(text, named)
            return
    except UnicodeDecodeError:
        raise UsageError(f"{named}: not UTF-8 text") from None
    except csv.Error:
        raise UsageError(f"{named}: not a CSV table") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip(), SECRETS


def _csv_entries(text: str, named: str) -> Iterator[tuple[int, str, Category]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if "value" not in (rows.fieldnames or ()) or {*(rows.fieldnames or ())} - {"value", "category"}:
        raise UsageError(f"{named}: a .csv has the columns value and category, and no others")
    for row in rows:
        value, category = (row["value"] or "").strip(), row.get("category") or SECRETS
        if None in row or not re.fullmatch(CATEGORY_FORM, category):
            raise UsageError(
                f"{named}:{rows.line_num}: a category is small letters, digits and hyphens, at "
                "most 40, in a row of no more cells than columns"
            )
        if value:
            yield rows.line_num, value, category


class _Finder:
    """Finds strings by their first characters; takes time proportional to the text."""

    def __init__(self, secrets: set[str]) -> None:
        self._by_start: dict[str, list[str]] = {}
        for secret in sorted(secrets, key=len, reverse=True):
            self._by_start.setdefault(secret[:SHORTEST], []).append(secret)

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the spans of the secrets in each text; the longest of those that overlap."""
        return [list(self._spans(text)) for text in texts]

    def _spans(self, text: str) -> Iterator[Span]:
        normal, places = _normal_form(text)
        start = 0
        while start < len(normal):
            secret = self._secret_at(normal, start)
            if secret is None:
                start += 1
                continue
            end = start + len(secret)
            yield _span(start, end, places)
            start = end

    def _secret_at(self, text: str, start: int) -> str | None:
        for secret in self._by_start.get(text[start : start + SHORTEST], ()):
            end = start + len(secret)
            if (
                text.startswith(secret, start)
                and not _splits_number(text, start)
                and not _splits_number(text, end)
            ):
                return secret
        return None


def _span(start: int, end: int, places: Sequence[int]) -> Span:
    """Return the span in the text itself; a character that became several belongs to it whole."""
    if not places:
        return Span(start, end)
    return Span(places[start], max(places[end], places[end - 1] + 1))


def _splits_number(text: str, place: int) -> bool:
    """Return True if there are digits on both sides of a place."""
    return 0 < place < len(text) and text[place - 1].isdecimal() and text[place].isdecimal()


def _normal_form(text: str) -> tuple[str, list[int]]:
    """Return a text in the form of the secrets, and the place of each of its characters before.

    The places have one more, for the end; they are empty if the text has that form already.
    """
    if unicodedata.is_normalized(_FORM, text):
        return text, []
    parts: list[str] = []
    places: list[int] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and not _is_border(text[end - 1], text[end]):
            continue
        part = unicodedata.normalize(_FORM, text[start:end])
        parts.append(part)
        places += [start] * len(part)
        start = end
    return "".join(parts), [*places, len(text)]


def _is_border(before: str, behind: str) -> bool:
    """Return True if two neighbours are normalised independently of each other."""
    if unicodedata.combining(behind) or "\u1160" <= behind <= "\u11ff":  # Hangul's later letters
        return False
    each = unicodedata.normalize(_FORM, before) + unicodedata.normalize(_FORM, behind)
    return unicodedata.normalize(_FORM, before + behind) == each
