"""The page in a real browser: headless Chromium, without a network, where there is one."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_result import HITS, make_result, make_windows
from small_run import small_run
from stored import read_back

from memaudit.config.settings import LADDER
from memaudit.report.page import to_html
from memaudit.sensitive.counting import Items, SensitiveContent
from memaudit.sensitive.detectors import Category

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open it")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000"),
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>\n')
CONSOLE = re.compile(r"CONSOLE.*")

SORTING = """
const say = (name, text) => document.body.setAttribute("data-" + name, text);
const heads = [...document.querySelectorAll("#samples th")];
const column = (name) => {
  const place = heads.findIndex((head) => head.textContent === name);
  return [...document.querySelectorAll("#samples tbody tr")].map((row) =>
    row.cells[place].textContent).slice(0, 4).join(" ");
};
const press = (name) => {
  const button = heads.find((head) => head.textContent === name).querySelector("button");
  button.focus();
  if (document.activeElement !== button) throw new Error("cannot be reached by keyboard");
  button.click();
};
press("line");
say("down", column("line"));
press("line");
say("up", column("line"));
say("sort", heads.map((head) => head.getAttribute("aria-sort") || "-").join(" "));
press("samples for p = 0.5");
press("samples for p = 0.5");
say("few", column("samples for p = 0.5"));
press("samples for p = 0.5");
say("many", column("samples for p = 0.5"));
press("sample");
say("words", column("sample"));
say("said", document.getElementById("sorted-by").textContent);
"""

MEASURING = """
const wide = [...document.querySelectorAll("body *")].filter((one) => {
  const scrolled = one.closest(".wide, svg, .skip");
  return !scrolled && one.getBoundingClientRect().right > innerWidth + 1;
});
document.body.setAttribute("data-wide", wide.map((one) => one.outerHTML.slice(0, 80)).join("|"));
const style = getComputedStyle(document.body);
document.body.setAttribute("data-paper", style.backgroundColor);
const text = document.querySelector("svg text");
document.body.setAttribute("data-ink", getComputedStyle(text).fill);
document.body.setAttribute("data-width", innerWidth);
"""


def chromium(folder: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page; a new profile each time, and nothing it could talk to."""
    assert CHROMIUM
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-500:]
    return done


def told(folder: Path, text: str, script: str, *flags: str) -> dict[str, str]:
    """What a script that is added to the page says in ``data-`` attributes of the body.

    It takes the page's policy away, which would not let it run.
    """
    assert POLICY.search(text)
    text = POLICY.sub("", text).replace("</body>", f"<script>{script}</script></body>")
    done = chromium(folder, text, "--dump-dom", *flags)
    assert not CONSOLE.findall(done.stderr)
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body
    return dict(re.findall(r'data-(\w+)="([^"]*)"', body[0]))


def test_the_page_opens_as_it_is_and_its_script_runs(tmp_path: Path) -> None:
    done = chromium(tmp_path, to_html(*small_run()), "--dump-dom")
    assert not CONSOLE.findall(done.stderr)  # nothing refused, nothing thrown
    assert '<html lang="en" class="sortable">' in done.stdout
    assert "This run fails max-exact 10 %" in done.stdout


def test_a_script_that_is_not_the_pages_own_does_not_run(tmp_path: Path) -> None:
    text = to_html(*small_run())
    foreign = '<script>document.title = "taken"</script><img src="http://127.0.0.1:9/x">'
    done = chromium(tmp_path, text.replace("</main>", f"{foreign}</main>"), "--dump-dom")
    assert "<title>memaudit: tb7m</title>" in done.stdout
    assert len(CONSOLE.findall(done.stderr)) == 2


def test_the_table_sorts_by_keyboard(tmp_path: Path) -> None:
    text = to_html(*read_back(make_result(hits=HITS)))
    found = told(tmp_path, text, SORTING)
    lines = [int(line) for line in found["down"].split()]
    assert lines == sorted(lines, reverse=True)
    assert lines[0] == 200
    assert found["up"] == "1 2 3 4"
    assert found["sort"].split() == ["-", "ascending"] + ["-"] * 8
    assert found["few"] == "1 1 1 1"
    assert found["many"] == "∞ ∞ ∞ ∞"
    assert found["words"] == "doc-0001 doc-0002 doc-0003 doc-0004"
    assert found["said"] == "Sorted by sample, ascending."


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_its_window_in_light_and_dark(tmp_path: Path, width: int, dark: bool) -> None:
    data = make_windows(200, ids=["x" * 300], extra={"dup": "3", "source": "y" * 300})
    text = to_html(*read_back(make_result(data=data, hits=HITS, notes=("z" * 300,))))
    flags = [f"--window-size={width},900", *(["--force-dark-mode"] if dark else [])]
    found = told(tmp_path, text, MEASURING, *flags)
    assert found["width"] == str(width)
    assert found["wide"] == ""
    colours = {True: ("rgb(13, 17, 23)", "rgb(230, 237, 243)")}
    light = ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    assert (found["paper"], found["ink"]) == colours.get(dark, light)


NARROW = """
document.body.style.width = "420px";
const table = document.querySelector('[aria-label^="Sensitive content"]');
document.body.setAttribute("data-sizes", `${table.scrollWidth} ${table.clientWidth}`);
"""


def test_the_sensitive_table_fits_a_phone(tmp_path: Path) -> None:
    hits: dict[str, int] = dict.fromkeys(map(str, LADDER), 12)
    methods: dict[Category, str] = {"account": "form", "phone": "form"}
    items = Items(np.full((200, 2), 1, np.uint16), np.full((200, 2), 1, np.uint16))
    searched = SensitiveContent(methods, {}, items, None)
    made = replace(make_result(hits=hits, controls=None), sensitive=searched)
    found = told(tmp_path, to_html(*read_back(made)), NARROW, "--window-size=500,900")
    whole, shown = map(int, found["sizes"].split())
    assert whole <= shown


PRINTED = """
const rows = [...document.querySelectorAll("#samples tbody tr")];
const shown = (one) => getComputedStyle(one).display !== "none";
const said = [...document.querySelectorAll(".printed")].filter(shown).map((one) => one.textContent);
document.body.setAttribute("data-said", said.join(" "));
document.body.setAttribute("data-rows", rows.filter(shown).length);
"""


@pytest.mark.parametrize(("windows", "rows"), [(30, 30), (200, 50)])
def test_print_says_what_it_leaves_out(tmp_path: Path, windows: int, rows: int) -> None:
    hits = {"none": windows}
    text = to_html(*read_back(make_result(n=windows, hits=hits, controls=None)))
    found = told(tmp_path, text.replace("@media print", "@media all"), PRINTED)
    assert found["rows"] == str(rows)
    left = "The first 50 of 200 rows are printed; report.html has the others."
    assert (left in found["said"]) == (rows < windows)
    assert "The figures of the plots are not printed; report.html has them." in found["said"]


def test_a_hundred_thousand_windows_still_open(tmp_path: Path) -> None:
    data = make_windows(100_000)
    text = to_html(*read_back(make_result(data=data, hits={"none": 60_000})))
    done = chromium(tmp_path, text, "--dump-dom")
    assert done.stdout.count("<tr>") > 1000


def test_it_can_be_printed_and_shot(tmp_path: Path) -> None:
    text = to_html(*small_run())
    chromium(tmp_path, text, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    picture = tmp_path / "page.png"
    chromium(tmp_path, text, f"--screenshot={picture}", "--window-size=600,800")
    content = picture.read_bytes()
    assert struct.unpack(">II", content[16:24]) == (600, 800)
    assert len(content) > 20_000  # not a blank page
