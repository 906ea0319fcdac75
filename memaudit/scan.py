"""scan(resolved, command, progress) -> ScanOutcome: the audit, readable as a sentence.

Knows the order of the stages and what each hands to the next. Prints nothing, writes nothing,
and decides nothing that a room could decide.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np

from memaudit import __version__
from memaudit.assessment import (
    find_sensitive,
    fold_fits,
    judge_all,
    new_windows,
    reveal,
    score_all,
)
from memaudit.attack.campaign import AttackOutcome, Campaign, Progress, Side
from memaudit.attack.extraction import Advance, Extractor
from memaudit.attack.prompt_files import FoldPrompts, hash_earlier, hash_new
from memaudit.baseline_file import scan_baseline
from memaudit.config import LADDER, AttackName, ScanConfig
from memaudit.data.clusters import seen_marks
from memaudit.data.fingerprints import digest_of, fingerprint_windows
from memaudit.data.samples import DataSummary
from memaudit.environment import describe_libraries, describe_machine
from memaudit.gate.baseline import Baseline, require_same_windows
from memaudit.layers import ResolvedConfig
from memaudit.plan import Plan, Role, SeenRuns, check_files, cut_files, fold_sizes, make_plan
from memaudit.project_key import ProjectKey, throwaway_key
from memaudit.readiness import (
    describe_target,
    load_earlier,
    load_entities,
    load_target,
    make_extractor,
    reuse_notes,
)
from memaudit.reference import (
    PREFIX,
    ReferenceRun,
    check_reference,
    leaked_rate,
    load_reference,
    pair_with_reference,
    planned_windows,
    reference_config,
    reference_notes,
    release,
)
from memaudit.result import (
    Corpus,
    RunFacts,
    ScanResult,
)
from memaudit.target.checkpoint import Checkpoint, load_tokenizer
from memaudit.target.numerics import describe_accelerator, describe_determinism


class ScanOutcome(NamedTuple):
    """The figures, and the prompts to keep."""

    result: ScanResult
    prompts: tuple[FoldPrompts, ...]
    """One per fold; empty where nothing was fitted."""


def scan(
    resolved: ResolvedConfig, command: str, progress: Progress, key: ProjectKey | None = None
) -> ScanOutcome:
    """Audit one model on one file, beside controls where given.

    Without a project's key fingerprints are made under one that is thrown away. Raises the errors
    of the rooms it passes through; files are checked before weights are loaded.
    """
    config, key = resolved.config, key or throwaway_key()
    clock = _Clock(progress)
    with clock.stage("reading files", 1):
        summaries = check_files(config)
        baseline = _baseline(config, summaries, key)
        tokenizer = load_tokenizer(config.model, config.target)
        windows = cut_files(config, tokenizer)
    if config.reference is not None:
        with clock.stage("checking the reference", 1):
            check_reference(config, tokenizer, windows)
    with clock.stage("loading the model", 1):
        checkpoint = load_target(config, tokenizer, windows)
        earlier = load_earlier(config, checkpoint)
        entities = load_entities(config, checkpoint)
    with clock.stage("clustering near-duplicates", 1):
        plan = make_plan(config, summaries, windows, [_seen(fold) for fold in earlier])
        fingerprints = _fingerprints(plan, key)
    if baseline is not None:
        _require_same(baseline, fingerprints["data"], checkpoint.choices["bos"].value, config)
    with clock.stage("looking for sensitive content", 1):  # may fail: so before the attacks
        sensitive = find_sensitive(config, plan, tokenizer, entities)
    extractor, batch_reason = make_extractor(config, checkpoint)
    outcomes = _attack(config, plan, extractor, clock, earlier)
    target = describe_target(checkpoint)
    before = _attack_reference(config, plan, checkpoint, clock)
    with clock.stage("scoring", 1):
        attacks = score_all(config, plan, outcomes)
        reference = pair_with_reference(config, plan, attacks, before) if before else None
        new = None if baseline is None else new_windows(baseline, fingerprints["data"], attacks)
    prompts = _pack(config, plan, outcomes)
    result = ScanResult(
        config=config,
        sources=resolved.sources,
        target=target,
        data=plan.data,
        controls=plan.controls,
        fold_sizes=fold_sizes(plan),
        attacks=attacks,
        fits=fold_fits(outcomes),
        verdicts=judge_all(config, attacks, new, leaked_rate(reference)),
        notes=(
            *(*plan.notes, *reuse_notes(config, earlier), *filter(None, [key.note])),
            *reference_notes(target, reference),
        ),
        fingerprints=fingerprints,
        run=_run_facts(command, clock, key, extractor, batch_reason),
        revealed=reveal(plan, outcomes, tokenizer) if config.reveal else {},
        sensitive=sensitive,
        reference=reference,
        prompt_files=hash_new(prompts) or hash_earlier(config.generator),
    )
    return ScanOutcome(result, prompts)


def _attack(
    config: ScanConfig,
    plan: Plan,
    extractor: Extractor,
    clock: _Clock,
    earlier: tuple[FoldPrompts, ...] = (),
    prefix: str = "",
) -> dict[AttackName, AttackOutcome]:
    """Every attack asked for on one model; ``prefix`` stands before the names of the stages."""
    campaign = Campaign(
        extractor,
        config,
        plan.folds,
        data=_side(plan.data),
        controls=_side(plan.controls) if plan.controls else None,
        fitted=_by_attack(earlier),
        prefix=prefix,
    )
    # Of prompts fitted earlier the text that they saw is not at hand, and `copy` is about that.
    asked = set(config.attacks) - ({"copy"} if earlier else set())
    return {attack: campaign.run(attack, clock) for attack in LADDER if attack in asked}


def _attack_reference(
    config: ScanConfig, plan: Plan, target: Checkpoint, clock: _Clock
) -> ReferenceRun | None:
    """The same attacks on the reference, once the target's weights are let go; None without one."""
    if config.reference is None:
        return None
    release(target)
    with clock.stage("loading the reference", 1):
        reference = load_reference(config, target.tokenizer, planned_windows(plan))
    own = reference_config(config)
    extractor, _ = make_extractor(own, reference)
    outcomes = _attack(own, plan, extractor, clock, prefix=PREFIX)
    return ReferenceRun(describe_target(reference), outcomes)


