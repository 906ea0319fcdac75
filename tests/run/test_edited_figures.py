"""Figures, settings and derived files of finished runs that somebody edited and hashed anew."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_result import KEY, make_result, make_windows, several_windows
from quick_scan import memaudit
from stored import complete, remake, seal, store

from memaudit.config.settings import GateSettings
from memaudit.config.sources import toml_of_values
from memaudit.data.samples import Skipped
from memaudit.errors import UsageError
from memaudit.gate.overlap import Overlap
from memaudit.gate.thresholds import NewSamples, judge
from memaudit.report.hashes import canonical, results_hash, sha256_text
from memaudit.report.result import ScanResult
from memaudit.run.earlier_prompts import check_prompts
from memaudit.run.load import find_gates_fault, load_run
from memaudit.run.verify import Places, verify_run
from memaudit.sensitive.counting import Items, SensitiveContent

GATES = GateSettings(max_exact=0.17, max_fractional=0.05, max_lift=0.01)
Document = dict[str, Any]
Change = Callable[[Document], object]
ON_THE_MANIFEST = (
    "attacks.*.permuted",
    "attacks.*.fits",
    "data.rows data.bad data.samples data.used data.boundary_shifts data.skipped",
    "controls.rows controls.bad controls.samples controls.used controls.boundary_shifts",
    "controls.skipped",
    "folds",
    "run",
    "target.parameters",
    "validity.records validity.records_used validity.misread_windows validity.chats",
    "validity.changed_chats validity.without_text validity.unknown_tokens validity.template",
    "validity.extracted validity.reading",
    "validity.continuations.ended validity.continuations.same",
)
"""Figures that the tables do not hold, as docs/evidence.md lists them."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with gates that failed; its model and data are not here."""
    monkeypatch.chdir(tmp_path)
    return complete(tmp_path / "run", make_result(gate=GATES))


def edit(run: Path, change: Change) -> None:
    """Change the report, the verdicts that follow, and every hash that needs no key."""
    path = run / "report.json"
    document = json.loads(path.read_text())
    change(document)
    document["hashes"]["results"] = results_hash(document)
    path.write_text(json.dumps(document))
    remake(run)


def lower_fractional(document: Document) -> None:
    for attack in document["attacks"]:
        attack["fractional"]["estimate"] = 0.001
        attack["fractional"]["interval"].update(low=0.0, high=0.002)


def zero_lift(document: Document) -> None:
    for attack in document["attacks"]:
        if attack["lift"] is not None:
            attack["lift"].update(gained=0, lost=0, estimate=0.0)
            attack["lift"]["interval"].update(low=0.0, high=0.0)


def lower_confidence(document: Document) -> None:
    for attack in document["attacks"]:
        attack["extracted"]["confidence"] = 0.01
        attack["extracted"]["clustered_interval"].update(low=0.15, high=0.156)


def lower_p_values(document: Document) -> None:
    for attack in document["attacks"]:
        attack["controls"]["difference"]["p_value"] = 1e-9


def lower_nll(document: Document) -> None:
    document["validity"]["reading"]["data"]["nll"] = 0.5
    document["validity"]["reading"]["controls"]["nll"] = 0.5


def allow_more(document: Document) -> None:
    document["config"]["values"]["gate"]["max_exact"] = 0.9


def allow_more_and_hash(document: Document) -> None:
    """Hash the settings anew, but leave config.toml and the gates."""
    allow_more(document)
    values = document["config"]["values"]
    document["hashes"]["config"] = sha256_text(toml_of_values(values))
    document["hashes"]["policy"] = sha256_text(canonical(values["gate"]))


