"""Finished runs, unfinished ones and baselines that somebody edited: none of them is believed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_result import KEY, make_result
from quick_scan import memaudit
from stored import complete, remake, seal, store

from memaudit.config.settings import GateSettings
from memaudit.report.gate_reading import rejudge
from memaudit.report.hashes import results_hash
from memaudit.run.baselines import document_digest
from memaudit.run.load import read_report
from memaudit.run.verify import Places, verify_run

GATES = GateSettings(max_exact=0.05, max_fractional=0.9, max_lift=0.3)
"""Of which the first fails: 31 of 200 samples come out."""
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a gate that failed; its model and data are not here."""
    monkeypatch.chdir(tmp_path)
    return complete(tmp_path / "run", make_result(gate=GATES))


def edit(run: Path, change: Change, *, hide: bool) -> None:
    """Change the report. hide: write every hash that can be made without a key anew."""
    path = run / "report.json"
    document = json.loads(path.read_text())
    change(document)
    if hide:
        document["hashes"]["results"] = results_hash(document)
    path.write_text(json.dumps(document))
    if hide:
        remake(run)


def pass_all(document: dict[str, Any]) -> None:
    for gate in document["gates"]:
        gate["verdict"] = "pass"
    document["exit_code"] = 0


def drop_all(document: dict[str, Any]) -> None:
    document.update(gates=[], exit_code=0)


def drop_one(document: dict[str, Any]) -> None:
    document["gates"] = [gate for gate in document["gates"] if gate["verdict"] != "fail"]
    document["exit_code"] = 0


def allow_more(document: dict[str, Any]) -> None:
    pass_all(document)
    document["gates"][0]["threshold"] = 0.99


def lower_figures(document: dict[str, Any]) -> None:
    """Lower each rate but not its counts, which samples.csv has too."""
    pass_all(document)
    for attack in document["attacks"]:
        attack["extracted"]["estimate"] = 0.0
        for name in ("interval", "exact_interval", "clustered_interval"):
            attack["extracted"][name].update(low=0.0, high=0.01)
    document["gates"][0].update(estimate=0.0, bound=0.01)


EDITS = (pass_all, drop_all, drop_one, allow_more, lower_figures)
COMMANDS = (
    ("report", "run"),
    ("report", "run", "--format", "junit"),
    ("scan", "--resume", "run"),
    ("baseline", "write", "run"),
    ("compare", "run", "other"),
    ("compare", "other", "run"),
    ("diagnose", "layers", "run"),
)


def test_a_run_that_nobody_edited_is_believed(run: Path) -> None:
    assert memaudit("report", run).exit_code == 0
    assert memaudit("scan", "--resume", run).exit_code == 1
    assert memaudit("baseline", "write", run).exit_code == 0


@pytest.mark.parametrize("hide", [False, True], ids=["plain", "hashes made anew"])
@pytest.mark.parametrize("change", EDITS)
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_gates_that_do_not_follow_end_every_command(
    run: Path, words: tuple[str, ...], change: Change, hide: bool
) -> None:
    shutil.copytree(run, run.parent / "other")
    edit(run, change, hide=hide)
    ended = memaudit(*words)
    assert ended.exit_code == 2, ended.output
    assert ended.stdout == ""
    wrong = "follow" if hide else "report.json does not match its hash"
    assert wrong in ended.stderr or (hide and "gate" in ended.stderr)


@pytest.mark.parametrize("change", EDITS)
def test_verify_names_gates_that_do_not_follow(run: Path, change: Change) -> None:
    edit(run, change, hide=True)
    integrity = verify_run(run, Places())
    assert integrity.exit_code == 1
    changed = [finding.what for finding in integrity.findings if finding.state == "changed"]
    by_figures = change is lower_figures
    assert changed == [
        "tables beside report.json" if by_figures else "gates in report.json",
    ]


def test_an_exit_code_that_does_not_follow_is_refused(run: Path) -> None:
    edit(run, lambda document: document.update(exit_code=0), hide=True)
    ended = memaudit("scan", "--resume", run)
    assert ended.exit_code == 2
    assert "the exit code does not follow from the gates" in ended.stderr


def test_figures_changed_alone_are_refused(run: Path) -> None:
    def improve(document: dict[str, Any]) -> None:
        document["attacks"][0]["suffix_nll"] = 9.0

    edit(run, improve, hide=False)
    seal(run)
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "the figures were changed" in ended.stderr


@pytest.mark.parametrize("name", ["samples.csv", "windows.csv"])
def test_a_changed_table_is_refused(run: Path, name: str) -> None:
    path = run / name
    path.write_text(path.read_text().replace("doc-0001", "doc-9999"), newline="")
    ended = memaudit("report", run, "--format", "csv")
    assert ended.exit_code == 2
    assert f"{name} does not match its hash" in ended.stderr


def test_windows_without_end_are_not_counted(run: Path) -> None:
    def count(document: dict[str, Any]) -> None:
        document["data"]["windows"] = 10**8
        document["data"]["clusters"]["sizes"] = [{"samples": 1, "clusters": 10**8}]

    edit(run, count, hide=True)
    tracemalloc.start()
    verified = memaudit("verify", run)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert verified.exit_code == 1
    assert "samples.csv, windows.csv and report.json" in " ".join(verified.stdout.split())
    assert most < 200 << 20


