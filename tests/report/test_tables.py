from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_result import CONTROL_HITS, HITS, S, make_result, make_windows
from stored import store
from with_reference import with_reference

from memaudit.data.samples import Skipped
from memaudit.report.cells import cell, to_csv, to_jsonl, unescape
from memaudit.report.columns import REFERENCE_COLUMNS, SAMPLE_COLUMNS, WINDOW_COLUMNS
from memaudit.report.result import ScanResult
from memaudit.report.tables import NOT_COUNTED, iter_samples, iter_windows
from memaudit.report.wording import neutral
from memaudit.run.load import read_run

PER_ATTACK = ("exact", "fractional", "matched", "longest_run", "suffix_nll", "log_p_z")


def read(result: ScanResult) -> list[dict[str, str]]:
    lines = list(iter_windows(result))
    assert all(line.endswith("\r\n") for line in lines)
    return list(csv.DictReader(io.StringIO("".join(lines), newline=""), strict=True))


def read_samples(result: ScanResult) -> list[dict[str, str]]:
    lines = "".join(iter_samples(result))
    return list(csv.DictReader(io.StringIO(lines, newline=""), strict=True))


def columns(result: ScanResult) -> tuple[str, ...]:
    (header,) = csv.reader([next(iter_windows(result))])
    return tuple(header)


ATTACKS = ("none", "copy", "dynamic_hard", "constant", "dynamic")


def test_the_columns_of_samples_are_those_of_the_contract():
    assert (
        *["schema_version", "role", "sample_id", "line", "group", "fingerprint", "cluster", "fold"],
        *["status", "reason", "tokens", "audited_tokens", "template_tokens", "windows"],
        *(
            f"{score}_{attack}"
            for attack in ATTACKS
            for score in (
                *("exact", "extracted", "windows_exact"),
                *("fractional", "longest_run", "suffix_nll"),
            )
        ),
        *["exact_any", "extracted_any", "categories"],
    ) == SAMPLE_COLUMNS


def several_windows() -> ScanResult:
    """Samples of 3, 1 and 1 windows; `none` extracts windows 0, 1 and 3, `copy` none.

    The last window of the first sample overlaps the one before it by 40 tokens, window 1 repeats
    its prefix, and so does window 4.
    """
    windows = make_windows(5, skipped=[Skipped("bad", 9, "empty")])
    ids = windows.ids.copy()
    ids[[1, 4], :S] = ids[[1, 4], S:]
    windows = replace(
        windows,
        ids=ids,
        sample=np.array([0, 0, 0, 1, 2]),
        window=np.array([0, 1, 2, 0, 0]),
        line=np.array([1, 1, 1, 2, 3]),
        sample_id=("a", "a", "a", "b", "c"),
        group=("g", "g", "g", None, None),
        new_tokens=np.array([50, 50, 10, 50, 50]),
        sample_tokens=np.array([120, 120, 120, 60, 50]),
    )
    return make_result(data=windows, hits={"none": 2, "copy": 0}, controls=None)


def test_a_row_of_samples_sums_up_its_windows():
    first, second, third, skipped = read_samples(several_windows())
    names = ("sample_id", "line", "group", "tokens", "audited_tokens", "template_tokens", "windows")
    assert [first[name] for name in names] == ["a", "1", "g", "120", "110", "50", "3"]
    assert [second[name] for name in names] == ["b", "2", "", "60", "50", "0", "1"]
    scores = ("exact_none", "extracted_none", "windows_exact_none")
    assert [first[name] for name in scores] == ["0", "1", "2"]
    assert [second[name] for name in scores] == ["0", "0", "0"]
    # 2 of 50 tokens of the third window are right, whose new tokens are 10 of 110.
    assert float(first["fractional_none"]) == pytest.approx((50 + 50 + 10 * 2 / 50) / 110)
    assert (third["extracted_none"], third["exact_none"]) == ("", "0")
    assert (first["reason"], third["reason"], third["status"]) == ("", NOT_COUNTED, "scored")
    assert (skipped["status"], skipped["reason"], skipped["windows"]) == ("skipped", "empty", "")
    assert len({row["fingerprint"] for row in (first, second, third)}) == 3


