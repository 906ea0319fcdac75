"""inspect(config) -> Inspection: load, check and plan, but change nothing.

Knows the same rooms as the scan, and a rough model of what the scan will cost. Trains and
writes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt
from memaudit.config import AttackName, ScanConfig, TuningSettings
from memaudit.plan import Plan, check_files, cut_files, fold_sizes, make_plan
from memaudit.readiness import describe_target, load_target, make_extractor
from memaudit.result import FoldSizes, TargetFacts
from memaudit.target.checkpoint import load_tokenizer
from memaudit.target.softprompt_check import check_soft_prompts


@dataclass(frozen=True)
class FileFacts:
    """What became of one file."""

    path: str
    rows: int
    windows: int
    skipped: Mapping[str, int]
    """Reason to count."""
    clusters: int
    largest_cluster: int


@dataclass(frozen=True)
class Estimate:
    """What the scan should take."""

    windows_per_second: float
    """Of one verification pass, measured just now."""
    extraction_seconds: float
    tuning_seconds: float
    memory_bytes: int
    """Weights, ids and the logits of one pass; what the libraries take comes on top."""


@dataclass(frozen=True)
class Inspection:
    """A target that passed its checks, and the plan for a file if one was given."""

    target: TargetFacts
    max_tokens: int | None
    width: int
    vocabulary: int
    batch_size: int
    batch_size_reason: str
    files: Mapping[str, FileFacts]
    """By role; empty without a data file."""
    folds: tuple[FoldSizes, ...]
    notes: tuple[str, ...]
    estimate: Estimate | None
    """None without a data file."""


def inspect(config: ScanConfig, *, with_data: bool) -> Inspection:
    """Load and check the model, and plan for the data if ``with_data``.

    Raises what a scan of the same settings would raise before its first attack.
    """
    summaries = check_files(config) if with_data else {}
    tokenizer = load_tokenizer(config.model, config.target)
    windows = cut_files(config, tokenizer) if with_data else {}
    checkpoint = load_target(config, tokenizer, windows)
    check_soft_prompts(checkpoint)
    plan = make_plan(config, summaries, windows) if with_data else None
    extractor, reason = make_extractor(config, checkpoint)
    return Inspection(
        target=describe_target(checkpoint),
        max_tokens=checkpoint.max_tokens,
        width=checkpoint.width,
        vocabulary=checkpoint.vocabulary,
        batch_size=extractor.batch_size,
        batch_size_reason=reason,
        files=_files(plan) if plan else {},
        folds=fold_sizes(plan) if plan else (),
        notes=plan.notes if plan else (),
        estimate=estimate(config, plan, extractor) if plan else None,
    )


def _files(plan: Plan) -> dict[str, FileFacts]:
    facts = {}
    for role, corpus in (("data", plan.data), ("control", plan.controls)):
        if corpus is not None:
            sizes = np.unique(corpus.clusters, return_counts=True)[1]
            facts[role] = FileFacts(
                path=str(corpus.summary.path),
                rows=corpus.summary.rows,
                windows=len(corpus.windows),
                skipped=Counter(skip.reason for skip in corpus.windows.skipped),
                clusters=len(sizes),
                largest_cluster=int(sizes.max()),
            )
    return facts


def estimate(config: ScanConfig, plan: Plan, extractor: Extractor) -> Estimate:
    """Time and memory of the scan, from one verification pass timed on the file's own windows.

    A soft prompt lengthens every pass by V of P+S tokens; decoding what does not come out costs
    about as much as verifying it again; a tuning step is a pass and its way back through the
    target, about as much once more, and half of that again for the prompt itself.
    """
    ids = plan.data.windows.window_ids()
    rate = _measured_rate(extractor, ids)
    total = len(plan.data.windows) + (len(plan.controls.windows) if plan.controls else 0)
    length = config.windows.length
    extraction = tuning = 0.0
    for attack in set(config.attacks) - {"copy"}:
        virtual = 0 if attack == "none" else _settings(config, attack).num_virtual_tokens
        extraction += 2 * (length + virtual) / length * total / rate
    for attack in fitted_attacks(config):
        settings = _settings(config, attack)
        factor = (length + settings.num_virtual_tokens) / length
        for fold in plan.folds:
            fit = max(1, round(settings.fit_share * len(fold.fit)))
            passes = settings.epochs_for(fit)
            tuning += passes * factor * (2.5 * fit + len(fold.select)) / rate
    return Estimate(rate, extraction, tuning, _memory(extractor, ids))


def fitted_attacks(config: ScanConfig) -> set[AttackName]:
    """Attacks whose prompts are fitted, also where only another one starts from them."""
    fitted = set(config.attacks) & {"constant", "dynamic"}
    if "dynamic" in fitted and config.dynamic.starts_from_constant:
        fitted.add("constant")
    return fitted


def _settings(config: ScanConfig, attack: AttackName) -> TuningSettings:
    return config.constant if attack == "constant" else config.dynamic


def _measured_rate(extractor: Extractor, ids: NDArray[np.int32]) -> float:
    sample = ids[: 2 * extractor.batch_size]
    extractor.verify(NoPrompt(), sample[: extractor.batch_size])  # the first pass warms up
    begun = time.perf_counter()
    extractor.verify(NoPrompt(), sample)
    return len(sample) / (time.perf_counter() - begun)


def _memory(extractor: Extractor, ids: NDArray[np.int32]) -> int:
    checkpoint = extractor.checkpoint
    weights = sum(p.numel() * p.element_size() for p in checkpoint.model.parameters())
    suffix = ids.shape[1] - extractor.prefix_tokens
    logits = 3 * 4 * extractor.batch_size * suffix * checkpoint.vocabulary
    return int(weights + ids.nbytes + logits)
