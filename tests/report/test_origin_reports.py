"""What was known before the fine-tuning and what it leaked, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from made_result import make_result
from small_run import small_result
from stored import read_back, store
from with_reference import with_reference

from memaudit.config.settings import GateSettings
from memaudit.errors import UsageError
from memaudit.report.build import to_report
from memaudit.report.cells import to_csv
from memaudit.report.columns import REFERENCE_COLUMNS
from memaudit.report.cyclonedx import to_cyclonedx
from memaudit.report.markdown import to_markdown
from memaudit.report.page import to_html
from memaudit.report.reading import extracted, origin_words, scored
from memaudit.report.result import ScanResult
from memaudit.report.sarif_log import to_sarif
from memaudit.report.schema import schema
from memaudit.report.tables import iter_windows
from memaudit.report.terminal import render_report
from memaudit.run.load import find_figures_fault, load_run, read_run
from memaudit.run.tables import read_windows
from memaudit.sensitive.counting import Items, SensitiveContent

HITS = {"none": 12, "copy": 0, "dynamic": 31}
BEFORE = {"none": 9, "dynamic": 20}


def made(**settings: Any) -> ScanResult:
    return with_reference(make_result(hits=HITS, **settings), BEFORE)


def small(**settings: Any) -> ScanResult:
    """Of four windows the first two come out; of the reference's the last, by none."""
    return with_reference(small_result(**settings), {"none": 1, "dynamic": 0}, "\x1b[31m<b>base")


def test_the_section_counts_and_fits_the_schema() -> None:
    document = to_report(made()).document()
    Draft202012Validator(schema()).validate(document)
    section = document["reference"]
    counts = [
        (one["attack"], one["known_before"], one["leaked"]["k"], one["forgotten"], one["neither"])
        for one in section["data"]
    ]
    assert counts == [("none", 9, 3, 0, 188), ("dynamic", 20, 11, 0, 169), ("any", 20, 11, 0, 169)]
    assert [one["leaked"]["n"] for one in section["controls"]] == [100] * 3
    assert section["model"]["name"] == "tb7m-base"
    assert section["fits"][0]["attack"] == "dynamic"
    assert to_report(make_result()).document()["reference"] is None
    without = to_report(with_reference(make_result(hits=HITS, controls=None), BEFORE)).document()
    Draft202012Validator(schema()).validate(without)
    assert without["reference"]["controls"] is None


def test_a_run_with_a_reference_is_read_back_byte_for_byte(tmp_path: Path) -> None:
    result = made()
    run = read_run(store(tmp_path / "run", result))
    assert to_csv(run.windows) == "".join(iter_windows(result))
    rows = scored(run.windows, "data")
    assert str(rows["reference_exact_none"].dtype) == "Int64"
    assert str(rows["reference_suffix_nll_dynamic"].dtype) == "float64"
    assert rows["reference_exact_constant"].isna().all()
    both = extracted(run.report, rows)
    assert (both.target.sum(), both.reference.sum(), both.leaked.sum()) == (31, 20, 11)
    words = origin_words(run.report, rows)
    assert words[:4] == ["fine-tuning"] * 3 + ["before"]
    assert words[22:24] == ["before", "fine-tuning"]
    assert words[31:] == [""] * 169


def test_without_a_reference_its_columns_are_blank_and_nothing_is_shown() -> None:
    document, samples = read_back(make_result(hits=HITS))
    assert not [
        name for name in samples if "reference" in str(name) and samples[name].notna().any()
    ]
    for shown in (
        render_report(document, samples, width=200, color=False),
        to_markdown(document, samples),
        to_html(document, samples),
        to_sarif(document, samples),
    ):
        assert "fine-tuning" not in shown
        assert "known from" not in shown


def section_of(text: str, start: str) -> list[str]:
    """The lines of a table from its title to the next blank line."""
    lines = text.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith(start))
    return lines[at : lines.index("", at)]


