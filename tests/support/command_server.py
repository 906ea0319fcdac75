"""Starts Python code in forks of one process that has imported what takes longest.

A test of a whole process then waits for the half of its imports that the code itself decides
about. The hub's client, transformers and memaudit are not among those imported beforehand: each
fork reads its own environment when it imports them. Run as a script it is that process: it reads a
job from each line of stdin, and answers each with the exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MAIN = "from memaudit.cli.app import main\nmain()\n"
NOT_YET = ("huggingface_hub", "transformers", "memaudit")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code, or minus the signal that ended it."""
    stdout: str
    stderr: str


class CommandServer:
    """The other process, seen from the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], code: str = MAIN
    ) -> Ended:
        """Run code with these words in a folder, with exactly these variables."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as logs:
            job = {"words": list(words), "folder": str(folder), "logs": logs, "code": code}
            self._process.stdin.write(json.dumps(job | {"environment": dict(environment)}) + "\n")
            self._process.stdin.flush()
            ended = int(self._process.stdout.readline())
            return Ended(ended, *((Path(logs) / name).read_text() for name in ("1", "2")))

    def stop(self) -> None:
        self._process.communicate()


def main() -> None:
    for name in ("pandas", "scipy.stats", "torch._dynamo", "torch.distributed.tensor"):
        importlib.import_module(name)
    assert not {name.partition(".")[0] for name in sys.modules} & set(NOT_YET)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _become(job: dict[str, Any]) -> None:
    """Be the command, in a fork, which ends as any process does."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(f"{job['logs']}/{stream}", os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.argv = ["memaudit", *job["words"]]
    exec(job["code"], {"__name__": "__main__"})


if __name__ == "__main__":
    main()
