"""Golden runs: what memaudit writes and prints, kept before a change and compared after it.

    python .ci/golden.py make FOLDER [--model MODEL --base BASE --data DATA --controls CONTROLS]
    python .ci/golden.py compare BEFORE AFTER

``make`` runs the memaudit that Python finds: the demonstration, every report format and every
diagnosis of its run, and a slice of MODEL with its base as reference where they are given.
``compare`` prints the lines that differ and exits 1 if there are any. Times, durations, digests and
the place of the package are taken out first, so that two runs of the same code are equal.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

FORMATS = (
    *("table", "csv", "jsonl", "html", "markdown"),  # report.json lies in the run
    *("sarif", "junit", "github", "cyclonedx"),
)
DIAGNOSES = ("latent", "layers", "neurons", "sweep", "signals", "attention")
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00|Z| UTC)?"), "<time>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b\d+(\.\d+)? ?(s|min|ms|h)\b"), "<duration>"),
    (re.compile(r"\b\d+(\.\d+)? (GiB|MiB)\b"), "<memory>"),
    (re.compile(r"/[\w./-]+/memaudit/"), "<checkout>/memaudit/"),
)
TIMED_KEYS = ("seconds", "started", "finished", "serialNumber", "hashes")


def main() -> int:
    """Make golden runs, or compare two folders of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("folder", type=Path)
    for flag in ("--model", "--base", "--data", "--controls"):
        make.add_argument(flag)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        return compare_folders(arguments.before, arguments.after)
    make_runs(arguments)
    return 0


def make_runs(arguments: argparse.Namespace) -> None:
    """Write every golden run and its outputs below the folder."""
    folder: Path = arguments.folder
    folder.mkdir(parents=True)
    memaudit("demo.txt", folder, "demo", "--out", "demo")
    runs = ["demo"]
    if arguments.model:
        options = ("--reference", arguments.base, "--controls", arguments.controls)
        settings = (
            "--limit",
            "500",
            "--attacks",
            "none,copy,constant,dynamic",
            "--profile",
            "quick",
        )
        scan = ("scan", arguments.model, arguments.data, *options, *settings, "--out", "slice")
        memaudit("slice.txt", folder, *scan)
        runs.append("slice")
    for run in runs:
        for form in FORMATS:
            memaudit(f"{run}-report.{form}", folder, "report", run, "--format", form)
        for diagnosis in DIAGNOSES:
            memaudit(f"{run}-{diagnosis}.txt", folder, "diagnose", diagnosis, run)
        memaudit(f"{run}-with-diagnoses.html", folder, "report", run, "--format", "html")


def memaudit(name: str, folder: Path, *command: str) -> None:
    """Run one command in the folder; keep its exit code and what it printed."""
    terminal = {"COLUMNS": "120", "NO_COLOR": "1", "MEMAUDIT_KEY": "0" * 64, "HF_HUB_OFFLINE": "1"}
    # Not -m: that would find a package in the folder first.
    program = "from memaudit.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        cwd=folder,
        env={**os.environ, **terminal},
        capture_output=True,
        encoding="utf-8",
    )
    print(f"{name}: exit code {done.returncode}", flush=True)
    text = f"exit code {done.returncode}\n{done.stdout}\n-- stderr\n{done.stderr}"
    (folder / name).write_text(text, encoding="utf-8")


def compare_folders(before: Path, after: Path) -> int:
    """Print the lines that differ between two folders of golden runs."""
    names = sorted(
        {
            path.relative_to(root)
            for root in (before, after)
            for path in root.rglob("*")
            if path.is_file() and path.suffix != ".safetensors"
        }
    )
    changed = 0
    for name in names:
        difference = list(
            difflib.unified_diff(
                lines_of(before / name),
                lines_of(after / name),
                f"before/{name}",
                f"after/{name}",
                n=0,
                lineterm="",
            )
        )
        changed += bool(difference)
        for line in difference:
            print(line[:300])
    print(f"{len(names)} files, {changed} differ")
    return int(changed > 0)


def lines_of(path: Path) -> list[str]:
    """The lines of a file, with what varies from run to run taken out; none where it is missing."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        text = json.dumps(without_times(json.loads(text)), indent=1, ensure_ascii=False)
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return text.splitlines()


def without_times(value: object) -> object:
    """A JSON value without what a clock or the bytes of a whole file decide."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMED_KEYS}
    if isinstance(value, list):
        return [without_times(inner) for inner in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
