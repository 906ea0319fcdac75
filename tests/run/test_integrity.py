"""Run folders verified: as they were, changed in every way, and rubbish."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_result import KEY, make_result
from stored import complete, remake, seal, store

from memaudit.config.sources import to_toml
from memaudit.data.project_key import ProjectKey
from memaudit.errors import DataError, UsageError
from memaudit.run.verify import Finding, Integrity, Places, scan_folder, verify_run
from memaudit.run.verify_table import render_integrity
from memaudit.system.files import file_sha256

NOWHERE = Places()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder; neither its model nor its data are here."""
    monkeypatch.chdir(tmp_path)
    return complete(tmp_path / "run", make_result())


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def differing(integrity: Integrity) -> list[tuple[str, str]]:
    return [
        (finding.state, finding.what)
        for finding in integrity.findings
        if finding.state not in ("same", "not checked", "signature")
    ]


def test_a_run_as_it_was(folder: Path) -> None:
    integrity = verify_run(folder, NOWHERE)
    assert integrity.exit_code == 0
    assert [(finding.state, finding.what) for finding in integrity.findings] == [
        ("same", "config.toml"),
        ("same", "report.html"),
        ("same", "report.json"),
        ("same", "samples.csv"),
        ("same", "windows.csv"),
        ("not checked", "seal of manifest.json"),
        ("same", "results in report.json"),
        ("same", "exit code in report.json"),
        ("same", "config.toml as report.json names it"),
        ("same", "settings in report.json"),
        ("same", "tables beside report.json"),
        ("same", "gates in report.json"),
        ("same", "config.toml made again"),
        ("same", "report.html made again"),
        ("not checked", "model tb7m"),
        ("not checked", "data members.jsonl"),
        ("not checked", "controls clean.jsonl"),
    ]


def test_files_changed_missing_and_extra(folder: Path) -> None:
    (folder / "config.toml").unlink()
    with (folder / "samples.csv").open("a") as file:
        file.write("1,data\n")
    (folder / "notes.txt").write_text("mine")
    (folder / "manifest.json.asc").write_text("a signature")
    integrity = verify_run(folder, NOWHERE)
    assert integrity.exit_code == 1
    assert differing(integrity) == [
        ("missing", "config.toml"),
        ("changed", "samples.csv"),
        ("extra", "notes.txt"),
        ("changed", "tables beside report.json"),
    ]
    assert ("signature", "manifest.json.asc") in {f[:2] for f in integrity.findings}


def test_a_figure_changed_with_a_new_manifest_still_shows(folder: Path) -> None:
    def improve(document: dict[str, Any]) -> None:
        document["attacks"][0]["fractional"]["estimate"] = 0.01

    change(folder / "report.json", improve)
    assert differing(verify_run(remake(folder), NOWHERE)) == [
        ("changed", "results in report.json"),
        ("changed", "tables beside report.json"),
    ]


def test_settings_changed_with_a_new_manifest_still_show(folder: Path) -> None:
    (folder / "config.toml").write_text('model = "other"\n')
    assert differing(verify_run(seal(folder), NOWHERE)) == [
        ("changed", "config.toml as report.json names it"),
        ("changed", "config.toml made again"),
    ]


@pytest.mark.parametrize("name", ["samples.csv", "windows.csv"])
def test_rows_dropped_with_a_new_manifest_still_show(folder: Path, name: str) -> None:
    path = folder / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), newline="")
    assert differing(verify_run(seal(folder), NOWHERE)) == [
        ("changed", "tables beside report.json")
    ]


def test_a_report_that_is_none(folder: Path) -> None:
    (folder / "report.json").write_text("{}")
    integrity = verify_run(folder, NOWHERE)
    assert integrity.exit_code == 1
    assert integrity.findings[-1][:2] == ("changed", "report.json")


def test_what_is_no_plain_file_is_not_opened(folder: Path) -> None:
    (folder / "config.toml").unlink()
    os.mkfifo(folder / "config.toml")  # to open it would wait for ever
    (folder / "samples.csv").rename(folder / "elsewhere")
    (folder / "samples.csv").symlink_to(folder / "elsewhere")
    integrity = verify_run(folder, NOWHERE)
    assert [f.what for f in integrity.findings if f.detail == "is no longer a regular file"] == [
        "config.toml",
        "samples.csv",
    ]