EDITS: tuple[tuple[Change, str], ...] = (
    (lower_fractional, "attacks.none.fractional.estimate"),
    (zero_lift, "attacks.copy.lift.estimate"),
    (lower_confidence, "attacks.none.extracted.confidence"),
    (lower_p_values, "attacks.none.controls.difference.p_value"),
    (lambda d: d["any"]["extracted"].update(k=3), "disagree on the counts of the data"),
    (lambda d: d["any"]["exact"].update(k=3, estimate=0.015), "any.exact.k does not follow"),
    (lambda d: d["any"]["controls"]["difference"].update(p_value=0.5), "any.controls.difference"),
    (lambda d: d.update(any=None), "any does not follow"),
    (lower_nll, "validity.reading.data.nll"),
    (lambda d: d["validity"]["reading"].clear(), "validity.reading.data.nll"),
    (lambda d: d["validity"].update(extracted=99), "validity.extracted"),
    (lambda d: d.pop("validity"), "does not fit the schema"),
    (lambda d: d.update(validity=None), "validity does not fit the schema"),
    (lambda d: d.update(headline=["0 of 200."]), "the headline does not follow"),
    (lambda d: d["gates"][0].update(reason="All is well."), "gate max-exact does not follow"),
    (lambda d: d["gates"][0].update(bound=0.01), "gate max-exact does not follow"),
    (allow_more, "the settings do not match their hash"),
    (allow_more_and_hash, "gate max-exact does not follow"),
    (lambda d: d["seeds"].update(seed=1), "seeds.seed does not follow from the settings"),
    (lambda d: d["attacks"].pop(), "the attacks are not those of the settings"),
)
COMMANDS = (
    ("report", "run"),
    ("scan", "--resume", "run"),
    ("baseline", "write", "run"),
    ("compare", "run", "run"),
    ("diagnose", "layers", "run"),
)


@pytest.mark.parametrize(("change", "figure"), EDITS)
def test_an_edited_figure_ends_report_and_verify(run: Path, change: Change, figure: str) -> None:
    edit(run, change)
    ended = memaudit("report", run)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    assert figure in ended.stderr
    assert verify_run(run, Places()).exit_code == 1


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_edited_figure_ends_every_command(run: Path, words: tuple[str, ...]) -> None:
    edit(run, lower_fractional)
    ended = memaudit(*words)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""


def test_rows_that_contradict_themselves_are_refused(run: Path) -> None:
    path = run / "windows.csv"
    lines = path.read_text().splitlines(keepends=True)
    column = lines[0].split(",").index("matched_none")
    cells = lines[1].split(",")
    cells[column] = "3"
    path.write_text("".join([lines[0], ",".join(cells), *lines[2:]]), newline="")
    remake(run)
    assert "the scores of none contradict each other" in memaudit("report", run).stderr


def numbers(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, (*path, key))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from numbers(part, (*path, place))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def rests_on_the_manifest(path: tuple[str | int, ...]) -> bool:
    names = ["*" if isinstance(part, int) else str(part) for part in path]
    dotted = ".".join(names)
    known = " ".join(ON_THE_MANIFEST).split()
    return any(dotted == name or dotted.startswith(f"{name}.") for name in known)


def test_every_number_follows_or_is_documented(tmp_path: Path) -> None:
    """Each number of the report in turn: refused, or one that rests on the manifest alone."""
    run = store(tmp_path / "run", several())
    path = run / "report.json"
    text = path.read_text()
    assert not is_refused(run)
    believed = []
    for place in numbers(json.loads(text)):
        if rests_on_the_manifest(place):
            continue
        document = json.loads(text)
        part = document
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = part[place[-1]] * 2 + 1
        document["hashes"]["results"] = results_hash(document)
        path.write_text(json.dumps(document))
        if not is_refused(run):
            believed.append(".".join(map(str, place)))
    assert believed == []


def several() -> ScanResult:
    """Seven samples of three windows, of which the first cannot be extracted, and one skipped."""
    skipped = [Skipped("short", 9, "too short", {"dup": "2"})]
    windows = several_windows(make_windows(21, extra={"dup": "1"}, skipped=skipped))
    made = make_result(data=windows, hits={"none": 5, "constant": 8}, gate=GATES)
    items = np.full((21, 1), 2, dtype=np.uint16)
    nothing = np.zeros((100, 1), dtype=np.uint16)
    both = Items(items, items[:7]), Items(nothing, nothing)
    return replace(made, sensitive=SensitiveContent({"phone": "a rule"}, {}, *both))


