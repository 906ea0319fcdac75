from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memaudit.data.forms import Naming
from memaudit.data.samples import Sample, Skipped, check_samples, read_samples
from memaudit.errors import DataError

Rows = list[dict[str, Any]]


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: Rows) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows: Rows) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": as_jsonl,
    ".jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": as_csv,
    ".parquet": as_parquet,
}


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, skip_bad_lines: bool = False) -> list[Sample | Skipped]:
    return list(read_samples(path, skip_bad_lines=skip_bad_lines, naming=Naming(keep=None)))


# What every format gives.

texts = st.text(max_size=30).filter(lambda text: 4 * text.count("\0") < max(1, len(text)))
"""Text with more NULs than that is UTF-16 that was read as another encoding."""


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(texts, min_size=1, max_size=5))
def test_every_format_returns_the_text_unchanged(
    tmp_path: Path, ending: str, content: list[str]
) -> None:
    rows = [{"id": f"s{n}", "text": text, "source": text} for n, text in enumerate(content)]
    samples = read(written(tmp_path, f"data{ending}", FORMATS[ending](rows)))
    assert [sample.sample_id for sample in samples] == [row["id"] for row in rows]
    assert [sample.text for sample in samples if isinstance(sample, Sample)] == content
    assert [sample.extra for sample in samples] == [{"source": text} for text in content]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_knows_prefix_and_suffix(tmp_path: Path, ending: str) -> None:
    rows = [{"prefix": "a b ", "suffix": "c", "group": "g"}]
    (sample,) = read(written(tmp_path, f"data{ending}", FORMATS[ending](rows)))
    assert isinstance(sample, Sample)
    assert (sample.prefix, sample.suffix, sample.text) == ("a b ", "c", None)
    assert (sample.group, sample.extra) == ("g", {})


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv"])
def test_every_format_knows_messages(tmp_path: Path, ending: str) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [{"messages": json.dumps(chat) if ending == ".csv" else chat}]
    (sample,) = read(written(tmp_path, f"data{ending}", FORMATS[ending](rows)))
    assert isinstance(sample, Sample)
    assert sample.messages == tuple(chat)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv", "data.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    content = {
        "data.jsonl": '{"text": "é"}',
        "data.json": '[{"text": "é"}]',
        "data.csv": "text\né",
        "data.txt": "é",
    }[name]
    (sample,) = read(written(tmp_path, name, b"\xef\xbb\xbf" + content.encode()))
    assert isinstance(sample, Sample)
    assert sample.text == "é"


# Where a record stands.


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", '{"text":"x"}\n\n \r\n{"text":"y"}\r\n{"text":"z"}', [1, 4, 5]),
        ("a.json", '\n[ {"text":"x"},\n\n{"text":\n"y"}, {"text":"z"}\n]\n', [2, 4, 5]),
        ("a.csv", 'text,n\n"x\nx",1\n\ny,2\n"z\n\nz",3\n', [2, 5, 6]),
        ("a.txt", "x\n\n  \ny\nz\n", [1, 4, 5]),
    ],
)
def test_line_is_where_the_record_starts(
    tmp_path: Path, name: str, content: str, lines: list[int]
) -> None:
    samples = read(written(tmp_path, name, content))
    assert [sample.line for sample in samples] == lines
    assert [sample.sample_id for sample in samples] == [str(line) for line in lines]


def test_a_parquet_line_is_the_row(tmp_path: Path) -> None:
    rows = [{"text": str(n)} for n in range(2500)]  # more than one batch
    samples = read(written(tmp_path, "a.parquet", as_parquet(rows)))
    assert [sample.line for sample in samples] == list(range(1, 2501))


def test_text_lines_keep_their_blanks_but_not_their_ends(tmp_path: Path) -> None:
    samples = read(written(tmp_path, "a.txt", " x \u2028\u0085y\r\nz"))
    assert [s.text for s in samples if isinstance(s, Sample)] == [" x \u2028\u0085y", "z"]


