"""A report and a copy of the model confirm no guess of what was audited."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import save_model
from known_answers import P, S, audit, random_llama, text_of, word_tokenizer, write_jsonl
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.run.baselines import read_baseline, to_text

GUESSES = 500


@pytest.fixture
def parts() -> tuple[Any, Any, list[list[int]]]:
    """A model, its tokenizer, and guesses of one record that differ in three words."""
    tokenizer = word_tokenizer()
    model = random_llama(len(tokenizer))
    rng = np.random.default_rng(0)
    start = rng.integers(1, len(tokenizer), P + S - 3).tolist()
    return model, tokenizer, [[*start, *rng.integers(1, 60, 3).tolist()] for _ in range(GUESSES)]


@torch.no_grad()
def nll_of(model: Any, records: list[list[int]]) -> list[float]:
    ids = torch.tensor(records)
    chances = model(input_ids=ids, use_cache=False).logits[:, P - 1 : -1].log_softmax(-1)
    picked = chances.gather(-1, ids[:, P:, None])[..., 0]
    return (-picked.mean(dim=1)).tolist()


def left(shown: float, guesses: list[float], digits: int) -> int:
    """How many guesses would have been written as this figure."""
    return sum(float(f"{guess:.{digits}g}") == pytest.approx(shown) for guess in guesses)


def test_no_window_tells_which_of_the_guesses_it_is(parts: Any, tmp_path: Path) -> None:
    model, tokenizer, guesses = parts
    folder = save_model(model, tokenizer, tmp_path / "m")
    others = np.random.default_rng(1).integers(1, 60, (30, P + S)).tolist()
    rows = [{"text": text_of(tokenizer, ids)} for ids in [guesses[7], *others]]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    nll = nll_of(model, guesses)

    audit(folder, data, tmp_path / "run", "--exit-zero")
    audit(folder, data, tmp_path / "revealed", "--reveal", "--exit-zero")
    for name in ("samples.csv", "windows.csv"):
        row = pd.read_csv(tmp_path / "run" / name).iloc[0]
        assert left(row["suffix_nll_none"], nll, 2) >= 5
        row = pd.read_csv(tmp_path / "revealed" / name).iloc[0]
        assert left(row["suffix_nll_none"], nll, 6) == 1


def written(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()
    for form in ("table", "json", "html", "cyclonedx", "sarif", "junit", "markdown", "jsonl"):
        shown = CliRunner().invoke(app, ["report", str(folder), "--format", form])
        assert shown.exit_code == 0, shown.stderr
        yield shown.stdout.encode()


def test_no_file_tells_the_hash_of_the_data(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of one short record would be found by hashing every record it might have."""
    model, tokenizer, guesses = parts
    folder = save_model(model, tokenizer, tmp_path / "m")
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text_of(tokenizer, guesses[7])}])
    others = [{"text": text_of(tokenizer, ids)} for ids in guesses[8:12]]
    controls = write_jsonl(tmp_path / "controls.jsonl", others)
    run = tmp_path / "run"
    audit(folder, data, run, "--controls", controls, "--exit-zero")
    # The command makes no baseline of a random model's run, which means nothing.
    everything = [*written(run), to_text(read_baseline(run)).encode()]
    for path in (data, controls):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert not any(digest[:16].encode() in content for content in everything)

    document = json.loads((run / "report.json").read_text())
    assert len(document["data"]["hmac_sha256"]) == 64
    again = audit(folder, data, tmp_path / "again", "--controls", controls, "--exit-zero").report
    assert again is not None
    assert again["data"]["hmac_sha256"] == document["data"]["hmac_sha256"]
    checked = CliRunner().invoke(app, ["verify", str(run), "--strict"])
    assert checked.exit_code == 0, checked.stdout
    monkeypatch.setenv("MEMAUDIT_KEY", "1" * 64)
    other = audit(folder, data, tmp_path / "other", "--controls", controls, "--exit-zero").report
    assert other is not None
    assert other["data"]["hmac_sha256"] != document["data"]["hmac_sha256"]
    foreign = CliRunner().invoke(app, ["verify", str(run), "--strict"])
    assert foreign.exit_code == 4
    assert re.search(r"recorded under another\s.*key", foreign.stdout, re.S)
