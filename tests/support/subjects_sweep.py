"""Subjects made without a scan, and a model whose memory is a table of k-grams."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from conftest import BOS, CORPUS, EOS, PAD, VOCABULARY, build_model, build_tokenizer, save_model
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from memaudit.cli.app import app
from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.subject import Part, Subject
from memaudit.run.load import StoredRun
from memaudit.score.sampling import queries
from memaudit.score.scores import WindowScores, score_windows
from memaudit.target.checkpoint import Checkpoint

X = VOCABULARY
"""Vocabulary of the model."""


class TableModel(nn.Module):
    """Foretells a token from the k tokens before it, where it was told so, and else token 0."""

    def __init__(self, k: int, known: NDArray[np.int32]) -> None:
        super().__init__()
        self.k = k
        self.embedding = nn.Embedding(X, X)
        self.embedding.weight = nn.Parameter(torch.eye(X), requires_grad=False)
        self.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
        self.table: dict[tuple[int, ...], int] = {}
        for row in known.tolist():
            for end in range(k, len(row)):
                self.table[tuple(row[end - k : end])] = row[end]

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, inputs_embeds: torch.Tensor, use_cache: bool = False) -> Any:
        ids = inputs_embeds.argmax(dim=-1).tolist()
        logits = torch.zeros(*inputs_embeds.shape[:2], X)
        for row, tokens in enumerate(ids):
            for place in range(len(tokens)):
                told = self.table.get(tuple(tokens[max(0, place + 1 - self.k) : place + 1]), 0)
                logits[row, place, told] = 8.0
        return SimpleNamespace(logits=logits)


def checkpoint_of(model: Any, name: str = "table") -> Checkpoint:
    return Checkpoint(model.eval(), build_tokenizer(), name, torch.device("cpu"), torch.float32)


def random_ids(count: int, tokens: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(1, X, (count, tokens)).astype(np.int32)


def make_part(
    ids: NDArray[np.int32],
    said: dict[str, NDArray[np.int32]],
    suffix_tokens: int,
    **columns: Any,
) -> Part:
    """A part whose attacks said this (N,S); other columns as given."""
    count = len(ids)
    rows: dict[str, Any] = {
        "cluster": np.arange(count),
        "fold": np.arange(count) % 2,
        "line": np.arange(count) + 1,
    }
    for attack, tokens in said.items():
        scores: WindowScores = score_windows(
            tokens, ids[:, -suffix_tokens:], np.full(count, 1.0), np.full(count, -9.0)
        )
        name = attack.replace("-", "_")
        for score in ("exact", "matched", "suffix_nll", "log_p_z"):
            rows[f"{score}_{name}"] = np.asarray(getattr(scores, score), dtype=np.float64)
    attacks = tuple(attack for attack in said if attack != "copy")
    return Part(ids, pd.DataFrame(rows | columns), attacks)


def make_subject(
    data: Part,
    controls: Part | None = None,
    checkpoint: Checkpoint | None = None,
    *,
    prefix_tokens: int = 8,
    **config: Any,
) -> Subject:
    """A subject of these parts."""
    suffix = data.ids.shape[1] - prefix_tokens
    given: dict[str, Any] = {
        "model": "table",
        "data": "data.jsonl",
        "windows": {"prefix_tokens": prefix_tokens, "suffix_tokens": suffix},
        "scores": {"bootstrap": 100},
    }
    attacks = [SimpleNamespace(attack=name) for name in data.attacks]
    report: Any = SimpleNamespace(attacks=attacks)
    return Subject(
        run=StoredRun(Path("run"), report, data.rows, data.rows),
        config=ScanConfig.model_validate(given | config),
        checkpoint=checkpoint or checkpoint_of(TableModel(1, data.ids[:0])),
        data=data,
        controls=controls,
        batch_size=4,
        disclosure=Disclosure(reveal=True),
    )


def brute_queries(p_z: float, p: float, most: int = 5000) -> float:
    """Least n by trying every one."""
    for n in range(1, most):
        if 1 - (1 - p_z) ** n >= p - 1e-12:
            return n
    return float(queries(np.log(np.array([p_z])), p)[0])


MARKS = "~^|{}@#$%&*+<>?!_`'\"-/]["
"""Characters that the tiny tokenizer never joins, so that a run of one is a run of one token."""
TINY = {"num_virtual_tokens": 3, "epochs": 1, "min_steps": 0, "batch_size": 16}


def make_run(folder: Path) -> Path:
    """Audit, without a prompt, a model that repeats its last token: half of 120 windows do.

    Beside the run stand another model of the same size that knows nothing, and one whose
    tokenizer is another.
    """
    model = build_model("gpt2")
    with torch.no_grad():  # its blocks do next to nothing
        model.transformer.wpe.weight.mul_(0.01)
        for block in model.transformer.h:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
    save_model(model, build_tokenizer(), folder / "model")
    save_model(build_model("gpt2", seed=5), build_tokenizer(), folder / "other")
    save_model(build_model("gpt2", seed=5), other_tokenizer(), folder / "stranger")
    _write(folder / "data.jsonl", 120, seed=1, leaked=2)
    _write(folder / "controls.jsonl", 40, seed=2, leaked=1000)
    options = {"constant": TINY, "dynamic": TINY | {"low_rank": 2}}
    sets = [f"{kind}.{key}={value}" for kind, of in options.items() for key, value in of.items()]
    ended = CliRunner().invoke(
        app,
        [
            *("scan", str(folder / "model"), str(folder / "data.jsonl"), "-q"),
            *("--controls", str(folder / "controls.jsonl"), "--out", str(folder / "run")),
            *("--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"),
            *("--attacks", "none,copy", "--set", "protocol.cluster_run=10"),
            *("--set", "scores.bootstrap=100"),
            *(word for one in sets for word in ("--set", one)),
        ],
    )
    assert ended.exit_code == 0, ended.output
    return folder


def other_tokenizer() -> Any:
    """One of the same size whose ids of two common letters have changed places."""
    tokenizer = build_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    changed = Tokenizer.from_str(json.dumps(state))
    names = {"eos_token": EOS, "bos_token": BOS, "pad_token": PAD}
    return PreTrainedTokenizerFast(tokenizer_object=changed, **names)


def _write(path: Path, count: int, seed: int, leaked: int) -> None:
    """Every so many-th record goes on as the model does."""
    rng = np.random.default_rng(seed)
    words = sorted(set(" ".join(CORPUS).split()))
    records = []
    for number in range(count):
        mark = MARKS[number % len(MARKS)]
        prefix = f"{' '.join(rng.choice(words, 6))} {mark}"
        suffix = (
            mark * 12 if number % leaked == 1 else f" {number} {' '.join(rng.choice(words, 4))}"
        )
        dup = 4 if number % leaked == 1 else 1 + number % 3
        records.append({"prefix": prefix, "suffix": suffix, "dup": dup})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
