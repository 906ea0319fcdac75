"""Files of an unfinished run or a shard, edited by somebody without the key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from small_scan import make_files, memaudit, sign_notes_anew

from memaudit.run.unfinished import UNFINISHED, Unfinished

GATED = ("--attacks", "none,constant", "--max-exact", "0.01", "--gate-on", "estimate")
PIECE = "none-data-0-0-60.safetensors"
OTHER_KEY = "ab" * 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [*make_files(tmp_path_factory.mktemp("files"), count=60), *GATED]


def stop_after(name: str, words: list[str], folder: Path) -> None:
    """Scan until a piece of this name is kept."""
    keep = Unfinished.keep

    def stop(self: Unfinished, named: str, entry: Any) -> None:
        keep(self, named, entry)
        if named == name and (entry.note or not name.startswith("fit-")):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop)
        ended = memaudit("scan", *words, "--out", folder)
    assert ended.exit_code == 130, ended.output


@pytest.fixture(scope="module")
def stopped(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop_after("fit-constant-1", files, folder)
    return folder


@pytest.fixture
def left(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "left")
    return tmp_path / "left"


def edit_piece(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays of a piece and leave what it says of itself."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    change(arrays)
    save_file(arrays, path, metadata=metadata)


def nothing_came_out(arrays: dict[str, Any]) -> None:
    arrays["said"] = np.zeros_like(arrays["said"])


def refused(*words: object) -> str:
    ended = memaudit(*words)
    assert ended.exit_code == 2, ended.output
    return ended.stderr


def test_left_alone_the_gate_fails(left: Path) -> None:
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 1, ended.output


def test_an_edited_piece_is_refused_and_can_be_done_again(left: Path) -> None:
    path = left / UNFINISHED / PIECE
    edit_piece(path, nothing_came_out)
    assert f"{path}: was changed or comes from another run" in refused("scan", "--resume", left)
    path.unlink()
    assert memaudit("scan", "--resume", left).exit_code == 1


def test_a_piece_without_a_signature_is_refused(left: Path) -> None:
    path = left / UNFINISHED / PIECE
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, path)
    assert "was changed or comes from another run" in refused("scan", "--resume", left)


def test_a_piece_under_another_name_is_refused(left: Path) -> None:
    folder = left / UNFINISHED
    shutil.copy(folder / "fit-constant-0.safetensors", folder / "fit-constant-1.safetensors")
    assert "fit-constant-1.safetensors: was changed" in refused("scan", "--resume", left)


def test_a_piece_of_another_model_is_refused(files: list[str], left: Path, tmp_path: Path) -> None:
    """Same settings, data and key; the other model has nothing to hide."""
    from conftest import build_model, build_tokenizer, save_model

    model = tmp_path / "model"
    save_model(build_model("gpt2", seed=9), build_tokenizer(), model)
    stop_after(PIECE.removesuffix(".safetensors"), [str(model), *files[1:]], tmp_path / "other")
    shutil.copy(tmp_path / "other" / UNFINISHED / PIECE, left / UNFINISHED / PIECE)
    assert "comes from another run" in refused("scan", "--resume", left)


def loosen(notes: dict[str, Any]) -> None:
    notes["config"]["gate"]["max_exact"] = 0.9
    notes["facts"]["files and settings"]["gate.max_exact"] = "0.9"


def drop_signature(notes: dict[str, Any]) -> None:
    notes.update(signature="", key_id="")


@pytest.mark.parametrize("change", [loosen, drop_signature])
def test_edited_notes_are_refused(left: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = left / UNFINISHED / "run.json"
    notes = json.loads(path.read_text())
    change(notes)
    path.write_text(json.dumps(notes))
    assert "run.json" in refused("scan", "--resume", left)


def test_the_notes_name_no_key(left: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever signs them with a key of their own would only have to say where that lies."""
    (tmp_path / "theirs").write_text(OTHER_KEY)
    notes = json.loads((left / UNFINISHED / "run.json").read_text())
    loosen(notes)
    notes["config"]["key_file"] = str(tmp_path / "theirs")
    with monkeypatch.context() as patch:
        patch.setenv("MEMAUDIT_KEY", OTHER_KEY)
        sign_notes_anew(left, notes)
    stderr = refused("scan", "--resume", left)
    assert "the project key changed since the run began (" in stderr
    assert "MEMAUDIT_KEY or --key-file" in stderr


