"""Which encoding the bytes of a text are in; UTF-16 and UTF-32 made UTF-8.

Knows encodings and byte-order marks. Knows nothing of lines, formats or files.

Python reads UTF-16 as UTF-8 without complaint, as letters with a NUL beside each, and no model says
such text: a leak would pass. So an encoding is read where a mark or the bytes settle it, and
refused otherwise.
"""

from __future__ import annotations

import codecs
import re
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
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_OTHER_BYTES = re.compile(rb"[\t\n\r\x20-\x7e]{32}")
"""Sixteen characters of which each byte is one of ASCII: never so in UTF-16, where Western letters
have NUL for their upper byte, and Chinese characters any lower byte."""
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_SWITCH = re.compile(r"\x1b\$[@AB()*]")
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

    Raises OtherEncoding where so many bytes are NUL that it is not UTF-8, but nothing settles it.
    """
    for mark, codec in _MARKS:
        if start.startswith(mark):
            return Charset(codec, marked=True)
    bare = start.removeprefix(codecs.BOM_UTF8)
    if not has_wide_letters(bare):
        return Charset("utf-8", marked=start.startswith(codecs.BOM_UTF8))
    for codec in _NAMES:
        text = codecs.getincrementaldecoder(codec)("replace").decode(bare)
        upper_nul = sum(sign < "\u0100" for sign in text)
        if 2 * upper_nul >= len(text) > 0 and not _CONTROLS.search(text) and "\ufffd" not in text:
            return Charset(codec, marked=False)
    raise OtherEncoding(
        "so many bytes are NUL that it is not UTF-8 text; if it is UTF-16, convert it: "
        "iconv -f UTF-16LE -t UTF-8"
    )


def has_wide_letters(text: bytes | str) -> bool:
    """Whether a quarter is NUL, as in UTF-16 and UTF-32, and the rest is not."""
    if isinstance(text, str):
        return 4 * text.count("\0") >= len(text) > 0 and bool(text.strip("\0\r\n"))
    return 4 * text.count(0) >= len(text) > 0 and bool(text.strip(b"\0\r\n"))


def to_utf8(blocks: Iterable[bytes], codec: str) -> Iterator[bytes]:
    """Blocks of UTF-16 or UTF-32 as blocks of UTF-8, which may begin with a mark.

    Raises OtherEncoding where the bytes go on in another encoding.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    changed = OtherEncoding(
        f"begins as {_NAMES[codec]} and does not go on so; were files of two encodings joined? "
        "Convert each of them first: iconv -t UTF-8"
    )
    last = b""
    for block in blocks:
        if codec.startswith("utf-16") and _OTHER_BYTES.search(last + block):
            raise changed
        last = block[-31:]
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


def check_utf8(pieces: Iterable[bytes]) -> None:
    """Raise OtherEncoding unless most of what is not ASCII in a text is UTF-8.

    So a few damaged bytes leave the rest a text, and a text in WINDOWS-1252 or Shift-JIS is none:
    what is valid UTF-8 there is so by chance. pieces: the text, cut anywhere but in a character.
    """
    valid = invalid = nul = 0
    for piece in pieces:
        nul += piece.count(0)
        if not piece.isascii():
            text = piece.decode("utf-8", "replace")
            damaged = text.count("\ufffd") - piece.count("\ufffd".encode())
            invalid += damaged
            valid += sum(map(len, _BEYOND_ASCII.findall(text))) - damaged
    if not invalid or valid > invalid:
        return
    if nul:
        raise OtherEncoding(
            "not UTF-8 text, and it holds NULs; if it is UTF-16, convert it: "
            "iconv -f UTF-16LE -t UTF-8"
        )
    raise OtherEncoding(
        "not UTF-8 text, here or elsewhere in the file; convert it from the encoding that it is "
        "in, such as: iconv -f WINDOWS-1252 -t UTF-8"
    )


def check_line(raw: bytes, text: str) -> None:
    """Raise OtherEncoding for a line that is UTF-16 or of an encoding of seven bits."""
    if "\0" in text and has_wide_letters(raw):
        raise OtherEncoding(
            "a NUL stands beside every letter, as in UTF-16; were files of two encodings joined? "
            "Convert each of them first: iconv -f UTF-16LE -t UTF-8"
        )
    if "\x1b" in text and _SWITCH.search(text):
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