@pytest.mark.parametrize("name", ["samples.csv", "windows.csv"])
def test_columns_without_end_are_refused(run: Path, name: str) -> None:
    table = run / name
    header, *rows = table.read_text(encoding="utf-8-sig").splitlines()
    header += "".join(f",c{number}" for number in range(3000))
    lines = [header, *(row + "," * 3000 for row in rows)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    seal(run)
    refused = memaudit("report", run)
    assert refused.exit_code == 2
    assert f"{name}: is not a table that a scan writes" in refused.stderr


def test_clusters_without_end_are_refused(run: Path) -> None:
    def multiply(document: dict[str, Any]) -> None:
        document["data"]["clusters"]["sizes"] = [{"samples": 1, "clusters": 10**17}]

    edit(run, multiply, hide=True)
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "data.clusters.sizes.0.clusters does not follow from windows.csv" in ended.stderr


def test_the_validity_of_a_run_cannot_be_taken_out(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts that make a run mean nothing stand in the report; so must the verdict."""
    monkeypatch.setattr("memaudit.gate.validity.judge_validity", REAL_JUDGE)
    section = {
        "records": 200,
        "records_used": 200,
        "windows": 200,
        "misread_windows": 0,
        "chats": 0,
        "changed_chats": 0,
        "without_text": {
            "any": 150,
            "control_or_blank": 150,
            "repeated": 0,
            "unknown": 0,
            "special": 0,
        },
        "unknown_tokens": 0.0,
        "template": {"any": 0, "suffix": 0, "prefix": 0, "in_controls": 0, "samples": 0},
    }
    edit(run, lambda document: document["validity"].update(section), hide=True)
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "gate validity is missing" in ended.stderr


def test_every_kind_of_gate_comes_out_as_the_scan_judged_it(tmp_path: Path) -> None:
    for number, (gate, hits, controls) in enumerate(
        (
            (GATES, {"none": 3, "copy": 0, "constant": 9, "dynamic": 9}, {"none": 0}),
            (GateSettings(max_exact=0.2, gate_on="estimate"), {"none": 12}, None),
            (GateSettings(max_fractional=0.0), {"copy": 4}, None),
            (GateSettings(max_lift=0.0), {"none": 0, "dynamic": 0}, {"none": 40, "dynamic": 40}),
            (GateSettings(), {"none": 5}, {"none": 3}),
        )
    ):
        result = make_result(gate=gate, hits=hits, controls=controls)
        folder = store(tmp_path / str(number), result)
        judged = rejudge(read_report(folder))
        due = [(verdict.name, verdict.attack, verdict.verdict) for verdict in judged]
        assert due == [(one.name, one.attack, one.verdict) for one in result.verdicts]
        assert memaudit("report", folder).exit_code == 0


# What verify looks at.


@pytest.mark.parametrize("name", ["report.html", "config.toml"])
def test_a_file_that_the_manifest_no_longer_names_is_missed(run: Path, name: str) -> None:
    (run / name).unlink()
    seal(run)
    integrity = verify_run(run, Places())
    assert integrity.exit_code == 1
    assert ("missing", name) in [finding[:2] for finding in integrity.findings]


def test_a_file_that_no_run_has_is_named_though_it_was_recorded(run: Path) -> None:
    (run / "tool.sh").write_text("echo")
    seal(run)
    integrity = verify_run(run, Places())
    assert integrity.exit_code == 1
    assert ("extra", "tool.sh") in [finding[:2] for finding in integrity.findings]


@pytest.mark.parametrize("hide", [False, True], ids=["plain", "hashes made anew"])
@pytest.mark.parametrize("key", ["data", "controls"])
def test_no_digit_of_another_files_hash_is_told(
    run: Path, tmp_path: Path, key: str, hide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    secret = tmp_path / "shadow"
    secret.write_text("root:secret")
    edit(run, lambda document: document[key].update(path=str(secret)), hide=hide)
    ended = memaudit("verify", run)
    assert ended.exit_code == 1
    assert hashlib.sha256(secret.read_bytes()).hexdigest()[:6] not in ended.stdout
    assert "abababab" not in ended.stdout
    words = " ".join(ended.stdout.split())
    assert ("differs from the record" in words) == hide
    assert ("not checked" in words and "was changed" in words) != hide


def test_what_an_edited_report_names_is_not_opened(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def note(path: Path) -> str:
        opened.append(path)
        return "0"

    monkeypatch.setattr("memaudit.run.verify.sha256_of", note)
    (tmp_path / "shadow").write_text("root:secret")
    edit(run, lambda d: d["data"].update(path=str(tmp_path / "shadow")), hide=False)
    assert memaudit("verify", run).exit_code == 1
    assert opened == []


# Baselines.


def test_foreign_fingerprints_in_a_baseline_are_noticed(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    assert memaudit("baseline", "write", run, "--out", file).exit_code == 0
    assert memaudit("compare", file, run, "--max-new", "0").exit_code == 0
    document = json.loads(file.read_text())
    foreign = {f"s1-{number:032x}": ["dynamic"] for number in range(5)}
    document["extracted"] |= foreign
    document["attacks"]["dynamic"]["extracted"] += len(foreign)
    listed = {**document, "samples": document["samples"] + len(foreign)}
    short = [fingerprint[3:13] for fingerprint in foreign]
    listed["fingerprints"] = sorted([*document["fingerprints"], *short])
    whole = {**listed, "digest": document_digest(listed)}
    for edited, refusal in (
        (document, "extracted does not fit the rest of the file"),
        (listed, "its digest does not match"),
        (whole, "the same data gave other samples"),
    ):
        file.write_text(json.dumps(edited))
        ended = memaudit("compare", file, run, "--max-new", "0")
        assert ended.exit_code == 2
        assert refusal in ended.stderr


def _real_judge() -> Callable[..., Any]:
    from memaudit.gate import validity

    return validity.judge_validity


REAL_JUDGE = _real_judge()
"""Taken as the tests are collected: while they run, no run means nothing."""