def _run_facts(
    command: str, clock: _Clock, key: ProjectKey, extractor: Extractor, batch_reason: str
) -> RunFacts:
    return RunFacts(
        version=__version__,
        command=command,
        started=clock.started,
        finished=_now(),
        seconds=clock.seconds,
        key_id=key.key_id,
        batch_size=extractor.batch_size,
        batch_size_reason=batch_reason,
        libraries=describe_libraries(),
        machine=describe_machine() | describe_accelerator(extractor.checkpoint.device),
        determinism=describe_determinism(),
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _baseline(
    config: ScanConfig, summaries: Mapping[Role, DataSummary], key: ProjectKey
) -> Baseline | None:
    """What ``max_new`` counts from, known to be comparable as far as that can be told yet."""
    controls = summaries["control"].sha256 if "control" in summaries else None
    return scan_baseline(config, summaries["data"].sha256, controls, key.key_id)


def _require_same(baseline: Baseline, found: tuple[str, ...], bos: str, config: ScanConfig) -> None:
    where = f"--baseline {config.gate.baseline}"
    require_same_windows(baseline, digest_of(found), where, bos=bos)


def _fingerprints(plan: Plan, key: ProjectKey) -> dict[str, tuple[str, ...]]:
    made = {"data": fingerprint_windows(plan.data.windows, key)}
    if plan.controls is not None:
        made["control"] = fingerprint_windows(plan.controls.windows, key)
    return made


def _side(corpus: Corpus) -> Side:
    return Side(corpus.windows.window_ids(), corpus.folds)


def _seen(fold: FoldPrompts) -> SeenRuns:
    return SeenRuns(fold.seen, fold.cluster_run)


def _by_attack(earlier: tuple[FoldPrompts, ...]) -> dict[str, dict[int, Any]]:
    """Prompts fitted earlier, by attack and by their place among the files read."""
    attacks = {attack for fold in earlier for attack in fold.usable}
    return {
        attack: {number: fold.usable[attack] for number, fold in enumerate(earlier)}
        for attack in attacks
    }


def _pack(
    config: ScanConfig, plan: Plan, outcomes: Mapping[AttackName, AttackOutcome]
) -> tuple[FoldPrompts, ...]:
    """The fitted prompts of each fold, with the hashes of what they have seen."""
    fitted = {attack: outcome.fits for attack, outcome in outcomes.items() if outcome.fits}
    if not fitted:
        return ()
    windows, run = plan.data.windows, config.protocol.cluster_run
    origin = plan.data.summary.sha256
    return tuple(
        FoldPrompts(
            fold=number,
            prompts={attack: fits[number].fitted for attack, fits in fitted.items()},
            chosen={attack: fits[number].record.chosen for attack, fits in fitted.items()},
            seen=seen_marks(windows, np.union1d(fold.fit, fold.select), run, origin),
            cluster_run=min(run, config.windows.length),
            prefix_tokens=config.windows.prefix_tokens,
            target=config.model,
        )
        for number, fold in enumerate(plan.folds)
    )


class _Clock:
    """Passes stages on to the user's progress and notes how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.started = _now()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        begun = time.perf_counter()
        with self._progress.stage(name, total) as advance:
            yield advance
        self.seconds[name] = round(time.perf_counter() - begun, 3)
