"""Runs that no key at hand vouches for: every command says so, and no check can be switched off."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_diagnosis import make_record
from made_result import KEY, make_result
from quick_scan import memaudit
from stored import complete, remake, seal

from memaudit import load_run
from memaudit.config.settings import GateSettings
from memaudit.diagnose.protocol import Examined
from memaudit.errors import UnsealedRunWarning, UsageError
from memaudit.report.hashes import results_hash
from memaudit.run.diagnoses import write_diagnosis
from memaudit.run.load import read_run
from memaudit.run.manifest import read_manifest
from memaudit.run.verify import Places, verify_run

OTHER = "f0" * 32
Document = dict[str, Any]
Change = Callable[[Document], object]
COMMANDS = (
    ("report", "run"),
    ("report", "run", "--format", "junit"),
    ("scan", "--resume", "run", "-q"),
    ("baseline", "write", "run", "-q"),
    ("compare", "run", "run"),
    ("diagnose", "layers", "run", "-q"),
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed run whose key is at hand; its model and data are not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    return complete(tmp_path / "run", make_result(gate=GateSettings(max_exact=0.3)))


def edit(run: Path, *changes: Change) -> None:
    """Change the report and make anew every hash that needs no key; the seal is dropped."""
    path = run / "report.json"
    document = json.loads(path.read_text())
    for change in changes:
        change(document)
    document["hashes"]["results"] = results_hash(document)
    path.write_text(json.dumps(document))
    remake(run)


def name_another_key(document: Document) -> None:
    for part in ("fingerprints", "data", "controls"):
        document[part]["key_id"] = "0badcafe"


def edit_notes(document: Document) -> None:
    document["notes"] = ["All is well."]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_that_no_key_at_hand_sealed_a_run(
    run: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "seal" not in memaudit(*words).stderr
    edit(run, name_another_key, edit_notes)
    warned = memaudit(*words).stderr
    assert warned.count("memaudit: warning: run: is not sealed by your project key 1131f7e7") == 1
    assert "names key 0badcafe: set MEMAUDIT_KEY" in warned
    monkeypatch.delenv("MEMAUDIT_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(run.parent / "none"))
    warned = memaudit(*words).stderr
    assert warned.count("no project key is set, so nothing shows who wrote this run") == 1


def test_the_interface_for_python_warns(run: Path) -> None:
    assert load_run(run).passed
    edit(run, name_another_key, edit_notes)
    with pytest.warns(UnsealedRunWarning, match="not sealed by your project key"):
        load_run(run)


def test_verify_ends_with_4_unless_the_key_at_hand_sealed_the_run(run: Path) -> None:
    assert memaudit("verify", run).exit_code == 0
    edit(run, name_another_key, edit_notes)
    ended = memaudit("verify", run)
    assert ended.exit_code == 4
    assert ended.stdout.startswith("Not proven: 1 of ")
    assert "unproven" in ended.stdout


def test_a_run_of_another_machine_is_read_and_its_key_proves_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scanned in CI under one key, and read on a laptop that has another."""
    monkeypatch.setenv("MEMAUDIT_KEY", OTHER)
    read = memaudit("report", run)
    assert read.exit_code == 0
    assert "names key 1131f7e7: set MEMAUDIT_KEY" in read.stderr
    assert memaudit("verify", run).exit_code == 4
    (tmp_path / "key").write_text(KEY.secret.hex())
    assert memaudit("verify", run, "--key-file", tmp_path / "key").exit_code == 0
    assert "seal" not in memaudit("scan", "--resume", run, "--key-file", tmp_path / "key").stderr


@pytest.mark.parametrize("part", ["fingerprints", "data", "controls"])
def test_a_run_names_a_single_key(run: Path, part: str) -> None:
    """With another key's id, the data would be compared with nothing."""
    edit(run, lambda document: document[part].update(key_id="0badcafe"))
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "names the keys 0badcafe and 1131f7e7" in ended.stderr
    assert verify_run(run, Places()).exit_code == 1


def test_a_seal_of_another_key_than_the_reports_is_refused(run: Path) -> None:
    edit(run, name_another_key)
    seal(run, KEY)  # by somebody who shares the key
    assert "names the keys 0badcafe and 1131f7e7" in memaudit("report", run).stderr


# Keys of the files that switch a check off.


def forge_headline(document: Document) -> None:
    document["headline"] = ["0 of 200 samples are extracted."]


def forge_reason(document: Document) -> None:
    document["gates"][0]["reason"] = "Nothing is extracted."


def forge_limits(document: Document) -> None:
    document["limits"] = ["None."]


