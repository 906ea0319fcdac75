"""A text too long to be encoded at once, in pieces.

Knows text. Must not know tokenizers.

What a tokenizer keeps of a token beside its id takes some hundred bytes, so a text of a hundred
megabytes would take ten gigabytes. Only around the cuts can tokens differ from those of the whole.
"""

from __future__ import annotations

LONGEST_PIECE = 1 << 20
"""Characters; a longer text is cut."""
_LOOKED_BACK = 1000
"""Characters before the end of a piece in which a blank is looked for."""


def cut_text(text: str, longest: int = LONGEST_PIECE) -> list[str]:
    """The text in pieces of at most so many characters, each but the first starting with a blank.

    Where there is none near, a word is cut.
    """
    pieces, start = [], 0
    while len(text) - start > longest:
        end = start + longest
        blank = max(text.rfind(sign, max(start + 1, end - _LOOKED_BACK), end) for sign in " \n")
        end = blank if blank > start else end
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]
