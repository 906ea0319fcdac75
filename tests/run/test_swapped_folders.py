"""Folders that somebody else changes while memaudit writes: nothing outside them changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_diagnosis import make_record
from made_result import make_result
from quick_scan import memaudit, quick_scan
from stored import seal, store

from memaudit.attack.journal import Entry
from memaudit.config.settings import ScanConfig
from memaudit.config.sources import to_toml
from memaudit.data.project_key import find_key
from memaudit.errors import RunError, UsageError
from memaudit.run.diagnoses import write_diagnosis
from memaudit.run.load import read_run
from memaudit.run.new_folder import begin_run
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import UNFINISHED, Unfinished
from memaudit.system.own_folder import OwnFolder

KEY = find_key(None, None)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a scan that takes a second."""
    return quick_scan(tmp_path_factory.mktemp("audited"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of the user whose files have the names that memaudit writes."""
    folder = tmp_path / "precious"
    (folder / UNFINISHED).mkdir(parents=True)
    tables = ("samples.csv", "windows.csv")
    for name in ("config.toml", "report.json", "report.html", "manifest.json", *tables):
        (folder / name).write_text("precious")
    (folder / UNFINISHED / "run.json").write_text("precious")
    return folder


def assert_untouched(precious: Path) -> None:
    files = [path for path in precious.rglob("*") if path.is_file()]
    assert len(files) == 7
    assert {path.read_text() for path in files} == {"precious"}


def swap_before(monkeypatch: pytest.MonkeyPatch, swapped: str, swap: Callable[[], None]) -> None:
    """Swap a folder just before a file of this name is written, as a race would."""
    write = OwnFolder.write_whole

    def write_late(self: OwnFolder, name: str, chunks: Iterable[bytes]) -> None:
        if name == swapped:
            swap()
        write(self, name, chunks)

    monkeypatch.setattr(OwnFolder, "write_whole", write_late)


@pytest.mark.parametrize("name", ["run.json", "config.toml", "report.html", "manifest.json"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_link_in_place_of_the_folder_is_not_written_through(
    audited: list[str],
    precious: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    depth: int,
) -> None:
    """The folder itself, or one further up."""
    shared = tmp_path / "shared"
    run = shared / "run" if depth == 1 else shared / "more" / precious.name
    swapped = shared / ("run" if depth == 1 else "more")

    def swap() -> None:
        if not swapped.is_symlink():
            swapped.rename(tmp_path / "aside")
            swapped.symlink_to(precious if depth == 1 else precious.parent)

    swap_before(monkeypatch, name, swap)
    ended = memaudit("scan", *audited, "--out", run)
    assert ended.exit_code == 3, ended.output
    assert_untouched(precious)
    assert not ended.stdout


def test_a_diagnosis_is_not_written_through_a_link(
    precious: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(tmp_path / "run")
    run = read_run(folder)

    def swap() -> None:
        if not folder.is_symlink():
            folder.rename(tmp_path / "aside")
            folder.symlink_to(precious)

    (precious / "diagnose-layers-old.png").write_text("precious")
    (precious / "report.html").unlink()
    swap_before(monkeypatch, "diagnose-layers.json", swap)
    with pytest.raises((RunError, UsageError)):
        write_diagnosis(run, make_record(run.report.hashes.results))
    assert_untouched(precious)


def finished(folder: Path) -> Path:
    result = make_result(n=4, hits={"none": 2})
    store(folder, result)
    (folder / "config.toml").write_text(to_toml(result.config))
    (folder / "report.html").write_text("a page")
    return seal(folder)


def begun(run: Path) -> Unfinished:
    protocol = {"least_select": 1}  # as the environment of the tests says
    config = ScanConfig(model="model", data=Path("data.jsonl"), protocol=protocol)
    _, unfinished = begin_run(run, RunNotes.new(config, {}, "memaudit scan"), KEY)
    return unfinished


def refused(*words: object) -> str:
    ended = memaudit(*words)
    assert ended.exit_code == 2, ended.output
    return ended.stderr


def linked(run: Path) -> Path:
    link = run.with_name(f"{run.name}-link")
    link.symlink_to(run)
    return link


def test_resume_and_diagnose_refuse_a_link(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    assert "is a link; give the folder itself" in refused(
        "scan", "--resume", linked(tmp_path / "run")
    )
    done = linked(finished(tmp_path / "done"))
    assert "is a link; give the folder itself" in refused("diagnose", "layers", done)
    (tmp_path / "done" / UNFINISHED).mkdir()
    assert "is a link; give the folder itself" in refused("scan", "--resume", done)


@as_root
def test_resume_and_diagnose_refuse_a_folder_of_another_user(tmp_path: Path) -> None:
    begun(tmp_path / "run").close()
    os.chown(tmp_path / "run", 12345, 12345)
    assert "belongs to another user" in refused("scan", "--resume", tmp_path / "run")
    done = finished(tmp_path / "done")
    os.chown(done, 12345, 12345)
    assert "belongs to another user" in refused("diagnose", "layers", done)


def test_the_folder_of_all_runs_is_no_link(
    audited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "memaudit-runs").symlink_to(tmp_path / "elsewhere")
    assert "memaudit-runs: is a link; give the folder itself, with --out" in refused(
        "scan", *audited
    )
    assert not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "memaudit-runs").unlink()
    assert memaudit("scan", *audited).exit_code == 0


@as_root
def test_a_parent_of_another_user_is_written_to(audited: list[str], tmp_path: Path) -> None:
    """As a container's root has it with a mounted folder."""
    (tmp_path / "mount").mkdir()
    os.chown(tmp_path / "mount", 1000, 1000)
    ended = memaudit("scan", *audited, "--out", tmp_path / "mount" / "run")
    assert ended.exit_code == 0, ended.output
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    ended = memaudit("scan", *audited, "--out", tmp_path / "shared" / "run")
    assert ended.exit_code == 0, ended.output


def test_a_lock_that_is_a_hard_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    begun(tmp_path / "run").close()
    lock = tmp_path / "run" / UNFINISHED / ".lock"
    lock.unlink()
    os.link(tmp_path / "theirs", lock)
    with pytest.raises(UsageError, match=r"\.lock: is not a regular file; remove it"):
        Unfinished.reopen(tmp_path / "run", KEY)
    folder = finished(tmp_path / "done")
    run = read_run(folder)
    for make in (os.link, os.symlink):
        make(tmp_path / "theirs", folder / ".lock")
        with pytest.raises(UsageError, match=r"\.lock: is not a regular file; remove it"):
            write_diagnosis(run, make_record(run.report.hashes.results))
        (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    with pytest.raises(UsageError, match=r"\.lock: is not a regular file; remove it"):
        write_diagnosis(run, make_record(run.report.hashes.results))
    assert (tmp_path / "theirs").read_text() == "theirs"


def put_strangers(folder: Path) -> dict[str, bytes]:
    """Files of the user whose names could be memaudit's."""
    names = ("model.safetensors", ".notes.json-draft_1", "none-data-0-0-9.safetensors")
    for name in names:
        (folder / name).write_bytes(f"mine {name}".encode())
    return {name: (folder / name).read_bytes() for name in names}


def test_only_signed_work_is_removed(tmp_path: Path) -> None:
    unfinished = begun(tmp_path / "run")
    entry = Entry({"said": np.zeros(3)})
    unfinished.keep("none-data-0-0-4", entry)
    unfinished.close()
    resumed = Unfinished.reopen(tmp_path / "run", KEY)
    strangers = put_strangers(resumed.folder)
    resumed.keep("fit-constant-0", entry)
    assert resumed.remove() == sorted(strangers)
    left = {path.name for path in resumed.folder.iterdir()}
    assert left == {*strangers, ".memaudit"}
    for name, content in strangers.items():
        assert (resumed.folder / name).read_bytes() == content


def test_what_stays_beside_a_finished_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished = begun(tmp_path / "begun")
    unfinished.keep("none-data-0-0-4", Entry({"said": np.zeros(3)}))
    unfinished.close()
    run = finished(tmp_path / "run")
    shutil.copytree(unfinished.folder, run / UNFINISHED)
    strangers = put_strangers(run / UNFINISHED)
    monkeypatch.setenv("MEMAUDIT_KEY", "f" * 64)
    ended = memaudit("scan", "--resume", run)
    assert ended.exit_code == 0, ended.output
    assert (run / UNFINISHED / "none-data-0-0-4.safetensors").exists()
    monkeypatch.undo()
    ended = memaudit("scan", "--resume", run)
    assert f"{run / UNFINISHED}: {', '.join(sorted(strangers))} stay" in ended.stderr
    assert {path.name for path in (run / UNFINISHED).iterdir()} == {*strangers, ".memaudit"}
    for name in strangers:
        (run / UNFINISHED / name).unlink()
    assert memaudit("scan", "--resume", run).exit_code == 0
    assert not (run / UNFINISHED).exists()


def test_a_folder_that_was_filled_after_it_was_chosen_is_refused(
    audited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memaudit.run import new_folder

    make = new_folder.make_folder

    def make_late(folder: Path) -> Any:
        folder.mkdir()
        (folder / "novel.txt").write_text("mine")
        return make(folder)

    monkeypatch.setattr(new_folder, "make_folder", make_late)
    assert "exists and is not an empty folder" in refused(
        "scan", *audited, "--out", tmp_path / "run"
    )
    assert (tmp_path / "run" / "novel.txt").read_text() == "mine"
