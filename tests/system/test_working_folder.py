"""Modules that lie in the working folder are not imported, however memaudit is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2]
MODULES = ("typer", "numpy", "pydantic", "torch", "megatron", "jinja2", "tomllib", "dataclasses")
LAUNCHERS = {
    "python -m": ["-m", "memaudit"],
    "torchrun -m": [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"),
        *("-m", "memaudit"),
    ],
}


def hostile(folder: Path, *names: str) -> Path:
    """A folder in which importing any of these names leaves a file behind."""
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    return folder


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("words", [["--version"], ["scan", "no-such", "d.jsonl", "--offline"]])
def test_modules_beside_the_data_do_not_run(
    launcher: str, words: list[str], tmp_path: Path
) -> None:
    # torchrun itself imports what it needs before memaudit starts: nothing here can keep it.
    names = ("typer", "peft", "pydantic") if launcher == "torchrun -m" else MODULES
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n')
    done = start(hostile(tmp_path, *names), *LAUNCHERS[launcher], *words)
    assert not (tmp_path / "ran").exists(), done.stderr
    if words == ["--version"]:
        assert "memaudit" in done.stdout
    else:
        assert "no-such" in done.stderr


def test_a_path_that_the_user_names_stays(tmp_path: Path) -> None:
    """Only what Python put there by itself is taken off."""
    code = (
        "import runpy, sys; sys.path.insert(0, ''); sys.argv = ['memaudit', '--version']\n"
        "try:\n    runpy.run_module('memaudit', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(*map(repr, sys.path))"
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert repr(str(folder)) in done.stdout, done.stderr
    assert repr(str(SOURCE)) in done.stdout
