"""Changed copies of inputs: bytes and whole words put in, taken out, doubled and swapped."""

from __future__ import annotations

import random
from collections.abc import Sequence

WORDS = (
    *(b"\0", b"\x1b[31m", b"\x9b2J", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n"),
    *(b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\\ud800", b"\\u0000", b"\\u001b[2J", b"\xf3\xa0\x80\x81"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0.0", b"null", b"true", b"{}", b"[]", b'""'),
    *(
        b"9" * 30,
        b"9" * 5000,
        b"-1",
        b"0",
        b"18446744073709551615",
        b"9223372036854775807",
        b"1e-400",
    ),
    *(b"[" * 2000, b'{"a":' * 1500, b"]" * 9, b"}", b'"', b"'", b",", b":", b"=", b"#", b"%0A"),
    *(b"::error::pwned", b"##[error]pwned", b"##vso[task.setvariable variable=a]b", b"@SUM(A1)"),
    *(b"=1+1", b"<script>alert(1)</script>", b"{{7*7}}", b"{% for i in range(99999) %}", b"]]>"),
    *(b"../../etc/passwd", b"/dev/zero", b"/dev/stdin", b"C:\\", b"%s%n", b"$(id)", b"__class__"),
    *(
        b"id",
        b"text",
        b"prefix",
        b"suffix",
        b"messages",
        b"role",
        b"content",
        b"assistant",
        b"group",
    ),
    *(b"A" * 5000, b"\xf0\x9f\x99\x82" * 300, b" " * 3000, b"\t", b"\xc2\xa0"),
)


def mutate(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A copy with one to five changes; ``others`` are what pieces may be taken from."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        _CHANGES[rng.randrange(len(_CHANGES))](rng, changed, others)
    return bytes(changed)


def _span(rng: random.Random, content: bytearray) -> slice:
    start = rng.randint(0, len(content))
    return slice(start, min(len(content), start + rng.choice((1, 1, 2, 4, 8, 40, 400))))


def _flip(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    if content:
        content[rng.randrange(len(content))] = rng.randrange(256)


def _cut(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[_span(rng, content)]


def _end(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    del content[rng.randint(0, len(content)) :]


def _word(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    at = rng.randint(0, len(content))
    content[at:at] = rng.choice(WORDS)


def _word_over(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    content[_span(rng, content)] = rng.choice(WORDS)


def _number(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    """A number in a binary header, as large or as odd as it goes."""
    size = rng.choice((1, 2, 4, 8))
    if len(content) >= size:
        at = rng.randint(0, len(content) - size)
        value = rng.choice(
            (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), rng.getrandbits(8 * size))
        )
        content[at : at + size] = value.to_bytes(size, "little")


def _again(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    span = _span(rng, content)
    content[span.start : span.start] = content[span] * rng.choice((1, 1, 2, 50))


def _from_another(rng: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    other = bytearray(rng.choice(others)) if others else bytearray()
    content[_span(rng, content)] = other[_span(rng, other)]


_CHANGES = (_flip, _set, _cut, _end, _word, _word_over, _number, _again, _from_another)
