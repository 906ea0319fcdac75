"""A diagnosis as JSON, as a table, on the page and as pictures; and documents that are none."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_diagnosis import make_diagnosis, make_record
from small_run import small_run

from memaudit.report.blocks import cell_text
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Column, FigureTable, Plot
from memaudit.report.diagnosis_json import diagnosis_text, parse_diagnosis
from memaudit.report.page import to_html
from memaudit.report.plots import COLOURS, ON_WHITE, line_picture, line_plot
from memaudit.report.terminal import render_diagnosis
from memaudit.score.estimate import Estimate

TABLE = """\
layers: some/model
What happens without a block (somebody, 2025).

- Block 0 matters: 25 % (10.0 to 50.0).
- The rest <i>does</i> not.

What is lost
block  windows                   lost
─────────────────────────────────────
0       12,345  25.0 % (10.0 to 50.0)
1            4                    n/a
Share of extracted windows that no longer come out, by block.

Figures of other kinds
what                  points   nats   number      p
───────────────────────────────────────────────────
a <b>  +12.5 (-1.0 to +20.0)  1.235  0.00123  0.012
b                        n/a    n/a      n/a    n/a
One of each.

Notes     There are few windows.
Settings  windows 1,000, seed 0
Run       memaudit 0.0.0, 2026-01-02T03:04:05+00:00, 60 s
"""


def document() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(diagnosis_text(make_record()))
    return made


def test_as_a_table() -> None:
    assert render_diagnosis(make_record(), width=80, color=False) == TABLE


def test_no_line_is_wider_than_the_terminal() -> None:
    long = make_record(findings=["word " * 60], notes=["x" * 300])
    for width in (72, 80, 200):
        lines = render_diagnosis(long, width=width, color=False).splitlines()
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [72, 80, 100, 130, 200, 400])
def test_no_interval_is_broken_however_wide_the_table(width: int) -> None:
    heads = [Column("what", "text"), *(Column(f"figure {n} = x", "nats") for n in range(9))]
    cells = [Estimate(n + 0.5, n - 1000.25, n + 1000.75) for n in range(9)]
    names = ["short", "a name of many words, too long for one line of a narrow terminal"]
    table = FigureTable("wide", "Wide", "", heads, [[name, *cells] for name in names])
    shown = render_diagnosis(make_record(tables=[table], plots=[]), width=width, color=False)
    assert max(map(len, shown.splitlines())) <= width
    for n in range(9):
        interval = f"({n - 1000.25:.3f} to {n + 1000.75:.3f})"
        assert shown.count(interval) == 2
    assert shown.count("Wide, continued") == (0 if width == 400 else shown.count("what") - 1)


def test_what_a_terminal_would_act_on_is_shown_as_escapes() -> None:
    shown = render_diagnosis(
        make_record(findings=["\x1b[31mred\n::error::x"]), width=80, color=False
    )
    assert "\\x1b[31mred\\n::error::x" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("cell", "unit", "text"),
    [
        (3, "count", "3"),
        (0.999999, "share", "99.99990 %"),
        (Estimate(0.0, 0.0, 0.0063), "share", "0 % (0 to 0.63)"),
        (Estimate(0.5, None, 0.6), "share", "50.0 % (n/a to 60.0)"),
        (Estimate(0.5, None, None), "share", "50.0 %"),
        (Estimate(1.5, -0.25, 2), "nats", "1.500 (-0.250 to 2.000)"),
        (math.nan, "share", "n/a"),
        (math.inf, "number", "n/a"),
        (123456.0, "number", "123,456"),
        (1e9, "number", "1.00e+09"),
        (-0.00001, "number", "-1.00e-05"),
        (0, "number", "0"),
        (Estimate(3, 2, 6), "number", "3 (2 to 6)"),
        (Estimate(0.47, 0.5, 12.0), "number", "0.470 (0.500 to 12)"),
        (234.5, "number", "234"),
        (0.00012, "p", "0.00012"),
        ("plain", "number", "plain"),
    ],
)
def test_cells(cell: Any, unit: Any, text: str) -> None:
    assert cell_text(cell, unit) == text


def test_json_and_back() -> None:
    made = document()
    assert made["tool"] == "memaudit"
    assert made["diagnosis"]["plots"][0]["lines"][0]["y"] == [25, None, 50]
    again = parse_diagnosis(copy.deepcopy(made))
    assert json.loads(diagnosis_text(again)) == made
    line = again.diagnosis.plots[0].lines[0]
    assert math.isnan(line.y[1])
    assert again.diagnosis.tables[0].rows[0][2] == Estimate(0.25, 0.1, 0.5)


def plot(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["diagnosis"]["plots"][0]
    return found


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda made: made.update(schema_version=2),
    lambda made: made.update(tool="other"),
    lambda made: made.update(more=1),
    lambda made: made.pop("target"),
    lambda made: made["diagnosis"].update(name="other"),
    lambda made: made["diagnosis"]["tables"][0].update(name="../../x"),
    lambda made: made["diagnosis"]["tables"][1].update(name="depth"),
    lambda made: made["diagnosis"]["tables"][0]["rows"][0].append(1),
    lambda made: made["diagnosis"]["tables"][0]["columns"][0].update(unit="euro"),
    lambda made: made["diagnosis"]["tables"][0].update(rows=[["", 0, 0]] * 40_000),
    lambda made: plot(made)["lines"][0].update(colour="url(#x)"),
    lambda made: plot(made)["lines"][0].update(dash="(0, (1, 1e9))"),
    lambda made: plot(made)["lines"][0].update(marker="$x$"),
    lambda made: plot(made)["lines"][0].update(name="ü\n"),
    lambda made: plot(made)["lines"][0].update(x=[1, 2]),
    lambda made: plot(made)["lines"][0].update(low=None),
    lambda made: plot(made)["lines"][0].update(y=[1e300, 1, 2]),
    lambda made: plot(made)["lines"].extend(plot(made)["lines"] * 200),
    lambda made: plot(made)["x"].update(logarithmic=True, low=0.0, high=1.0),
    lambda made: plot(made)["x"].update(low=2.0, high=1.0),
    lambda made: plot(made)["x"].update(ticks=[1.0], names=["a", "b"]),
    lambda made: plot(made)["x"].update(ticks=list(range(1000))),
    lambda made: plot(made)["x"].update(label="x" * 200),
    lambda made: made.update(diagnosis=[]),
    lambda made: made["diagnosis"].update(plots={"lines": 1}),
    lambda made: plot(made).update(lines=3),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_diagnosis_is_refused_and_not_quoted(
    change: Callable[[dict[str, Any]], object],
) -> None:
    made = document()
    made["command"] = "secret"
    change(made)
    with pytest.raises(ValueError, match=r"^(?!.*secret).{1,200}$"):
        parse_diagnosis(made)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from(sorted(asdict(make_diagnosis()))))
def test_any_json_is_read_or_refused(value: Any, part: str) -> None:
    made = document()
    made["diagnosis"][part] = value
    with contextlib.suppress(ValueError):
        parse_diagnosis(made)


def test_on_the_page() -> None:
    found, samples = small_run()
    assert 'id="diagnoses"' not in to_html(found, samples)
    page = to_html(found, samples, (make_record(), make_record(name="latent", plots=[])))
    assert '<a href="#diagnoses">' in page
    assert "The rest &lt;i&gt;does&lt;/i&gt; not." in page
    assert page.count('id="layers-depth-title"') == 1
    assert 'id="latent-depth-title"' in page  # a table without its plot
    assert page.count("<svg") == to_html(found, samples).count("<svg") + 1
    assert "a &lt;b&gt;" in page


def test_colours_are_those_of_the_page() -> None:
    found, samples = small_run()
    page = to_html(found, samples)
    for name in (*COLOURS, "ink", "rule"):
        assert f"--{name}: {ON_WHITE[name]};" in page, name


def test_a_picture_is_the_same_each_time_and_shows_something() -> None:
    drawn = make_diagnosis().plots[0]
    first, again = (line_picture("t", drawn.lines, drawn.x, drawn.y) for _ in range(2))
    assert first == again
    assert first.startswith(b"\x89PNG")
    other = line_picture("t", drawn.lines[:1], drawn.x, drawn.y)
    assert first != other


def test_many_intervals_are_drawn_as_a_band() -> None:
    x = list(range(50))
    line = Line("a", "series-1", x, x, [one - 1 for one in x], [one + 1 for one in x])
    drawn = Plot("band", "Band", "", Axis("x"), Axis("y"), [line])
    markup = line_plot("band", drawn.lines, drawn.x, drawn.y)
    assert ET.fromstring(markup.replace("xlink:href", "href")).tag == "svg"
    assert "opacity: 0.18" in markup