NARROW = """\
Known before the fine-tuning, or leaked by it
              known
attack       before  leaked  forgotten  neither  share       interval      p
────────────────────────────────────────────────────────────────────────────
prefix only       9       3          0      188  1.5 %  at most 4.3 %   0.25
dynamic          20      11          0      169  5.5 %      2.5–9.6 %  0.001
any              20      11          0      169  5.5 %      2.5–9.6 %  0.002

The same for the controls
attack       known before  leaked  forgotten  neither  share       interval  p
──────────────────────────────────────────────────────────────────────────────
prefix only             0       0          0      100    0 %  at most 3.6 %  1
dynamic                 0       0          0      100    0 %  at most 3.6 %  1
any                     0       0          0      100    0 %  at most 3.6 %  1
known before: samples also extracted from the reference. leaked: by the
fine-tuning, extracted from this model alone. forgotten: extracted from the
reference alone. share: leaked samples, of all. interval: the outer ends of the
exact and clustered intervals. p: leaked against forgotten, the larger of two
paired tests.
"""
WIDE = """\
Known before the fine-tuning, or leaked by it
attack       known before  leaked  forgotten  neither  share       interval      p  NLL before  \
NLL now  change  interval of the change
"""


def test_the_table_at_80_and_200_columns() -> None:
    document, samples = read_back(made())
    narrow = render_report(document, samples, width=80, color=False)
    assert NARROW in narrow
    assert WIDE in render_report(document, samples, width=200, color=False)
    worst = section_of(narrow, "Worst windows, of 31 extracted")
    assert worst[1].split()[-8:-4] == ["extracted", "by", "known", "from"]
    assert [line.split()[-3] for line in worst[3:13]] == ["fine-tuning"] * 10


def test_the_headline_tells_how_much_was_known() -> None:
    (sentence,) = (line for line in to_report(made()).headline if "fine-tuning" in line)
    assert sentence.startswith(
        "Of the 31 samples that any attack extracts, 20 can also be extracted from the "
        "reference, the model before fine-tuning; the fine-tuning leaked the other 11: 5.5 % of "
        "all samples ("
    )
    assert sentence.endswith(" at 95 % confidence), and 0 of 100 controls.")


def test_every_format_shows_it_and_none_acts_on_the_name() -> None:
    document, samples = read_back(small())
    table = render_report(document, samples, width=100, color=False)
    markdown, page = to_markdown(document, samples), to_html(document, samples)
    for shown in (table, markdown, page):
        assert "\x1b" not in shown
    assert r"\x1b[31m<b>base: GPTNeoXForCausalLM" in table
    assert "| any | 0 | 2 | 1 | 1 | 50.0 % | 0–100 % |" in markdown
    assert "&lt;b&gt;base" in page
    assert "<b>base" not in page + markdown
    assert "Known before the fine-tuning, or leaked by it" in page
    (first, *_) = json.loads(to_sarif(document, samples))["runs"][0]["results"]
    assert first["message"]["text"].endswith(
        "The fine-tuning leaked 1 of them; the others were known before."
    )
    metrics = json.loads(to_cyclonedx(document))["metadata"]["component"]["modelCard"]
    named = [
        (one["slice"], one["value"])
        for one in metrics["quantitativeAnalysis"]["performanceMetrics"]
        if "leaked" in one["type"]
    ]
    assert ("data, attack any, 4 samples", "0.5") in named


def test_the_gate_on_what_leaked_is_in_the_report(tmp_path: Path) -> None:
    result = made(gate=GateSettings(max_leaked=0.02))
    run = read_run(store(tmp_path / "run", result))
    gate = run.report.gates[0]
    assert (gate.name, gate.verdict, gate.estimate) == ("max-leaked", "fail", 0.055)
    assert run.report.exit_code == 1
    assert "max-leaked 2 %" in render_report(run.report, run.windows, width=100, color=False)


def change_section(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / "report.json").read_text())
        change(document["reference"])
        (folder / "report.json").write_text(json.dumps(document))

    return spoil


