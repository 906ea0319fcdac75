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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

KILLED = -signal.SIGPROF
"""Exit code of a command that a timer of processor time killed."""


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
        with_signal: int | None = None,
    ) -> Ended:
        """Run ``memaudit`` with these words.

        It is killed (`KILLED`) ``after`` so many seconds of processor time, or gets the signal once
        it has kept a piece of work, at which it stops and waits.
        """
        # The model of small_scan repeats its last token, so that every run is inconclusive.
        job = {"words": [*words, "--exit-zero"], "after": after, "signal": with_signal}
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
            _become(job)
        if job["signal"] is not None:
            _, status = os.waitpid(child, os.WUNTRACED)  # stopped by itself, or ended too early
            if os.WIFSTOPPED(status):
                os.kill(child, job["signal"])
                os.kill(child, signal.SIGCONT)
        _, status, usage = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        cpu_seconds = usage.ru_utime + usage.ru_stime
        sys.stdout.write(json.dumps({"code": code, "cpu_seconds": cpu_seconds}) + "\n")
        sys.stdout.flush()


def _stop_at_work() -> None:
    """Stop this process once it has kept its first piece of work."""
    from memaudit.run.unfinished import Unfinished

    keep = Unfinished.keep

    def keep_and_stop(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        Unfinished.keep = keep  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGSTOP)

    Unfinished.keep = keep_and_stop  # type: ignore[method-assign]


def _become(job: dict[str, Any]) -> None:
    """Be the command, in a fork."""
    from memaudit.cli.app import app

    code = 99
    try:
        handle = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        if job["after"] is not None:
            signal.setitimer(signal.ITIMER_PROF, max(job["after"], 1e-3))
        if job["signal"] is not None:
            _stop_at_work()
        sys.argv = ["memaudit", *job["words"]]
        app(job["words"])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