def test_template_alone_is_no_finding():
    result = several_windows()
    summary = result.attacks[0].summary
    assert (summary.extracted.k, summary.extracted.n, summary.exact.k) == (1, 2, 0)
    windows = read(result)
    assert [row["template_tokens"] for row in windows[:5]] == ["0", "50", "0", "0", "50"]
    assert [row["new_tokens"] for row in windows[:5]] == ["50", "50", "10", "50", "50"]


def test_the_columns_of_windows_are_those_of_the_contract():
    assert (
        *[
            "schema_version",
            "role",
            "sample_id",
            "line",
            "window",
            "fingerprint",
            "cluster",
            "fold",
            "status",
            "reason",
        ],
        *["prefix_tokens", "suffix_tokens", "new_tokens", "template_tokens"],
        *(f"{score}_{attack}" for attack in ATTACKS for score in PER_ATTACK),
        *["edit_similarity", "queries_p50", "categories"],
    ) == WINDOW_COLUMNS
    assert columns(make_result()) == WINDOW_COLUMNS
    reference = tuple(
        f"reference_{score}_{attack}"
        for attack in ("none", "dynamic_hard", "constant", "dynamic")
        for score in ("exact", "fractional", "suffix_nll")
    )
    assert columns(with_reference(make_result(), HITS)) == (*WINDOW_COLUMNS, *reference)


def test_one_row_of_each_kind_as_a_literal():
    data = make_windows(2, skipped=[Skipped("x", 3, "empty")])
    rows = list(iter_windows(make_result(data=data, hits={"none": 1, "copy": 0}, controls=None)))
    blank = "," * 18
    assert rows[1] == (
        '4,data,"doc-0001",1,0,w1-c5c379209a1cea94e94aff4debdcc91e,0,0,scored,,50,50,50,0,'
        f"1,1,50,50,0.01,-0.5,0,0,0,0,,{blank},1,1,\r\n"
    )
    assert rows[3] == f'4,data,"x",3,,,,,skipped,"empty"{"," * 37}\r\n'


def test_pandas_reads_numbers_as_numbers():
    frame = pd.read_csv(io.StringIO("".join(iter_windows(make_result()))))
    assert len(frame) == 300
    assert frame["exact_dynamic"].dtype == np.int64
    assert frame["exact_dynamic"].groupby(frame["role"]).sum().to_dict() == {
        "control": 0,
        "data": HITS["dynamic"],
    }
    for name in ("schema_version", "line", "window", "cluster", "fold", "prefix_tokens"):
        assert frame[name].dtype == np.int64, name
    for name in ("log_p_z_none", "suffix_nll_dynamic", "edit_similarity", "queries_p50"):
        assert frame[name].dtype == np.float64, name
    assert (frame["log_p_z_none"] < 0).all()
    assert np.isinf(frame["queries_p50"]).sum() == np.isinf(frame["log_p_z_none"]).sum() > 0
    assert frame["suffix_nll_copy"].isna().all()


def test_figures_agree_with_the_scores():
    result = make_result()
    rows = read(result)[:200]
    for attack in result.attacks:
        name = attack.attack.replace("-", "_")
        for score in ("fractional", "matched", "longest_run"):
            shown = [float(row[f"{score}_{name}"] or "nan") for row in rows]
            np.testing.assert_allclose(shown, getattr(attack.data, score), rtol=1e-5)
        for score in ("suffix_nll", "log_p_z"):
            shown = [float(row[f"{score}_{name}"] or "nan") for row in rows]
            np.testing.assert_allclose(shown, getattr(attack.data, score), rtol=0.05, atol=0.005)
    best = max(float(row["edit_similarity"]) for row in rows[40:])
    assert best == pytest.approx(max(a.data.edit_similarity[40:].max() for a in result.attacks))


def significant(text: str) -> int:
    """Digits of a number from the first that is not 0; zeros before the point count for none."""
    mantissa = text.lstrip("-").partition("e")[0]
    digits = mantissa.replace(".", "").lstrip("0")
    return len(digits if "." in mantissa else digits.rstrip("0"))


LIKELIHOODS = [
    name
    for name in (*WINDOW_COLUMNS, *REFERENCE_COLUMNS)
    if "suffix_nll" in name or "log_p_z" in name
]


