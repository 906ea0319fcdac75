"""Text files of a checkpoint that would hang or kill the process: refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from memaudit.config.settings import ScanConfig, TargetSettings
from memaudit.config.sources import Layer, resolve
from memaudit.data.plan import cut_files
from memaudit.errors import TargetError
from memaudit.system.limits import can_limit
from memaudit.target.checkpoint import load_tokenizer

pytestmark = pytest.mark.skipif(not can_limit(), reason="this system cannot fork safely")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memaudit.target.rehearsal.CPU_SECONDS", 3)
    monkeypatch.setattr("memaudit.data.plan.LEAST_CPU_SECONDS", 3)
    monkeypatch.setattr("memaudit.system.limits.MEMORY_SHARE", 1 / 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "model")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def config_for(folder: Path, *rows: dict[str, Any]) -> ScanConfig:
    data = folder.parent / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    window = {"prefix_tokens": 4, "suffix_tokens": 4}
    values = {"model": str(folder), "data": str(data), "windows": window}
    return resolve([Layer(source="flag", values=values)]).config


def load(folder: Path) -> Any:
    return load_tokenizer(str(folder), TargetSettings(device="cpu"))


def test_ten_million_layers(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=10**7)
    with pytest.raises(TargetError, match="building its model as its config and tokenizer files"):
        load(folder)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_pattern_that_takes_years(folder: Path, tmp_path: Path) -> None:
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, target_modules=["q_proj"])
    )
    adapted.save_pretrained(tmp_path / "adapter")
    change(
        tmp_path / "adapter" / "adapter_config.json",
        target_modules="(.*.*)*(.*.*)*(.*.*)*(.*.*)*x",
        base_model_name_or_path=str(folder),
    )
    with pytest.raises(TargetError, match="building its model"):
        load(tmp_path / "adapter")


def multiply_letters(folder: Path) -> None:
    """Let the tokenizer make 10**14 letters of each."""
    hundredfold = {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 100}
    steps = {"type": "Sequence", "normalizers": [hundredfold] * 7}
    change(folder / "tokenizer.json", normalizer=steps)


def test_a_normaliser_that_multiplies_what_is_tried_at_first(folder: Path) -> None:
    multiply_letters(folder)
    with pytest.raises(TargetError, match="loading its tokenizer"):
        load(folder)


def test_a_normaliser_that_multiplies_the_data_alone(folder: Path) -> None:
    multiply_letters(folder)
    hostile = AutoTokenizer.from_pretrained(folder)
    config = config_for(folder, {"text": "a banana and a date"})
    with pytest.raises(TargetError, match="given the data"):
        cut_files(config, hostile)


def test_a_template_that_loops(folder: Path) -> None:
    tokenizer = load(folder)
    tokenizer.chat_template = (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        "{{ messages[-1].content }}"
    )
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two three"}]
    with pytest.raises(TargetError, match=r"given the data, took more than \d+ s"):
        cut_files(config_for(folder, {"messages": turns}), tokenizer)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "mamba"])
def test_a_checkpoint_as_usual_is_loaded(architecture: str, tmp_path: Path) -> None:
    folder = save_model(build_model(architecture), build_tokenizer(), tmp_path / "model")
    assert load(folder)("a b")["input_ids"]


def test_a_folder_gets_time_for_all_its_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[int] = []
    monkeypatch.setattr(
        "memaudit.data.plan.run_limited", lambda _, seconds: allowed.append(seconds)
    )
    texts = tmp_path / "texts" / "inner"
    texts.mkdir(parents=True)
    for path in (texts / "a.txt", texts.parent / "b.txt"):
        path.write_text("a" * 10_000)
    config = config_for(folder, {"text": "a b"})
    cut_files(config, None)
    cut_files(config.model_copy(update={"data": texts.parent}), None)
    assert allowed == [3, 7]
