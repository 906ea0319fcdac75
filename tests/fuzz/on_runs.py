"""Run folders and baselines, read back, shown in every format, compared and verified."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
import zlib
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from made_diagnosis import make_record
from made_result import make_result, make_windows
from stored import seal, store

from memaudit.cli.report_files import FORMATS
from memaudit.cli.showing import document
from memaudit.config.settings import GateSettings, ScoreSettings
from memaudit.config.sources import to_toml
from memaudit.data.samples import Skipped
from memaudit.errors import MemauditError
from memaudit.report.diagnosis_json import diagnosis_text
from memaudit.report.plots import line_plot
from memaudit.report.terminal import render_diagnosis
from memaudit.run.baselines import baseline_of_run, read_baseline, read_baseline_file, to_text
from memaudit.run.diagnoses import read_diagnosis
from memaudit.run.load import StoredRun, read_report, read_run
from memaudit.run.manifest import to_manifest
from memaudit.run.verify import Places, verify_run
from memaudit.run.verify_table import render_integrity

from .oracles import check_harmless
from .targets import Target

QUICK = ScoreSettings(bootstrap=100)
DIAGNOSIS = "diagnose-layers.json"
NAMES = ("report.json", "samples.csv", "windows.csv", "manifest.json", "config.toml", DIAGNOSIS)


@cache
def _whole() -> Path:
    """A small run folder, whole and sealed."""
    made = make_result(n=4, hits={"none": 2, "dynamic": 1}, gate=GateSettings(max_exact=0.1))
    folder = store(Path(mkdtemp(prefix="memaudit-fuzz-")) / "run", made)
    (folder / "config.toml").write_text(to_toml(made.config))
    results = read_report(folder).hashes.results
    (folder / DIAGNOSIS).write_text(diagnosis_text(make_record(results)))
    (folder / "manifest.json").write_text(to_manifest(folder))
    return folder


def _seeds() -> list[bytes]:
    return [bytes([n]) + (_whole() / name).read_bytes() for n, name in enumerate(NAMES)]


def _run(content: bytes, folder: Path) -> str:
    """One file of a run folder is what the input says, the others are as they were."""
    name = NAMES[content[0] % len(NAMES)] if content else NAMES[0]
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(_whole(), run)
    (run / name).write_bytes(content[1:])
    if name != "manifest.json":  # as somebody who hides a change would
        seal(run)
    said = [f"verified {_verified(run)}"]
    stored = read_run(run)
    if name == DIAGNOSIS:
        return said[0] + _diagnosed(stored)
    show(stored, zlib.crc32(content))
    try:
        said.append(f"baseline {to_text(baseline_of_run(stored)).isascii()}")
    except MemauditError as error:
        said.append(type(error).__name__)
    return " ".join(said)


def _diagnosed(run: StoredRun) -> str:
    """The diagnosis, shown as a table and, where it can be drawn, on a page's plot."""
    record = read_diagnosis(run, "layers")
    if record is None:
        return " none"
    check_harmless(render_diagnosis(record, width=100, color=False), "diagnosis")
    for plot in record.diagnosis.plots:
        ET.fromstring(line_plot("a", plot.lines, plot.x, plot.y).replace("xlink:href", "href"))
    return " diagnosed"


def _verified(run: Path) -> int | str:
    try:
        integrity = verify_run(run, Places(model="/nowhere", data=None))
    except MemauditError:
        return "refused"
    check_harmless(render_integrity(integrity, width=100, color=False), "verify")
    return integrity.exit_code


def show(run: StoredRun, choice: int) -> None:
    """The table and another format, each harmless and each what it says it is.

    choice: any number, which chooses; the page, which is slow, seldom.
    """
    others = [name for name in FORMATS if name not in ("table", "html")]
    other = "html" if choice % 40 == 0 else others[choice % len(others)]
    for name in ("table", other):
        shown = document(run, name)
        check_harmless("" if name == "html" else shown, name, commands=name == "github")
        if name in ("json", "sarif", "cyclonedx"):
            json.loads(shown)
        elif name == "jsonl":
            assert len([json.loads(line) for line in shown.splitlines()]) == len(run.samples)
        elif name == "junit":
            ET.fromstring(shown)
        elif name == "html":
            assert shown.count("<script") == 1


def _strings(content: bytes, folder: Path) -> str:
    """Hostile names: of samples, columns, files and models, in notes and in reasons."""
    lines = [line.decode("utf-8", "backslashreplace") for line in content.split(b"\n")]
    ids = [line[:4096] or "-" for line in lines[:4]]
    model, column, value, note = (*(lines[4:8]), *("x",) * 4)[:4]
    windows = make_windows(
        4, ids=ids, extra={column: value}, skipped=[Skipped(note[:4096] or "-", 9, value)]
    )
    made = make_result(
        data=windows, hits={"none": 1, "dynamic": 2}, notes=(note,), controls=None, scores=QUICK
    )
    config = made.config.model_copy(update={"model": model, "data": Path(f"{value}.jsonl")})
    object.__setattr__(made, "config", config)
    object.__setattr__(made.target, "name", model)
    object.__setattr__(made.data.summary, "path", config.data)
    stored = read_run(store(folder / "strings", made))
    show(stored, zlib.crc32(content))
    return f"{len(set(ids))}"


def _baseline(content: bytes, folder: Path) -> str:
    path = folder / "base.json"
    path.write_bytes(content)
    found = read_baseline_file(path)
    assert to_text(found).isascii()
    return f"{len(found.extracted)}"


def _hostile() -> list[bytes]:
    return [
        b"a\nb\nc\nd\nmodel\ncolumn\nvalue\nnote",
        b"::error::x\n##[error]y\n=cmd()\n\x1b[31m\n<script>\n##vso[a]b\n::warning::z\n@me",
    ]


TARGETS = (
    Target("run", _seeds, _run, told=False),
    Target("strings", _hostile, _strings, told=False),
    Target("baseline", lambda: [to_text(read_baseline(_whole())).encode()], _baseline, told=False),
)
