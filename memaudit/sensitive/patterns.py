"""Recognizers made of patterns that come from somebody else: scores, context words, a time limit.

Knows how a score and a context word decide. Knows nothing of files.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import regex  # patterns with a time limit, which re lacks

from memaudit.errors import UsageError
from memaudit.sensitive.shapes import Span

CERTAIN = 0.4
"""Least score that counts without a context word, as in Presidio's context enhancer."""
STRONG = 0.5
"""Least score of a form that is rare in other text."""
_BEFORE, _BEHIND = 50, 25
"""Characters before and behind a match in which a context word counts."""
_SECONDS, _CHARACTERS_A_SECOND = 5.0, 100_000
"""Time that a pattern may take: at least so many seconds, and a second for so many characters,
a hundred times what an ordinary pattern needs."""
_LONGEST = 20_000
"""Characters of the longest pattern."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression and how far its form alone is to be trusted."""

    name: str
    text: str = field(repr=False)
    score: float


@dataclass(frozen=True)
class Recognizer:
    """Patterns of one entity."""

    name: str
    """Named so in messages."""
    patterns: tuple[Pattern, ...]
    context: tuple[str, ...] = field(default=(), repr=False)
    """Words that make a weak match count, in any case."""
    judge: Callable[[str], bool | None] = lambda item: None
    """Return True for right check digits, False for wrong ones, None if there are none."""
    flags: int = regex.IGNORECASE | regex.MULTILINE | regex.DOTALL
    needs_context: bool = False
    """True if only a match with letters, right check digits and a score of `STRONG` counts without
    a context word."""

    def finder(self) -> Callable[[Sequence[str]], list[list[Span]]]:
        """Return what finds the spans in each text. Raises UsageError for a bad pattern."""
        compiled = [(pattern, self._compiled(pattern)) for pattern in self.patterns]
        near = _any_word(self.context)

        def find(texts: Sequence[str]) -> list[list[Span]]:
            spans: list[list[Span]] = [[] for _ in texts]
            for pattern, expression in compiled:
                limit = _SECONDS + sum(map(len, texts)) / _CHARACTERS_A_SECOND
                deadline = time.monotonic() + limit
                for row, text in enumerate(texts):
                    spans[row] += self._spans(pattern, expression, near, text, deadline)
            return [without_overlaps(row) for row in spans]

        return find

    def _compiled(self, pattern: Pattern) -> regex.Pattern[str]:
        if len(pattern.text) > _LONGEST:
            raise UsageError(f"{self.name}: pattern {pattern.name} is longer than {_LONGEST:,}")
        try:
            return regex.compile(pattern.text, self.flags)
        except (regex.error, RecursionError, OverflowError, ValueError, IndexError):
            raise UsageError(
                f"{self.name}: pattern {pattern.name} is not a regular expression"
            ) from None

    def _spans(
        self,
        pattern: Pattern,
        expression: regex.Pattern[str],
        near: re.Pattern[str] | None,
        text: str,
        deadline: float,
    ) -> Iterator[Span]:
        try:
            left = max(deadline - time.monotonic(), 0.01)
            for match in expression.finditer(text, timeout=left):
                span = Span(*match.span())
                if span.start < span.end and self._counts(pattern.score, near, text, span):
                    yield span
        except TimeoutError:
            raise UsageError(
                f"{self.name}: pattern {pattern.name} takes too long on this text; write it so "
                "that no part of it can match in many ways, as (a+)+ can"
            ) from None

    def _counts(self, score: float, near: re.Pattern[str] | None, text: str, span: Span) -> bool:
        item = text[span.start : span.end]
        checked = self.judge(item)
        if checked is False:
            return False
        is_certain = bool(checked) or score >= CERTAIN
        if self.needs_context:
            is_certain = bool(checked) and score >= STRONG and any(map(str.isalpha, item))
        if not is_certain:
            around = f"{text[max(0, span.start - _BEFORE) : span.start]} "
            around += f" {text[span.end : span.end + _BEHIND]}"
            return near is not None and near.search(around) is not None
        return True


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Return spans in text order; of those that overlap the first, and the longest of these."""
    separate: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not separate or span.start >= separate[-1].end:
            separate.append(span)
    return separate


def _any_word(words: Sequence[str]) -> re.Pattern[str] | None:
    parts = "|".join(re.escape(word) for word in words)
    return re.compile(rf"(?<!\w)(?:{parts})(?!\w)", re.IGNORECASE) if parts else None
