"""Work in a child process: its result and its errors come back, and its limits hold."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memaudit.data.windows import NoWindow
from memaudit.errors import DataError
from memaudit.system.limits import LimitReached, can_limit, run_limited, try_limited

pytestmark = pytest.mark.skipif(not can_limit(), reason="this system cannot fork safely")


def test_the_result_comes_back_and_the_work_is_done_elsewhere() -> None:
    changed: list[int] = []

    def work() -> tuple[int, list[int]]:
        changed.append(1)
        return os.getpid(), np.arange(100_000).tolist()  # more than a pipe holds

    process, numbers = run_limited(work, cpu_seconds=10)
    assert process != os.getpid()
    assert numbers[-1] == 99_999
    assert changed == []


def test_an_error_is_raised_here_with_what_it_carries() -> None:
    def work() -> None:
        error = NoWindow("data.jsonl: nothing fits")
        error.begin_with_bos = True
        raise error from ValueError("why")

    with pytest.raises(NoWindow, match=r"data\.jsonl: nothing fits") as raised:
        run_limited(work, cpu_seconds=10)
    assert raised.value.begin_with_bos


def test_an_error_that_cannot_be_handed_over_keeps_its_words() -> None:
    class Local(DataError):
        pass

    def work() -> None:
        raise Local("data.jsonl:3: is odd")

    with pytest.raises(RuntimeError, match=r"Local: data\.jsonl:3: is odd"):
        run_limited(work, cpu_seconds=10)


def test_work_that_never_ends_is_stopped_even_inside_a_library() -> None:
    pattern = re.compile("(x+x+)+y")
    with pytest.raises(LimitReached, match="1 s of processor time"):
        run_limited(lambda: pattern.match("x" * 60), cpu_seconds=1)


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.system.limits.MEMORY_SHARE", 1e-9)
    with pytest.raises(LimitReached, match="of memory"):
        run_limited(lambda: len(bytearray(1 << 30)), cpu_seconds=30)


def test_a_library_that_aborts_takes_nothing_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        os.write(2, b"a trace with secrets\n")
        os.kill(os.getpid(), signal.SIGABRT)

    with pytest.raises(LimitReached, match="SIGABRT"):
        run_limited(work, cpu_seconds=10)
    assert capfd.readouterr().err == ""


def test_files_that_the_work_writes_stay(tmp_path: Path) -> None:
    run_limited(lambda: (tmp_path / "file").write_text("written"), cpu_seconds=10)
    assert (tmp_path / "file").read_text() == "written"


def test_work_that_is_only_tried_may_fail() -> None:
    try_limited(lambda: 1 / 0, cpu_seconds=10)
    with pytest.raises(LimitReached):
        try_limited(lambda: os.kill(os.getpid(), signal.SIGSEGV), cpu_seconds=10)


UNDER_A_LIMIT = """
import psutil, resource, sys
from memaudit.system.limits import LimitReached, run_limited
kind, room = sys.argv[1], int(sys.argv[2])
if kind == "memory":
    room += psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    work = lambda: len(bytearray(1 << 29))
else:
    resource.setrlimit(resource.RLIMIT_CPU, (room, resource.RLIM_INFINITY))
    work = lambda: [0 for _ in iter(int, 1)]
print(run_limited(lambda: 7, cpu_seconds=60))
try:
    print(run_limited(work, cpu_seconds=60))
except LimitReached as end:
    print(end)
"""


@pytest.mark.parametrize(
    ("kind", "room", "said"),
    [
        ("memory", 200 << 20, r"took more than the [0-9.]+ GiB of memory that ulimit -v leaves "),
        ("time", 2, r"took more than 2 s of processor time \(ulimit -t\)"),
    ],
)
def test_a_limit_that_the_user_set_lower_holds_and_is_named(
    kind: str, room: int, said: str
) -> None:
    command = [sys.executable, "-c", UNDER_A_LIMIT, kind, str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "7"
    assert re.match(said, second), second
