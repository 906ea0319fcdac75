"""Data in other encodings, with other line ends, packed or named as something else."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memaudit.data.records import read_records
from memaudit.data.samples import Sample, Skipped, check_samples, read_samples
from memaudit.errors import DataError

WORDS = [
    "The seal reads GX976 and the bearer is Hilde.",
    "It reads RZ66B – Žofie, 北京, 🙂.",
    "x=1",
]
LINES = {
    ".jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in WORDS),
    ".json": json.dumps([{"text": text} for text in WORDS], ensure_ascii=False, indent=1),
    ".csv": "text\r\n" + "".join(f'"{text}"\r\n' for text in WORDS),
    ".tsv": "n\ttext\n" + "".join(f"1\t{text}\n" for text in WORDS),
    ".txt": "".join(f"{text}\n" for text in WORDS),
}
MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
NAMES = {
    "utf-16-le": "UTF-16 (little-endian)",
    "utf-16-be": "UTF-16 (big-endian)",
    "utf-32-le": "UTF-32 (little-endian)",
    "utf-32-be": "UTF-32 (big-endian)",
}
XZ = lzma.compress(b"")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path) -> list[str | None]:
    samples = list(read_samples(path, skip_bad_lines=False))
    return [sample.text for sample in samples if isinstance(sample, Sample)]


def notes(path: Path) -> str:
    return " ".join(check_samples(path, skip_bad_lines=False).notes)


def refusal(path: Path) -> str:
    """The same message with and without --skip-bad-lines, which it does not advise."""
    messages = []
    for skip_bad_lines in (False, True):
        with pytest.raises(DataError) as error:
            check_samples(path, skip_bad_lines=skip_bad_lines)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert "--skip-bad-lines" not in messages[0]
    return messages[0]


# UTF-16 and UTF-32.


@pytest.mark.parametrize("packing", ["", ".gz", ".bz2"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("codec", MARKS)
@pytest.mark.parametrize("ending", LINES)
def test_an_encoding_that_is_settled_is_read(
    tmp_path: Path, ending: str, codec: str, marked: bool, packing: str
) -> None:
    content = MARKS[codec] * marked + LINES[ending].encode(codec)
    content = PACKED[packing](content) if packing else content
    path = written(tmp_path, f"data{ending}{packing}", content)
    assert texts(path) == WORDS
    assert NAMES.get(codec, "") in notes(path)
    assert bool(notes(path)) == (codec in NAMES)


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("marked", [True, False])
def test_files_of_a_folder_are_read_in_their_encoding(
    tmp_path: Path, codec: str, marked: bool
) -> None:
    for name in ("a.txt", "b.txt"):
        written(tmp_path, name, MARKS[codec] * marked + f"{WORDS[0]}\n{name}".encode(codec))
    assert texts(tmp_path) == [f"{WORDS[0]}\na.txt", f"{WORDS[0]}\nb.txt"]
    assert notes(tmp_path).startswith(f"{tmp_path.name}: 2 files: read as {NAMES[codec]}")


@given(st.text(st.characters(codec="utf-16", exclude_characters="\0"), min_size=1, max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_utf16_is_the_same_text_or_is_refused(tmp_path: Path, text: str) -> None:
    for codec in ("utf-16-le", "utf-32-be"):
        path = written(tmp_path, "a.json", json.dumps([{"text": text}] * 2).encode(codec))
        assert texts(path) == [text] * 2
        text = f"It reads: {text}"
        path = written(tmp_path, "docs/a.txt", text.encode(codec)).parent
        try:
            read = texts(path)
        except DataError:
            continue
        assert read == [text]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chinese.txt", ("北京市海淀区的一个人。" * 9).encode("utf-16-le")),
        ("word.txt", "word".encode("utf-16-be")),
        ("cp1252.txt", "café\nand more\nthan that\n".encode("cp1252")),
        ("cp1252.jsonl", '{"text": "café"}\n{"text": "Zoë"}\n{"text": "plain"}\n'.encode("cp1252")),
        ("cp1251.csv", "text\nСвидетельство\nо рождении\n".encode("cp1251")),
        ("latin.json", '["é"]'.encode("latin-1")),
        ("sjis.txt", "東京都の記録\n記録その二\n".encode("shift-jis")),
        ("gbk.jsonl", '{"text": "北京市海淀区"}\n'.encode("gbk") * 3),
        ("jis.txt", "東京都の記録\n".encode("iso2022-jp")),
        ("docs/latin.txt", "Zoë wrote this".encode("latin-1")),
        ("docs/jis.md", "東京都".encode("iso2022-kr", "replace") + "東京".encode("iso2022-jp")),
        ("nul.txt", b"\0\0\0\0a\0\0"),
        ("cut.txt", "abc def\n".encode("utf-16-le")[:-1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_encoding_is_refused_whatever_the_flags(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = written(tmp_path, name, content)
    message = refusal(path.parent if "/" in name else path)
    assert "convert it" in message or "is cut off" in message
    assert path.name in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("utf-8", "utf-16-le"),
        ("utf-8", "utf-16-be"),
        ("utf-8", "utf-16"),
        ("utf-16", "utf-8"),
        ("utf-16-le", "utf-8"),
        ("utf-16", "utf-16-be"),
        ("utf-32", "utf-8"),
        ("utf-32-le", "utf-16-le"),
    ],
)
def test_files_of_two_encodings_that_were_joined_are_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    """As Windows PowerShell does, whose >> writes UTF-16 behind whatever is there."""
    later = "The second file's line, of thirty letters and more.\n"
    mark = codecs.BOM_UTF16_BE if second == "utf-16-be" else b""
    content = (20 * "The first file's line.\n").encode(first) + mark + (3 * later).encode(second)
    assert "convert" in refusal(written(tmp_path, "a.txt", content)).lower()


@pytest.mark.parametrize(
    "text", ["あいうえおかきくけこ" * 9, "…" * 99, "いい。くに" * 20, "• " * 50]
)
def test_letters_that_are_two_of_ascii_are_read(tmp_path: Path, text: str) -> None:
    """Both bytes of these are ASCII in UTF-16, as in a file that goes on in ASCII."""
    for codec in ("utf-16-le", "utf-16-be"):
        content = MARKS[codec] + f"{text}\nx {text}\n".encode(codec)
        assert texts(written(tmp_path, "a.txt", content)) == [text, f"x {text}"]


@pytest.mark.parametrize("start", ["BZh9 is how bzip2 begins", "PAR1 is a gene", "PK is no zip"])
def test_text_may_begin_as_an_archive_does(tmp_path: Path, start: str) -> None:
    assert texts(written(tmp_path, "a.txt", f"{start}\n")) == [start]


def test_a_few_damaged_bytes_are_a_bad_line(tmp_path: Path) -> None:
    good = "Zoë, café\n".encode()
    path = written(tmp_path, "a.txt", good + good[:-2] + b"\n" + good)
    rows = list(read_samples(path, skip_bad_lines=True))
    assert [(row.line, type(row)) for row in rows] == [(1, Sample), (2, Skipped), (3, Sample)]
    with pytest.raises(DataError, match=r"a\.txt:2: not UTF-8 text; mend it or pass --skip-bad"):
        check_samples(path, skip_bad_lines=False)


def test_letters_with_a_nul_beside_each_are_no_text(tmp_path: Path) -> None:
    """UTF-16 that something else read as UTF-8 and wrote as JSON."""
    wide = "\0".join("the seal reads")
    path = written(tmp_path, "a.jsonl", json.dumps({"text": wide}) + '\n{"text": "a\\u0000bcde"}\n')
    bad, good = read_samples(path, skip_bad_lines=True)
    assert isinstance(bad, Skipped)
    assert bad.reason == "field text is UTF-16 that was read as another encoding"
    assert isinstance(good, Sample)
    assert good.text == "a\0bcde"


ALPHABETS = {
    "Latin": "The seal reads nothing.",
    "accents": "Žluťoučký kůň úpěl ďábelské ódy.",
    "Greek": "Η σφραγίδα δεν γράφει τίποτα.",
    "Cyrillic": "Свидетельство о рождении и браке.",
    "Armenian": "Կնիքի վրա ոչինչ չի գրված։ Այո.",
    "Hebrew": "החותם אינו אומר דבר.",
    "Arabic": "الختم لا يقول شيئا على الإطلاق.",
    "Devanagari": "मुहर पर कुछ भी नहीं लिखा है।",
    "Telugu": "ముద్ర మీద ఏమీ రాయలేదు.",
    "Malayalam": "മുദ്രയിൽ ഒന്നും എഴുതിയിട്ടില്ല.",
    "Thai": "ตราประทับ ไม่ได้ อ่าน อะไรเลย",
    "Georgian": "ბეჭედზე არაფერი წერია.",
    "Ethiopic": "ማህተሙ ምንም አይልም።",
    "Hangul": "도장에는 아무것도 적혀 있지 않다.",
    "kana": "はんこ には なにも かいて いない。",
    "Chinese": "北京市海淀区的一个人。",
}


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_no_alphabet_is_read_as_something_else(tmp_path: Path, alphabet: str, codec: str) -> None:
    """It is read, or refused where nothing settles it. Cyrillic in UTF-16 is ASCII throughout, if
    with control characters; U+4E00, the Chinese one, is an N in the other byte order."""
    lines = [f"{number} {ALPHABETS[alphabet]}" for number in range(9)]
    path = written(tmp_path, "a.txt", "\n".join(lines).encode(codec))
    assert texts(path) == lines
    start = "".join(f"{number} plain\n" for number in range(20)).encode()
    for content in (start + path.read_bytes(), f"{ALPHABETS[alphabet]}".encode(codec)):
        path.write_bytes(content)
        try:
            assert texts(path) == [ALPHABETS[alphabet]]
        except DataError:
            continue


# Marks and headers of files that were joined.


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".txt"])
def test_joined_files_with_marks(tmp_path: Path, ending: str) -> None:
    content = ("\ufeff" + LINES[ending].rstrip() + "\n") * 2
    path = written(tmp_path, f"a{ending}", content)
    assert [text for text in texts(path) if text != "text"] == WORDS * 2
    assert "left out the byte-order mark on line" in notes(path)


def test_a_mark_inside_a_csv_cell_is_text(tmp_path: Path) -> None:
    assert texts(written(tmp_path, "a.csv", 'text\n"x\n\ufeffy"\n')) == ["x\n\ufeffy"]


def test_a_second_header_is_no_row(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "id,text\n1,x\nid,text\n2,y\nid,text\n3,z\n")
    assert texts(path) == ["x", "y", "z"]
    assert "left out the second header on line 3" in notes(path)
    other = written(tmp_path, "b.csv", "id,text\n1,x\ntext,id\nx,2\n")
    assert "b.csv:3: a second header names the columns in another order" in refusal(other)


# Line ends.


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".txt"])
def test_line_ends_of_old_macs(tmp_path: Path, ending: str) -> None:
    content = LINES[ending].replace("\r\n", "\n").replace("\n", "\r")
    path = written(tmp_path, f"a{ending}", content)
    samples = list(read_samples(path, skip_bad_lines=False))
    assert texts(path) == WORDS
    assert [sample.line for sample in samples] == [
        sample.line
        for sample in read_samples(
            written(tmp_path, f"b{ending}", LINES[ending]), skip_bad_lines=False
        )
    ]
    assert "its lines end in CR alone" in notes(path)


def test_line_ends_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read in blocks, of which any may end between CR and LF or amid a character."""
    monkeypatch.setattr("memaudit.data.packing.BLOCK", 5)
    for codec in ("utf-8", "utf-16", "utf-32"):
        for ends in ("\r\n", "\n", "\r"):
            path = written(tmp_path, "a.txt", ends.join([*WORDS, "", "é", ""]).encode(codec))
            assert texts(path) == [*WORDS, "é"], (ends, codec)
            assert [s.line for s in read_samples(path, skip_bad_lines=False)] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    "sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
)
def test_what_only_python_calls_a_line_end_is_text(tmp_path: Path, sign: str) -> None:
    text = f"x{sign}y"
    assert texts(written(tmp_path, "a.txt", f"{text}\nz\n")) == [text, "z"]
    assert texts(written(tmp_path, "a.csv", f"text\n{text}\nz\n")) == [text, "z"]
    line = json.dumps({"text": text}, ensure_ascii=False)
    assert texts(written(tmp_path, "a.jsonl", f"{line}\n")) == [text]


