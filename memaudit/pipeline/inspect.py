"""inspect(config) -> Inspection: load, check and plan, but change nothing.

Knows the rooms of a scan and its cost estimate. Writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from memaudit.config.settings import ScanConfig
from memaudit.data.corpus import FoldSizes
from memaudit.data.plan import Plan, check_files, cut_files, fold_sizes, make_plan
from memaudit.gate.validity import find_faults
from memaudit.pipeline.estimate import CostEstimate, combine_sequential, estimate_cost
from memaudit.pipeline.loading import (
    choose_size,
    describe_target,
    fits_prompts,
    load_target,
    make_extractor,
)
from memaudit.pipeline.reference import (
    check_reference,
    load_reference,
    planned_windows,
    reference_config,
    release,
)
from memaudit.pipeline.validity import planned_validity, token_roles
from memaudit.pipeline.window_settings import (
    ResolvedWindows,
    benchmark_windows,
    resolve_windows,
)
from memaudit.report.result import TargetFacts
from memaudit.run.baselines import read_baseline
from memaudit.target.checkpoint import Checkpoint, load_tokenizer


@dataclass(frozen=True)
class FileFacts:
    """Counts of one file."""

    path: str
    rows: int
    windows: int
    shape: str
    """P+S and the placement."""
    audited: float
    """Share of the records' tokens that are in some suffix."""
    skipped: Mapping[str, int]
    """Skipped records by reason."""
    clusters: int
    largest_cluster: int


@dataclass(frozen=True)
class Inspection:
    """A target that passed its checks, and the plan for a file if given."""

    target: TargetFacts
    max_tokens: int | None
    width: int
    vocabulary: int
    batch_size: int
    batch_size_reason: str
    files: Mapping[str, FileFacts]
    """File facts by role; empty without a data file."""
    folds: tuple[FoldSizes, ...]
    notes: tuple[str, ...]
    estimate: CostEstimate | None
    """Cost for both models if there is a reference; None without a data file."""
    gradients: bool
    """True if gradients flow; False if no attack needs them, so they were not checked."""
    reference: TargetFacts | None = None
    """The model before fine-tuning, which passed the same checks; None if not given."""


def inspect(config: ScanConfig, *, with_data: bool) -> Inspection:
    """Load and check the model, and plan for the data if ``with_data``.

    Raises the errors that a scan with these settings would raise before its first attack.
    """
    summaries = check_files(config) if with_data else {}
    tokenizer = load_tokenizer(config.model, config.target)
    if with_data:
        before = config.gate.baseline
        baseline = None if before is None else read_baseline(before)
        resolved = resolve_windows(config, tokenizer, baseline)
    else:
        resolved = ResolvedWindows(benchmark_windows(config))
    config = resolved.config
    windows = cut_files(config, tokenizer) if with_data else {}
    if config.reference is not None:
        check_reference(config, tokenizer, windows)
    checkpoint = load_target(config, tokenizer, windows)
    plan = make_plan(config, summaries, windows) if with_data else None
    config = plan.runnable(config) if plan else config
    size, reason = choose_size(config, checkpoint)
    extractor = make_extractor(config, checkpoint, size)
    cost = estimate_cost(config, plan, extractor) if plan else None
    inspection = Inspection(
        target=describe_target(extractor),
        max_tokens=checkpoint.max_tokens,
        width=checkpoint.width,
        vocabulary=checkpoint.vocabulary,
        batch_size=extractor.batch_size,
        batch_size_reason=reason,
        files=_files(config, plan) if plan else {},
        folds=fold_sizes(plan) if plan else (),
        notes=(*resolved.notes, *plan.notes, *_faults(plan, checkpoint)) if plan else (),
        estimate=cost,
        gradients=fits_prompts(config),
    )
    if config.reference is None:
        return inspection
    return _with_reference(inspection, config, checkpoint, plan)


def _with_reference(
    inspection: Inspection, config: ScanConfig, target: Checkpoint, plan: Plan | None
) -> Inspection:
    """Release the target, load the reference, and add it and its cost to the inspection."""
    release(target)
    windows = planned_windows(plan) if plan else {}
    reference = load_reference(config, target.tokenizer, windows)
    settings, cost = reference_config(config), inspection.estimate
    extractor = make_extractor(settings, reference, choose_size(settings, reference)[0])
    if plan is not None and cost is not None:
        cost = combine_sequential(cost, estimate_cost(settings, plan, extractor))
    return replace(inspection, reference=describe_target(extractor), estimate=cost)


def _faults(plan: Plan, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield the faults known before the attacks that would make a scan meaningless or weaker."""
    roles = token_roles(checkpoint)
    for fault in find_faults(planned_validity(plan, roles, checkpoint.tokenizer)):
        voids = "A scan would be inconclusive. " if fault.voids else ""
        yield f"{voids}{fault.sentence}"


def _files(config: ScanConfig, plan: Plan) -> dict[str, FileFacts]:
    facts, settings = {}, config.windows
    shape = f"{settings.prefix_tokens}+{settings.suffix_tokens} tokens, {settings.placement}"
    for role, corpus in (("data", plan.data), ("control", plan.controls)):
        if corpus is not None:
            sizes = np.unique(corpus.clusters, return_counts=True)[1]
            facts[role] = FileFacts(
                path=str(corpus.summary.path),
                rows=corpus.summary.rows,
                windows=len(corpus.windows),
                shape=shape,
                audited=corpus.windows.audited_share,
                skipped=Counter(skip.reason for skip in corpus.windows.skipped),
                clusters=len(sizes),
                largest_cluster=int(sizes.max()),
            )
    return facts