@pytest.mark.parametrize("version", ["99", "0.0.1"])
@pytest.mark.parametrize("forge", [forge_headline, forge_reason, forge_limits])
def test_a_forged_sentence_of_another_version_is_named_and_never_shown(
    run: Path, forge: Change, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_KEY", OTHER)
    edit(run, lambda document: document["tool"].update(version=version))
    honest = {finding.what: finding.state for finding in verify_run(run, Places()).findings}
    assert "sentences in report.json" not in honest
    edit(run, forge)
    forged = verify_run(run, Places())
    states = {finding.what: finding.state for finding in forged.findings}
    assert states["sentences in report.json"] == "unproven"
    assert forged.exit_code == 4
    for output_format in ("json", "html"):
        read = memaudit("report", run, "--format", output_format)
        assert read.exit_code == 0, read.output
        assert "0 of 200 samples are extracted." not in read.stdout
        assert "Nothing is extracted." not in read.stdout
        assert '"None."' not in read.stdout
    edit(run, lambda document: document["tool"].update(version="0.1.0"))
    assert memaudit("report", run).exit_code == 2
    assert verify_run(run, Places()).exit_code == 1


def test_sentences_of_another_version_are_believed_under_the_seal(run: Path) -> None:
    edit(run, lambda document: document["tool"].update(version="0.0.1"), forge_headline)
    seal(run, KEY)
    assert verify_run(run, Places(), KEY).exit_code == 0


def test_a_forged_page_of_another_version_is_named(run: Path) -> None:
    edit(run, lambda document: document["tool"].update(version="99"))
    page = run / "report.html"
    page.write_text(page.read_text().replace("15.5", "0.0"), newline="")
    verified = verify_run(seal(run), Places())
    assert verified.exit_code == 4
    assert "report.html made again" in [f.what for f in verified.findings if f.state == "unproven"]


def test_prompts_of_the_run_cannot_be_called_earlier_ones(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_KEY", OTHER)
    edit(run, lambda document: document["prompt_files"].update(origin="fitted earlier"))
    ended = memaudit("report", run)
    assert ended.exit_code == 2
    assert "prompt_files.origin does not follow from the settings" in ended.stderr


def test_prompts_that_the_report_leaves_out_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "generator-0.safetensors").write_bytes(b"fitted")
    complete(folder, replace(make_result(), prompt_files={}))
    verified = verify_run(folder, Places())
    assert verified.exit_code == 1
    assert "generator-0.safetensors as report.json names it" in [
        finding.what for finding in verified.findings if finding.state == "changed"
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema_version=1),
        lambda d: d.update(schema_version=3),
        lambda d: d.update(schema_version=5),
        lambda d: d.update(schema_version="4"),
        lambda d: d.pop("schema_version"),
        lambda d: d.pop("tool"),
        lambda d: d["tool"].pop("version"),
        lambda d: d["tool"].update(name="other"),
        lambda d: d["fingerprints"].pop("key_id"),
        lambda d: d["fingerprints"].update(key_id=""),
        lambda d: d["fingerprints"].update(form="w2"),
        lambda d: d["fingerprints"].update(sample_form="s2"),
        lambda d: d.pop("hashes"),
        lambda d: d["hashes"].pop("results"),
        lambda d: d["validity"].update(continuations=None),
        lambda d: d.update(controls=None),
    ],
)
def test_no_key_of_the_report_switches_a_check_off(
    run: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_KEY", OTHER)
    path = run / "report.json"
    document = json.loads(path.read_text())
    change(document)
    if "results" in document.get("hashes", {}):
        document["hashes"]["results"] = results_hash(document)
    path.write_text(json.dumps(document))
    seal(run)
    assert memaudit("report", run).exit_code == 2
    assert verify_run(run, Places()).exit_code == 1


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"schema_version": None},
        {"seal": None},
        {"seal": {}},
        {"files": {}},
        {"not_made": {}},
    ],
)
def test_no_key_of_the_manifest_switches_a_check_off(run: Path, change: Document) -> None:
    path = run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for words in (("report", run), ("verify", run)):
        ended = memaudit(*words)
        assert ended.exit_code == 2
        assert "is not a memaudit manifest" in ended.stderr


@pytest.mark.parametrize("key", [OTHER, None])
def test_a_diagnosis_without_its_key_leaves_the_seal_of_a_run(
    run: Path, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the run's own key would refuse it from then on, as if its seal had been removed."""
    before = _contents(run)
    stored = read_run(run)
    record = make_record(stored.report.hashes.results)
    monkeypatch.setenv("MEMAUDIT_KEY", key or "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(run.parent / "none"))
    with pytest.raises(UsageError, match=r"sealed by project key 1131f7e7, .* set MEMAUDIT_KEY"):
        write_diagnosis(stored, record)
    examined = Examined(stored, record)
    monkeypatch.setattr("memaudit.diagnose.protocol.examine", lambda *_: examined)
    printed = memaudit("diagnose", "layers", "run", "-q")
    assert printed.exit_code == 0
    assert "Block 0 matters" in printed.stdout
    assert (
        printed.stderr.count("The diagnosis was only printed. run: is sealed by project key") == 1
    )
    assert _contents(run) == before
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    assert memaudit("diagnose", "layers", "run", "-q").stderr == ""
    assert memaudit("verify", run).exit_code == 0
    assert "diagnose-layers.json" in read_manifest(run).files


def _contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("[!.]*")}