def test_a_category_cannot_be_renamed(tmp_path: Path) -> None:
    run = store(tmp_path / "run", several())
    edit(run, lambda d: d["sensitive"]["data"][0].update(title="greetings"))
    assert "sensitive.data.0.title does not follow" in memaudit("report", run).stderr


BASELINE_EDITS: tuple[tuple[Change, str], ...] = (
    (lambda d: d.update(baseline=None), "baseline is missing, unlike in the settings"),
    (lambda d: d["baseline"].update(only_run=40), "baseline.both"),
    (lambda d: d["baseline"].update(extracted_only_baseline=3), "extracted_only_baseline"),
    (lambda d: d["baseline"].update(newly_extracted_only_run=6), "newly_extracted_only_run"),
    (lambda d: d["baseline"].update(newly_extracted=32), "baseline.newly_extracted"),
    (lambda d: d["baseline"].update(newly_extracted=20), "gate max-new does not follow"),
    (lambda d: d["baseline"].update(only_baseline=200), "gate max-new does not follow"),
    (lambda d: d["gates"][0].update(verdict="fail"), "gate max-new does not follow"),
)


@pytest.mark.parametrize(("change", "figure"), BASELINE_EDITS)
def test_figures_of_a_baseline_are_bounded(tmp_path: Path, change: Change, figure: str) -> None:
    gate = GateSettings(max_new=31, baseline=Path("base.json"))
    new = NewSamples(31, 5, Overlap(195, 2, 5, 1), 0.95)
    made = make_result(gate=gate)
    summaries = [attack.summary for attack in made.attacks]
    verdicts = (*judge(summaries, gate, new), *made.verdicts[1:])
    run = store(tmp_path / "run", replace(made, new=new, verdicts=verdicts))
    assert not is_refused(run)
    edit(run, change)
    assert figure in memaudit("report", run).stderr


TABLES_ON_THE_MANIFEST = {
    "samples.csv": {"group", "fingerprint", "categories"},
    "windows.csv": {
        *("fingerprint", "prefix_tokens", "template_tokens", "edit_similarity", "queries_p50"),
        *("categories", "log_p_z_none", "log_p_z_constant"),
    },
}
"""Columns that no other column determines, where content is not searched for."""


@pytest.mark.parametrize("name", TABLES_ON_THE_MANIFEST)
@pytest.mark.parametrize("row", [2, 4, 5], ids=["template alone", "first", "second"])
def test_every_cell_follows_or_is_documented(tmp_path: Path, name: str, row: int) -> None:
    """Each filled cell of a row in turn: refused, or of a column that no other determines."""
    path = store(tmp_path / "run", several()) / name
    rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
    believed = set()
    for place, cell in enumerate(rows[row]):
        if cell == "":
            continue
        changed = [list(cells) for cells in rows]
        try:
            changed[row][place] = str(float(cell) * 2 + 1) if "." in cell else str(int(cell) + 1)
        except ValueError:
            changed[row][place] = cell[:-1] + ("0" if cell[-1] != "0" else "1")
        write_rows(path, changed)
        if not is_refused(path.parent):
            believed.add(rows[0][place])
    assert believed <= TABLES_ON_THE_MANIFEST[name]


@pytest.mark.parametrize("name", TABLES_ON_THE_MANIFEST)
def test_rows_left_out_or_moved_are_refused(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / "run", several()) / name
    rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
    assert not is_refused(path.parent)
    skipped = next(place for place, cells in enumerate(rows) if "skipped" in cells)
    for place in (1, 2, 3, 4, skipped, len(rows) - 1):
        write_rows(path, [*rows[:place], *rows[place + 1 :]])
        assert is_refused(path.parent), place
    for place in (1, 2, 4):
        write_rows(path, [*rows[:place], rows[place + 1], rows[place], *rows[place + 2 :]])
        assert is_refused(path.parent), place


