"""Scans by the pipeline itself, of random texts and with short fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CORPUS

from memaudit.config.sources import Layer, resolve
from memaudit.pipeline.scan import ScanOutcome, scan
from memaudit.progress import Silent
from memaudit.run.record import Display

SHORT = {"num_virtual_tokens": 3, "epochs": 1, "min_steps": 0, "batch_size": 8}


def write_samples(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": f"s{number}", "text": text}) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_texts(count: int, seed: int) -> list[str]:
    """Random words of the corpus: long enough for a window, no two of them near-duplicates."""
    rng = np.random.default_rng(seed)
    words = sorted(set(" ".join(CORPUS).split()))
    return [" ".join(rng.choice(words, 14)) for _ in range(count)]


def run(model: Path, data: Path, progress: Display | None = None, **values: Any) -> ScanOutcome:
    """Scan with short fits and windows. values: other settings, by section."""
    given: dict[str, Any] = {
        "model": str(model),
        "data": str(data),
        "windows": {"prefix_tokens": 8, "suffix_tokens": 6},
        "protocol": {"cluster_run": 8, "least_select": 1},
        "constant": SHORT,
        "dynamic": SHORT,
        "scores": {"bootstrap": 100},
    }
    resolved = resolve([Layer(source="flag", values=given | values)])
    return scan(resolved, "memaudit scan", progress or Silent())


def figures(outcome: ScanOutcome) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of the result by name."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for attack in outcome.result.attacks:
        for role, scores in (("data", attack.data), ("control", attack.controls)):
            if scores is not None:
                arrays |= {f"{attack.attack}.{role}.{n}": v for n, v in vars(scores).items()}
    return arrays


def assert_same_figures(first: ScanOutcome, second: ScanOutcome, *, close: bool = False) -> None:
    left, right = figures(first), figures(second)
    assert left.keys() == right.keys()
    for name, values in left.items():
        if close and values.dtype.kind == "f":
            np.testing.assert_allclose(values, right[name], rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(values, right[name], err_msg=name)
