"""scan(resolved, command, progress) -> ScanOutcome: the audit, readable as a sentence.

Knows the order of the stages and what each passes to the next. Prints and writes nothing, and
leaves decisions to the rooms.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memaudit.attack.campaign import Workforce
from memaudit.attack.prompt_files import FoldPrompts, hash_fitted, hash_loaded
from memaudit.config.settings import ScanConfig
from memaudit.config.shard import Shard
from memaudit.config.sources import ResolvedConfig
from memaudit.data.clusters import collect_marks
from memaudit.data.plan import Plan, fold_sizes
from memaudit.data.project_key import ProjectKey, throwaway_key
from memaudit.distributed import Processes
from memaudit.gate.validity import validity_notes
from memaudit.pipeline.attacks import Attacked, Outcomes, attack_all
from memaudit.pipeline.loading import reuse_notes
from memaudit.pipeline.prepare import Ready, prepare
from memaudit.pipeline.reference import leaked_rate, pair_with_reference, reference_notes
from memaudit.pipeline.scoring import (
    fold_fits,
    fold_notes,
    judge_all,
    new_samples,
    reveal,
    score_all,
    sensitive_counts,
)
from memaudit.pipeline.validity import run_validity
from memaudit.report.result import ScanResult
from memaudit.run.inputs import run_facts
from memaudit.run.record import Clock, Display, RunNotes, RunRecord
from memaudit.system.environment import newer_than_tested
from memaudit.system.memory import short_of_memory


class ScanOutcome(NamedTuple):
    """Result and fitted prompts of a scan."""

    result: ScanResult
    prompts: tuple[FoldPrompts, ...]
    """Prompts of each fold; empty if nothing was fitted."""


@short_of_memory()
def scan(
    resolved: ResolvedConfig,
    command: str,
    progress: Display,
    key: ProjectKey | None = None,
    record: RunRecord | None = None,
    processes: Processes | None = None,
) -> ScanOutcome:
    """Audit one model on one file, and on controls if given.

    key: the project's key; without one, fingerprints use a throwaway key. record: progress of a
    run to resume; processes: those that share the work. Raises the errors of its stages; files
    are checked before weights are loaded.
    """
    record = record or RunRecord(RunNotes.new(resolved.config, resolved.sources, command))
    key, processes = key or throwaway_key(), processes or Processes()
    clock = Clock(progress, record)
    ready = prepare(resolved.config, key, clock, processes)
    attacked = attack_all(ready.config, ready, clock, Workforce(processes, record))
    return _assess(resolved, ready, attacked, clock, processes)


@short_of_memory()
def scan_shard(
    resolved: ResolvedConfig,
    progress: Display,
    key: ProjectKey,
    record: RunRecord,
    processes: Processes,
    shard: Shard,
) -> None:
    """Do one shard of an audit and store it in the record. Raises as :func:`scan`."""
    clock = Clock(progress, record)
    ready = prepare(resolved.config, key, clock, processes)
    attack_all(ready.config, ready, clock, Workforce(processes, record, shard))
    record.complete()


def _assess(
    resolved: ResolvedConfig, ready: Ready, attacked: Attacked, clock: Clock, processes: Processes
) -> ScanOutcome:
    config, plan, earlier = ready.config, ready.plan, ready.earlier
    outcomes, reference_run = attacked
    fingerprints = ready.sample_fingerprints["data"]
    with clock.stage("scoring", 1):
        attacks, together = score_all(config, plan, outcomes)
        reference = (
            pair_with_reference(config, plan, attacks, reference_run) if reference_run else None
        )
        new = new_samples(ready.baseline, fingerprints, attacks) if ready.baseline else None
        validity = run_validity(plan, ready.roles, ready.tokenizer, attacks, outcomes)
    prompts = _pack(config, plan, outcomes)
    general = filter(None, [ready.key.note, ready.key.warning, newer_than_tested()])
    fits = fold_fits(outcomes)
    reuse = reuse_notes(config, earlier, ready.prompts_note)
    notes = [*plan.notes, *fold_notes(config, fits), *reuse, *general]
    result = ScanResult(
        config=config,
        sources={**resolved.sources, **ready.sources},
        target=ready.target,
        data=plan.data,
        controls=plan.controls,
        fold_sizes=fold_sizes(plan),
        attacks=attacks,
        any=together,
        fits=fits,
        verdicts=judge_all(
            config,
            attacks,
            new,
            leaked_rate(reference),
            together=together,
            sensitive=sensitive_counts(ready.sensitive, plan.data, attacks),
            validity=validity,
            left_out=plan.why_left_out,
            fits=fits,
        ),
        notes=(*notes, *reference_notes(ready.target, reference), *validity_notes(validity)),
        validity=validity,
        fingerprints=ready.fingerprints,
        sample_fingerprints=ready.sample_fingerprints,
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
        new=new,
        prompt_files=hash_fitted(prompts) or hash_loaded(config.generator),
    )
    return ScanOutcome(result, prompts)


def _file_hmacs(plan: Plan, key: ProjectKey) -> dict[str, str]:
    """HMACs of the audited files by role; a plain hash would reveal the text of a short file."""
    parts = {"data": plan.data, "control": plan.controls}
    return {
        role: key.sign_file(corpus.summary.sha256)
        for role, corpus in parts.items()
        if corpus is not None
    }


def _pack(config: ScanConfig, plan: Plan, outcomes: Outcomes) -> tuple[FoldPrompts, ...]:
    """Pack the fitted prompts of each fold with the marks of the windows they have seen."""
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
            marks=collect_marks(
                windows, np.union1d(fold.fit, fold.select), run, origin, plan.template
            ),
            cluster_run=min(run, config.windows.length),
            prefix_tokens=config.windows.prefix_tokens,
            target=config.model,
        )
        for number, fold in enumerate(plan.folds)
    )
