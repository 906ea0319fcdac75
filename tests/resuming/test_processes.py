"""Several processes do what one does, to the last byte; one that dies ends the run, which goes on.

Started by torchrun on the CPU, where they talk through gloo.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small_scan import assert_same_run, make_files

pytestmark = pytest.mark.slow

ALONE = [sys.executable, "-m", "memaudit"]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def torchrun(processes: int) -> list[str]:
    started = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, "-m", *started, "-m", "memaudit"]


def start(command: list[str], *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Its model repeats its last token, so that every run of it is inconclusive.
        [*command, *map(str, words), "--exit-zero"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_files(tmp_path_factory.mktemp("files"), count=160)


@pytest.fixture(scope="module")
def alone(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    process = start(ALONE, "scan", *files, "--out", folder, "-q")
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_do_what_one_does(
    files: list[str], alone: Path, tmp_path: Path, processes: int
) -> None:
    process = start(torchrun(processes), "scan", *files, "--out", tmp_path / "run")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert_same_run(tmp_path / "run", alone)
    assert stdout.count("Given the text before it") == 1
    assert f", {processes} processes" in stdout
    assert stderr.count("Written to") == 1


def process_of_rank(launcher: int, rank: str) -> psutil.Process:
    for child in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # some live for a moment
            if child.environ().get("RANK") == rank:
                return child
    raise AssertionError(f"no process of rank {rank}")


def test_a_process_that_dies_ends_the_run_and_it_goes_on(
    files: list[str], alone: Path, tmp_path: Path
) -> None:
    folder, fifo = tmp_path / "run", tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = [*torchrun(2)[:-2], str(Path(__file__).parents[1] / "support" / "pausing.py")]
    process = start([*command, str(fifo)], "scan", *files, "--out", folder)
    while not select.select([reader], [], [], 1)[0]:
        assert process.poll() is None, process.communicate()
    second = process_of_rank(process.pid, "1")
    second.send_signal(signal.SIGKILL)
    os.close(reader)
    _, stderr = process.communicate()
    assert process.returncode != 0
    assert f"resume with: memaudit scan --resume {folder}" in stderr
    assert not list(folder.glob("*.csv"))
    again = start(ALONE, "scan", "--resume", folder, "-q")
    _, stderr = again.communicate()
    assert again.returncode == 0, stderr
    assert_same_run(folder, alone)


def test_an_error_is_told_and_ends_every_process(files: list[str], tmp_path: Path) -> None:
    process = start(torchrun(2), "scan", "nowhere/at-all/x", files[1], "--out", tmp_path / "run")
    stdout, stderr = process.communicate()
    assert process.returncode != 0
    assert "memaudit: error: nowhere/at-all/x: no such folder or file" in stderr
    assert stdout == ""
    assert not (tmp_path / "run").exists()


def test_one_device_cannot_be_named_for_several(files: list[str], tmp_path: Path) -> None:
    words = [*files, "--device", "cuda:1", "--out", str(tmp_path / "run")]
    process = subprocess.run(
        [*ALONE, "scan", *words],
        env=os.environ | {"WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "--device cuda:1 with several processes" in process.stderr


def test_processes_that_read_different_files_do_not_mix_them(
    files: list[str], tmp_path: Path
) -> None:
    """Imitate two machines with different files of the same name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in (0, 1):
        place = tmp_path / f"machine-{rank}"
        place.mkdir()
        lines = Path(files[1]).read_text().splitlines(keepends=True)
        (place / "data.jsonl").write_text("".join(lines[: len(lines) - rank]))
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        started.append(
            subprocess.Popen(
                [*ALONE, "scan", files[0], "data.jsonl", *files[4:], "--out", "run"],
                cwd=place,
                env=os.environ | QUIET | ranks | meeting,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    for process in started:
        _, stderr = process.communicate()
        assert process.returncode == 3, stderr
        assert "the processes of this run have different inputs: the data (data.jsonl)" in stderr
    assert not (tmp_path / "machine-0" / "run").exists()


def test_merge_is_the_work_of_one_process(tmp_path: Path) -> None:
    process = subprocess.run(
        [*ALONE, "merge", "a", "b"],
        env=os.environ | {"WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "start it without a launcher" in process.stderr