def test_data_are_hashed_where_they_are(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "members.jsonl").write_text("{}\n")
    integrity = verify_run(folder, NOWHERE, KEY)
    assert differing(integrity) == [("changed", "data members.jsonl")]
    with pytest.raises(UsageError, match="--data there: no such file or folder"):
        verify_run(folder, Places(data=Path("there")))
    with pytest.raises(UsageError, match="--model there: cannot be hashed"):
        verify_run(folder, Places(model="there"))


def test_settings_in_the_report_and_its_exit_code_are_tied_to_the_rest(folder: Path) -> None:
    def loosen(document: dict[str, Any]) -> None:
        document["config"]["values"]["gate"]["max_exact"] = 0.875
        document["exit_code"] = 4 if document["exit_code"] != 4 else 1

    change(folder / "report.json", loosen)
    assert differing(verify_run(remake(folder), NOWHERE)) == [
        ("changed", "exit code in report.json"),
        ("changed", "settings in report.json"),
        ("changed", "config.toml made again"),
    ]


def test_data_that_cannot_be_read_are_not_checked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise DataError(f"{path}: cannot be read (Permission denied)")

    (tmp_path / "members.jsonl").write_text("{}\n")
    monkeypatch.setattr("memaudit.run.verify.sha256_of", refuse)
    integrity = verify_run(folder, NOWHERE, KEY)
    assert integrity.exit_code == 0
    assert Finding("not checked", "data members.jsonl", "cannot be read") in integrity.findings
    with pytest.raises(UsageError, match=r"--data members.jsonl: cannot be read"):
        verify_run(folder, Places(data=Path("members.jsonl")), KEY)


@pytest.mark.parametrize("key", [None, ProjectKey(b"another" * 4)])
def test_data_recorded_under_another_key_are_not_checked(
    folder: Path, tmp_path: Path, key: ProjectKey | None
) -> None:
    (tmp_path / "members.jsonl").write_text("{}\n")
    integrity = verify_run(folder, NOWHERE, key)
    detail = f"recorded under another key, {KEY.key_id}; set MEMAUDIT_KEY or --key-file"
    assert integrity.exit_code == (0 if key is None else 4)
    assert Finding("not checked", "data members.jsonl", detail) in integrity.findings


