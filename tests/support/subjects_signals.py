"""Subjects without a scan, and a model of which every probability is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from conftest import VOCABULARY, build_tokenizer
from numpy.typing import NDArray
from torch import Tensor, nn

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.subject import Part, Subject
from memaudit.score.stats import Bools, Ints
from memaudit.target.checkpoint import Checkpoint

P, S = 8, 6
SHARP = 12.0
"""Logit of what the built model knows, where all others are 0."""


class Knowing(nn.Module):
    """Knows some windows by heart, once it has read so many tokens of one, and nothing else."""

    def __init__(self, known: NDArray[np.int32], since: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, VOCABULARY)
        self.head = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        with torch.no_grad():
            self.embedding.weight.copy_(torch.eye(VOCABULARY))
            self.head.weight.copy_(SHARP * torch.eye(VOCABULARY))
        self.known, self.since = torch.as_tensor(known, dtype=torch.long), since
        self.seen: set[int] = set()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, inputs_embeds: Tensor, use_cache: bool = False) -> Any:
        ids = inputs_embeds.argmax(dim=-1)  # (B,T)
        self.seen |= set(ids.unique().tolist())
        hidden = torch.zeros_like(inputs_embeds)
        for place in range(self.since - 1, ids.shape[1]):
            read = place + 1
            same = (ids[:, None, :read] == self.known[None, :, :read]).all(dim=2)  # (B,K)
            rows, which = same.nonzero(as_tuple=True)
            hidden[rows, place, self.known[which, read]] = 1.0
        return type("Output", (), {"logits": self.head(hidden)})()


def checkpoint_of(model: Any, bos: bool = False) -> Checkpoint:
    return Checkpoint(
        model.eval(),
        build_tokenizer(),
        "tiny",
        torch.device("cpu"),
        torch.float32,
        bos_id=0 if bos else None,
    )


def random_ids(count: int, seed: int = 0, tokens: tuple[int, int] = (3, 100)) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(*tokens, (count, P + S)).astype(np.int32)


def part_of(
    ids: NDArray[np.int32],
    extracted: Bools,
    hidden: Bools | None = None,
    clusters: Ints | None = None,
) -> Part:
    count = len(ids)
    hidden = np.zeros(count, dtype=bool) if hidden is None else hidden
    rows = pd.DataFrame(
        {
            "cluster": np.arange(count) if clusters is None else clusters,
            "exact_none": extracted.astype(int),
            "exact_constant": (extracted | hidden).astype(int),
            "fractional_none": np.where(extracted, 1.0, 0.1),
            "matched_none": np.where(extracted, ids.shape[1] - P, 0),
        }
    )
    return Part(ids, rows, ("none", "constant"))


def subject_of(checkpoint: Checkpoint, data: Part, controls: Part | None = None) -> Subject:
    config = ScanConfig.model_validate(
        {
            "model": "tiny",
            "data": "data.jsonl",
            "windows": {"prefix_tokens": P, "suffix_tokens": data.ids.shape[1] - P},
            "protocol": {"cluster_run": 5},
            "scores": {"bootstrap": 100},
        }
    )
    return Subject(cast(Any, None), config, checkpoint, data, controls, 16, Disclosure(reveal=True))


RUN = Path("run")
