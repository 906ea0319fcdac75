"""scan(resolved, command, progress) -> ScanOutcome: the audit, readable as a sentence.

Knows the order of the stages and what each hands to the next. Prints nothing, writes nothing,
and decides nothing that a room could decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from memaudit.assessment import (
    find_sensitive,
    fold_fits,
    judge_all,
    new_windows,
    reveal,
    score_all,
)
from memaudit.attack.campaign import AttackOutcome, Campaign, Progress, Workforce
from memaudit.attack.extraction import Extractor
from memaudit.attack.finite import NotFinite
from memaudit.attack.parts import Side
from memaudit.attack.prompt_files import FoldPrompts, hash_earlier, hash_new
from memaudit.baseline_file import scan_baseline
from memaudit.config import LADDER, AttackName, ScanConfig
from memaudit.content.counting import SensitiveContent
from memaudit.data.clusters import seen_marks
from memaudit.data.fingerprints import digest_of, fingerprint_windows
from memaudit.data.samples import DataSummary
from memaudit.data.windows import find_rows
from memaudit.errors import RunError
from memaudit.gate.baseline import Baseline, require_same_windows
from memaudit.layers import ResolvedConfig
from memaudit.out_of_memory import short_of_memory
from memaudit.plan import Plan, Role, SeenRuns, check_files, cut_files, fold_sizes, make_plan
from memaudit.project_key import ProjectKey, throwaway_key
from memaudit.readiness import (
    choose_size,
    describe_target,
    explain_pace,
    load_earlier,
    load_entities,
    load_target,
    make_extractor,
    reuse_notes,
)
from memaudit.result import (
    Corpus,
    ScanResult,
)
from memaudit.run_facts import facts_of_files, facts_of_model, run_facts
from memaudit.run_record import Clock, RunNotes, RunRecord
from memaudit.shard import Shard
from memaudit.target.checkpoint import Checkpoint, load_tokenizer
from memaudit.team import Team


class ScanOutcome(NamedTuple):
    """The figures, and the prompts to keep."""

    result: ScanResult
    prompts: tuple[FoldPrompts, ...]
    """One per fold; empty where nothing was fitted."""


@dataclass(frozen=True, eq=False)
class _Ready:
    """An audit before its first attack: all that can be wrong has been looked at."""

    key: ProjectKey
    tokenizer: Any
    checkpoint: Checkpoint
    plan: Plan
    earlier: tuple[FoldPrompts, ...]
    fingerprints: Mapping[str, tuple[str, ...]]
    baseline: Baseline | None
    sensitive: SensitiveContent | None
    extractor: Extractor
    batch_reason: str


Outcomes = Mapping[AttackName, AttackOutcome]


@short_of_memory()
def scan(
    resolved: ResolvedConfig,
    command: str,
    progress: Progress,
    key: ProjectKey | None = None,
    record: RunRecord | None = None,
    team: Team | None = None,
) -> ScanOutcome:
    """Audit one model on one file, beside controls where given.

    Without a project's key fingerprints are made under one that is thrown away. record: how far
    the run is already, where it goes on; team: the processes that share the work. Raises the
    errors of the rooms it passes through; files are checked before weights are loaded.
    """
    record = record or RunRecord(RunNotes.new(resolved.config, resolved.sources, command))
    key, team = key or throwaway_key(), team or Team()
    clock = Clock(progress, record)
    ready = _prepare(resolved.config, key, clock, record, team)
    outcomes = _attack(resolved.config, ready, clock, Workforce(team, record))
    return _assess(resolved, ready, outcomes, clock, team)


@short_of_memory()
def scan_shard(
    resolved: ResolvedConfig,
    progress: Progress,
    key: ProjectKey,
    record: RunRecord,
    team: Team,
    shard: Shard,
) -> None:
    """Do one share of an audit, which the record then holds. Raises as :func:`scan`."""
    clock = Clock(progress, record)
    ready = _prepare(resolved.config, key, clock, record, team)
    _attack(resolved.config, ready, clock, Workforce(team, record, shard))
    record.complete()


def _prepare(
    config: ScanConfig, key: ProjectKey, clock: Clock, record: RunRecord, team: Team
) -> _Ready:
    with clock.stage("reading files", 1):
        summaries = check_files(config)
        record.agree(facts_of_files(config, summaries, key))
        baseline = _baseline(config, summaries, key)
        tokenizer = load_tokenizer(config.model, config.target)
        windows = cut_files(config, tokenizer)
    with clock.stage("loading the model", 1):
        checkpoint = load_target(config, tokenizer, windows)
        record.agree(facts_of_model(checkpoint))
        earlier = load_earlier(config, checkpoint)
        entities = load_entities(config, checkpoint)
    with clock.stage("clustering near-duplicates", 1):
        plan = make_plan(config, summaries, windows, [_seen(fold) for fold in earlier])
        fingerprints = _fingerprints(plan, key)
    if baseline is not None:
        _require_same(baseline, fingerprints["data"], checkpoint.choices["bos"].value, config)
    with clock.stage("looking for sensitive content", 1):  # may fail: so before the attacks
        sensitive = find_sensitive(config, plan, tokenizer, entities)
    size, reason = choose_size(config, checkpoint)
    # Settled for the run: another memory, in another process or later, must not change figures.
    extractor = make_extractor(config, checkpoint, team.same(record.settle("batch size", size)))
    return _Ready(
        *(key, tokenizer, checkpoint, plan, earlier, fingerprints, baseline, sensitive),
        *(extractor, explain_pace(extractor, reason)),
    )


def _attack(
    config: ScanConfig, ready: _Ready, clock: Clock, workforce: Workforce
) -> dict[AttackName, AttackOutcome]:
    plan, earlier = ready.plan, ready.earlier
    campaign = Campaign(
        ready.extractor,
        config,
        plan.folds,
        data=_side(plan.data),
        controls=_side(plan.controls) if plan.controls else None,
        fitted=_by_attack(earlier),
        workforce=workforce,
    )
    # Of prompts fitted earlier the text that they saw is not at hand, and `copy` is about that.
    asked = set(config.attacks) - ({"copy"} if earlier else set())
    return _run_all(campaign, [attack for attack in LADDER if attack in asked], plan, clock)


def _assess(
    resolved: ResolvedConfig, ready: _Ready, outcomes: Outcomes, clock: Clock, team: Team
) -> ScanOutcome:
    config, plan, earlier = resolved.config, ready.plan, ready.earlier
    found = ready.fingerprints["data"]
    with clock.stage("scoring", 1):
        attacks = score_all(config, plan, outcomes)
        new = None if ready.baseline is None else new_windows(ready.baseline, found, attacks)
    prompts = _pack(config, plan, outcomes)
    notes = (*plan.notes, *reuse_notes(config, earlier), *filter(None, [ready.key.note]))
    result = ScanResult(
        config=config,
        sources=resolved.sources,
        target=describe_target(ready.checkpoint),
        data=plan.data,
        controls=plan.controls,
        fold_sizes=fold_sizes(plan),
        attacks=attacks,
        fits=fold_fits(outcomes),
        verdicts=judge_all(config, attacks, new),
        notes=notes,
        fingerprints=ready.fingerprints,
        run=run_facts(
            clock.record.notes,
            ready.checkpoint.device,
            key_id=ready.key.key_id,
            batch_size=(ready.extractor.batch_size, ready.batch_reason),
            batches=ready.extractor.memory.facts(),
            processes=team.size,
        ),
        revealed=reveal(plan, outcomes, ready.tokenizer) if config.reveal else {},
        sensitive=ready.sensitive,
        prompt_files=hash_new(prompts) or hash_earlier(config.generator),
    )
    return ScanOutcome(result, prompts)


def _run_all(
    campaign: Campaign, attacks: Sequence[AttackName], plan: Plan, progress: Progress
) -> dict[AttackName, AttackOutcome]:
    """Every attack. Where the target gives no numbers the error says for which record first."""
    try:
        return {attack: campaign.run(attack, progress) for attack in attacks}
    except NotFinite as error:
        for corpus in filter(None, (plan.data, plan.controls)):
            rows = find_rows(corpus.windows, error.ids)
            if len(rows):
                place = f"{corpus.summary.path}:{corpus.windows.line[rows[0]]}"
                raise RunError(f"{error}; or take out what it fails on, as {place}") from None
        raise


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


def _pack(config: ScanConfig, plan: Plan, outcomes: Outcomes) -> tuple[FoldPrompts, ...]:
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
