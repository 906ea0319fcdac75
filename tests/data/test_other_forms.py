"""Tables written in other ways, records of other forms, and files named as something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_charsets import notes, refusal, texts, written

from memaudit.data.samples import Sample, Skipped, check_samples, read_samples
from memaudit.errors import DataError


def failure(path: Path) -> str:
    with pytest.raises(DataError) as error:
        check_samples(path, skip_bad_lines=False)
    return str(error.value)


# Tables.


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.csv", "sep=,\r\nid,text\r\n1,x y\r\n", ""),
        ("a.csv", '"sep=;"\r\nid;text\r\n1;x y\r\n', ""),
        ("a.csv", "sep=\t\nid\ttext\n1\tx y\n", ""),
        ("a.csv", "id;text\n1;x y\n", "separated by semicolons"),
        ("a.csv", "id\ttext\n1\tx y\n", "separated by tabs"),
        ("a.csv", "id|text\n1|x y\n", "separated by bars"),
        ("a.tsv", "id\ttext\n1\tx y\n", ""),
        ("a.tsv", "id,text\n1,x y\n", "separated by commas"),
        ("a.csv", "id, text\n1, x y\n", "blanks after its delimiters"),
        ("a.csv", 'id, "text"\n1, "x y"\n', "blanks after its delimiters"),
        ("a.csv", "id; text\n1; x y\n", "blanks after its delimiters"),
        ("a.csv", "id,text \n1,x y\n", ""),
    ],
)
def test_what_sets_columns_off_is_read_from_the_header(
    tmp_path: Path, name: str, content: str, note: str
) -> None:
    path = written(tmp_path, name, content)
    (sample,) = read_samples(path, skip_bad_lines=False)
    assert isinstance(sample, Sample)
    assert (sample.sample_id, sample.text, sample.extra) == ("1", "x y", {})
    assert note in notes(path)
    assert bool(note) == bool(notes(path))


def test_a_table_of_excels_unicode_text(tmp_path: Path) -> None:
    table = 'id\ttext\r\n1\t"say ""é"", twice"\r\n'
    assert texts(written(tmp_path, "a.csv", table.encode("utf-16"))) == ['say "é", twice']
    assert texts(written(tmp_path, "a.tsv", table.encode("utf-16"))) == ['say "é", twice']
    path = written(tmp_path, "a.txt", table.encode("utf-16"))
    assert "begins with the header of a table; rename it to end in .csv or .tsv" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('id,text\n1, "x, y"\n2,z\n', "3 cells under a header of 2"),
        ('id,text\n1, "x y"\n2,z\n', "malformed CSV; there is a blank before a quote"),
        ('id\ttext\n1\t"x\n3\ty"\n2\tz\n', "malformed CSV; a quoted cell spans lines"),
    ],
)
def test_quotes_that_enclose_no_cell_are_a_bad_row(
    tmp_path: Path, content: str, reason: str
) -> None:
    bad, good = read_samples(written(tmp_path, "a.csv", content), skip_bad_lines=True)
    assert isinstance(bad, Skipped)
    assert (bad.reason, bad.line) == (reason, 2)
    assert isinstance(good, Sample)
    assert good.text == "z"


def test_blanks_that_may_belong_to_a_suffix_are_not_guessed_at(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "prefix, suffix\nThe seal reads, GX976\n")
    assert "a blank after a delimiter may or may not belong to the suffix" in refusal(path)
    (sample,) = read_samples(
        written(tmp_path, "b.csv", 'prefix,suffix\nThe seal reads," ""GX976"""\n'),
        skip_bad_lines=False,
    )
    assert isinstance(sample, Sample)
    assert sample.suffix == ' "GX976"'


def test_a_table_without_a_header_shows_none_of_its_values(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "a.csv", "Hilde,Norvaleson\nJorun,Estmere\n"))
    assert "Hilde" not in message
    assert message.endswith(":1: no column text, prefix + suffix, or messages")
    message = refusal(written(tmp_path, "b.csv", "n;source;target\n1;a;b\n"))
    assert message.endswith(
        "(it has source, target and 1 more); pass --prefix-field source --suffix-field target"
    )


# Records.