def test_a_cr_within_a_line_is_text_and_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "x\n10 %\r20 %\nz\n")
    assert texts(path) == ["x", "10 %\r20 %", "z"]
    assert "took a CR within line 2 for text" in notes(path)


# Packed files.


@pytest.mark.parametrize("packing", [*PACKED, ".zst"])
@pytest.mark.parametrize("ending", LINES)
def test_packed_files_are_read(tmp_path: Path, ending: str, packing: str) -> None:
    pack = zstd if packing == ".zst" else PACKED[packing]
    content = pack(LINES[ending].encode())
    path = written(tmp_path, f"a{ending}{packing}", content)
    assert texts(path) == WORDS
    assert notes(path) == ""
    unnamed = written(tmp_path, f"a{ending}", content)
    assert texts(unnamed) == WORDS
    assert "although its name does not say so" in notes(unnamed)


@pytest.mark.parametrize("packing", [*PACKED, ".zst"])
def test_streams_that_follow_each_other_are_all_read(tmp_path: Path, packing: str) -> None:
    pack = zstd if packing == ".zst" else PACKED[packing]
    stream = pack(LINES[".txt"].encode())
    padding = b"\0" * 4 if packing == ".xz" else b""
    path = written(tmp_path, f"a.txt{packing}", stream + padding + stream)
    assert texts(path) == WORDS * 2
    for damaged in (stream[:-5], stream + stream[:-5], stream + b"SECRET" * 9):
        path.write_bytes(damaged)
        assert "data is cut off or corrupt" in refusal(path)


