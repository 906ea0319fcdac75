"""Subjects made without a scan, and a model that was taught windows and then something else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from conftest import GPT2_LIKE, VOCABULARY, build_tokenizer
from numpy.typing import NDArray

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.scores import read_plain
from memaudit.diagnose.passes import Passes
from memaudit.diagnose.subject import Part, Subject
from memaudit.run.load import StoredRun
from memaudit.target.checkpoint import Checkpoint

P, S = 8, 6
Ids = NDArray[np.int32]


def random_ids(count: int, seed: int, tokens: int = P + S) -> Ids:
    return np.random.default_rng(seed).integers(3, VOCABULARY, (count, tokens)).astype(np.int32)


def checkpoint_of(model: Any, *, bos_id: int | None = None, name: str = "tiny") -> Checkpoint:
    model.eval().requires_grad_(False)
    embedding = model.get_input_embeddings().weight
    tokenizer = build_tokenizer()
    return Checkpoint(model, tokenizer, name, embedding.device, embedding.dtype, bos_id)


def part_of(
    checkpoint: Checkpoint,
    ids: Ids,
    found_by: NDArray[np.bool_] | None = None,
    clusters: NDArray[np.int64] | None = None,
    first_cluster: int = 0,
) -> Part:
    """A part as a scan would have scored it by ``none``, and by a second attack that found those.

    clusters: (N,); one for each window, from ``first_cluster`` on, where not given.
    """
    found = Passes(checkpoint, P, 16).read(ids, read_plain)
    exact = (found["matched"] == S).astype(float)
    rows = {
        "cluster": first_cluster + np.arange(len(ids)) if clusters is None else clusters,
        "exact_none": exact,
        "fractional_none": found["matched"] / S,
        "matched_none": found["matched"].astype(float),
        "longest_run_none": found["matched"].astype(float),
        "suffix_nll_none": found["nll"],
        "log_p_z_none": np.where(found["nll"] > 3, -np.inf, -found["nll"] * S),
    }
    if found_by is not None:
        rows["exact_constant"] = found_by.astype(float)
    return Part(ids, pd.DataFrame(rows), ("none", *(["constant"] if found_by is not None else [])))


def subject_of(checkpoint: Checkpoint, data: Part, controls: Part | None) -> Subject:
    config = ScanConfig.model_validate(
        {
            "model": checkpoint.name,
            "data": "data.jsonl",
            "windows": {"prefix_tokens": P, "suffix_tokens": S},
            "scores": {"bootstrap": 200},
        }
    )
    report: Any = SimpleNamespace(reference=None)
    run = StoredRun(Path("run"), report, data.rows, data.rows)
    return Subject(run, config, checkpoint, data, controls, 16, Disclosure(reveal=True))


@dataclass(frozen=True, eq=False)
class Taught:
    """A model that was taught ``lessons`` until it said them all, and then other windows."""

    checkpoint: Checkpoint
    lessons: Ids
    """Some of which it still says."""
    fresh: Ids
    """Like them, and never seen."""
    controls: Ids


def teach() -> Taught:
    """Seconds on one core."""
    settings = GPT2_LIKE | {"n_embd": 64, "initializer_range": 0.05, "attn_pdrop": 0.0}
    settings |= {"embd_pdrop": 0.0, "resid_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
        lessons = random_ids(60, seed=1)
        train(model, lessons, 80)
        taught = checkpoint_of(model)
        assert part_of(taught, lessons).extracted.all()
        model.requires_grad_(True)
        train(model, random_ids(60, seed=2), 3)
    return Taught(checkpoint_of(model), lessons, random_ids(60, seed=3), random_ids(60, seed=4))


def train(model: Any, windows: Ids, steps: int) -> None:
    ids = torch.as_tensor(windows, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
