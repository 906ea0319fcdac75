from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import pytest

from memaudit.report.curves import Axis, Line
from memaudit.report.plots import Estimate, Spread, interval_plot, line_plot


def curve(name: str = "a", **more: object) -> str:
    lines = [Line("none", "none", [1, 10, 100], [0, 0.5, 1], step=True)]
    lines += [Line("dynamic", "dynamic", [1, 10], [0.1, 0.2], [0, 0.1], [0.2, 0.4], marker="D")]
    x = Axis("samples", logarithmic=True, ticks=[1, 10, 100], names=["1", "10", "100"])
    return line_plot(name, lines, x, Axis("share, %", low=0))


def test_the_same_numbers_give_the_same_bytes():
    assert curve() == curve()


def test_the_users_own_settings_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = curve()
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(mpl.rcParams, "svg.fonttype", "path")
    assert curve() == before
    assert mpl.rcParams["lines.linewidth"] == 9.0  # and are left as they were


def test_markup_that_stands_in_a_page():
    text = curve("one")
    root = ET.fromstring(text.replace("xlink:href", "href"))
    assert root.tag == "svg"
    assert {"samples", "share, %", "none", "dynamic", "100"} <= {
        node.text for node in root.iter("text")
    }
    assert all(node.attrib["id"].startswith("one-") for node in root.iter() if "id" in node.attrib)
    for reference in re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", text):
        assert f'id="{"".join(reference)}"' in text


def test_colours_are_the_pages_own():
    text = curve()
    assert "var(--none)" in text
    assert "var(--dynamic)" in text
    assert "currentColor" in text
    assert not re.search(r"(fill|stroke): #", text)


def test_nothing_is_fetched_and_no_date_is_kept():
    text = curve()
    for foreign in ("http", "<style", "<metadata", "<!DOCTYPE", "font-family", "<dc:date"):
        assert foreign not in text, foreign


def test_estimates_stand_beside_their_names():
    spreads = [
        Spread("data", [Estimate(0, "none", 5, 2, 9), Estimate(1, "copy", 0, 0, 1)], "o", False),
        Spread("controls", [Estimate(0, "none", 0, 0, 1)], "s", True),
    ]
    text = interval_plot("rates", ["none", "copy"], spreads, Axis("%", low=0, high=10))
    shown = [node.text for node in ET.fromstring(text.replace("xlink:href", "href")).iter("text")]
    assert {"none", "copy", "data", "controls", "%"} <= set(shown)


def test_no_file_is_left_where_the_user_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    curve()
    assert list(tmp_path.iterdir()) == []