def test_likelihoods_tell_no_more_than_two_digits():
    """Six would tell whoever has the model which of some hundred guesses was audited."""
    rows = read(with_reference(make_result(), HITS))
    for name in LIKELIHOODS:
        shown = {row[name] for row in rows} - {"", "-inf"}
        assert all(significant(text) <= 2 for text in shown), name
        assert all(len(text.partition(".")[2]) <= 2 for text in shown), name
    assert {row["reference_suffix_nll_none"] for row in rows} - {""}
    # How many samples it takes follows from log_p_z, so that it is told no better.
    logs = {
        (row["log_p_z_none"], row["queries_p50"]) for row in read(make_result(hits={"none": 9}))
    }
    assert len({log for log, _ in logs}) == len(logs)


def test_likelihoods_beside_the_text_have_all_six_digits():
    rows = read(make_result(reveal=["text"]))
    assert max(significant(row["suffix_nll_none"]) for row in rows) >= 4
    np.testing.assert_allclose(
        [float(row["suffix_nll_none"]) for row in rows[:200]],
        make_result().attacks[0].data.suffix_nll,
        rtol=1e-5,
    )


def test_copy_does_not_count_as_best():
    row = read(make_result(n=5, hits={"none": 0, "copy": 5}, controls=None))[1]
    assert (row["exact_copy"], row["edit_similarity"]) == ("1", "0.02")
    alone = read(make_result(n=5, hits={"copy": 5}, controls=None))[1]
    assert (alone["edit_similarity"], alone["queries_p50"]) == ("", "")


def test_attacks_that_were_not_run_are_blank():
    row = read(make_result(hits={"none": 0}))[0]
    assert {row[f"{score}_constant"] for score in PER_ATTACK} == {""}


def test_skipped_rows_stand_in_their_place():
    skipped = [Skipped("b", 2, "empty"), Skipped("z", 9, "empty"), Skipped("a", 1, "empty")]
    windows = make_windows(3, skipped=skipped)
    windows = replace(windows, line=np.array([5, 3, 3]), window=np.array([0, 1, 0]))
    windows = replace(windows, sample=np.array([1, 0, 0]))
    rows = read(make_result(data=windows))
    order = [(row["line"], row["window"], row["status"]) for row in rows[:6]]
    assert order == [
        ("1", "", "skipped"),
        ("2", "", "skipped"),
        ("3", "0", "scored"),
        ("3", "1", "scored"),
        ("5", "0", "scored"),
        ("9", "", "skipped"),
    ]
    assert {row["role"] for row in rows[6:]} == {"control"}


