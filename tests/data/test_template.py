"""Records that share only their template are no near-duplicates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_model
from known_answers import random_llama, text_of, word_tokenizer, write_jsonl
from made_windows import chain, windows_of
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.data.clusters import find_clusters
from memaudit.data.template import find_template

RUN = 20


def own_text(count: int = 60, tokens: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 1000, (count, tokens))


def clusters_of(ids: np.ndarray, prefix: int = 40, sample: np.ndarray | None = None) -> list[int]:
    windows = windows_of(ids, prefix)
    if sample is not None:
        windows = replace(windows, sample=sample)
    return find_clusters([windows], RUN, find_template([windows], RUN)).tolist()


def apart(count: int) -> list[int]:
    return list(range(count))


def test_a_preamble_joins_nobody() -> None:
    ids = own_text()
    ids[:, :25] = np.arange(25)
    template = find_template([windows_of(ids, 40)], RUN)
    np.testing.assert_array_equal(
        template.mask(ids, np.zeros(0, np.float32)), np.tile(np.arange(60) < 25, (60, 1))
    )
    assert find_clusters([windows_of(ids, 40)], RUN).tolist() == [0] * 60
    assert clusters_of(ids) == apart(60)


def test_a_preamble_that_moves_and_that_some_records_lack() -> None:
    ids = own_text()
    for row in range(20):
        ids[row, row % 5 : row % 5 + 25] = np.arange(25)
    assert clusters_of(ids) == apart(60)


def test_a_footer_joins_nobody_in_any_window() -> None:
    ids = own_text(count=120)
    ids[::2, 35:] = np.arange(25)
    ids[1::2, :58] = np.r_[np.arange(25), np.arange(25), np.arange(8)]  # all but its end
    assert clusters_of(ids, 30, np.repeat(np.arange(60), 2)) == np.repeat(apart(60), 2).tolist()


def test_two_system_messages_and_a_footer() -> None:
    ids = own_text(tokens=100)
    ids[:30, :22], ids[30:, :22] = np.arange(22), np.arange(30, 52)
    ids[:, 75:] = np.arange(60, 85)
    assert clusters_of(ids, 50) == apart(60)


def test_a_greeting_that_fills_the_suffix() -> None:
    ids = own_text(tokens=50)
    ids[:, 40:] = np.arange(10)
    assert find_clusters([windows_of(ids, 40)], RUN).tolist() == [0] * 60
    assert clusters_of(ids) == apart(60)


def test_template_of_the_controls_too() -> None:
    ids = own_text(count=40)
    ids[:, :25] = np.arange(25)
    parts = [windows_of(ids[:5], 40), windows_of(ids[5:], 40)]
    assert find_clusters(parts, RUN, find_template(parts, RUN)).tolist() == apart(40)


def test_near_duplicates_with_the_same_template_are_still_joined() -> None:
    ids = own_text()
    ids[:, :25] = np.arange(25)
    ids[7, 30:] = ids[3, 30:]
    joined = apart(60)
    joined[7] = 3
    joined[8:] = range(7, 59)
    assert clusters_of(ids) == joined


def test_copies_with_other_heads_are_one_cluster() -> None:
    ids = own_text()
    ids[:5, 20:] = ids[0, 20:]
    assert clusters_of(ids) == [0] * 5 + list(range(1, 56))


def test_versions_of_a_document_are_one_cluster_however_many() -> None:
    ids = own_text(count=100, tokens=100)
    ids[:12] = ids[0]
    ids[:12, 10:22] = np.arange(12 * 12).reshape(12, 12)
    clusters = clusters_of(ids, prefix=50)
    assert clusters[:12] == [0] * 12
    assert len(set(clusters)) == 89


def test_windows_with_little_beside_the_template_are_copies() -> None:
    ids = own_text(tokens=30)
    ids[:, :25] = np.arange(25)
    assert clusters_of(ids, prefix=20) == [0] * 60


@pytest.mark.parametrize("same", [60, 45])
def test_equal_records_make_no_template(same: int) -> None:
    ids = own_text()
    ids[:, :same] = ids[0, :same]
    ids[:, same:] = ids[0, same:] + (np.arange(60) % 2)[:, None] * (same < 60)
    assert not len(find_template([windows_of(ids, 40)], RUN).hashes)
    assert clusters_of(ids) == [0] * 60


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


@pytest.mark.parametrize(
    ("form", "prefix", "options"),
    [
        ("preamble", 26, []),
        ("footer", 26, ["--placement", "end"]),
        ("prefix", 42, []),
        ("chat", 26, []),
    ],
)
def test_a_template_is_named_and_the_folds_are_made(
    model: Path, tokenizer: Any, tmp_path: Path, form: str, prefix: int, options: list[str]
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", records(form, tokenizer))
    code, shown = inspected(model, data, prefix, *options)
    assert code == 0, shown
    assert "80 of 80 samples hold template" in shown


def test_true_near_duplicates_still_make_no_folds(
    model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (row,) = records("preamble", tokenizer, 1)
    code, shown = inspected(model, write_jsonl(tmp_path / "data.jsonl", [row] * 40), 26)
    assert (code, "the data has 1 cluster of near-duplicates" in shown) == (0, True)


def test_a_template_that_a_window_cuts_joins_nobody() -> None:
    """Two records share a name of 7 tokens between 8 and 12 tokens of template."""
    own = own_text(tokens=39)
    own[1, :7] = own[0, :7]
    rows = [[*range(8), *row[:7], *range(10, 22), *row[7:]] for row in own.tolist()]
    windows = chain(rows, 4, 16, 15)  # the first ends after 5 tokens of the second template
    clusters = find_clusters([windows], RUN, find_template([windows], RUN))
    assert clusters.tolist() == np.repeat(apart(60), 3).tolist()


def test_a_long_template_before_short_answers_joins_nobody() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [np.tile(np.arange(40), (60, 1)), rng.integers(100, 5000, (60, 11)), np.full((60, 9), 50)],
        axis=1,
    )
    windows = windows_of(rows, 40)
    clusters = find_clusters([windows], 20, find_template([windows], 20))
    assert clusters.tolist() == list(range(60))
