"""Plain rules that find addresses, numbers and keys by their form, without other packages.

Knows how they are written, and their check digits. Knows nothing of windows. Every rule takes time
proportional to the length of the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Position in a text, in characters."""

    start: int
    end: int


_START = r"(?<![\w.+-])"
"""Not inside a longer word, number or path."""
_END = r"(?![\w-]|\.\d)"

_LATIN = "A-Za-z0-9\u00c0-\u024f"
"""Letters and digits of addresses, with accents; other scripts have no blank before an address."""
_EMAIL = re.compile(
    rf"(?<![{_LATIN}._%+-])[{_LATIN}_%+-](?:\.?[{_LATIN}_%+-]){{0,63}}"
    rf"@(?:[{_LATIN}](?:[{_LATIN}-]{{0,61}}[{_LATIN}])?\.){{1,8}}[A-Za-z]{{2,24}}(?![{_LATIN}@_-])"
)
_PHONE = re.compile(
    _START + r"(?:\+[1-9](?:[ .()/-]{0,2}\d){7,14}"
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4})" + _END
)
_CARD = re.compile(
    _START + r"(?:\d{13,19}"
    r"|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|\d{4}([ -])\d{6}\2\d{4,5})" + _END
)
_NETWORKS = (
    (re.compile(r"4"), (13, 16, 19)),
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"30[0-5]|36|38|39"), (14,)),
    (re.compile(r"6011|64[4-9]|65|62|35(?:2[89]|[3-8])"), (16, 17, 18, 19)),
)
"""First digits of each card network, and the lengths of its numbers."""
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"
)
_SHORTEST_IBAN, _LONGEST_IBAN = 15, 34
_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
    r"|gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"
    r"|glpat-[A-Za-z0-9_-]{20}"  # GitLab
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}"  # Slack
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}"  # Stripe
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|sk-ant-[a-z0-9]{2,12}-[A-Za-z0-9_-]{20,250}"  # Anthropic
    r"|sk-[A-Za-z0-9_-]{20,180}T3BlbkFJ[A-Za-z0-9_-]{20,180}"  # OpenAI
    r"|hf_[A-Za-z]{34}"  # Hugging Face
    r"|npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{50,250}"
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"  # SendGrid
    r"|eyJ[A-Za-z0-9_-]{8,500}\.eyJ[A-Za-z0-9_-]{8,1000}\.[A-Za-z0-9_-]{8,1000}"  # JSON Web Token
    r"|-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY-----"
    r"|[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/:@]{3,128}@[A-Za-z0-9.-]{1,253}"  # in a URL
    r")"
)


def emails(text: str) -> Iterator[Span]:
    """Find e-mail addresses with a dotted domain (RFC 5321, unquoted, with Latin letters)."""
    if "@" in text:
        yield from (Span(*match.span()) for match in _EMAIL.finditer(text))


def phones(text: str) -> Iterator[Span]:
    """Find phone numbers that start with ``+`` (E.164) or are grouped as in North America."""
    yield from (Span(*match.span()) for match in _PHONE.finditer(text))


def cards(text: str) -> Iterator[Span]:
    """Find payment card numbers by network, length, grouping and Luhn check digit."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _has_network(digits) and luhn(digits):
            yield Span(*match.span())


def ibans(text: str) -> Iterator[Span]:
    """Find international bank account numbers (ISO 13616) with correct check digits."""
    for match in _IBAN.finditer(text):
        if end := valid_iban_end(match[0]):
            yield Span(match.start(), match.start() + end)


def iban_candidates(text: str) -> Iterator[re.Match[str]]:
    """Find text with the form of an IBAN, whatever its check digits."""
    yield from _IBAN.finditer(text)


def valid_iban_end(candidate: str) -> int:
    """Return how many characters of the candidate are a valid IBAN, 0 for none.

    Text after an IBAN in groups may look like more groups, so the longest valid start counts.
    """
    for end in group_ends(candidate):
        if mod_97(candidate[:end].replace(" ", "")):
            return end
    return 0


def group_ends(candidate: str) -> Iterator[int]:
    """Yield the ends of a candidate's groups, the last first."""
    end = len(candidate)
    while end > 0:
        yield end
        end = candidate.rfind(" ", 0, end)


def keys(text: str) -> Iterator[Span]:
    """Find keys and tokens in their issuers' formats, private keys, and passwords in URLs."""
    yield from (Span(*match.span()) for match in _KEY.finditer(text))


def luhn(digits: str) -> bool:
    """Return True if the last digit is the Luhn check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = 2 * digit if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def mod_97(iban: str) -> bool:
    """Return True if an IBAN without spaces has correct check digits (ISO 7064, MOD 97-10)."""
    if not _SHORTEST_IBAN <= len(iban) <= _LONGEST_IBAN:
        return False
    rotated = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in rotated)) % 97 == 1


def _has_network(digits: str) -> bool:
    return any(start.match(digits) and len(digits) in lengths for start, lengths in _NETWORKS)
