"""scan(resolved, command, progress) -> ScanOutcome: the audit, readable as a sentence.

Knows the order of the stages and what each hands to the next. Prints nothing, writes nothing,
and decides nothing that a room could decide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memaudit.attack.campaign import Progress, Workforce
from memaudit.attack.prompt_files import FoldPrompts, hash_earlier, hash_new
from memaudit.config.settings import ScanConfig
from memaudit.config.shard import Shard
from memaudit.config.sources import ResolvedConfig
from memaudit.data.clusters import collect_marks
from memaudit.data.plan import Plan, fold_sizes
from memaudit.data.project_key import ProjectKey, throwaway_key
from memaudit.distributed import Processes
from memaudit.gate.validity import validity_notes
from memaudit.report.result import ScanResult
from memaudit.run.inputs import run_facts
from memaudit.run.record import Clock, RunNotes, RunRecord
from memaudit.scan.attacks import Attacked, Outcomes, attack_all
from memaudit.scan.loading import reuse_notes
from memaudit.scan.prepare import Ready, prepare
from memaudit.scan.reference import leaked_rate, pair_with_reference, reference_notes
from memaudit.scan.scoring import fold_fits, judge_all, new_windows, reveal, score_all
from memaudit.scan.validity import run_validity
from memaudit.system.environment import newer_than_tested
from memaudit.system.memory import short_of_memory


class ScanOutcome(NamedTuple):
    """The figures, and the prompts to keep."""

    result: ScanResult
    prompts: tuple[FoldPrompts, ...]
    """One per fold; empty where nothing was fitted."""


@short_of_memory()
def scan(
    resolved: ResolvedConfig,
    command: str,
    progress: Progress,
    key: ProjectKey | None = None,
    record: RunRecord | None = None,
    processes: Processes | None = None,
) -> ScanOutcome:
    """Audit one model on one file, beside controls where given.

    Without a project's key fingerprints are made under one that is thrown away. record: how far
    the run is already, where it goes on; processes: the processes that share the work. Raises the
    errors of the rooms it passes through; files are checked before weights are loaded.
    """
    record = record or RunRecord(RunNotes.new(resolved.config, resolved.sources, command))
    key, processes = key or throwaway_key(), processes or Processes()
    clock = Clock(progress, record)
    ready = prepare(resolved.config, key, clock, processes)
    attacked = attack_all(resolved.config, ready, clock, Workforce(processes, record))
    return _assess(resolved, ready, attacked, clock, processes)


@short_of_memory()
def scan_shard(
    resolved: ResolvedConfig,
    progress: Progress,
    key: ProjectKey,
    record: RunRecord,
    processes: Processes,
    shard: Shard,
) -> None:
    """Do one share of an audit, which the record then holds. Raises as :func:`scan`."""
    clock = Clock(progress, record)
    ready = prepare(resolved.config, key, clock, processes)
    attack_all(resolved.config, ready, clock, Workforce(processes, record, shard))
    record.complete()


def _assess(
    resolved: ResolvedConfig, ready: Ready, attacked: Attacked, clock: Clock, processes: Processes
) -> ScanOutcome:
    config, plan, earlier = resolved.config, ready.plan, ready.earlier
    outcomes, before = attacked
    found = ready.fingerprints["data"]
    with clock.stage("scoring", 1):
        attacks = score_all(config, plan, outcomes)
        reference = pair_with_reference(config, plan, attacks, before) if before else None
        new = None if ready.baseline is None else new_windows(ready.baseline, found, attacks)
        validity = run_validity(plan, ready.roles, ready.tokenizer, attacks, outcomes)
    prompts = _pack(config, plan, outcomes)
    standing = filter(None, [ready.key.note, ready.key.warning, newer_than_tested()])
    notes = [*plan.notes, *reuse_notes(config, earlier), *standing]
    result = ScanResult(
        config=config,
        sources=resolved.sources,
        target=ready.target,
        data=plan.data,
        controls=plan.controls,
        fold_sizes=fold_sizes(plan),
        attacks=attacks,
        fits=fold_fits(outcomes),
        verdicts=judge_all(
            config,
            attacks,
            new,
            leaked_rate(reference),
            validity=validity,
            remedy=plan.remedy,
        ),
        notes=(*notes, *reference_notes(ready.target, reference), *validity_notes(validity)),
        validity=validity,
        fingerprints=ready.fingerprints,
        run=run_facts(
            clock.record.notes,
            ready.checkpoint.device,
            key_id=ready.key.key_id,
            batch_size=(ready.extractor.batch_size, ready.batch_reason),
            batches=ready.extractor.memory.facts(),
            processes=processes.size,
        ),
        file_hmacs=_file_hmacs(plan, ready.key),
        revealed=reveal(plan, outcomes, ready.tokenizer) if config.reveal else {},
        sensitive=ready.sensitive,
        reference=reference,
        prompt_files=hash_new(prompts) or hash_earlier(config.generator),
    )
    return ScanOutcome(result, prompts)


def _file_hmacs(plan: Plan, key: ProjectKey) -> dict[str, str]:
    """What names the audited files without giving away what is in a short one."""
    parts = {"data": plan.data, "control": plan.controls}
    return {
        role: key.sign_file(corpus.summary.sha256)
        for role, corpus in parts.items()
        if corpus is not None
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
            seen=collect_marks(windows, np.union1d(fold.fit, fold.select), run, origin),
            cluster_run=min(run, config.windows.length),
            prefix_tokens=config.windows.prefix_tokens,
            target=config.model,
        )
        for number, fold in enumerate(plan.folds)
    )
