"""Cutting texts that are too long to encode at once.

Knows text. Must not know tokenizers.

A tokenizer uses some hundred bytes per token, so a text of 100 MB would take 10 GB. Only near the
cuts can tokens differ from those of the whole text.
"""

from __future__ import annotations

LONGEST_PIECE = 1 << 20
"""Characters in a piece; a longer text is cut."""
_SEARCH_BACK = 1000
"""Characters before the end of a piece that are searched for a blank."""


def cut_text(text: str, longest: int = LONGEST_PIECE) -> list[str]:
    """Cut a text into pieces of up to ``longest`` characters, before blanks.

    If there is no blank nearby, a word is cut.
    """
    pieces, start = [], 0
    while len(text) - start > longest:
        end = start + longest
        blank = max(text.rfind(char, max(start + 1, end - _SEARCH_BACK), end) for char in " \n")
        end = blank if blank > start else end
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]