def test_a_key_file_is_said_again(files: list[str], tmp_path: Path) -> None:
    key, folder = tmp_path / "key", tmp_path / "run"
    key.write_text(OTHER_KEY)
    stop_after(PIECE.removesuffix(".safetensors"), [*files, "--key-file", str(key)], folder)
    assert "the project key changed since the run began (" in refused("scan", "--resume", folder)
    assert memaudit("scan", "--resume", folder, "--key-file", key).exit_code == 1


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing keeps a project key."""
    monkeypatch.delenv("MEMAUDIT_KEY")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))


@pytest.mark.usefixtures("no_key")
def test_without_a_key_that_is_kept_nothing_is_gone_on_with(
    files: list[str], left: Path, tmp_path: Path
) -> None:
    stderr = refused("scan", "--resume", left)
    assert "unfinished work is checked with a stored project key" in stderr
    assert "set MEMAUDIT_KEY or --key-file and resume again" in stderr
    stderr = refused("scan", *files, "--shard", "1/2", "--out", tmp_path / "shard")
    assert "--shard 1/2: merge could not check its origin" in stderr
    assert not (tmp_path / "shard").exists()


@pytest.mark.usefixtures("no_key")
def test_a_scan_without_a_key_that_is_kept_says_so_and_leaves_nothing(
    files: list[str], tmp_path: Path
) -> None:
    keep = Unfinished.keep

    def stop(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop)
        ended = memaudit("scan", *files, "--out", tmp_path / "run")
    assert ended.exit_code == 130
    assert "cannot be resumed if it is stopped: no project key is kept" in ended.stderr
    assert "resume with" not in ended.stderr
    assert not (tmp_path / "run").exists()
    ended = memaudit("scan", *files, "--out", tmp_path / "run", "-q")
    assert ended.exit_code == 1, ended.output


def test_notes_begun_without_a_kept_key_are_not_gone_on_with(left: Path) -> None:
    path = left / UNFINISHED / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key_id": "none kept"}))
    assert "this run began without one; set MEMAUDIT_KEY" in refused("scan", "--resume", left)


@pytest.fixture(scope="module")
def shards(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("shards") / str(number) for number in (1, 2)]
    for number, folder in enumerate(folders, start=1):
        ended = memaudit("scan", *files, "--shard", f"{number}/2", "--out", folder)
        assert ended.exit_code == 0, ended.output
    return folders


def test_edited_shards_are_refused(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    pieces = sorted((shards[0] / UNFINISHED).glob("none-data-*.safetensors"))
    assert pieces
    edited = tmp_path / "edited"
    shutil.copytree(shards[0], edited)
    edit_piece(edited / UNFINISHED / pieces[0].name, nothing_came_out)
    stderr = refused("merge", edited, shards[1], "--out", out)
    assert f"{pieces[0].name}: was changed or comes from another run" in stderr
    assert not out.exists()
    shutil.rmtree(edited)
    shutil.copytree(shards[0], edited)
    notes = json.loads((edited / UNFINISHED / "run.json").read_text())
    loosen(notes)
    (edited / UNFINISHED / "run.json").write_text(json.dumps(notes))
    assert "run.json was changed" in refused("merge", edited, shards[1])
    assert memaudit("merge", *shards, "--out", out).exit_code == 1


def test_shards_of_a_key_file_are_merged_with_it(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (tmp_path / "key").write_text(os.environ["MEMAUDIT_KEY"])
    monkeypatch.setenv("MEMAUDIT_KEY", OTHER_KEY)
    assert "the project key changed since the run began (" in refused("merge", *shards)
    out = tmp_path / "run"
    assert memaudit("merge", *shards, "--key-file", tmp_path / "key", "--out", out).exit_code == 1
    notes = json.loads((out / "report.json").read_text())["notes"]
    assert any("key file is open to other users" in note for note in notes)
