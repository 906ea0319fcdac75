"""Detection of a text's encoding; UTF-16 and UTF-32 are converted to UTF-8.

Knows encodings and byte-order marks. Knows nothing of lines, formats or files.

Python reads UTF-16 as UTF-8 without an error, as letters separated by NULs. No model outputs that
text, so a leak would pass unnoticed. An encoding is therefore accepted only if a mark or the bytes
identify it, and refused otherwise.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_NAMES = {
    "utf-32-le": "UTF-32 (little-endian)",
    "utf-32-be": "UTF-32 (big-endian)",
    "utf-16-le": "UTF-16 (little-endian)",
    "utf-16-be": "UTF-16 (big-endian)",
}
_MARKS = (  # UTF-32 first, as one of its marks begins with one of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOW = bytes(range(32))
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_ASCII_RUN = re.compile(rb"[\t\n\r\x20-\x7e]{64,}")
_MAX_UPPER_BYTES = 5
"""Most upper bytes in a run of 32 characters of ASCII bytes; kana and dots have one or two."""
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_SWITCH = re.compile(rb"\x1b\$[@AB()*]")
"""Switch from ASCII to another alphabet in seven-bit encodings (ISO-2022-JP, -KR, -CN)."""


class OtherEncoding(Exception):
    """The bytes are not UTF-8 text; the message says what they look like and what to do."""


@dataclass(frozen=True)
class Charset:
    """A supported encoding."""

    codec: str
    """``utf-8``, or a key of ``_NAMES``."""
    marked: bool
    """True if a byte-order mark identifies it."""

    @property
    def name(self) -> str | None:
        """Name for the report; None for UTF-8, which needs no note."""
        return _NAMES.get(self.codec)


def detect(start: bytes) -> Charset:
    """Detect the encoding of a text from a byte-order mark or the positions of its NULs.

    start: the first 64 KiB or so, or the whole text.

    Raises OtherEncoding if the bytes look like UTF-16 or UTF-32, but it is unclear which.
    """
    for mark, codec in _MARKS:
        if start.startswith(mark):
            return Charset(codec, marked=True)
    bare = start.removeprefix(codecs.BOM_UTF8)
    is_wide = has_wide_letters(bare)
    if is_wide or (b"\0" in bare and not _is_utf8([bare])):
        for codec in _NAMES:
            if _is_certain(bare, codec):
                return Charset(codec, marked=False)
        if is_wide:
            raise OtherEncoding(
                "not UTF-8 text, as too many bytes are NUL; if it is UTF-16, convert it: "
                "iconv -f UTF-16LE -t UTF-8"
            )
    return Charset("utf-8", marked=len(bare) < len(start))


def _is_certain(start: bytes, codec: str) -> bool:
    """Return True if bytes are text in an encoding and not in the opposite byte order.

    Text has blanks or line ends with a NUL on one side; in the opposite order they would be
    characters that no text has (U+2000, U+0A00). Letters decide nothing: U+4E00 is a Chinese
    character, and an N in the opposite order.
    """
    text = codecs.getincrementaldecoder(codec)("replace").decode(start)
    characters = set(text)
    if "\ufffd" in characters or any(map(_CONTROLS.match, characters)):
        return False
    if any(unicodedata.category(character) in ("Cn", "Co") for character in characters):
        return False
    reverse = codec.replace("le", "be") if codec.endswith("le") else codec.replace("be", "le")
    reversed_text = codecs.getincrementaldecoder(reverse)("replace").decode(start)
    blanks, reversed_blanks = (t.count(" ") + t.count("\n") for t in (text, reversed_text))
    return blanks > 4 * reversed_blanks


def has_wide_letters(text: bytes | str) -> bool:
    """Return True if letters take two bytes or four, as in UTF-16 and UTF-32.

    Every second byte is then the upper byte of a letter: below 32 in every alphabet, and NUL for
    blanks and Western letters.
    """
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else text
    if b"\0" not in raw or not raw.strip(b"\0\r\n"):
        return False
    columns = [column for column in (raw[0::2], raw[1::2]) if column]
    return any(4 * len(column.translate(None, _LOW)) <= len(column) for column in columns)


def to_utf8(blocks: Iterable[bytes], codec: str) -> Iterator[bytes]:
    """Convert blocks of UTF-16 or UTF-32 to UTF-8; the first may begin with a mark.

    Raises OtherEncoding if the encoding changes within the bytes.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    changed = OtherEncoding(
        f"is only partly {_NAMES[codec]}; were files of two encodings joined? "
        "Convert each of them first: iconv -f UTF-16 -t UTF-8"
    )
    last = b""
    for block in blocks:
        if codec.startswith("utf-16") and _holds_ascii(last + block):
            raise changed
        last = block[-63:]
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError:
            raise changed from None
        if "\ufffe" in text:  # the mark of the other byte order
            raise changed
        yield text.encode("utf-8")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise OtherEncoding(f"is cut off: {_NAMES[codec]} ends inside a character") from None


def _holds_ascii(raw: bytes) -> bool:
    """Return True if bytes of UTF-16 hold a run of plain ASCII text."""
    return any(
        min(len(set(run[0::2])), len(set(run[1::2]))) > _MAX_UPPER_BYTES
        for run in _ASCII_RUN.findall(raw)
    )


def check_utf8(pieces: Iterable[bytes]) -> None:
    """Raise OtherEncoding unless most non-ASCII bytes of a text are UTF-8.

    A text with a few damaged bytes passes. A text in WINDOWS-1252 or Shift-JIS is valid UTF-8 only
    by chance, and does not. pieces: the text, cut anywhere but inside a character.
    """
    if not _is_utf8(pieces):
        raise OtherEncoding(
            "not UTF-8 text, here or elsewhere in the file; convert it from its encoding, such "
            "as: iconv -f WINDOWS-1252 -t UTF-8 (or save the table as CSV UTF-8)"
        )


def _is_utf8(pieces: Iterable[bytes]) -> bool:
    valid = invalid = 0
    for piece in pieces:
        if not piece.isascii():
            text = piece.decode("utf-8", "replace")
            damaged = text.count("\ufffd") - piece.count("\ufffd".encode())
            invalid += damaged
            valid += sum(map(len, _BEYOND_ASCII.findall(text))) - damaged
    return not invalid or valid > invalid


def check_line(raw: bytes) -> None:
    """Raise OtherEncoding for a line in UTF-16 or a seven-bit encoding."""
    if b"\0" in raw and has_wide_letters(raw):
        raise OtherEncoding(
            "looks like UTF-16, not UTF-8; were files of two encodings joined? "
            "Convert each of them first: iconv -f UTF-16LE -t UTF-8"
        )
    if b"\x1b" in raw and _SWITCH.search(raw):
        raise OtherEncoding(
            "looks like ISO-2022, not UTF-8; convert it: iconv -f ISO-2022-JP -t UTF-8"
        )


def is_unicode(value: str) -> bool:
    """Return True if text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
