"""Names and addresses marked by a token classification model.

Knows the labels that models use for them. The model itself is passed in.
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


class Entity(Protocol):
    """An entity that the model marked."""

    @property
    def label(self) -> str:
        """The model's label."""

    @property
    def start(self) -> int:
        """First character in the text."""

    @property
    def end(self) -> int:
        """Character after the last one."""


Find = Callable[[Sequence[str]], Sequence[Iterable[Entity]]]


def entity_detectors(labels: Iterable[str], find: Find, about: str) -> tuple[Detector, ...]:
    """Make a detector for each of ``name`` and ``address`` that the model has labels for.

    labels: all labels of the model. find: marks texts. about: names the model.
    """
    model = _SharedModel(find)
    detectors = []
    for category in _LABELS:
        own_labels = sorted(label for label in labels if category_of(label) == category)
        if own_labels:
            method = f"labels {', '.join(own_labels)} of {about}"
            detectors.append(Detector(category, "model", method, model.detector(category)))
    return tuple(detectors)


def category_of(label: str) -> Category | None:
    """Return the category that a label means, None if it is neither name nor address."""
    if _NOT_POSTAL.fullmatch(label):
        return None
    return next((name for name, pattern in _LABELS.items() if pattern.fullmatch(label)), None)


class _SharedModel:
    """Model that runs once for texts that several detectors search."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._texts: Sequence[str] = ()
        self._entities: Sequence[Iterable[Entity]] = ()

    def detector(self, category: Category) -> Callable[[Sequence[str]], list[list[Span]]]:
        def find(texts: Sequence[str]) -> list[list[Span]]:
            if self._texts is not texts:
                self._texts = texts
                self._entities = [tuple(entities) for entities in self._find(texts)]
            return [
                [
                    Span(entity.start, entity.end)
                    for entity in entities
                    if category_of(entity.label) == category
                ]
                for entities in self._entities
            ]

        return find
