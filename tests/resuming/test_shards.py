"""Shards done apart, put together, are the scan done at once; what does not belong is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from small_scan import (
    assert_same_run,
    make_files,
    memaudit,
    sign_notes_anew,
    sign_piece_anew,
)

from memaudit.attack.parts import Part, Side, cut, shard_parts
from memaudit.config.shard import Shard
from memaudit.errors import UsageError
from memaudit.run.unfinished import UNFINISHED


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_files(tmp_path_factory.mktemp("files"), count=160)


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert memaudit("scan", *files, "--out", folder, "-q").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def shards(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of a scan with two folds, so that one fold is shared."""
    place = tmp_path_factory.mktemp("shards")
    folders = [place / f"shard-{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        ended = memaudit("scan", *files, "--shard", f"{number}/3", "--out", folder)
        assert ended.exit_code == 0, ended.output
        assert ended.stdout == ""
        assert ended.stderr.splitlines()[-2:] == [
            f"Shard {number}/3 is done: {folder}",
            "Once all are done: memaudit merge SHARD SHARD ... --out RUN",
        ]
    return folders


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_in_any_order_they_are_the_whole(
    shards: list[Path], whole: Path, tmp_path: Path, order: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    ended = memaudit("merge", *(shards[place] for place in order), "--out", run)
    assert ended.exit_code == 0, ended.output
    assert_same_run(run, whole)
    assert all((folder / UNFINISHED).is_dir() for folder in shards)
    facts = json.loads((run / "report.json").read_text())["run"]
    assert facts["resumed"] == 0
    parts = [json.loads((shard / UNFINISHED / "run.json").read_text()) for shard in shards]
    spent = sum(part["seconds"]["none: extracting"] for part in parts)
    assert facts["seconds"]["none: extracting"] >= round(spent, 3)


def test_together_they_do_everything_once(shards: list[Path]) -> None:
    """Nothing is left for the merged run, and only what a shared fold asks for is done twice."""
    names = [{path.name for path in (shard / UNFINISHED).glob("*.safetensors")} for shard in shards]
    shared = {
        name
        for first, second in itertools.combinations(names, 2)
        for name in first & second
        if not name.startswith(("none-", "fit-"))
    }
    assert shared == set()
    assert sum("fit-dynamic-0.safetensors" in shard_names for shard_names in names) == 2
    assert sum("fit-dynamic-1.safetensors" in shard_names for shard_names in names) == 1


def test_a_stopped_shard_goes_on_as_that_shard(
    files: list[str], shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memaudit.run.unfinished import Unfinished

    keep, folder = Unfinished.keep, tmp_path / "shard"

    def stop(self: Unfinished, name: str, entry: object) -> None:
        keep(self, name, entry)  # type: ignore[arg-type]
        if name.startswith("fit-"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Unfinished, "keep", stop)
    assert memaudit("scan", *files, "--shard", "2/3", "--out", folder).exit_code == 130
    monkeypatch.undo()
    ended = memaudit("merge", shards[0], folder, shards[2])
    assert ended.exit_code == 2
    expected = f"{folder}: is not complete; resume it with memaudit scan --resume {folder}"
    assert expected in ended.stderr
    ended = memaudit("scan", "--resume", folder, "--shard", "1/3")
    assert ended.exit_code == 2
    assert "was started with 2/3" in ended.stderr
    assert memaudit("scan", "--resume", folder).exit_code == 0
    resumed, undisturbed = (
        {path.name: path.read_bytes() for path in (shard / UNFINISHED).glob("*.safetensors")}
        for shard in (folder, shards[1])
    )
    assert resumed == undisturbed


def refused(*words: object) -> str:
    ended = memaudit("merge", *words)
    assert ended.exit_code == 2, ended.output
    return ended.stderr


def test_what_does_not_belong_together_is_refused(
    files: list[str], shards: list[Path], whole: Path, tmp_path: Path
) -> None:
    assert "shard 2/3 is missing" in refused(shards[0], shards[2])
    assert "shard 1/3 is given twice" in refused(shards[0], *shards)
    assert "holds no unfinished run" in refused(shards[0], whole)
    other = tmp_path / "other"
    words = [*files, "--seed", "4", "--shard", "2/3", "--out", other]
    assert memaudit("scan", *words).exit_code == 0
    said = refused(shards[0], other, shards[2])
    assert "are from different scans: protocol.seed (3, now 4)" in said
    changed = tmp_path / "changed"
    shutil.copytree(shards[1], changed)
    notes = json.loads((changed / UNFINISHED / "run.json").read_text())
    sign_notes_anew(changed, notes | {"shard": "2/4"})
    assert "different numbers of shards" in refused(shards[0], changed, shards[2])
    sign_notes_anew(changed, notes | {"shard": None})
    assert "is not a shard" in refused(shards[0], changed, shards[2])
    sign_notes_anew(changed, notes | {"shard": "9/3"})
    assert "--shard 9/3" in refused(shards[0], changed, shards[2])


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/99999"])
def test_a_shard_is_i_of_n(text: str) -> None:
    with pytest.raises(UsageError, match="give i/n"):
        Shard.parse(text)


@given(
    windows=st.integers(0, 700),
    folds=st.integers(1, 5),
    count=st.integers(1, 8),
    limit=st.sampled_from([16, 64, 512]),
    fitted=st.booleans(),
)
def test_shards_take_every_window_once(
    windows: int, folds: int, count: int, limit: int, fitted: bool
) -> None:
    fold = np.random.default_rng(windows).integers(folds, size=windows)
    sides = {"data": Side(np.zeros((windows, 4), dtype=np.int32), fold)}
    prompts = [[number] for number in range(folds)] if fitted else [list(range(folds))]
    parts = cut(sides, prompts, limit)
    dealt = [
        part
        for index in range(count)
        for part in shard_parts(parts, Shard(index, count), folds if fitted else None)
    ]
    assert sorted(map(_key, dealt)) == sorted(map(_key, parts))
    rows = np.concatenate([part.rows for part in parts]) if parts else np.array([])
    assert sorted(rows.tolist()) == list(range(windows))
    assert all(len(part.rows) <= limit for part in parts)
    if fitted:
        assert all((fold[part.rows] == part.fold).all() for part in parts)


def _key(part: Part) -> str:
    return part.name


def test_what_a_shard_had_done_has_to_be_there(shards: list[Path], tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(shards[1], lost)
    (lost / UNFINISHED / "fit-dynamic-1.safetensors").unlink()
    assert "fit-dynamic-1.safetensors is missing" in refused(shards[0], lost, shards[2])


def test_a_fold_that_was_fitted_twice_has_to_come_out_alike(
    shards: list[Path], tmp_path: Path
) -> None:
    other, out = tmp_path / "other", tmp_path / "run"
    shutil.copytree(shards[2], other)
    sign_piece_anew(
        other,
        "fit-dynamic-0",
        load_file(other / UNFINISHED / "fit-constant-0.safetensors"),
    )
    stderr = refused(shards[0], shards[1], other, "--out", out)
    assert "fit-dynamic-0.safetensors: differs from the same work in another shard" in stderr
    assert not out.exists()
