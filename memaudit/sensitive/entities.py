"""Names and addresses out of what a token classification model marks.

Knows what such models call them. The model itself is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from memaudit.sensitive.detectors import Category, Detector
from memaudit.sensitive.shapes import Span

_LABELS: dict[Category, re.Pattern[str]] = {
    "name": re.compile(r"PER|PERSON|(?:.*_)?(?:FIRST|LAST|GIVEN|MIDDLE|FULL|SUR)?_?NAME", re.I),
    "address": re.compile(r"(?:.*_)?(?:ADDRESS|STREET(?:_?ADDRESS|_?NAME)?)", re.I),
}
_NOT_POSTAL = re.compile(r"(?:e_?mail|ip|mac|url|user|company|file).*", re.I)


class Marked(Protocol):
    """One thing that was marked."""

    @property
    def label(self) -> str:
        """What it is, as the model calls it."""

    @property
    def start(self) -> int:
        """In characters of the text, as is the next."""

    @property
    def end(self) -> int:
        """Behind its last character."""


Find = Callable[[Sequence[str]], Sequence[Iterable[Marked]]]


def entity_detectors(labels: Iterable[str], find: Find, about: str) -> tuple[Detector, ...]:
    """A detector for each of ``name`` and ``address`` that the model has labels for.

    labels: all that the model can mark. find: marks texts. about: names the model.
    """
    marks = _Marks(find)
    made = []
    for category in _LABELS:
        known = sorted(label for label in labels if category_of(label) == category)
        if known:
            method = f"labels {', '.join(known)} of {about}"
            made.append(Detector(category, method, marks.detector(category)))
    return tuple(made)


def category_of(label: str) -> Category | None:
    """Which category a label means; None for any other thing."""
    if _NOT_POSTAL.fullmatch(label):
        return None
    return next((name for name, known in _LABELS.items() if known.fullmatch(label)), None)


class _Marks:
    """What the model marks, asked once for texts that several detectors look at."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._texts: Sequence[str] = ()
        self._found: Sequence[Iterable[Marked]] = ()

    def detector(self, category: Category) -> Callable[[Sequence[str]], list[list[Span]]]:
        def find(texts: Sequence[str]) -> list[list[Span]]:
            if self._texts is not texts:
                self._texts = texts
                self._found = [tuple(marked) for marked in self._find(texts)]
            return [
                [Span(one.start, one.end) for one in marked if category_of(one.label) == category]
                for marked in self._found
            ]

        return find
