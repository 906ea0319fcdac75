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
from numpy.typing import NDArray

from memaudit import __version__
from memaudit.attack.campaign import AttackOutcome, Campaign, Progress, Side
from memaudit.attack.extraction import Advance, Extraction, Extractor, choose_batch_size
from memaudit.attack.prompt_files import FoldPrompts, load_all
from memaudit.config import LADDER, AttackName, ScanConfig
from memaudit.data.folds import run_hashes
from memaudit.data.windows import Windows
from memaudit.environment import describe_libraries, describe_machine
from memaudit.errors import UsageError
from memaudit.gate.thresholds import GateVerdict, judge, judge_controls
from memaudit.layers import ResolvedConfig
from memaudit.plan import Plan, Role, SeenRuns, check_files, cut_files, make_plan
from memaudit.result import (
    AttackResult,
    Corpus,
    FoldFit,
    FoldSizes,
    Permuted,
    Revealed,
    RunFacts,
    ScanResult,
    TargetFacts,
)
from memaudit.score.scores import Arm, WindowScores, score_windows, summarise
from memaudit.target.checkpoint import Checkpoint, load_checkpoint, load_tokenizer
from memaudit.target.softprompt_check import check_soft_prompts


class ScanOutcome(NamedTuple):
    """The figures, and the prompts to keep."""

    result: ScanResult
    prompts: tuple[FoldPrompts, ...]
    """One per fold; empty where nothing was fitted."""


def scan(resolved: ResolvedConfig, command: str, progress: Progress) -> ScanOutcome:
    """Audit one model on one file, beside controls where given.

    Raises the errors of the rooms it passes through; the files are checked before any weight
    is loaded.
    """
    config = resolved.config
    clock = _Clock(progress)
    with clock.stage("reading files", 1):
        summaries = check_files(config)
        tokenizer = load_tokenizer(config.model, config.target)
        windows = cut_files(config, tokenizer)
    with clock.stage("loading the model", 1):
        checkpoint = load_target(config, tokenizer, windows)
        earlier = load_earlier(config, checkpoint)
    with clock.stage("clustering near-duplicates", 1):
        plan = make_plan(config, summaries, windows, [_seen(fold) for fold in earlier])
    extractor, batch_reason = make_extractor(config, checkpoint)
    campaign = Campaign(
        extractor,
        config,
        plan.folds,
        data=_side(plan.data),
        controls=_side(plan.controls) if plan.controls else None,
        fitted=_by_attack(earlier),
    )
    outcomes = {
        attack: campaign.run(attack, clock) for attack in LADDER if attack in config.attacks
    }
    with clock.stage("scoring", 1):
        attacks = score_all(config, plan, outcomes)
    run = RunFacts(
        version=__version__,
        command=command,
        started=clock.started,
        seconds=clock.seconds,
        batch_size=extractor.batch_size,
        batch_size_reason=batch_reason,
        libraries=describe_libraries(),
        machine=describe_machine(),
    )
    result = ScanResult(
        config=config,
        sources=resolved.sources,
        target=describe_target(checkpoint),
        data=plan.data,
        controls=plan.controls,
        fold_sizes=fold_sizes(plan),
        attacks=attacks,
        fits=_fold_fits(outcomes),
        verdicts=_verdicts(config, attacks),
        notes=plan.notes,
        run=run,
        revealed=_reveal(plan, outcomes, tokenizer) if config.reveal else {},
    )
    return ScanOutcome(result, _pack(config, plan, outcomes))


def load_target(config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]) -> Checkpoint:
    """The target, known to take these windows and, where an attack has one, a soft prompt."""
    checkpoint = load_checkpoint(config.model, config.target, tokenizer)
    for part in windows.values():
        checkpoint.check_ids(part.window_ids())
    check_positions(config, checkpoint)
    if set(config.attacks) - {"none", "copy"}:
        check_soft_prompts(checkpoint)
    return checkpoint


