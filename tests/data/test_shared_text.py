"""What most windows share is told from near-duplicates, with numbers that tell them apart again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_model
from known_answers import random_llama, text_of, word_tokenizer, write_jsonl
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.data.clusters import find_clusters
from memaudit.data.shared_text import SharedText, find_shared_text
from memaudit.data.windows import Windows

RUN = 20


def windows_of(ids: np.ndarray, prefix: int) -> Windows:
    count = len(ids)
    return Windows(
        prefix_ids=ids[:, :prefix].astype(np.int32),
        suffix_ids=ids[:, prefix:].astype(np.int32),
        sample=np.arange(count),
        line=np.arange(1, count + 1),
        window=np.zeros(count, dtype=np.int64),
        sample_id=tuple(map(str, range(count))),
        group=(None,) * count,
        extra=({},) * count,
        skipped=(),
        boundary_shifts=0,
        columns=(),
        samples=count,
    )


def own_text(count: int = 60, tokens: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 1000, (count, tokens))


def shared_in(ids: np.ndarray, prefix: int = 40) -> SharedText | None:
    windows = windows_of(ids, prefix)
    found = find_shared_text([windows], find_clusters([windows], RUN), RUN)
    if found is not None:  # whatever it advises works
        clusters = find_clusters([windows], found.cluster_run or RUN)
        assert found.cluster_run is None or len(set(clusters)) >= 0.95 * len(ids)
        if found.prefix_tokens is not None:
            cut = windows_of(ids[:, prefix - found.prefix_tokens :], found.prefix_tokens)
            assert len(set(find_clusters([cut], RUN))) >= 0.95 * len(ids)
    return found


def test_a_preamble() -> None:
    ids = own_text()
    ids[:, :25] = np.arange(25)
    assert shared_in(ids) == SharedText(60, 25, 25, 26, 34)


def test_a_preamble_that_moves_and_that_some_records_lack() -> None:
    ids = own_text()
    for row in range(54):
        ids[row, row % 5 : row % 5 + 25] = np.arange(25)
    found = shared_in(ids)
    assert found is not None
    assert (found.windows, found.tokens, found.end) == (54, 25, 29)


def test_a_footer() -> None:
    ids = own_text()
    ids[:, 35:] = np.arange(25)
    found = shared_in(ids, prefix=30)
    assert found is not None
    assert (found.windows, found.tokens, found.prefix_tokens) == (60, 25, None)


def test_two_system_messages_and_a_footer() -> None:
    ids = own_text(tokens=100)
    ids[:30, :22], ids[30:, :22] = np.arange(22), np.arange(30, 52)
    ids[:, 75:] = np.arange(60, 85)
    found = shared_in(ids, prefix=50)
    assert found is not None
    assert (found.windows, found.tokens, found.cluster_run) == (60, 25, 26)


def test_a_run_that_fills_nearly_the_window() -> None:
    ids = own_text(tokens=30)
    ids[:, :29] = np.arange(29)
    assert shared_in(ids, prefix=20) is None


@pytest.mark.parametrize("same", [60, 45])
def test_true_near_duplicates(same: int) -> None:
    ids = own_text()
    ids[:, :same] = ids[0, :same]
    ids[:, same:] = ids[0, same:] + (np.arange(60) % 2)[:, None] * (same < 60)
    assert shared_in(ids) is None


def test_a_few_copies_of_one_record() -> None:
    ids = own_text()
    ids[:5] = ids[0]
    assert shared_in(ids) is None


# What a user is told, and that following it works.

TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer(chat_template=TEMPLATE, special=["system", "user", "assistant"])


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return save_model(random_llama(len(tokenizer)), tokenizer, folder)


LEAD = range(4, 26)
"""Ids of the shared text."""


def own(tokenizer: Any, words: int, rng: np.random.Generator) -> str:
    return text_of(tokenizer, rng.choice(range(26, 63), words).tolist())


def records(form: str, tokenizer: Any, count: int = 80) -> list[dict[str, Any]]:
    rng, lead = np.random.default_rng(1), text_of(tokenizer, LEAD)
    texts = [own(tokenizer, 40 if form == "footer" else 20, rng) for _ in range(count)]
    if form == "preamble":
        return [{"text": f"{lead} {text}"} for text in texts]
    if form == "footer":
        return [{"text": f"{text} {lead}"} for text in texts]
    if form == "prefix":
        return [
            {"prefix": f"{lead} {text}", "suffix": f" {own(tokenizer, 8, rng)}"} for text in texts
        ]
    turns = ("system", "user", "assistant")
    return [
        {
            "messages": [
                {"role": role, "content": content}
                for role, content in zip(turns, (lead, text[:11], text[11:]), strict=True)
            ]
        }
        for text in texts
    ]


def inspected(model: Path, data: Path, prefix: int, *options: str) -> tuple[int, str]:
    """The exit code of ``inspect``, and what it printed."""
    words = ["inspect", model, data, "--prefix-tokens", prefix, "--suffix-tokens", 8, *options]
    words += ["--attacks", "none,copy", "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, " ".join((done.stdout + done.stderr).split())


WAYS = r"use (--prefix-tokens \d+|--placement \w+|--set protocol\.cluster_run=\d+)"


@pytest.mark.parametrize(
    ("form", "prefix", "options", "flags"),
    [
        ("preamble", 26, [], ["--placement", "--set"]),
        ("footer", 26, ["--placement", "end"], ["--placement"]),
        ("prefix", 42, [], ["--prefix-tokens", "--set"]),
        ("chat", 26, [], ["--prefix-tokens", "--set"]),
    ],
)
def test_the_advice_is_given_and_works(
    model: Path,
    tokenizer: Any,
    tmp_path: Path,
    form: str,
    prefix: int,
    options: list[str],
    flags: list[str],
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", records(form, tokenizer))
    code, shown = inspected(model, data, prefix, *options)
    assert code == 2, shown
    assert re.search(r"80 of 80 windows share a run of \d+ tokens \(a system message", shown)
    assert "give more data" not in shown
    ways = [way.split() for way in re.findall(WAYS, shown)]
    assert [way[0] for way in ways] == flags
    for way in ways:
        code, done = inspected(model, data, prefix, *options, *way)
        assert code == 0, done


def test_true_near_duplicates_still_need_more_data(
    model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (row,) = records("preamble", tokenizer, 1)
    code, shown = inspected(model, write_jsonl(tmp_path / "data.jsonl", [row] * 40), 26)
    assert (code, "give more data" in shown) == (2, True)


def test_a_gate_names_the_remedy(model: Path, tokenizer: Any, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", records("preamble", tokenizer))
    words = ["scan", model, data, "--out", tmp_path / "run", "--prefix-tokens", 26]
    words += ["--suffix-tokens", 8, "--attacks", "none", "--max-exact", "0.1", "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    shown = " ".join(done.stdout.split())
    assert done.exit_code == 4
    assert "more independent samples" not in shown
    assert "above the 10 % allowed; 80 of 80 windows share a run of 22 tokens" in shown
