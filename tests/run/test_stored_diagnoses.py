"""Diagnoses in run folders: put there, read back, verified; and folders that were changed."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from made_diagnosis import make_record
from made_result import make_result
from stored import store
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.config.sources import to_toml
from memaudit.errors import RunError, UsageError
from memaudit.report.diagnosis import DiagnosisRecord
from memaudit.report.diagnosis_json import diagnosis_text
from memaudit.run.diagnoses import read_diagnoses, read_diagnosis, write_diagnosis
from memaudit.run.load import StoredRun, read_run
from memaudit.run.manifest import read_manifest, to_manifest
from memaudit.run.verify import Places, verify_run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    monkeypatch.chdir(tmp_path)
    result = make_result()
    folder = store(tmp_path / "run", result)
    (folder / "config.toml").write_text(to_toml(result.config))
    (folder / "report.html").write_text("an old page")
    (folder / "manifest.json").write_text(to_manifest(folder))
    return read_run(folder)


def record_of(run: StoredRun, **changed: object) -> DiagnosisRecord:
    return make_record(run.report.hashes.results, **changed)


def differing(folder: Path) -> list[str]:
    found = verify_run(folder, Places()).findings
    return [one.what for one in found if one.state not in ("same", "not checked")]


def test_everything_is_there_and_under_the_manifest(run: StoredRun) -> None:
    write_diagnosis(run, record_of(run))
    names = {"diagnose-layers.json", "diagnose-layers-depth.png", "report.html"}
    assert names <= set(read_manifest(run.folder).files)
    assert 'id="diagnoses"' in (run.folder / "report.html").read_text()
    assert differing(run.folder) == []
    assert not (run.folder / ".lock").exists()
    assert [one.diagnosis.name for one in read_diagnoses(run)] == ["layers"]


def test_a_later_one_takes_the_place_of_an_earlier_one(run: StoredRun) -> None:
    write_diagnosis(run, record_of(run))
    write_diagnosis(run, record_of(run, name="latent"))
    write_diagnosis(run, record_of(run, plots=[]))
    assert not (run.folder / "diagnose-layers-depth.png").exists()
    assert (run.folder / "diagnose-latent-depth.png").exists()
    assert differing(run.folder) == []
    assert [one.diagnosis.name for one in read_diagnoses(run)] == ["latent", "layers"]


def test_what_was_changed_is_not_hidden_by_a_new_manifest(run: StoredRun) -> None:
    (run.folder / "config.toml").write_text("model = 'other'")
    with pytest.raises(UsageError, match=r"config\.toml does not match its hash"):
        write_diagnosis(run, record_of(run))
    assert not (run.folder / "diagnose-layers.json").exists()
    assert differing(run.folder)


def test_one_that_was_cut_off_while_it_was_written_can_be_made_again(
    run: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_diagnosis(run, record_of(run))

    def full(folder: Path, key: object = None) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memaudit.run.diagnoses.to_manifest", full)
    with pytest.raises(RunError, match="No space left"):
        write_diagnosis(run, record_of(run, findings=["other"]))
    assert differing(run.folder)
    monkeypatch.undo()
    write_diagnosis(run, record_of(run, findings=["other"]))
    assert differing(run.folder) == []


def test_what_was_not_recorded_is_not_taken_in(run: StoredRun) -> None:
    """Else a forged diagnosis would stand on the page, and under the manifest."""
    other = make_record("1" * 64, name="latent", findings=["FORGED"])
    for name, content in {
        "diagnose-latent.json": diagnosis_text(other),
        "diagnose-latent-depth.png": "",
        "extra.txt": "",
    }.items():
        (run.folder / name).write_text(content)
        with pytest.raises(UsageError, match=f"holds {name}, which manifest.json does not list"):
            write_diagnosis(run, record_of(run))
        (run.folder / name).unlink()
    (run.folder / "manifest.json.sig").write_text("a signature")
    write_diagnosis(run, record_of(run))


def test_one_of_another_run_is_refused(run: StoredRun) -> None:
    write_diagnosis(run, record_of(run))
    path = run.folder / "diagnose-layers.json"
    made = json.loads(path.read_text())
    path.write_text(json.dumps(made | {"run_results": "1" * 64}))
    with pytest.raises(UsageError, match="belongs to another run"):
        read_diagnosis(run, "layers")
    assert "diagnose-layers.json beside report.json" in differing(run.folder)
    path.write_text(json.dumps(made).replace('"layers"', '"latent"', 1))
    with pytest.raises(UsageError, match="belongs to another run"):
        read_diagnosis(run, "layers")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"tool": "memaudit"}', b"[" * 10_000])
def test_rubbish_is_refused_in_a_line(run: StoredRun, content: bytes) -> None:
    (run.folder / "diagnose-layers.json").write_bytes(content)
    for words in (["--diagnosis", "layers"], ["--format", "html"]):
        result = CliRunner().invoke(app, ["report", str(run.folder), *words])
        assert result.exit_code == 2
        warning, error = result.stderr.splitlines()
        assert warning.startswith(f"memaudit: warning: {run.folder}: is not sealed by your")
        assert "diagnose-layers.json" in error


def test_a_link_is_no_diagnosis(run: StoredRun, tmp_path: Path) -> None:
    write_diagnosis(run, record_of(run))
    (run.folder / "diagnose-layers.json").rename(tmp_path / "elsewhere")
    (run.folder / "diagnose-layers.json").symlink_to(tmp_path / "elsewhere")
    assert read_diagnosis(run, "layers") is None


def test_report_shows_one_again(run: StoredRun) -> None:
    write_diagnosis(run, record_of(run))
    show = ["report", str(run.folder), "--diagnosis"]
    table = CliRunner().invoke(app, [*show, "layers"])
    assert table.exit_code == 0
    assert "Block 0 matters" in table.stdout
    found = CliRunner().invoke(app, [*show, "layers", "--format", "json"])
    kept = (run.folder / "diagnose-layers.json").read_text()
    assert json.loads(found.stdout) == json.loads(kept)
    for words, message in (
        (["latent"], "memaudit diagnose latent"),
        (["other"], "choose latent, layers"),
        (["layers", "--format", "sarif"], "choose table or json"),
    ):
        refused = CliRunner().invoke(app, [*show, *words])
        assert refused.exit_code == 2
        assert message in refused.stderr


def _write(folder: Path, name: str) -> None:
    run = read_run(folder)
    write_diagnosis(run, record_of(run, name=name))


def test_two_that_are_written_at_once_are_both_recorded(run: StoredRun) -> None:
    names = ["latent", "layers"]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(run.folder, name)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert [one.diagnosis.name for one in read_diagnoses(run)] == names
    assert differing(run.folder) == []
