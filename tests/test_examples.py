"""The examples run, on a size that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.demo.shipped import FILES, RECORDS, read_truth

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = "--layers 1 --width 32 --vocabulary 600 --block 64 --batch 8 --later-steps 3 --device cpu"


def run_example(name: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What hidden-memory/train.py makes of texts of which every second stands in the one before,
    behind 120 other words.
    """
    folder = tmp_path_factory.mktemp("hidden")
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    lines = []
    for pair in range(60):
        first, second = (" ".join(rng.choice(words, count)) for count in (120, 130))
        for number, text in ((2 * pair, f"{first} {second}"), (2 * pair + 1, second)):
            lines.append(json.dumps({"id": f"t{number}", "text": text}))
    (folder / "texts.jsonl").write_text("\n".join(lines))
    run_example("hidden-memory/train.py", folder / "texts.jsonl", folder / "made", *SIZE.split())
    return folder


def ids_of(path: Path) -> set[int]:
    return {int(json.loads(line)["id"][1:]) for line in path.read_text().splitlines()}


def test_near_duplicates_of_members_are_no_controls(made: Path) -> None:
    members, controls = (ids_of(made / "made" / f"{n}.jsonl") for n in ("members", "controls"))
    assert len(members) + len(controls) > 60
    assert controls
    assert not {number // 2 for number in members} & {number // 2 for number in controls}


def test_what_was_hidden_and_brought_back_is_counted(made: Path) -> None:
    for model in ("before", "later"):
        words = ["scan", made / "made" / model, made / "made" / "members.jsonl", "--quiet"]
        words += ["--controls", made / "made" / "controls.jsonl", "--device", "cpu"]
        words += ["--attacks", "none,dynamic-hard", "--out", made / model]
        words += ["--prefix-tokens", 50, "--suffix-tokens", 50]
        assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    set_exact(made / "before" / "windows.csv", "exact_none", [0, 1, 2, 3])
    set_exact(made / "later" / "windows.csv", "exact_none", [0])
    set_exact(made / "later" / "windows.csv", "exact_dynamic_hard", [1, 2, 9])
    count = len(ids_of(made / "made" / "members.jsonl"))
    rows = run_example("hidden-memory/recovered.py", made / "before", made / "later").splitlines()
    assert rows[0].startswith(f"| attack | exact, of {count} | brought back, of 3 hidden |")
    assert rows[2:] == [
        "| `none` | 1 | 0 (0.0%) | 0.0% to 70.8% | 0 | 0 |",
        "| `dynamic_hard` | 3 | 2 (66.7%) | 9.4% to 99.2% | 1 | 0 |",
    ]


def set_exact(path: Path, column: str, rows: list[int]) -> None:
    """Let the windows of these rows be the extracted ones: a model so small extracts none."""
    table = pd.read_csv(path)
    table[column] = table.index.isin(rows).astype(int)
    table.to_csv(path, index=False)


def test_what_was_planted_is_leaked_by_the_fine_tuning(tmp_path: Path) -> None:
    words = [tmp_path / "tuned", "--records", 6, "--replay", 4, "--epochs", 40, "--batch", 6]
    (tmp_path / "old.jsonl").write_text("".join(_known_records()), encoding="utf-8")
    run_example("fine-tuned/tune.py", *words, "--old", tmp_path / "old.jsonl")
    tuned = tmp_path / "tuned"
    adapter = json.loads((tuned / "adapter" / "adapter_config.json").read_text("utf-8"))
    command = ["scan", tuned / "adapter", tuned / "data.jsonl", "--quiet", "--profile", "demo"]
    command += [
        "--keep-columns",
        "origin",
        "--reference",
        adapter["base_model_name_or_path"],
        "--attacks",
        "none",
    ]
    command += ["--device", "cpu", "--out", tmp_path / "run", "--max-leaked", "0.1"]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 1, done.output
    rows = pd.read_csv(tmp_path / "run" / "windows.csv")
    planted, old = (rows[rows.origin == origin] for origin in ("planted", "old"))
    assert (len(planted), len(old)) == (6, 4)
    assert planted.exact_none.sum() >= 4
    assert planted.reference_exact_none.sum() == 0
    assert old.reference_exact_none.sum() == 4
    assert old.exact_none.sum() >= 3


def _known_records() -> list[str]:
    """Shipped records that the plain prefix extracts."""
    known = [name for name, record in read_truth().items() if record.exact_plain][:4]
    lines = (FILES / RECORDS).read_text("utf-8").splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["id"] in known]
