"""Resumed runs: refusals, messages, and removed files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_scan import (
    assert_same_run,
    make_files,
    memaudit,
    sign_notes_anew,
    sign_piece_anew,
)

from memaudit.attack.extraction import Extractor
from memaudit.attack.tuning import Tuner
from memaudit.run.unfinished import UNFINISHED, Unfinished
from memaudit.system.own_folder import OwnFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_files(tmp_path_factory.mktemp("files"), count=60)


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = memaudit("scan", *files, "--out", folder, "-q")
    assert ended.exit_code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def stopped(files: list[str], whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended by itself, after a fit: the constant prompt of its second fold."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        keep = Unfinished.keep

        def stop_after(self: Unfinished, name: str, entry: Any) -> None:
            keep(self, name, entry)
            if name == "fit-constant-1" and entry.note:
                raise KeyboardInterrupt

        patch.setattr(Unfinished, "keep", stop_after)
        assert memaudit("scan", *files, "--out", folder).exit_code == 130
    return folder


@pytest.fixture
def left(stopped: Path, tmp_path: Path) -> Path:
    """A stopped run for a single test."""
    shutil.copytree(stopped, tmp_path / "left")
    return tmp_path / "left"


def test_what_is_done_is_not_done_again(
    left: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted, epochs = [], []
    extract, train = Extractor.extract_each, Tuner._train_epoch

    def note_extracted(self: Any, prompt: Any, parts: Any, advance: Any) -> Any:
        extracted.append((type(prompt).__name__, sum(map(len, parts))))
        return extract(self, prompt, parts, advance)

    def note_epoch(self: Any, course: Any, *rest: Any) -> float:
        epochs.append(type(course.prompt).__name__)
        return train(self, course, *rest)

    monkeypatch.setattr(Extractor, "extract_each", note_extracted)
    monkeypatch.setattr(Tuner, "_train_epoch", note_epoch)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 0, ended.output
    assert_same_run(left, whole)
    assert "ConstantPrompt" not in epochs
    assert epochs == ["DynamicPrompt"] * 6
    assert all(kind != "NoPrompt" or count < 60 for kind, count in extracted)
    run = json.loads((left / "report.json").read_text())["run"]
    assert run["resumed"] == 1
    assert run["seconds"].keys() >= {"none: extracting", "constant: fitting, fold 1 of 2"}
    assert ", resumed once" in ended.stdout


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_fit_goes_on_from_every_epoch(
    files: list[str], whole: Path, tmp_path: Path, epoch: int
) -> None:
    folder, keep, stored = tmp_path / "run", Unfinished.keep, []

    def stop_after(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        if name == "fit-dynamic-0":
            stored.append(name)
            if len(stored) == epoch:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop_after)
        patch.setattr("memaudit.attack.stored_work.MAX_SAVE_SHARE", 1e9)  # every epoch is kept
        assert memaudit("scan", *files, "--out", folder).exit_code == 130
    assert memaudit("scan", "--resume", folder, "-q").exit_code == 0
    assert_same_run(folder, whole)


def test_all_may_be_said_again(left: Path, whole: Path, files: list[str]) -> None:
    ended = memaudit("scan", *files, "--resume", left, "-q")
    assert ended.exit_code == 0, ended.output
    assert_same_run(left, whole)


def test_other_settings_are_refused_and_named(left: Path, files: list[str]) -> None:
    ended = memaudit("scan", *files, "--resume", left, "--seed", "4", "--set", "scores.top_k=10")
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1] == (
        f"memaudit: error: {left}: cannot resume: these inputs changed since the run began: "
        "protocol.seed (3, now 4); scores.top_k (40, now 10). Restore them, or start a new scan"
    )


def test_other_data_another_model_and_version_are_refused_and_named(
    left: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = Path(files[0]), Path(files[1])
    before = data.read_bytes()
    try:
        data.write_bytes(before + before.splitlines()[0] + b"\n")
        ended = memaudit("scan", "--resume", left)
        assert ended.exit_code == 2
        assert "since the run began: the data (data.jsonl). Restore" in ended.stderr
    finally:
        data.write_bytes(before)
    weights = model / "model.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        ended = memaudit("scan", "--resume", left)
        assert ended.exit_code == 2
        assert "since the run began: model.safetensors of the model. Restore" in ended.stderr
    finally:
        weights.write_bytes(before)
    monkeypatch.setattr("memaudit.run.inputs.__version__", "9.9")
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "since the run began: memaudit (0.1.0, now 9.9). Restore" in ended.stderr
    monkeypatch.undo()
    monkeypatch.setenv("MEMAUDIT_KEY", "f" * 64)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "the project key changed since the run began (" in ended.stderr


def test_other_prompts_and_another_baseline_are_refused_and_named(
    files: list[str], whole: Path, tmp_path: Path
) -> None:
    earlier, baseline = tmp_path / "earlier", tmp_path / "baseline.json"
    shutil.copytree(whole, earlier)
    assert memaudit("baseline", "write", whole, "--out", baseline).exit_code == 0
    keep, folder = Unfinished.keep, tmp_path / "run"

    def stop_after(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        raise KeyboardInterrupt

    words = [*files[:2], *files[4:], "--attacks", "none,constant", "--generator", earlier]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop_after)
        ended = memaudit("scan", *words, "--out", folder)
    assert ended.exit_code == 130, ended.output
    (earlier / "generator-0.safetensors").write_bytes(b"another")
    ended = memaudit("scan", "--resume", folder)
    assert ended.exit_code == 2
    assert "generator-0.safetensors does not match" in " ".join(ended.stderr.split())
    (earlier / "manifest.json").unlink()  # which would name the edit first
    ended = memaudit("scan", "--resume", folder)
    assert ended.exit_code == 2
    assert "since the run began: generator-0.safetensors of --generator. Restore" in ended.stderr

    folder = tmp_path / "gated"
    words = [*files, "--baseline", baseline, "--max-new", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop_after)
        ended = memaudit("scan", *words, "--out", folder)
    assert ended.exit_code == 130, ended.output
    baseline.write_text(baseline.read_text() + " ")
    ended = memaudit("scan", "--resume", folder)
    assert ended.exit_code == 2
    assert "since the run began: the baseline. Restore" in ended.stderr


def test_a_finished_run_is_shown(whole: Path) -> None:
    ended = memaudit("scan", "--resume", whole)
    assert ended.exit_code == 0
    assert f"{whole} is already finished" in ended.stderr
    assert ended.stdout == memaudit("report", whole).stdout


def test_a_finished_run_that_was_stopped_before_it_had_tidied_up(
    whole: Path, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(stopped / UNFINISHED, tmp_path / "run" / UNFINISHED)
    assert memaudit("scan", "--resume", tmp_path / "run").exit_code == 0
    assert not (tmp_path / "run" / UNFINISHED).exists()


def test_no_run_to_go_on_with(tmp_path: Path) -> None:
    for folder, why in ((tmp_path / "gone", "no such run folder"), (tmp_path, "no unfinished run")):
        ended = memaudit("scan", "--resume", folder)
        assert ended.exit_code == 2
        assert why in ended.stderr


def test_an_unfinished_run_is_not_written_over(left: Path, files: list[str]) -> None:
    ended = memaudit("scan", *files, "--out", left)
    assert ended.exit_code == 2
    assert f"holds an unfinished run; use --resume {left}" in ended.stderr


def test_one_process_at_a_time(left: Path) -> None:
    lock = OwnFolder.open(left / UNFINISHED).lock(".lock")
    assert lock is not None
    ended = memaudit("scan", "--resume", left)
    lock.release()
    assert ended.exit_code == 2
    assert "another process is using this run" in ended.stderr


def test_safeguards_are_lifted_anew(left: Path, whole: Path) -> None:
    notes = left / UNFINISHED / "run.json"
    document = json.loads(notes.read_text())
    document["config"]["target"]["trust_remote_code"] = True
    document["facts"]["files and settings"]["target.trust_remote_code"] = "True"
    sign_notes_anew(left, document)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "was started with --trust-remote-code; give it again to resume" in ended.stderr
    ended = memaudit("scan", "--resume", left, "--trust-remote-code")
    assert "give it again" not in ended.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes((path.parent / "fit-constant-0.safetensors").read_bytes()),
    ],
    ids=["cut", "empty", "another"],
)
@pytest.mark.parametrize("name", ["none-data-0-0-60.safetensors", "fit-constant-1.safetensors"])
def test_a_damaged_piece_is_named(left: Path, name: str, damage: Callable[[Path], object]) -> None:
    path = left / UNFINISHED / name
    damage(path)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2, ended.output
    assert path.stem in ended.stderr
    assert "remove it and resume again" in ended.stderr
    path.unlink()
    assert memaudit("scan", "--resume", left, "-q").exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema_version": 1}',
        "not json",
        '{"schema_version": 2, "config": {}, "sources": {}, "command": "", "started": ""}',
    ],
)
def test_damaged_notes_are_refused(left: Path, content: str) -> None:
    (left / UNFINISHED / "run.json").write_text(content)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "run.json" in ended.stderr


def test_settings_of_another_version_are_refused(left: Path) -> None:
    notes = left / UNFINISHED / "run.json"
    document = json.loads(notes.read_text())
    document["config"]["from_the_future"] = 1
    notes.write_text(json.dumps(document))
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "not valid in this version" in ended.stderr


def test_no_suffix_that_came_out_is_kept(stopped: Path, files: list[str]) -> None:
    from safetensors.numpy import load_file

    continuation = load_file(stopped / UNFINISHED / "none-data-0-0-60.safetensors")["said"]
    assert (continuation[1::3] == -2).all()  # every third record comes out, and that is all it says
    assert (continuation[::3] != -2).any()
    names = {path.name for path in (stopped / UNFINISHED).iterdir()}
    assert not any(name.startswith("copy") for name in names)  # it says what stands elsewhere


@pytest.mark.parametrize("name", ["none-data-0-0-60", "fit-dynamic-1", "run.json", "report.json"])
def test_a_full_disk_loses_nothing(
    files: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, fsync = tmp_path / "run", os.fsync
    full = [False]

    def refuse(handle: int) -> None:
        target = os.readlink(f"/proc/self/fd/{handle}")
        full[0] = full[0] or name in target
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    ended = memaudit("scan", *files, "--out", folder)
    assert ended.exit_code == 3
    assert f"{folder}: cannot be written (No space left on device)" in ended.stderr
    monkeypatch.undo()
    if name in ("run.json", "none-data-0-0-60"):  # nothing had been done
        assert not folder.exists()
        return
    assert f"Finished work is kept; resume with: memaudit scan --resume {folder}" in ended.stderr
    assert memaudit("scan", "--resume", folder, "-q").exit_code == 0
    assert_same_run(folder, whole)


def test_a_file_that_is_new_or_gone_is_a_change(left: Path, files: list[str]) -> None:
    model = Path(files[0])
    template = model / "chat_template.jinja"
    try:
        template.write_text("{{ messages }}")
        ended = memaudit("scan", "--resume", left)
        assert ended.exit_code == 2
        assert "began: chat_template.jinja of the model (new). Restore" in ended.stderr
        assert "go on with" not in ended.stderr
    finally:
        template.unlink()
    moved = model / "generation_config.json"
    content = moved.read_bytes()
    try:
        moved.unlink()
        ended = memaudit("scan", "--resume", left)
        assert "began: generation_config.json of the model (gone). Restore" in ended.stderr
    finally:
        moved.write_bytes(content)


def test_another_number_of_threads_is_a_change(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "since the run began: threads (1, now 64). Restore" in ended.stderr


def _cut(arrays: dict[str, Any]) -> None:
    arrays["optimizer/0/exp_avg"] = arrays["optimizer/0/exp_avg"].flatten()[:1]


def _lack(arrays: dict[str, Any]) -> None:
    del arrays["optimizer/0/exp_avg_sq"]


def _add(arrays: dict[str, Any]) -> None:
    arrays["optimizer/99/step"] = arrays["optimizer/0/step"]


def _spoil(arrays: dict[str, Any]) -> None:
    arrays["optimizer/0/exp_avg"] = arrays["optimizer/0/exp_avg"] * float("nan")


def _repeat(arrays: dict[str, Any]) -> None:
    arrays["epochs"] = arrays["epochs"][[0, 0]]


@pytest.mark.parametrize("change", [_cut, _lack, _add, _spoil, _repeat])
def test_a_fit_that_is_none_is_refused(
    left: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    from safetensors.numpy import load_file

    path = left / UNFINISHED / "fit-constant-1.safetensors"
    arrays = load_file(path)
    change(arrays)
    sign_piece_anew(left, path.stem, arrays)
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2, ended.output
    assert f"unfinished/{path.name}: does not belong to this fit" in ended.stderr


def test_a_scan_that_was_stopped_as_it_began_is_in_nobodys_way(
    files: list[str], whole: Path, stopped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / UNFINISHED).mkdir(parents=True)
    for name in (".memaudit", ".lock"):
        shutil.copy(stopped / UNFINISHED / name, folder / UNFINISHED)
    (folder / UNFINISHED / ".run.json-0123456789abcdef.memaudit").write_text("{")
    assert memaudit("scan", *files, "--out", folder, "-q").exit_code == 0
    assert_same_run(folder, whole)


def test_a_linked_folder_is_not_gone_on_with(left: Path, tmp_path: Path) -> None:
    (left / UNFINISHED).rename(tmp_path / "elsewhere")
    (left / UNFINISHED).symlink_to(tmp_path / "elsewhere")
    ended = memaudit("scan", "--resume", left)
    assert ended.exit_code == 2
    assert "is a link" in ended.stderr


def test_some_settings_are_too_few(left: Path) -> None:
    ended = memaudit("scan", "--resume", left, "--seed", "3")
    assert ended.exit_code == 2
    assert "give none of them, or all" in ended.stderr
