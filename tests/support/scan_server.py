"""Starts command lines in forks of one process that has imported everything already.

A scan of a second can then be killed hundreds of times without importing torch as often. Run as a
script it is that process: it reads a job from each line of stdin, and answers each with a line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code, or minus the signal that ended it."""
    cpu_seconds: float
    """Processor time, which does not depend on what else the machine does."""
    output: str
    """stdout and stderr together."""


class ScanServer:
    """The other process, seen from the tests."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "output.txt"
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def run(
        self,
        words: Sequence[str],
        *,
        after: float | None = None,
        with_work: Path | None = None,
        with_signal: int = signal.SIGKILL,
    ) -> Ended:
        """Run ``memaudit`` with these words.

        It gets the signal ``after`` so many seconds of processor time, or as soon as the folder
        ``with_work`` holds a finished piece of work.
        """
        # The model of small_scan repeats its last token, so that every run is inconclusive.
        job = {"words": [*words, "--exit-zero"], "after": after, "signal": int(with_signal)}
        job["work"] = None if with_work is None else str(with_work)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job | {"log": str(self._log)}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], answer["cpu_seconds"], self._log.read_text())

    def stop(self) -> None:
        self._process.communicate()


def main() -> None:

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job["words"], job["log"])
        if job["after"] is not None or job["work"] is not None:
            while (
                not _is_time(job, child)
                and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.002)
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(child, job["signal"])
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        sys.stdout.write(json.dumps({"code": code, "cpu_seconds": cpu_seconds}) + "\n")
        sys.stdout.flush()


def _is_time(job: dict[str, Any], child: int) -> bool:
    if job["work"] is not None:
        return any(Path(job["work"]).glob("[a-z]*.safetensors"))
    times = psutil.Process(child).cpu_times()
    return times.user + times.system >= job["after"]


def _become(words: list[str], log: str) -> None:
    """Be the command, in a fork."""
    from memaudit.cli.app import app

    code = 99
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["memaudit", *words]
        app(words)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
