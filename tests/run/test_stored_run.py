"""Run folders read back: whole ones, and every kind of rubbish."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_result import HITS, make_result, make_windows
from stored import store

from memaudit.data.samples import Skipped
from memaudit.errors import UsageError
from memaudit.report.cells import cell, unescape
from memaudit.report.columns import SAMPLE_COLUMNS, WINDOW_COLUMNS
from memaudit.run.load import read_run

Change = Callable[[dict[str, Any]], object]
TABLES = {"samples.csv": SAMPLE_COLUMNS, "windows.csv": WINDOW_COLUMNS}
HEADERS = {name: ",".join(columns).encode() + b"\r\n" for name, columns in TABLES.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store(tmp_path / "run", make_result())


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_run(folder)
    said = str(caught.value)
    assert said.isprintable()  # one line, and nothing that a terminal would act on
    assert len(said) < 400
    return said


def change_report(folder: Path, change: Change) -> None:
    path = folder / "report.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def change_cell(folder: Path, table: str, row: int, name: str, text: str) -> None:
    """Rows count from 1 below the header."""
    path = folder / table
    rows = list(csv.reader(io.StringIO(path.read_text())))
    rows[row][rows[0].index(name)] = text
    made = io.StringIO(newline="")
    csv.writer(made).writerows(rows)
    path.write_text(made.getvalue(), newline="")


def test_a_run_is_read_back_as_it_was(folder: Path) -> None:
    run = read_run(folder)
    assert run.folder == folder
    assert run.report.text() == (folder / "report.json").read_text()
    assert run.attacks == tuple(HITS)
    for table, scored in ((run.samples, run.scored_samples), (run.windows, run.scored)):
        assert (len(table), len(scored("data")), len(scored("control"))) == (300, 200, 100)
        assert int(scored("data")["exact_dynamic"].sum()) == HITS["dynamic"]
        assert table["suffix_nll_copy"].isna().all()
    assert tuple(run.samples.columns) == SAMPLE_COLUMNS
    assert tuple(run.windows.columns) == WINDOW_COLUMNS


def test_columns_have_their_kind_whatever_was_run(tmp_path: Path) -> None:
    windows = make_windows(
        3, extra={"dup": "7"}, skipped=[Skipped("NA", 4, "empty", {"dup": "-1"})]
    )
    made = make_result(data=windows, hits={"none": 1}, controls=None)
    run = read_run(store(tmp_path / "run", made))
    kinds = {
        f"{table}.{name}": str(rows[name].dtype)
        for table, rows in (("samples", run.samples), ("windows", run.windows))
        for name in rows.columns
    }
    whole = ("windows.line", "samples.line", "windows.schema_version", "samples.schema_version")
    assert {kinds[name] for name in whole} == {"int64"}
    counts = ("cluster", "fold", "exact_none", "exact_dynamic", "template_tokens")
    assert {kinds[f"{table}.{name}"] for table in ("samples", "windows") for name in counts} == {
        "Int64"
    }
    more = ("samples.windows", "samples.tokens", "samples.windows_exact_copy", "windows.new_tokens")
    assert {kinds[name] for name in more} == {"Int64"}
    figures = ("windows.log_p_z_none", "windows.queries_p50", "samples.fractional_copy")
    assert {kinds[name] for name in figures} == {"float64"}
    for rows in (run.samples, run.windows):
        assert rows["exact_none"].tolist() == [1, 0, 0, pd.NA]
        assert rows["sample_id"].tolist() == ["doc-0001", "doc-0002", "doc-0003", "NA"]
        assert rows["reason"].tolist() == ["", "", "", "empty"]
        assert rows["dup"].tolist() == ["7", "7", "7", "-1"]


def test_ids_come_back_as_they_were(tmp_path: Path) -> None:
    ids = ["=cmd()", "+1", "-1", "@x", "\t1", "'quoted'", "'", "1e5", "007", "nan", "", "\x1b[31m"]
    made = make_result(data=make_windows(len(ids), ids=ids), hits={"none": 1}, controls=None)
    run = read_run(store(tmp_path / "run", made))
    for table in (run.samples, run.windows):
        read = table["sample_id"].tolist()
        assert read == [*ids[:4], r"\t1", *ids[5:11], r"\x1b[31m"]


@given(st.text(st.characters(exclude_categories=())))
def test_what_was_escaped_is_unescaped(text: str) -> None:
    back = unescape(cell(text))
    assert back.isprintable() or not cell(text).isprintable()
    if text.isprintable() and "##" not in text:
        assert back == text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such run folder"),
        (lambda path: path.write_text("{}"), "no such run folder"),
        (lambda path: path.mkdir(), "holds no finished run (no report.json)"),
        (lambda path: (path / "report.json").mkdir(parents=True), "holds no finished run"),
    ],
)
def test_a_folder_without_a_run(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    make(tmp_path / "run")
    assert said in refusal(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[" * 200_000, "is not valid JSON"),
        (b'{"k": NaN}', "is not valid JSON"),
        (b'{"k": 1e999}', "is not valid JSON"),
        (b'{"k": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"[]", "is not a memaudit report"),
        (b"null", "is not a memaudit report"),
        (b'{"tool": {"name": "\\u001b[31m"}}', "is not a memaudit report"),
        (b'{"tool": {"name": "memaudit"}}', "schema version unknown, but this memaudit reads 4"),
        (b'{"tool": {"name": "memaudit"}, "schema_version": 99}', "has schema version 99"),
        (b'{"tool": {"name": "memaudit"}, "schema_version": 4}', "does not fit the schema"),
    ],
)
def test_a_report_that_is_none(folder: Path, content: bytes, said: str) -> None:
    (folder / "report.json").write_bytes(content)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda d: d.pop("data"), "data"),
        (lambda d: d.update({"\x1b[2J": 1}), r"\x1b[2J"),
        (lambda d: d["attacks"][0]["exact"].update(k="9"), "attacks.0.exact.k"),
        (lambda d: d["attacks"][0]["exact"].update(k=-1), "attacks.0.exact.k"),
        (lambda d: d["attacks"].append(5), "attacks.5"),
        (
            lambda d: d["target"]["fingerprint"].update({"\x1b\n" * 500: 3}),
            r"target.fingerprint.\x",
        ),
    ],
)
def test_a_report_off_its_schema(folder: Path, change: Change, place: str) -> None:
    change_report(folder, change)
    assert f"report.json: {place}" in refusal(folder)


def test_a_report_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.run.load._LONGEST_REPORT", 1000)
    assert "report.json: is larger than" in refusal(folder)
    monkeypatch.undo()
    monkeypatch.setattr("memaudit.run.tables._LONGEST_TABLE", 1000)
    assert "samples.csv: is larger than" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a {name} of memaudit"),
        (b"a,b\r\n", "is not a {name} of memaudit"),
        (b"\xff\xfe\x00\n", "is not a {name} of memaudit"),
        (b'"a\n', "is not a {name} of memaudit"),
        (b"x" * 2_000_000, "is not a {name} of memaudit"),
        (b"schema_version,role\r\n", "has no column sample_id"),
        (b"role,%s", "is not a table"),
        (b"%s1,da", "is not a table"),
        (b"%s", "disagree on the counts of the data"),
        (b"%s1,data\n", "is not a table that a scan writes"),
        (b"%s\x00\x00\n", "{name}: "),
        (b'%s1,"data\n', "is not a table that a scan writes"),
    ],
)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_none(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content.replace(b"%s", HEADERS[name]))
    assert said.format(name=name) in refusal(folder)


@pytest.mark.parametrize("name", TABLES)
def test_no_table(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"holds no finished run (no {name})" in refusal(folder)


@pytest.mark.parametrize("name", TABLES)
def test_rows_of_another_length(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_text()
    head, rest = whole.split("\n", 1)
    middle = f"{head}\n{rest.replace(chr(10), f',x{chr(10)}', 1)}"
    for changed in (whole + "1,2,3\n", whole + "1," * 80 + "\n", middle):
        path.write_text(changed)
        assert "is not a table that a scan writes" in refusal(folder)


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("line", "1.5", "line in row 3 is not a number"),
        ("line", "9" * 30, "line in row 3 is not a number"),
        ("longest_run_none", "secret", "longest_run_none in row 3 is not a number"),
        ("suffix_nll_none", "secret", "suffix_nll_none in row 3 is not a number"),
        ("schema_version", "2", "column schema_version"),
        ("role", "admin", "column role"),
        ("status", "", "column status"),
        ("fingerprint", "x1-" + "0" * 32, "column fingerprint"),
        ("template_tokens", "-1", "template_tokens"),
        ("exact_none", "2", "column exact_none"),
        ("fractional_dynamic", "1.01", "column fractional_dynamic"),
        ("fractional_dynamic", "inf", "column fractional_dynamic"),
        ("role", "control", "disagree on the counts of the data"),
    ],
)
@pytest.mark.parametrize("table", TABLES)
def test_a_cell_that_no_scan_writes(
    folder: Path, table: str, column: str, text: str, said: str
) -> None:
    assert_cell_refused(folder, table, column, text, said)


def assert_cell_refused(folder: Path, table: str, column: str, text: str, said: str) -> None:
    change_cell(folder, table, 2, column, text)
    refused = refusal(folder)
    assert said in refused
    assert "secret" not in refused


@pytest.mark.parametrize(
    ("table", "column", "text", "said"),
    [
        ("windows.csv", "window", "", "column window"),
        ("windows.csv", "new_tokens", "51", "column new_tokens"),
        ("windows.csv", "template_tokens", "51", "column template_tokens"),
        ("samples.csv", "windows", "", "column windows"),
        ("samples.csv", "windows", "0", "column windows"),
        ("samples.csv", "windows_exact_none", "secret", "windows_exact_none in row 3 is not a"),
        ("samples.csv", "extracted_none", "2", "column extracted_none"),
        ("samples.csv", "extracted_none", "0", "disagree on the counts of the data"),
        ("samples.csv", "extracted_none", "", "disagree on the counts of the data"),
    ],
)
def test_a_cell_of_its_own_table(
    folder: Path, table: str, column: str, text: str, said: str
) -> None:
    assert_cell_refused(folder, table, column, text, said)


def test_controls_have_to_be_there_as_well(folder: Path) -> None:
    change_report(folder, lambda document: document.update(controls=None))
    assert "disagree on the counts of the controls" in refusal(folder)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_gets_further_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes cut out, put in or changed anywhere: read as a run, or refused as wrong input."""
    folder = store(tmp_path_factory.mktemp("damaged"), make_result(n=4, hits={"none": 2}))
    path = folder / data.draw(st.sampled_from(["report.json", *TABLES]))
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    path.write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[end:])
    with contextlib.suppress(UsageError):
        read_run(folder)