def test_in_a_folder_the_path_gives_the_place():
    windows = make_windows(2, ids=["a.txt", "c.txt"], skipped=[Skipped("b.txt", 1, "empty")])
    windows = replace(windows, line=np.array([1, 1]))
    rows = read(make_result(data=windows, controls=None))
    assert [row["sample_id"] for row in rows] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd()", "'=cmd()"),
        ("+1", "+1"),
        ("-1", "-1"),
        ("-3.5e2", "-3.5e2"),
        ("+.5", "+.5"),
        ("-1+1", "'-1+1"),
        ("-1\n", "'-1\\n"),
        ("-\u0661", "'-\u0661"),
        ("-", "'-"),
        ("+49 170", "'+49 170"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff201", "'\uff201"),
        ("'=1", "''=1"),
        ("''@x", "'''@x"),
        ("'-1", "''-1"),
        ("'quoted'", "'quoted'"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines", r"two\nlines"),
        ("[red]", "[red]"),
        ("a=b", "a=b"),
        ("\ufe66 1", "'\ufe66 1"),
        ("\u22121", "'\u22121"),
        (" =1", "' =1"),
        ('"=1+1"', '\'"=1+1"'),
        ("a;=1+1", "a;'=1+1"),
        (";=1+1", ";'=1+1"),
        ('a;"=1+1";b', 'a;\'"=1+1";b'),
        ("a|\uff0b1;'=1", "a|'\uff0b1;''=1"),
        ("-1;-1", "'-1;'-1"),
        ("a; b | c", "a; b | c"),
    ],
)
def test_hostile_cells_do_no_harm(text, shown):
    assert cell(text) == shown
    data = make_windows(1, ids=[text], extra={"x": text})
    row = read(make_result(data=data, controls=None))[0]
    assert (row["sample_id"], row["x"]) == (shown, shown)


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_cell_is_run_or_breaks_its_line(text):
    shown = cell(text)
    for part in re.split("[;|]", shown):
        start = part.lstrip(' "')
        assert not start.startswith(("=", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20"))
        if start.startswith(("+", "-")):
            float(shown)
    assert not set(shown) & set("\r\n\t\x1b\x00")


SIGNS = st.text(st.sampled_from("'=+-@1.e;|\" \t\r\\x\uff1d\uff0d"), max_size=6)


def test_text_is_quoted_so_that_no_separator_but_the_comma_parts_it():
    """LibreOffice offers comma, semicolon and tab at once, and Excel takes the locale's."""
    data = make_windows(1, ids=["a;=1+1"], extra={"x;=2": "b|=HYPERLINK(1)", "y": 'say "hi"'})
    header, row = iter_windows(make_result(data=data, hits={"none": 1}, controls=None))
    assert header.endswith(""","x;'=2","y"\r\n""")
    assert ""","a;'=1+1",""" in row
    assert row.endswith(""","b|'=HYPERLINK(1)","say ""hi""\"\r\n""")
    for sign in ";|":
        assert not any(part.startswith("=") for part in (header + row).split(sign))


@given(SIGNS | st.text(st.characters(exclude_categories=())))
def test_a_cell_gives_its_text_back(text):
    """All but control characters, which stay visible escapes."""
    assert unescape(cell(text)) == neutral(text)


def test_json_lines_hold_ids_and_columns_as_the_data_has_them(tmp_path):
    ids = ["-1", "+1", "@x", "=1+1", "'=1", "'-1", "a,b", "é"]
    windows = make_windows(len(ids), ids=ids, extra={"=x": "-", "'@y": "7"})
    made = make_result(data=windows, hits={"none": 1, "copy": 0}, controls=None)
    stored = read_run(store(tmp_path / "run", made))
    rows = [json.loads(line) for line in to_jsonl(stored.samples).splitlines()]
    assert [row["sample_id"] for row in rows] == ids
    assert {(row["=x"], row["'@y"]) for row in rows} == {("-", "7")}
    assert to_csv(stored.samples) == "".join(iter_samples(made))
    assert to_csv(stored.windows) == "".join(iter_windows(made))
    first, last = rows[0], rows[-1]
    assert (first["line"], first["exact_none"], first["suffix_nll_copy"]) == (1, 1, None)
    assert (first["exact_dynamic"], last["exact_none"], last["reason"]) == (None, 0, "")


def test_passed_through_columns_never_clash():
    extra = {"line": "a", "data_line": "b", "=x": "c", "": "d", "text_prefix": "e", "\n": "f"}
    extra |= {"\\n": "g", "dup": "h"}
    result = make_result(data=make_windows(1, extra=extra))
    names = columns(result)[len(WINDOW_COLUMNS) :]
    assert names == (
        "data_data_line",
        "data_line",
        "'=x",
        "data_",
        "data_text_prefix",
        r"\n",
        r"data_\n",
        "dup",
    )
    assert len(set(columns(result))) == len(columns(result))
    data, control, *_ = read(result)
    assert [data[name] for name in names] == list("abcdefgh")
    assert {control[name] for name in names} == {""}


def test_text_only_where_revealed():
    result = make_result(n=3, reveal=['=a,"b"\n'], hits={"none": 1, "dynamic": 2})
    names = columns(result)[len(WINDOW_COLUMNS) :]
    assert names == tuple(
        f"text_{what}"
        for what in ("prefix", "suffix", "none", "copy", "dynamic_hard", "constant", "dynamic")
    )
    row = read(result)[0]
    shown = '\'=a,"b"\\n'
    assert [row[name] for name in names] == [shown, shown, shown, "", "", "", shown]
    skipped = make_windows(1, skipped=[Skipped("x", 9, "empty")], extra={"dup": "2"})
    assert read(make_result(data=skipped, reveal=["t"]))[1]["dup"] == ""


def test_same_result_same_file():
    both = ["".join(iter_windows(make_result(controls=CONTROL_HITS))) for _ in range(2)]
    assert both[0] == both[1]
    assert "-0," not in both[0]
