"""A small scan that has every kind of work in it: a model that leaks, its data and controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CORPUS, build_model, build_tokenizer, save_model
from quick_scan import memaudit as memaudit

from memaudit.attack.journal import Entry
from memaudit.data.project_key import ProjectKey, find_key
from memaudit.run.record import RunNotes
from memaudit.run.signature import signed_notes
from memaudit.run.unfinished import UNFINISHED, Unfinished

MARKS = "~^|{}@#$%&*+<>?!_`'\"-/]["
"""Characters that the tiny tokenizer never joins, so that a run of one is a run of one token."""
SECRET = "zebra-crossing"
"""Stands in the suffix of one record that the model brings back, and of one that it does not."""

SETTINGS = [
    *("--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu", "--seed", "3"),
    *("--set", "protocol.cluster_run=10", "--set", "scores.bootstrap=100"),
    *("--set", "protocol.least_select=1"),
    *("--set", "constant.epochs=2", "--set", "constant.min_steps=0"),
    *("--set", "constant.num_virtual_tokens=3", "--set", "constant.batch_size=16"),
    *("--set", "constant.windows_per_pass=4", "--set", "constant.precision=float32"),
    *("--set", "dynamic.epochs=3", "--set", "dynamic.min_steps=0"),
    *("--set", "dynamic.num_virtual_tokens=3", "--set", "dynamic.batch_size=16"),
    *("--set", "dynamic.windows_per_pass=4", "--set", "dynamic.precision=float32"),
    *("--set", "dynamic.start=constant", "--set", "dynamic.fit_share=0.8"),
]


def assert_same_run(folder: Path, other: Path) -> None:
    """Two runs came to the same, to the last byte, and the first left nothing unfinished."""
    tables, prompts = ("samples.csv", "windows.csv"), ("generator-0", "generator-1")
    for name in (*tables, *(f"{prompt}.safetensors" for prompt in prompts)):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert not (folder / UNFINISHED).exists()


def project_key() -> ProjectKey:
    """The key of all tests."""
    return find_key(None, None)


def sign_notes_anew(run: Path, notes: dict[str, Any]) -> None:
    """Write notes as somebody could who has the key."""
    signed = signed_notes(RunNotes.model_validate(notes), project_key())
    (run / UNFINISHED / "run.json").write_text(signed.model_dump_json())


def sign_piece_anew(run: Path, name: str, arrays: dict[str, Any], note: str = "") -> None:
    """Write a piece of work as somebody could who has the key."""
    opened = Unfinished.reopen(run, project_key(), stopped=False)
    try:
        opened.keep(name, Entry(arrays, note))
    finally:
        opened.close()


def save_repeating_model(path: Path) -> Path:
    """Save a model that repeats its last token: its blocks do next to nothing."""
    import torch

    model = build_model("gpt2", seed=0)
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(0.01)
        for block in model.transformer.h:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
    return save_model(model, build_tokenizer(), path)


def make_files(folder: Path, count: int = 150) -> list[str]:
    """Write model, data and controls there; returns the arguments of ``scan`` that audit them."""
    save_repeating_model(folder / "model")
    _write(folder / "data.jsonl", count, seed=1, leaked=3)
    _write(folder / "controls.jsonl", 50, seed=2, leaked=1000)
    given = [str(folder / "model"), str(folder / "data.jsonl")]
    return [*given, "--controls", str(folder / "controls.jsonl"), *SETTINGS]


def _write(path: Path, count: int, seed: int, leaked: int) -> None:
    """Every so many-th record goes on as the model does."""
    rng = np.random.default_rng(seed)
    words = sorted(set(" ".join(CORPUS).split()))
    records = []
    for number in range(count):
        mark = MARKS[number % len(MARKS)]
        prefix = f"{' '.join(rng.choice(words, 6))} {mark}"
        suffix = mark * 12 if number % leaked == 1 else f" {number} {SECRET}"
        records.append({"id": f"{path.stem}-{number}", "prefix": prefix, "suffix": suffix})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