def test_data_under_the_key_are_as_they_were(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "members.jsonl"
    path.write_text("{}\n")

    def record(document: dict[str, Any]) -> None:
        document["data"]["hmac_sha256"] = KEY.sign_file(file_sha256(path))

    change(folder / "report.json", record)
    integrity = verify_run(seal(folder), NOWHERE, KEY)
    assert "data members.jsonl" in [f.what for f in integrity.findings if f.state == "same"]


@pytest.mark.parametrize("place", ["~", "~/", "~/x"])
def test_a_home_in_a_recorded_path_is_taken_as_the_scan_took_it(folder: Path, place: str) -> None:
    change(folder / "report.json", lambda document: document["data"].update(path=place))
    assert verify_run(remake(folder), NOWHERE).exit_code == 0


def test_controls_that_the_run_had_none_of(tmp_path: Path) -> None:
    made = seal(store(tmp_path / "run", make_result(controls=None)))
    with pytest.raises(UsageError, match="the run had none"):
        verify_run(made, Places(controls=tmp_path))


def test_prompts_fitted_earlier_are_compared(tmp_path: Path) -> None:
    from dataclasses import replace

    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "generator-0.safetensors").write_bytes(b"fitted")
    names = {"generator-0.safetensors": "ab" * 32, "generator-1.safetensors": "cd" * 32}
    result = replace(make_result(generator=earlier), prompt_files=names)
    made = store(tmp_path / "run", result)
    (made / "config.toml").write_text(to_toml(result.config))
    states = [f.state for f in verify_run(seal(made), NOWHERE).findings if "prompts" in f.what]
    assert states == ["changed", "not checked"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": 1, "files": {}}',
        b'{"schema_version": 2, "files": {"a": "%s"}}' % (b"0" * 64),
        b'{"schema_version": 1, "files": {"a": 1}}',
        b'{"schema_version": 1, "files": {"../a": "%s"}}' % (b"0" * 64),
        b'{"schema_version": 1, "files": {"/etc/passwd": "%s"}}' % (b"0" * 64),
        b'{"schema_version": 1, "files": {"a": "%s"}}' % (b"x" * 64),
        b" " * 2_000_000,
    ],
)
def test_a_manifest_that_is_none(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(UsageError, match="is not a memaudit manifest"):
        verify_run(folder, NOWHERE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(content=st.binary(max_size=200))
def test_rubbish_in_the_report_is_told_in_a_line(folder: Path, content: bytes) -> None:
    (folder / "report.json").write_bytes(content)
    assert verify_run(folder, NOWHERE).exit_code == 1


@pytest.mark.parametrize("name", ["\0", "x" * 10_000, "~nobody-of-that-name/x", "a--b", "\x1b[2J"])
def test_places_that_no_system_allows_are_not_there(folder: Path, name: str) -> None:
    def move(document: dict[str, Any]) -> None:
        document["target"]["name"] = document["data"]["path"] = document["controls"]["path"] = name

    change(folder / "report.json", move)
    integrity = verify_run(remake(folder), NOWHERE)
    assert integrity.exit_code == 0  # where things lay is no figure
    assert [f.state for f in integrity.findings[-3:]] == ["not checked"] * 3
    assert "\x1b" not in render_integrity(integrity, width=80, color=False)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        verify_run(tmp_path / "none", NOWHERE)
    with pytest.raises(UsageError, match="holds no finished run"):
        verify_run(tmp_path, NOWHERE)


SHOWN = """\
Not as recorded: 1 changed, 1 extra; 1 the same; 1 not checked.
manifest.json abababababababababababababababababababababababababababababababab

Findings
State        Compared         Detail
───────────────────────────────────────────────────────────────────────────────
same         config.toml      0123456789abcdef
changed      samples.csv      recorded 0123456789abcdef, found fedcba9876543210
extra        \\x1b[31mred.txt  not recorded
not checked  model tb7m       not found; name it with --model
"""


def test_the_table() -> None:
    findings = (
        Finding("same", "config.toml", "0123456789abcdef"),
        Finding("changed", "samples.csv", "recorded 0123456789abcdef, found fedcba9876543210"),
        Finding("extra", "\x1b[31mred.txt", "not recorded"),
        Finding("not checked", "model tb7m", "not found; name it with --model"),
    )
    integrity = Integrity(Path("run"), "ab" * 32, findings)
    for width in (80, 200):
        assert render_integrity(integrity, width=width, color=False) == SHOWN
    assert "\x1b[31mred" not in render_integrity(integrity, width=80, color=True)
    whole = Integrity(Path("run"), "ab" * 32, findings[:1])
    shown = render_integrity(whole, width=80, color=False)
    assert shown.startswith("All as recorded: 1 the same.\n")
    incomplete = Integrity(Path("run"), "ab" * 32, (findings[0], findings[3]))
    shown = render_integrity(incomplete, width=80, color=False)
    assert shown.startswith("Incomplete: 1 of 2 not checked; 1 as recorded.\n")


@pytest.mark.parametrize(
    ("run", "out", "scanned_in"),
    [
        ("work/memaudit-runs/x", None, "work"),
        ("kept/x", None, None),
        ("work/out/a", "out/a", "work"),
        ("kept/a", "out/a", None),
        ("work/a", "./a", "work"),
        ("work/a", "../a", None),
        ("work/a", "/work/a", None),
        ("work/a", ".", None),
    ],
)
def test_the_folder_that_a_scan_ran_in(run: str, out: str | None, scanned_in: str | None) -> None:
    root = Path.cwd() / "nowhere"
    found = scan_folder(root / run, None if out is None else Path(out))
    assert found == (None if scanned_in is None else root / scanned_in)