def load_earlier(config: ScanConfig, checkpoint: Checkpoint) -> tuple[FoldPrompts, ...]:
    """The prompts of ``--generator``, none without it. Raises UsageError where they do not fit."""
    if config.generator is None:
        return ()
    earlier = load_all(config.generator, checkpoint)
    for fold in earlier:
        if fold.prefix_tokens != config.windows.prefix_tokens:
            raise UsageError(
                f"--generator {config.generator}: fitted for prefixes of {fold.prefix_tokens} "
                f"tokens; use --prefix-tokens {fold.prefix_tokens}"
            )
        for prompt in fold.prompts.values():
            check_positions(config, checkpoint, prompt.settings.num_virtual_tokens)
    return earlier


def check_positions(config: ScanConfig, checkpoint: Checkpoint, virtual: int | None = None) -> None:
    """Raise UsageError where prompt and window are longer than the model's positions.

    virtual: V of the longest prompt; the longest of the attacks' own where not given.
    """
    if virtual is None:
        attacks = set(config.attacks)
        virtual = max(
            config.constant.num_virtual_tokens if "constant" in attacks else 0,
            config.dynamic.num_virtual_tokens if attacks & {"dynamic", "dynamic-hard"} else 0,
        )
    needed = config.windows.length + virtual + (checkpoint.bos_id is not None)
    if checkpoint.max_tokens is not None and needed > checkpoint.max_tokens:
        raise UsageError(
            f"soft prompt and window take {needed} tokens, {checkpoint.name} has "
            f"{checkpoint.max_tokens} positions; lower --prefix-tokens, --suffix-tokens or "
            "num_virtual_tokens"
        )


def make_extractor(config: ScanConfig, checkpoint: Checkpoint) -> tuple[Extractor, str]:
    """The extractor, and why it takes as many windows at a time as it does."""
    windows = config.windows
    size, reason = choose_batch_size(checkpoint, windows.suffix_tokens)
    if config.extraction.batch_size is not None:
        size, reason = config.extraction.batch_size, "as asked"
    return Extractor(checkpoint, windows.prefix_tokens, config.scores, size), reason


def score_all(
    config: ScanConfig, plan: Plan, outcomes: Mapping[AttackName, AttackOutcome]
) -> tuple[AttackResult, ...]:
    """Scores per window, then one summary per attack."""
    results: list[AttackResult] = []
    none: WindowScores | None = None
    for attack, outcome in outcomes.items():
        data = _score(outcome.data, plan.data)
        controls = None
        if plan.controls is not None and outcome.controls is not None:
            controls = _score(outcome.controls, plan.controls)
        summary = summarise(
            attack,
            Arm(data, plan.data.clusters),
            config.scores,
            np.random.default_rng([config.protocol.seed, LADDER.index(attack)]),
            none=none,
            controls=Arm(controls, plan.controls.clusters)
            if controls is not None and plan.controls is not None
            else None,
        )
        none = data if attack == "none" else none
        permuted = permuted_hits(outcome.data, plan.data)
        results.append(AttackResult(attack, data, controls, summary, permuted))
    return tuple(results)


def permuted_hits(extraction: Extraction, corpus: Corpus) -> Permuted:
    """How often an attack returns the suffix of an unrelated window: the control that needs no
    data. Each window is compared with one of another cluster, as far as there is one.
    """
    order = np.argsort(corpus.clusters, kind="stable")
    shift = int(np.bincount(corpus.clusters).max())
    partner = np.empty_like(order)
    partner[order] = np.roll(order, shift)
    apart = corpus.clusters != corpus.clusters[partner]
    suffixes = corpus.windows.suffix_ids[partner[apart]]
    equal = extraction.continuation_ids[apart] == suffixes
    fractional = float(equal.mean()) if len(equal) else float("nan")
    return Permuted(int(equal.all(axis=1).sum()), len(equal), fractional)


