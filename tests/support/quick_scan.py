"""The command in this process, and the arguments of a scan that takes a second."""

from __future__ import annotations

from pathlib import Path

from conftest import build_model, build_tokenizer, save_model
from typer.testing import CliRunner, Result

from memaudit.cli.app import app

QUICK = [
    *("--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu", "--attacks", "none"),
    *("--set", "scores.bootstrap=100", "-q"),
]


def memaudit(*words: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def quick_scan(folder: Path) -> list[str]:
    """Return model, data, which are written into the folder, and flags."""
    save_model(build_model("gpt2"), build_tokenizer(), folder / "model")
    lines = [f"record {n} of anna {n * 7919} and more of {n * 31}" for n in range(12)]
    (folder / "data.txt").write_text("\n".join(lines) + "\n")
    return [str(folder / "model"), str(folder / "data.txt"), *QUICK]
