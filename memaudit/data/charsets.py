"""Which encoding the bytes of a text are in; UTF-16 and UTF-32 made UTF-8.

Knows encodings and byte-order marks. Knows nothing of lines, formats or files.

Python reads UTF-16 as UTF-8 without complaint, as letters with a NUL beside each, and no model says
such text: a leak would pass. So an encoding is read where a mark or the bytes settle it, and
refused otherwise.
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
_MARKS = (  # UTF-32's first, as UTF-16's are how one of them begins
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOW = bytes(range(32))
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_ASCII_RUN = re.compile(rb"[\t\n\r\x20-\x7e]{64,}")
_MOST_UPPER_BYTES = 5
"""Of a run of 32 characters of which each byte is one of ASCII: kana and dots have one or two."""
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_SWITCH = re.compile(rb"\x1b\$[@AB()*]")
"""How encodings of seven bits (ISO-2022-JP, -KR, -CN) change from ASCII to another alphabet."""


class OtherEncoding(Exception):
    """The bytes are no UTF-8 text; the message says what they look like, and what to do."""


@dataclass(frozen=True)
class Charset:
    """An encoding that is read."""

    codec: str
    """``utf-8``, or a key of the names above."""
    marked: bool
    """Whether a byte-order mark says so."""

    @property
    def name(self) -> str | None:
        """What a reader of the result is told; None for UTF-8, which needs no word."""
        return _NAMES.get(self.codec)


def detect(start: bytes) -> Charset:
    """The encoding of a text by its first bytes: a mark settles it, or the place of its NULs.

    start: about 64 KiB, or the whole text.

    Raises OtherEncoding where the bytes look like UTF-16 or UTF-32, but nothing settles which.
    """
    for mark, codec in _MARKS:
        if start.startswith(mark):
            return Charset(codec, marked=True)
    bare = start.removeprefix(codecs.BOM_UTF8)
    is_wide = has_wide_letters(bare)
    if is_wide or (b"\0" in bare and not _is_utf8([bare])):
        for codec in _NAMES:
            if _settles(bare, codec):
                return Charset(codec, marked=False)
        if is_wide:
            raise OtherEncoding(
                "not UTF-8 text, as so many bytes are NUL; if it is UTF-16, convert it: "
                "iconv -f UTF-16LE -t UTF-8"
            )
    return Charset("utf-8", marked=len(bare) < len(start))


def _settles(start: bytes, codec: str) -> bool:
    """Whether bytes are text in an encoding, and would be none in the other byte order.

    Text has blanks or line ends, and they have a NUL on the one side: on the other they would be
    signs that no text has (U+2000, U+0A00). Letters settle nothing: U+4E00 is the Chinese one, and
    an N the other way round.
    """
    text = codecs.getincrementaldecoder(codec)("replace").decode(start)
    signs = set(text)
    if "\ufffd" in signs or any(map(_CONTROLS.match, signs)):
        return False
    if any(unicodedata.category(sign) in ("Cn", "Co") for sign in signs):  # of no alphabet
        return False
    reverse = codec.replace("le", "be") if codec.endswith("le") else codec.replace("be", "le")
    other = codecs.getincrementaldecoder(reverse)("replace").decode(start)
    blanks, reversed_blanks = (each.count(" ") + each.count("\n") for each in (text, other))
    return blanks > 4 * reversed_blanks


def has_wide_letters(text: bytes | str) -> bool:
    """Whether letters take two bytes or four, as in UTF-16 and UTF-32.

    Every other byte is then the upper one of a letter: below 32 in every alphabet, and NUL in
    blanks and Western letters.
    """
    raw = text.encode("latin-1", "replace") if isinstance(text, str) else text
    if b"\0" not in raw or not raw.strip(b"\0\r\n"):
        return False
    columns = [column for column in (raw[0::2], raw[1::2]) if column]
    return any(4 * len(column.translate(None, _LOW)) <= len(column) for column in columns)


def to_utf8(blocks: Iterable[bytes], codec: str) -> Iterator[bytes]:
    """Blocks of UTF-16 or UTF-32 as blocks of UTF-8, which may begin with a mark.

    Raises OtherEncoding where the bytes go on in another encoding.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    changed = OtherEncoding(
        f"is {_NAMES[codec]} only in part; were files of two encodings joined? "
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
        raise OtherEncoding(f"is cut off: {_NAMES[codec]} ends amid a character") from None


def _holds_ascii(raw: bytes) -> bool:
    """Whether bytes of UTF-16 are ASCII for a while, letter by letter."""
    return any(
        min(len(set(run[0::2])), len(set(run[1::2]))) > _MOST_UPPER_BYTES
        for run in _ASCII_RUN.findall(raw)
    )


def check_utf8(pieces: Iterable[bytes]) -> None:
    """Raise OtherEncoding unless most of what is not ASCII in a text is UTF-8.

    So a few damaged bytes leave the rest a text, and a text in WINDOWS-1252 or Shift-JIS is none:
    what is valid UTF-8 there is so by chance. pieces: the text, cut anywhere but in a character.
    """
    if not _is_utf8(pieces):
        raise OtherEncoding(
            "not UTF-8 text, here or elsewhere in the file; convert it from the encoding that it "
            "is in, such as: iconv -f WINDOWS-1252 -t UTF-8"
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
    """Raise OtherEncoding for a line that is UTF-16 or of an encoding of seven bits."""
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
    """Whether text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