def describe_target(checkpoint: Checkpoint) -> TargetFacts:
    """What the report says of the model."""
    return TargetFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        architecture=type(checkpoint.model).__name__,
        parameters=checkpoint.num_parameters,
        fingerprint=checkpoint.fingerprint,
        choices=checkpoint.choices,
    )


def _score(extraction: Extraction, corpus: Corpus) -> WindowScores:
    return score_windows(
        extraction.continuation_ids,
        corpus.windows.suffix_ids,
        extraction.suffix_nll,
        extraction.log_p_z,
    )


def _verdicts(config: ScanConfig, attacks: tuple[AttackResult, ...]) -> tuple[GateVerdict, ...]:
    summaries = [result.summary for result in attacks]
    controls = judge_controls(summaries)
    return (*judge(summaries, config.gate), *([controls] if controls is not None else []))


def _side(corpus: Corpus) -> Side:
    return Side(corpus.windows.window_ids(), corpus.folds)


def _seen(fold: FoldPrompts) -> SeenRuns:
    return SeenRuns(fold.seen_runs, fold.cluster_run)


def _by_attack(earlier: tuple[FoldPrompts, ...]) -> dict[str, dict[int, Any]]:
    """Prompts fitted earlier, by attack and by their place among the files read."""
    attacks = {attack for fold in earlier for attack in fold.usable}
    return {
        attack: {number: fold.usable[attack] for number, fold in enumerate(earlier)}
        for attack in attacks
    }


def fold_sizes(plan: Plan) -> tuple[FoldSizes, ...]:
    """Windows in each part of each fold."""
    return tuple(
        FoldSizes(number, len(fold.fit), len(fold.select), len(fold.audit))
        for number, fold in enumerate(plan.folds)
    )


def _fold_fits(outcomes: Mapping[AttackName, AttackOutcome]) -> tuple[FoldFit, ...]:
    return tuple(
        FoldFit(attack, fold, fit.record)
        for attack, outcome in outcomes.items()
        for fold, fit in outcome.fits.items()
    )


def _pack(
    config: ScanConfig, plan: Plan, outcomes: Mapping[AttackName, AttackOutcome]
) -> tuple[FoldPrompts, ...]:
    """The fitted prompts of each fold, with the hashes of what they have seen."""
    fitted = {attack: outcome.fits for attack, outcome in outcomes.items() if outcome.fits}
    if not fitted:
        return ()
    ids, run = plan.data.windows.window_ids(), config.protocol.cluster_run
    return tuple(
        FoldPrompts(
            fold=number,
            prompts={attack: fits[number].fitted for attack, fits in fitted.items()},
            chosen={attack: fits[number].record.chosen for attack, fits in fitted.items()},
            seen_runs=np.unique(run_hashes(ids[np.union1d(fold.fit, fold.select)], run)),
            cluster_run=min(run, ids.shape[1]),
            prefix_tokens=config.windows.prefix_tokens,
        )
        for number, fold in enumerate(plan.folds)
    )


def _reveal(
    plan: Plan, outcomes: Mapping[AttackName, AttackOutcome], tokenizer: Any
) -> dict[str, Revealed]:
    """Prefix, suffix and outputs as text; the only place where ids become text."""

    def text(ids: NDArray[np.int32]) -> tuple[str, ...]:
        rows = [row[row >= 0].tolist() for row in ids]
        return tuple(tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False))

    revealed = {}
    for role, corpus in (("data", plan.data), ("control", plan.controls)):
        if corpus is None:
            continue
        said = {
            attack: outcome.data if role == "data" else outcome.controls
            for attack, outcome in outcomes.items()
        }
        revealed[role] = Revealed(
            prefix=text(corpus.windows.prefix_ids),
            suffix=text(corpus.windows.suffix_ids),
            output={a: text(e.continuation_ids) for a, e in said.items() if e is not None},
        )
    return revealed


class _Clock:
    """Passes stages on to the user's progress and notes how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        begun = time.perf_counter()
        with self._progress.stage(name, total) as advance:
            yield advance
        self.seconds[name] = round(time.perf_counter() - begun, 3)
