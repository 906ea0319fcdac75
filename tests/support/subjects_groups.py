"""A run whose groups have as many windows as a test asks for, with every column of windows.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from conftest import VOCABULARY, build_model, build_tokenizer
from numpy.typing import NDArray

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.subject import Part, Subject
from memaudit.run.load import StoredRun
from memaudit.target.checkpoint import Checkpoint

P, S = 12, 12
GROUPS = ("extracted", "hidden", "untouched", "controls")


def sharp_model() -> Any:
    """A random model whose distributions differ from one context to another."""
    model = build_model("gpt2").requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(6.0)
    return model


def windows_of(count: int, seed: int) -> NDArray[np.int32]:
    """Random ids (count,P+S)."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, VOCABULARY - 4, (count, P + S)).astype(np.int32)


@torch.no_grad()
def recited(model: Any, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """The windows (N,P+S) with what greedy decoding adds to their prefixes for a suffix."""
    rows = torch.as_tensor(ids[:, :P], dtype=torch.long)
    for _ in range(S if len(rows) else 0):
        likeliest = model(rows).logits[:, -1].argmax(dim=-1, keepdim=True)
        rows = torch.cat([rows, likeliest], dim=1)
    return rows.numpy().astype(np.int32) if len(rows) else ids


def part_of(
    ids: NDArray[np.int32], extracted: NDArray[np.bool_], hidden: NDArray[np.bool_], first: int
) -> Part:
    """Windows (N,P+S), one in each cluster from ``first`` on."""
    count = len(ids)
    rng = np.random.default_rng(first)
    rows: dict[str, Any] = {
        "cluster": first + np.arange(count),
        "fold": np.arange(count) % 2,
        "line": np.arange(count) + 1,
        "window": 0,
        "dup": 1 + np.arange(count) % 3,
    }
    for attack, exact in (("none", extracted), ("constant", extracted | hidden)):
        matched = np.where(exact, S, rng.integers(0, S // 2, count))
        rows |= {
            f"exact_{attack}": exact.astype(float),
            f"fractional_{attack}": matched / S,
            f"matched_{attack}": matched.astype(float),
            f"longest_run_{attack}": matched.astype(float),
            f"suffix_nll_{attack}": np.round(rng.uniform(0.1, 5, count), 1),
            f"log_p_z_{attack}": np.round(rng.uniform(-50, -1, count)),
        }
    return Part(ids, pd.DataFrame(rows), ("none", "constant"))


def subject_of_groups(
    sizes: Mapping[str, int],
    *,
    reveal: bool = False,
    texts: Mapping[str, int] | None = None,
    clusters: Mapping[str, Sequence[int]] | None = None,
) -> Subject:
    """A run with so many windows of each of `GROUPS`; texts: the seed of a group's windows.

    Those that are extracted come out of the model too.
    """
    seeds = dict(zip(GROUPS, range(4), strict=True)) | dict(texts or {})
    ids = [windows_of(sizes.get(name, 0), seeds[name]) for name in GROUPS]
    model = sharp_model()
    ids[0] = recited(model, ids[0])
    kind = np.repeat(np.arange(3), [len(part) for part in ids[:3]])
    data = part_of(np.concatenate(ids[:3]), kind == 0, kind == 1, 0)
    for name, numbers in (clusters or {}).items():
        data.rows.loc[kind == GROUPS.index(name), "cluster"] = np.asarray(numbers)
    controls = None
    if len(ids[3]):
        never = np.zeros(len(ids[3]), dtype=bool)
        controls = part_of(ids[3], never, never, 10_000)
    config = ScanConfig.model_validate(
        {
            "model": "tiny",
            "data": "data.jsonl",
            "windows": {"prefix_tokens": P, "suffix_tokens": S},
            "protocol": {"cluster_run": 5},
            "scores": {"bootstrap": 100},
        }
    )
    checkpoint = Checkpoint(
        model, build_tokenizer(), "tiny", torch.device("cpu"), torch.float32, bos_id=None
    )
    report: Any = SimpleNamespace(
        attacks=[SimpleNamespace(attack=name) for name in ("none", "constant")],
        reference=None,
        hashes=SimpleNamespace(results="0" * 64),
        target=SimpleNamespace(name="tiny"),
    )
    run = StoredRun(Path("run"), report, data.rows, data.rows)
    return Subject(run, config, checkpoint, data, controls, 16, Disclosure(reveal=reveal))
