"""A model whose files change during the attacks gives no result, and the run stays unfinished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from known_answers import write_jsonl
from typer.testing import CliRunner

from memaudit.attack.campaign import Campaign
from memaudit.cli.app import app


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_model_that_changes_during_the_attacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    model = save_model(build_model("llama"), build_tokenizer(), tmp_path / "m")
    lines = [{"text": f"Record {number} is about a kettle and a lamp." * 2} for number in range(30)]
    data = write_jsonl(tmp_path / "data.jsonl", lines)
    words = ["scan", str(model), str(data), "--out", str(tmp_path / "out"), "--attacks", "none"]
    words += ["--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu", "--exit-zero"]
    attack = Campaign.run

    def and_change(*args: Any) -> Any:
        outcome = attack(*args)
        content = (model / file).read_bytes()
        (model / file).write_bytes(content[:-1] + b" ")
        return outcome

    monkeypatch.setattr(Campaign, "run", and_change)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3
    assert f"{file} changed while it was in use" in done.stderr
    assert "Finished work is kept" in done.stderr
    assert not (tmp_path / "out" / "report.json").exists()