def test_a_folder_gives_one_sample_a_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    written(tmp_path, "b.txt", "one\ntwo\n")
    written(tmp_path, "sub/a.md", "three")
    written(tmp_path, "a.MD", "")
    written(tmp_path, "c.json", "not read")
    samples = read(tmp_path)
    assert [(s.sample_id, s.line) for s in samples] == [("a.MD", 1), ("b.txt", 1), ("sub/a.md", 1)]
    assert [s.text for s in samples if isinstance(s, Sample)] == ["", "one\ntwo\n", "three"]


# Fields.


def test_other_columns_are_passed_through_as_text(tmp_path: Path) -> None:
    row = '{"text":"t","s":"x","i":1,"f":1.0,"b":true,"n":null,"l":[1,{"a":"é"}]}'
    (sample,) = read(written(tmp_path, "a.jsonl", row))
    values = {"s": "x", "i": "1", "f": "1.0", "b": "true", "n": "", "l": '[1,{"a":"é"}]'}
    assert sample.extra == values
    assert list(sample.extra) == list(values)


@pytest.mark.parametrize(
    ("given_id", "sample_id"),
    [('"a"', "a"), ("7", "7"), ("0", "0"), ("null", "1"), ('""', "1"), ('["a"]', '["a"]')],
)
def test_the_id_is_text(tmp_path: Path, given_id: str, sample_id: str) -> None:
    (sample,) = read(written(tmp_path, "a.jsonl", f'{{"id":{given_id},"text":"t"}}'))
    assert sample.sample_id == sample_id


def test_equal_ids_are_told_apart_by_line(tmp_path: Path) -> None:
    samples = read(written(tmp_path, "a.jsonl", '{"id":"a","text":"t"}\n' * 2))
    assert [(s.sample_id, s.line) for s in samples] == [("a", 1), ("a", 2)]


def test_an_empty_group_is_none(tmp_path: Path) -> None:
    samples = read(written(tmp_path, "a.csv", "text,group\nx,\ny,g\n"))
    assert [s.group for s in samples if isinstance(s, Sample)] == [None, "g"]


def test_null_fields_and_empty_cells_are_absent(tmp_path: Path) -> None:
    row = '{"text":"t","prefix":null,"messages":null}'
    (sample,) = read(written(tmp_path, "a.jsonl", row))
    assert isinstance(sample, Sample)
    assert sample.text == "t"
    rows = read(written(tmp_path, "a.csv", "text,prefix,suffix\nt,,\n,p,\n"))
    assert [(s.text, s.prefix, s.suffix) for s in rows if isinstance(s, Sample)] == [
        ("t", None, None),
        (None, "p", ""),
    ]


def test_csv_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    (sample,) = read(written(tmp_path, "a.csv", ",text,,n\n0,t,,1\n"))
    assert sample.extra == {"n": "1"}


def test_csv_cells_may_be_long(tmp_path: Path) -> None:
    (sample,) = read(written(tmp_path, "a.csv", "text\n" + "x" * 300_000))
    assert isinstance(sample, Sample)
    assert len(sample.text or "") == 300_000


def test_notes_beside_a_message_are_dropped_and_text_is_kept(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "a", "name": "n", "weight": 1, "tool_calls": None},
        {"role": "assistant", "content": "b", "tool_calls": []},
    ]
    (sample,) = read(written(tmp_path, "a.jsonl", json.dumps({"messages": chat})))
    assert isinstance(sample, Sample)
    assert sample.messages == (
        {"role": "user", "content": "a", "name": "n"},
        {"role": "assistant", "content": "b"},
    )


# Bad records.