def change_cell(row: int, name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "windows.csv"
        rows = list(csv.reader(io.StringIO(path.read_text())))
        rows[row][rows[0].index(name)] = text
        kept = io.StringIO(newline="")
        csv.writer(kept).writerows(rows)
        path.write_text(kept.getvalue(), newline="")

    return spoil


SPOILT = {
    "another count": change_section(lambda s: s["data"][0].update(known_before=8)),
    "an attack twice": change_section(lambda s: s["data"].insert(0, s["data"][0])),
    "an attack less": change_section(lambda s: s["data"].pop(0)),
    "all together missing": change_section(lambda s: s["data"].pop()),
    "controls missing": change_section(lambda s: s.update(controls=None)),
    "other controls": change_section(lambda s: s["controls"][0].update(forgotten=1)),
    "an unknown attack": change_section(lambda s: s["data"][0].update(attack="copy")),
    "a name that is none": change_section(lambda s: s["model"].update(name=7)),
    "another cell": change_cell(1, "reference_exact_none", "1"),
    "a blank cell": change_cell(5, "reference_exact_none", ""),
    "a cell of an attack that did not run": change_cell(1, "reference_exact_constant", "0"),
    "a cell that is no truth": change_cell(1, "reference_exact_none", "2"),
    "a share that is none": change_cell(1, "reference_fractional_none", "1.5"),
    "a figure that is none": change_cell(1, "reference_suffix_nll_none", "x"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_changed_section_or_table_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    folder = store(tmp_path / "run", made())
    SPOILT[name](folder)
    with pytest.raises(UsageError) as caught:
        read_run(folder)
    assert str(caught.value).isprintable()


def test_a_section_that_was_taken_out_is_refused(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", made())
    document = json.loads((folder / "report.json").read_text())
    document["reference"] = None
    (folder / "report.json").write_text(json.dumps(document))
    with pytest.raises(UsageError, match="does not match its hash"):
        read_run(folder)


def test_kinds_of_content_that_the_fine_tuning_leaked() -> None:
    counts = np.zeros((200, 1), dtype=np.uint16)
    counts[[0, 4, 30, 150]] = 1  # leaked, known before, leaked, never extracted
    controls = np.zeros((100, 1), dtype=np.uint16)
    found = SensitiveContent(
        {"email": "form"}, {}, Items(counts, counts), Items(controls, controls)
    )
    report, samples = read_back(replace(made(), sensitive=found))
    assert report.sensitive is not None
    (leak,) = report.sensitive.data
    assert (leak.windows, leak.extracted, leak.leaked) == (4, 3, 2)
    head = next(
        line
        for line in render_report(report, samples, width=100, color=False).splitlines()
        if line.startswith("category")
    )
    assert head.split("  ")[-1].strip() == "by fine-tuning"


def test_columns_of_a_reference_come_all_or_not_at_all(tmp_path: Path) -> None:
    """An earlier version wrote them blank without a reference; such runs can still be read."""

    def spoil(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        path = folder / "windows.csv"
        change(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(
            path, index=False, lineterminator="\r\n"
        )
        return path

    plain = store(tmp_path / "plain", make_result(hits=HITS))
    blank = dict.fromkeys(REFERENCE_COLUMNS, "")
    old = read_windows(spoil(plain, lambda table: table.assign(**blank)))
    assert old["reference_exact_none"].isna().all()
    one = {"reference_exact_none": ""}
    store(tmp_path / "one", make_result(hits=HITS))
    with pytest.raises(UsageError, match="has no column reference_fractional_none"):
        read_windows(spoil(tmp_path / "one", lambda table: table.assign(**one)))
    without = spoil(
        store(tmp_path / "without", made()), lambda table: table.drop(columns=[*REFERENCE_COLUMNS])
    )
    assert "reference_exact_none" not in read_windows(without)
    assert find_figures_fault(load_run(without.parent)) is not None
