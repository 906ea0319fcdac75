"""A scan that is killed at any moment goes on, and ends as one that was left alone.

``pytest tests/resuming/test_kills.py --kills 200`` kills as often; a few without it.
"""

from __future__ import annotations

import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scan_server import KILLED, ScanServer
from small_scan import make_files

from memaudit.run.unfinished import UNFINISHED

pytestmark = pytest.mark.slow

TABLES = ("samples.csv", "windows.csv")
ENDS_ALIKE = (*TABLES, "generator-0.safetensors", "generator-1.safetensors")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScanServer]:
    started = ScanServer(tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["scan", *make_files(tmp_path_factory.mktemp("files")), "-q"]


class Undisturbed(NamedTuple):
    """A run that was left alone."""

    cpu_seconds: float
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def undisturbed(
    server: ScanServer, words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("first", "run"):  # the first is slower, as files are read for the first time
        ended = server.run([*words, "--out", str(folder / name)])
        assert ended.code == 0, ended.output
    files = {name: (folder / "run" / name).read_bytes() for name in ENDS_ALIKE}
    return Undisturbed(ended.cpu_seconds, files)


def assert_ends_alike(folder: Path, undisturbed: Undisturbed) -> None:
    for name, content in undisturbed.files.items():
        assert (folder / name).read_bytes() == content, name
    assert not (folder / UNFINISHED).exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_killed_at_random_moments(
    request: pytest.FixtureRequest,
    server: ScanServer,
    words: list[str],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    wanted, kills, runs = int(request.config.getoption("--kills")), 0, 0
    rng = np.random.default_rng(0)
    starts = []
    while kills < wanted:
        folder = tmp_path / f"run-{runs}"
        begun, goes = False, 0
        while True:
            after = float(rng.uniform(0, 1.1 * undisturbed.cpu_seconds))
            again = ["scan", "--resume", str(folder), "-q"]
            ended = server.run(again if begun else [*words, "--out", str(folder)], after=after)
            goes += 1
            begun = begun or (folder / UNFINISHED / "run.json").exists()
            begun = begun or (folder / "manifest.json").exists()
            if ended.code != KILLED:
                break
            kills += 1
            if not begun and folder.exists():  # killed before it had noted what it is
                folder = tmp_path / f"run-{runs}-{goes}"
        assert ended.code == 0, ended.output
        assert_ends_alike(folder, undisturbed)
        runs += 1
        starts.append(goes)
    sys.stdout.write(
        f"\n{kills} kills in {runs} runs, up to {max(starts)} starts; all ended alike\n"
    )


@pytest.mark.parametrize(
    ("with_signal", "code", "message"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_asked_to_stop(
    server: ScanServer,
    words: list[str],
    undisturbed: Undisturbed,
    tmp_path: Path,
    with_signal: int,
    code: int,
    message: str,
) -> None:
    folder = tmp_path / "run"
    ended = server.run([*words, "--out", str(folder)], with_signal=with_signal)
    assert ended.code == code, ended.output
    assert ended.output.splitlines() == [
        f"Finished work is kept; resume with: memaudit scan --resume {folder}",
        f"memaudit: {message}",
    ]
    assert server.run(["scan", "--resume", str(folder), "-q"]).code == 0
    assert_ends_alike(folder, undisturbed)
