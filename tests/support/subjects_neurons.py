"""Runs made by hand, for tests of probes and units."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from conftest import build_tokenizer
from numpy.typing import NDArray

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.neurons.units import score_suffix
from memaudit.diagnose.passes import Passes
from memaudit.diagnose.subject import Part, Subject
from memaudit.target.checkpoint import Checkpoint

P, S = 6, 6


def checkpoint_of(model: Any, bos_id: int | None = None) -> Checkpoint:
    """A frozen target around a model."""
    model.eval().requires_grad_(False)
    weight = model.get_input_embeddings().weight
    return Checkpoint(model, build_tokenizer(), "tiny", weight.device, weight.dtype, bos_id)


def part_of(ids: NDArray[np.int32], extracted: Any, nll: Any = None, **more: Any) -> Part:
    """Windows (N,P+S) and whether ``none`` extracts each; more columns by name."""
    count = len(ids)
    columns = {
        "cluster": np.arange(count),
        "exact_none": np.asarray(extracted, dtype=np.int64),
        "suffix_nll_none": np.full(count, 1.0) if nll is None else nll,
    }
    attacks = ("none", "constant") if "exact_constant" in more else ("none",)
    return Part(ids.astype(np.int32), pd.DataFrame(columns | more), attacks)


def subject_of(checkpoint: Checkpoint, data: Part, controls: Part | None = None) -> Subject:
    """A run that found this."""
    config = ScanConfig.model_validate(
        {
            "model": "tiny",
            "data": "data.jsonl",
            "windows": {"prefix_tokens": P, "suffix_tokens": S},
            "scores": {"bootstrap": 100},
        }
    )
    run: Any = SimpleNamespace(folder=Path("run"))
    return Subject(run, config, checkpoint, data, controls, 8, disclosure=Disclosure(reveal=True))


def as_found(checkpoint: Checkpoint, ids: NDArray[np.int32], **more: Any) -> Part:
    """Windows with what the model says of them."""
    found = Passes(checkpoint, P, 8).read(ids.astype(np.int32), score_suffix)
    return part_of(ids, found["wrong"] == 0, found["nll"], **more)