TURN = {"role": "user", "content": "SECRET"}
OTHER_FORMS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "SECRET", "chosen": "b", "rejected": "c"}, "--prefix-field prompt --suffix-field"),
    ({"prompt": [TURN], "chosen": [TURN]}, "preference pair: give prompt and chosen as one list"),
    ({"source": "SECRET", "target": "b"}, "pass --prefix-field source --suffix-field target"),
    ({"content": "SECRET", "url": "b"}, "pass --text-field content"),
    ({"instruction": "SECRET", "output": 7}, "field output is a number, not a string"),
    ({"instruction": "SECRET", "output": "b", "history": [["SECRET", "c"]]}, "write all turns as"),
    ({"conversations": [{"from": "SECRET", "value": "a"}]}, "message 1: from is none of human"),
    ({"conversations": [TURN]}, "messages have no assistant turn"),
    ({"Text": "SECRET"}, "write text in lower case"),
    ({"my_text": "SECRET", "b SECRET": 1, "text": None}, "(it has 2 fields of other names)"),
    ({"zebra_crossing": 1}, "(it has 1 field of other names)"),
    ({"prompt": "SECRET", "zebra_crossing": 1}, "(it has prompt and 1 more)"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "url": "SECRET"}]}, TURN]},
        "message 1 has a part that is not text, such as an image",
    ),
    (
        {"messages": [TURN, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "message 2 has a call of a tool without a name",
    ),
    (
        {"messages": [TURN, {"role": "assistant", "content": "b", "weight": 0}]},
        "every assistant turn has weight 0",
    ),
]


@pytest.mark.parametrize(("fields", "words"), OTHER_FORMS, ids=lambda value: str(value)[:40])
def test_a_form_that_is_not_read_is_named_with_what_to_do(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    line = json.dumps(fields) + "\n"
    every = failure(written(tmp_path, "every.jsonl", 3 * line))
    assert words in every
    assert "SECRET" not in every
    assert "--skip-bad-lines" not in every
    for content in ('{"text": "a"}\n' + line, line + '{"text": "a"}\n'):
        assert "pass --skip-bad-lines" in failure(written(tmp_path, "some.jsonl", content))


def test_names_of_fields_are_bounded(tmp_path: Path) -> None:
    usual = (
        "prompt",
        "body",
        "passage",
        "sentence",
        "system",
        "query",
        "inputs",
        "rejected",
        "dialog",
    )
    fields = dict.fromkeys((*usual, *(f"field{n}" for n in range(500)), "x" * 9000), 1)
    message = failure(written(tmp_path, "a.jsonl", json.dumps(fields)))
    assert "rejected and 502 more" in message
    assert len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "text": "b"}',
        '{"id": 1, "text": "a", "id": 2}',
        '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
    ],
)
def test_a_field_with_two_values_is_a_bad_record(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, "a.jsonl", f'{line}\n{{"text": "c"}}\n')
    bad, good = read_samples(path, skip_bad_lines=True)
    assert isinstance(bad, Skipped)
    assert bad.reason == "an object names a field twice"
    assert isinstance(good, Sample)
    array = written(tmp_path, "a.json", f'[{{"text": "c"}},\n{line}]')
    assert "a.json:2: an object names a field twice" in refusal(array)


def test_most_records_unusable_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n' + 2 * '{"txt": "b"}\n')
    (note,) = check_samples(path, skip_bad_lines=True).notes
    assert note == "a.jsonl: 2 of 3 records cannot be used."


# Names that say something else.


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "a"}\n{"text": "b"}\n',
        '{"prompt": "a", "completion": "b"}\n',
        '[\n {"text": "a"}\n]\n',
        '[{"text": "a"}, {"text": "b"}]\n',
        "id\ttext\n1\tx\n",
        "id,prefix,suffix\n1,x,y\n",
    ],
)
def test_records_named_as_plain_text_are_refused(tmp_path: Path, content: str) -> None:
    assert "rename it to end in" in refusal(written(tmp_path, "a.txt", content))
    written(tmp_path, "docs/a.txt", content)
    assert "rename it to end in" in refusal(tmp_path / "docs")


@pytest.mark.parametrize(
    "content",
    [
        '{"level": "info", "content": "x"}\n',
        "{x} is text\n",
        "[1] A note\n",
        "text, and more of it\n",
    ],
)
def test_plain_text_that_looks_like_something_else_is_read(tmp_path: Path, content: str) -> None:
    assert texts(written(tmp_path, "a.txt", content)) == [content.rstrip()]


def test_a_data_set_with_its_readme_is_no_folder_of_texts(tmp_path: Path) -> None:
    written(tmp_path, "README.md", "About the data.")
    written(tmp_path, "dataset_info.json", "{}")
    written(tmp_path, ".gitattributes", "x")
    assert "left out 1 files that are neither .txt nor .md" in notes(tmp_path)
    written(tmp_path, "data/train.jsonl.gz", "")
    assert "holds data/train.jsonl.gz, which a folder of texts is not read for" in refusal(tmp_path)