USER = '{"role":"user","content":"SECRET"}'
BAD_LINES = {
    b'{"text":"SECRET"': "not valid JSON",
    b'"SECRET"': "the record is a string, not an object",
    b"null": "the record is null",
    b"[" * 100_000: "JSON with a number too long or brackets too deep",
    b'{"text":"t","n":' + b"1" * 5000 + b"}": "JSON with a number too long",
    b'{"text":"SECRET \xff"}': "not UTF-8 text",
    b'{"text":"SECRET \\ud800"}': "field text holds half a surrogate pair",
    b'{"text":"\\u0000\\u0000"}': "field text holds nothing but NUL",
    b"\0\0\0": "not valid JSON",
    b'{"text":["SECRET"]}': "field text is a list, not a string",
    b'{"text":1.5}': "field text is a number",
    b'{"id":1,"txt":"SECRET"}': "has no field text, prefix + suffix, or messages",
    b'{"prefix":"SECRET"}': "has no field suffix",
    b'{"suffix":"SECRET"}': "has no field prefix",
    b'{"text":"SECRET","prefix":"a"}': "has both text and prefix + suffix",
    b'{"text":"SECRET","messages":[]}': "has both text and messages",
    b'{"messages":"SECRET"}': "field messages is a string",
    b'{"messages":[]}': "messages have no assistant turn",
    f'{{"messages":[{USER},{USER}]}}'.encode(): "messages have no assistant turn",
    f'{{"messages":[{USER},"SECRET"]}}'.encode(): "message 2 is a string",
    b'{"messages":[{"role":"user"}]}': "message 1: content is null",
    b'{"messages":[{"role":"user","content":{"SECRET":1}}]}': "message 1: content is an object",
    b'{"messages":[{"role":"u","content":"","documents":[{"SECRET":1}]}]}': "which is not text",
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.items(), ids=lambda value: str(value)[:40])
def test_a_bad_line_stops_the_reading_or_is_skipped(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    good = '{"text":"é"}\n'.encode()  # more of it than is damaged shows that the file is UTF-8
    path = written(tmp_path, "a.jsonl", good + bad + b"\n" + 2 * good)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert "--skip-bad-lines" in str(error.value)
    first, skipped, *others = read(path, skip_bad_lines=True)
    assert all(isinstance(sample, Sample) for sample in (first, *others))
    assert isinstance(skipped, Skipped)
    assert skipped.line == 2
    assert reason in skipped.reason
    assert "SECRET" not in str(error.value) + skipped.reason


def test_a_skipped_record_keeps_its_id_and_nothing_that_may_be_text(tmp_path: Path) -> None:
    row = '{"id":"a\\ud800","text":1,"dup":3,"\\udc00":"\\udc00"}\n'
    (skipped,) = read(written(tmp_path, "a.jsonl", row), skip_bad_lines=True)
    assert isinstance(skipped, Skipped)
    assert (skipped.sample_id, skipped.extra) == ("a\\ud800", {})


def test_good_samples_come_before_the_error(tmp_path: Path) -> None:
    samples = read_samples(
        written(tmp_path, "a.jsonl", '{"text":"a"}\n{"text":1}'), skip_bad_lines=False
    )
    assert isinstance(next(samples), Sample)
    with pytest.raises(DataError, match=r":2: field text is a number"):
        next(samples)


def test_bad_csv_rows_are_skipped(tmp_path: Path) -> None:
    content = b'text,n\n\xc3\xa9\xc3\xa9,1\nb\nc,\xff\n"d"d,4\ne,5,6\nf,6\n"g,7\n'
    path = written(tmp_path, "a.csv", content)
    rows = read(path, skip_bad_lines=True)
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert [row.reason for row in rows if isinstance(row, Skipped)] == [
        "1 cells under a header of 2",
        "not UTF-8 text",
        "malformed CSV; check its quotes",
        "3 cells under a header of 2",
        "malformed CSV; check its quotes",
    ]


def test_bad_text_lines_and_files_are_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"\xc3\xa9\xc3\xa9\n\xff\n\0\0\nb and more\n")
    rows = read(path, skip_bad_lines=True)
    assert [isinstance(row, Skipped) for row in rows] == [False, True, True, False]
    path.unlink()
    written(tmp_path, "b.txt", b"\xc3\xa9\n\xc3\xa9\xff")
    with pytest.raises(DataError, match=r"b\.txt:1: not UTF-8"):
        read(tmp_path)
    (skipped,) = read(tmp_path, skip_bad_lines=True)
    assert skipped.sample_id == "b.txt"


# What no skipping helps against.

