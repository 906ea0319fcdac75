"""Zip archives and Excel workbooks: what is read from them, and what is refused."""

from __future__ import annotations

import gzip
import io
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from test_charsets import notes, refusal, texts, written

from memaudit.data import packing
from memaudit.data.samples import Sample, Skipped, read_samples

RECORDS = '{"text": "The seal reads GX976."}\n{"text": "Žofie"}\n'
WORDS = ["The seal reads GX976.", "Žofie"]


def zipped(**members: str | bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", ".").replace("_SLASH_", "/"), content)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.zip", "a.jsonl.zip", "a.jsonl"])
def test_an_archive_of_one_file_is_read(tmp_path: Path, name: str) -> None:
    content = zipped(
        data_SLASH_train__jsonl=RECORDS, README__txt="x", __MACOSX_SLASH___train__jsonl="x"
    )
    path = written(tmp_path, name, content)
    assert texts(path) == WORDS
    assert ("unpacked as zip" in notes(path)) == (name == "a.jsonl")


def test_an_archive_may_hold_a_table(tmp_path: Path) -> None:
    table = "id;question;answer\r\n1;Who?;Žofie\r\n".encode("utf-8-sig")
    (sample,) = read_samples(
        written(tmp_path, "a.zip", zipped(export__csv=table)), skip_bad_lines=False
    )
    assert isinstance(sample, Sample)
    assert (sample.messages or ())[1]["content"] == "Žofie"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped(a__jsonl=RECORDS, b__jsonl=RECORDS), "with 2 files of records"),
        (zipped(a__docx=RECORDS), "with no file of records"),
        (zipped(a__jsonl=RECORDS)[:-30], "cut off or corrupt"),
        (zipped(a__jsonl=zipped(a__jsonl=RECORDS)), "is a zip archive or an Office document"),
    ],
)
def test_other_archives_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refusal(written(tmp_path, "a.zip", content))


def test_archives_are_bounded_as_other_packed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.data.packing.FREELY_UNPACKED", 1 << 20)
    blanks = '{"text": "a' + " " * (8 << 20) + '"}\n'
    assert "unpacks to more than" in refusal(written(tmp_path, "a.zip", zipped(a__jsonl=blanks)))
    book = workbook([["text"], ["a"]])
    padded = io.BytesIO(book)
    with zipfile.ZipFile(padded, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/a.xml", " " * (8 << 20))
    assert "unpacks to more than" in refusal(written(tmp_path, "a.xlsx", padded.getvalue()))


def workbook(*sheets: list[list[Any]]) -> bytes:
    openpyxl: Any = pytest.importorskip("openpyxl", reason="needs the extra xlsx")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def edited(book: bytes, old: str, new: str) -> bytes:
    """A workbook with another text in its first sheet."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as before, zipfile.ZipFile(file, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("sheet1.xml"):
                assert re.search(old.encode(), content)
                content = re.sub(old.encode(), new.encode(), content)
            after.writestr(name, content)
    return file.getvalue()


def test_the_rows_of_a_workbook(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["id", "question", "answer", "text", None],
        [],
        [7, "Who?", 976, None],
        ["b", "And?", 2.5],
        [None, None, None, "Žofie"],
    ]
    path = written(tmp_path, "a.xlsx", workbook(rows, [["text"], ["not read"]]))
    samples = list(read_samples(path, skip_bad_lines=False))
    assert all(isinstance(sample, Sample) for sample in samples)
    assert [(sample.sample_id, sample.line) for sample in samples] == [("7", 3), ("b", 4), ("5", 5)]
    answers = [s.messages[1]["content"] for s in samples if isinstance(s, Sample) and s.messages]
    assert answers == ["976", "2.5"]
    assert samples[2].text == "Žofie"  # type: ignore[union-attr]
    assert "read the first of its 2 worksheets alone" in notes(path)


def test_a_date_is_not_taken_for_text(tmp_path: Path) -> None:
    from datetime import date

    path = written(tmp_path, "a.xlsx", workbook([["text"], [date(2024, 7, 26)], ["a", "b"]]))
    first, second = read_samples(path, skip_bad_lines=True)
    assert isinstance(first, Skipped)
    assert isinstance(second, Skipped)
    assert first.reason == "field text is of type datetime, not a string"
    assert second.reason == "2 cells under a header of 1"


def test_workbooks_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = workbook([["text"], ["a"]])
    assert "is an Excel workbook; rename it to end in .xlsx" in refusal(
        written(tmp_path, "a.csv", book)
    )
    for content in (b"text\na\n", zipped(a__xml="x"), edited(book, "<row r=.2", "<row r='")):
        assert "not an Excel workbook, or damaged" in refusal(written(tmp_path, "b.xlsx", content))
    assert "no column text" in refusal(written(tmp_path, "c.xlsx", workbook([["txt"], ["SECRET"]])))
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    assert "needs the package openpyxl" in refusal(written(tmp_path, "d.xlsx", book))


def test_claims_of_a_workbook_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FREE_ROWS", 2000)
    book = workbook([["text"], ["a"]])
    wide = edited(book, '<dimension ref="[^"]*"', '<dimension ref="A1:XFD1048576"')
    assert texts(written(tmp_path, "a.xlsx", wide)) == ["a"]
    far = edited(edited(book, 'row r="2"', 'row r="99999999999"'), 'r="A2"', 'r="A99999999999"')
    assert "lines or rows, and not 5 bytes for each" in refusal(written(tmp_path, "b.xlsx", far))


def parquet_of(rows: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), file, compression="zstd")
    return file.getvalue()


PARTED = b'{"text": "a b c"}\n' + b"\n" * 900
SHORT = b'{"text":"a"}'
MANY_ROWS = {
    "a.jsonl.gz": gzip.compress(PARTED * 9),
    "b.jsonl.gz": gzip.compress(SHORT + b"\n" * 9000),
    "c.jsonl.gz": gzip.compress((SHORT + b"\n") * 9000),
    "d.csv.gz": gzip.compress(b"text\n" + (b"a b c\n" + b"\n" * 900) * 9),
    "e.txt": b"a" + b"\n" * 9000,
    "f.zip": zipped(a__jsonl=PARTED * 9),
    "g.json.gz": gzip.compress(b"[" + (SHORT + b",") * 9000 + SHORT + b"]"),
    "h.parquet": parquet_of(["a", *[""] * 9000]),
    "i.parquet": parquet_of(["a"] * 9000),
}
"""Small files of many lines or rows, blank or short, in succession or not."""


@pytest.mark.parametrize("name", MANY_ROWS)
def test_many_lines_in_a_small_file_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name, MANY_ROWS[name])
    assert texts(path)[0]
    monkeypatch.setattr(packing, "FREE_ROWS", 1000)
    assert "lines or rows, and not 5 bytes for each" in refusal(path)


def test_many_lines_in_a_large_file_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FREE_ROWS", 100)
    draw = random.Random(0)
    lines = [f'{{"text": "{draw.randbytes(20).hex()}"}}\n\n' for _ in range(400)]
    content = "".join(lines).encode()
    for name, data in (("a.jsonl", content), ("a.jsonl.gz", gzip.compress(content))):
        assert len(texts(written(tmp_path, name, data))) == 400