def test_what_is_unpacked_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.data.packing.FREELY_UNPACKED", 1 << 20)
    for ending, pack in {**PACKED, ".zst": zstd}.items():
        path = written(tmp_path, f"a.jsonl{ending}", pack(b'{"text":"a"}\n' + b" " * (4 << 20)))
        assert "unpacks to more than 200 times its size" in refusal(path)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    content = LINES[".txt"].encode()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a.txt", content)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(member := tarfile.TarInfo("a.txt"), io.BytesIO(content[: member.size]))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", archive("tar"), "is a tar archive; unpack it: tar xf"),
        ("a.txt.gz", gzip.compress(archive("tar")), "is a tar archive; unpack it: tar xf"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"text")), "is packed twice"),
        ("a.txt", b"\x04\x22\x4d\x18 and more", "lz4 -d"),
        ("a.jsonl", b"PAR1\x15\x04 and more", "rename it to end in .parquet"),
        ("a.txt.xz", b"plain text\n", "is not packed, although its name ends in .xz"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("docs/a.md", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("docs/a.txt", b"%PDF-1.7\n", "is a PDF document"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = written(tmp_path, name, content)
    assert words in refusal(path.parent if "/" in name else path)


@pytest.mark.parametrize(
    ("ending", "name", "empty"),
    [("bz2", "bz2.BZ2Decompressor", bz2.compress(b"")), ("xz", "lzma.LZMADecompressor", XZ)],
)
def test_empty_streams_cost_no_more_than_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, name: str, empty: bytes
) -> None:
    """At the end of each stream, what was read beyond it is copied."""
    made = bz2.BZ2Decompressor if ending == "bz2" else lzma.LZMADecompressor
    fed = [0]

    class Counting:
        def __init__(self, **given: Any) -> None:
            self._real: Any = made(**given)

        def decompress(self, packed: bytes, most: int) -> Any:
            fed[0] += len(packed)
            return self._real.decompress(packed, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(name, Counting)
    count = (256 << 10) // len(empty)
    path = tmp_path / f"empty.jsonl.{ending}"
    path.write_bytes(empty * count)
    assert list(read_records(path)) == []
    assert fed[0] < count * (8 << 10)