def write_rows(path: Path, rows: list[list[str]]) -> None:
    made = io.StringIO(newline="")
    csv.writer(made).writerows(rows)
    path.write_text(made.getvalue(), newline="")


def is_refused(run: Path) -> bool:
    from memaudit.run.load import find_figures_fault, find_settings_fault

    try:
        stored = load_run(run)
    except UsageError:
        return True
    checks = (find_settings_fault, find_figures_fault, find_gates_fault)
    return any(find(stored) is not None for find in checks)


# Derived files, the seal, and what is given beside a finished run.


def test_a_page_that_the_report_does_not_give_is_named(run: Path) -> None:
    page = run / "report.html"
    page.write_text(page.read_text().replace("15.5", "0.0"), newline="")
    seal(run)
    integrity = verify_run(run, Places())
    assert integrity.exit_code == 1
    assert "report.html made again" in [f.what for f in integrity.findings if f.state == "changed"]


def test_a_revealed_page_can_be_made_again(tmp_path: Path) -> None:
    folder = complete(tmp_path / "run", make_result(n=4, hits={"none": 1}, reveal=["a text"]))
    states = {f.what: f.state for f in verify_run(folder, Places()).findings}
    assert states["report.html made again"] == "same"


def test_the_seal_says_who_wrote_the_manifest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    sealed = {f.what: f for f in verify_run(run, Places(), KEY).findings}["seal of manifest.json"]
    assert (sealed.state, sealed.detail) == ("same", f"sealed by your project key {KEY.key_id}")
    assert memaudit("report", run).exit_code == 0
    edit(run, lambda document: document["run"].update(resumed=7))  # rests on the manifest alone
    assert verify_run(run, Places()).exit_code == 0
    assert verify_run(run, Places(), KEY).exit_code == 1
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "has no seal, though the run was made with your project key" in ended.stderr


def test_a_copied_seal_is_refused(run: Path) -> None:
    path = run / "manifest.json"
    copied = json.loads(path.read_text())["seal"]
    edit(run, lambda document: document["run"].update(resumed=7))
    path.write_text(json.dumps({**json.loads(path.read_text()), "seal": copied}))
    seal_found = {f.what: f for f in verify_run(run, Places(), KEY).findings}
    assert seal_found["seal of manifest.json"].state == "changed"


SIZE = ("--prefix-tokens", "50", "--suffix-tokens", "50")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("other", "members.jsonl", "--controls", "clean.jsonl"), "model (tb7m, now other)"),
        (("tb7m", "other.jsonl", "--controls", "clean.jsonl"), "data (members.jsonl"),
        (
            ("tb7m", "members.jsonl", "--max-exact", "0.9", *SIZE),
            "gate.max_exact (0.17, now 0.9)",
        ),
        (("--max-exact", "0.9"), "give none of them, or all"),
        (("--shard", "1/2"), "is already finished"),
    ],
)
def test_a_finished_run_keeps_its_settings(run: Path, given: tuple[str, ...], named: str) -> None:
    ended = memaudit("scan", "--resume", run, *given)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    assert named in " ".join(ended.stderr.split())


def test_prompts_that_their_manifest_contradicts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "generator-0.safetensors"
    path.write_bytes(b"fitted")
    assert "without the manifest" in (check_prompts(tmp_path, KEY) or "")
    seal(tmp_path)
    assert "not sealed by this project's key" in (check_prompts(tmp_path, KEY) or "")
    seal(tmp_path, KEY)
    assert check_prompts(tmp_path, KEY) is None
    assert check_prompts(path, KEY) is None
    path.write_bytes(b"sabotaged")
    for place in (tmp_path, path):
        with pytest.raises(UsageError, match="does not match its hash"):
            check_prompts(place, KEY)
    path.write_bytes(b"fitted")
    (tmp_path / "generator-1.safetensors").write_bytes(b"another fold")
    with pytest.raises(UsageError, match="generator-1"):
        check_prompts(tmp_path, KEY)