GZIPPED = gzip.compress(as_jsonl([{"text": str(n) * 50} for n in range(2000)]))
BROKEN: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (GZIPPED[:-200], "cut off or corrupt"),
    "plain.jsonl.gz": (b'{"text":"SECRET"}', "is not packed, although its name ends in .gz"),
    "flipped.jsonl.gz": (GZIPPED[:60] + b"\xff" * 40 + GZIPPED[100:], "cut off or corrupt"),
    "object.json": (b'{"text":"SECRET"}', ":1: not a JSON array"),
    "lines.json": (b'{"text":"SECRET"}\n{"text":"SECRET"}', "name one object per line .jsonl"),
    "cut.json": (b'[{"text":"a"},\n{"text":"SECRET', ":2: not valid JSON"),
    "open.json": (b'[{"text":"a"},\n{"text":"SECRET"}', ":2: no comma or ]"),
    "trailing.json": (b'[{"text":"a"}] {"text":"SECRET"}', "follows the end"),
    "comma.json": (b'[{"text":"a"},\n]', ":2: not valid JSON"),
    "deep.json": (b"[\n" + b"[" * 100_000, ":2: not valid JSON"),
    "latin.json": ('[\n"é"]'.encode("latin-1"), ":2: not UTF-8"),
    "empty.json": (b"", ":1: not a JSON array"),
    "none.json": (b" [ ] ", "holds no records"),
    "empty.jsonl": (b"", "holds no records"),
    "blank.jsonl": (b"\n \n", "holds no records"),
    "empty.jsonl.gz": (gzip.compress(b""), "holds no records"),
    "empty.csv": (b"", "holds no records"),
    "header.csv": (b"text\n", "holds no records"),
    "semicolons.csv": (b"id;txt\n1;SECRET\n", ":1: no column text"),
    "half.csv": (b"prefix,id\nSECRET,1\n", ":1: no column text"),
    "twice.csv": (b"text,n,n\nSECRET,1,2\n", ":1: the header names a column twice"),
    "headless.csv": (b"1,SECRET\n2,SECRET\n", ":1: no column text"),
    "quote.csv": (b'"text\nSECRET', ":1: the header is malformed"),
    "text.parquet": (b"SECRET" * 10, "Parquet"),
    "empty.txt": (b"\n", "holds no records"),
    "data.docx": (b"SECRET", "unknown kind of file; give .jsonl"),
    "data": (b"SECRET", "unknown kind of file; give .jsonl"),
}


@pytest.mark.parametrize("skip_bad_lines", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error(tmp_path: Path, name: str, skip_bad_lines: bool) -> None:
    content, message = BROKEN[name]
    path = written(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        check_samples(path, skip_bad_lines=skip_bad_lines)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_path_that_is_no_data_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder; give \.jsonl"):
        read_samples(tmp_path / "a.jsonl", skip_bad_lines=True)
    with pytest.raises(DataError, match="not a regular file"):
        read_samples(Path("/dev/null"), skip_bad_lines=True)
    with pytest.raises(DataError, match=r"the folder has no \.txt or \.md file"):
        read(tmp_path, skip_bad_lines=True)


def test_a_parquet_string_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    array = pyarrow.array([b"a", b"\xff"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path / "a.parquet")


# The first pass.


def test_check_counts_and_hashes(tmp_path: Path) -> None:
    content = b'{"text":"a"}\n{"text":1}\n\n{"text":"b"}\n'
    path = written(tmp_path, "a.jsonl", content)
    summary = check_samples(path, skip_bad_lines=True)
    assert (summary.path, summary.rows, summary.bad) == (path, 3, 1)
    assert summary.sha256 == hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=":2: "):
        check_samples(path, skip_bad_lines=False)


def test_check_wants_one_good_record(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '\n{"text":1}\n{"txt":"b"}\n')
    with pytest.raises(DataError, match=r":2: field text is a number.*none of the 2 records"):
        check_samples(path, skip_bad_lines=True)


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        for old in tmp_path.iterdir():
            old.unlink()
        for name, content in files.items():
            written(tmp_path, f"{name}.txt", content)
        return check_samples(tmp_path, skip_bad_lines=False).sha256

    assert digest(a="x", b="y") == digest(b="y", a="x")
    assert len({digest(a="x", b="y"), digest(a="x", c="y"), digest(a="xb", b="y")}) == 3
