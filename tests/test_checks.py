"""The linter, the formatter and the type checker, run on the whole project."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CHECKS = {
    "ruff check": ("ruff", ["check", "--no-cache", "."]),
    "ruff format": ("ruff", ["format", "--check", "--no-cache", "."]),
    "mypy": ("mypy", []),
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_project_is_clean(name: str) -> None:
    tool, arguments = CHECKS[name]
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; it comes with pip install -e '.[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} finds:\n{done.stdout}{done.stderr}"
