"""Run folders and the files of a key: what is not memaudit's is neither taken nor changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from made_result import make_result
from quick_scan import memaudit, quick_scan
from stored import store

from memaudit.config.settings import ScanConfig
from memaudit.data.project_key import ProjectKey, find_key
from memaudit.errors import UsageError
from memaudit.run.new_folder import begin_run
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import UNFINISHED, Unfinished
from memaudit.system.files import write_new, write_whole

KEY = ProjectKey(bytes(range(32)))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments of a scan that takes a second."""
    return quick_scan(tmp_path_factory.mktemp("audited"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_of_the_user_that_is_called_unfinished_stays(
    audited: list[str], tmp_path: Path
) -> None:
    theirs = tmp_path / "run" / UNFINISHED
    theirs.mkdir(parents=True)
    (theirs / "novel.txt").write_text("chapter one")
    ended = memaudit("scan", *audited, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "exists and is not an empty folder" in ended.stderr
    assert (theirs / "novel.txt").read_text() == "chapter one"


@pytest.mark.parametrize("mark", [b"", b"mine", b"Made by memaudit"])
def test_a_marker_that_memaudit_did_not_write_is_none(
    audited: list[str], tmp_path: Path, mark: bytes
) -> None:
    theirs = tmp_path / "run" / UNFINISHED
    theirs.mkdir(parents=True)
    (theirs / ".memaudit").write_bytes(mark)
    (theirs / "novel.txt").write_text("chapter one")
    assert memaudit("scan", *audited, "--out", tmp_path / "run").exit_code == 2
    assert (theirs / "novel.txt").exists()


def begun(run: Path) -> Unfinished:
    config = ScanConfig(model="model", data=Path("data.jsonl"))
    _, unfinished = begin_run(run, RunNotes.new(config, {}, "memaudit scan"), KEY)
    return unfinished


def test_what_a_user_put_beside_the_work_stays(tmp_path: Path) -> None:
    unfinished = begun(tmp_path / "run")
    (unfinished.folder / "notes.txt").write_text("mine")
    (unfinished.folder / "plots").mkdir()
    unfinished.remove()
    names = {path.name for path in unfinished.folder.iterdir()}
    assert names == {".memaudit", "notes.txt", "plots"}
    (unfinished.folder / "notes.txt").unlink()
    (unfinished.folder / "plots").rmdir()
    unfinished.remove()
    assert not unfinished.folder.exists()


def test_what_is_left_of_a_start_goes_unless_something_else_lies_there(tmp_path: Path) -> None:
    unfinished = begun(tmp_path / "run")
    unfinished.close()
    (unfinished.folder / "run.json").unlink()
    (unfinished.folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt: was not created by memaudit"):
        begun(tmp_path / "run")
    assert (unfinished.folder / "notes.txt").exists()
    (unfinished.folder / "notes.txt").unlink()
    begun(tmp_path / "run").remove()
    for made in ("nothing", "marker"):  # killed as it was made
        folder = tmp_path / made / UNFINISHED
        folder.mkdir(parents=True)
        if made == "marker":
            (folder / ".memaudit").write_bytes(b"")
        begun(tmp_path / made).remove()
        assert not folder.exists()


def test_a_link_to_a_folder_is_refused_and_its_target_left_alone(
    audited: list[str], tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir(mode=0o755)
    (tmp_path / "target").chmod(0o755)
    (tmp_path / "run").symlink_to(tmp_path / "target")
    ended = memaudit("scan", *audited, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "is a link; give the folder itself" in ended.stderr
    assert mode(tmp_path / "target") == 0o755
    assert list((tmp_path / "target").iterdir()) == []


def test_a_linked_folder_of_work_is_refused_and_its_target_left_alone(
    audited: list[str], tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / UNFINISHED).symlink_to(tmp_path / "target")
    assert memaudit("scan", *audited, "--out", tmp_path / "run").exit_code == 2
    assert (tmp_path / "run" / UNFINISHED).is_symlink()
    assert (tmp_path / "target").is_dir()


def test_a_folder_of_another_user_is_refused(
    audited: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    if os.geteuid() == 0:
        os.chown(tmp_path / "run", 12345, 12345)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 12345)
    ended = memaudit("scan", *audited, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "belongs to another user" in ended.stderr
    assert mode(tmp_path / "run") == 0o777
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_of_ones_own_is_taken_and_closed(audited: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    ended = memaudit("scan", *audited, "--out", tmp_path / "run")
    assert ended.exit_code == 0, ended.output
    assert mode(tmp_path / "run") == 0o700
    assert {mode(path) for path in (tmp_path / "run").iterdir()} == {0o600}


def test_files_are_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    for name in ("whole", "new"):
        (tmp_path / name).symlink_to(tmp_path / "theirs")
    write_whole(tmp_path / "whole", [b"ours"])
    assert (tmp_path / "whole").read_text() == "ours"
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", b"ours")
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_lock_that_is_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    unfinished = begun(tmp_path / "run")
    unfinished.close()
    (unfinished.folder / ".lock").unlink(missing_ok=True)
    (unfinished.folder / ".lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(UsageError, match=r"\.lock: is not a regular file"):
        Unfinished.reopen(tmp_path / "run", KEY)
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_a_finished_run_keeps_what_is_not_memaudits(tmp_path: Path) -> None:
    run = store(tmp_path / "run", make_result(n=4, hits={"none": 2}))
    (run / UNFINISHED).mkdir()
    (run / UNFINISHED / "novel.txt").write_text("chapter one")
    assert memaudit("scan", "--resume", run).exit_code == 0
    assert (run / UNFINISHED / "novel.txt").exists()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o600, 0o400])
def test_a_key_that_others_can_read_is_said(tmp_path: Path, bits: int) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(bits)
    warned = find_key(tmp_path / "key", None).warning
    assert ("open to other users" in warned) == (bits not in (0o600, 0o400))
    assert str(tmp_path) not in warned  # it stands in the report


def test_a_key_that_others_can_read_is_said_in_the_report(
    audited: list[str], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o644)
    words = ["--key-file", str(tmp_path / "key"), "--out", str(tmp_path / "run")]
    ended = memaudit("scan", *audited, *words)
    assert ended.exit_code == 0, ended.output
    report = memaudit("report", tmp_path / "run")
    assert "key file is open to other users" in " ".join(report.stdout.split())
