"""Everything before the first attack: files, model, plan, and their checks.

Knows the order of the checks: quick ones before slow ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompt_files import FoldPrompts
from memaudit.config.settings import ScanConfig
from memaudit.data.fingerprints import fingerprint_samples, fingerprint_windows
from memaudit.data.plan import Plan, Role, SeenRuns, check_files, cut_files, make_plan
from memaudit.data.project_key import ProjectKey
from memaudit.data.samples import DataSummary
from memaudit.data.windows import Windows
from memaudit.distributed import Processes
from memaudit.gate.baseline import Baseline, data_note, require_comparable, require_same_terms
from memaudit.gate.terms import Terms, terms_of
from memaudit.pipeline.detection import detection_notes, load_detectors
from memaudit.pipeline.loading import (
    choose_size,
    describe_target,
    load_earlier,
    load_entities,
    load_target,
    make_extractor,
)
from memaudit.pipeline.reference import check_reference, planned_windows
from memaudit.pipeline.scoring import find_sensitive
from memaudit.pipeline.validity import token_roles
from memaudit.pipeline.window_settings import resolve_windows
from memaudit.report.result import TargetFacts
from memaudit.run.baselines import read_baseline
from memaudit.run.earlier_prompts import check_prompts
from memaudit.run.inputs import agree, facts_of_files, facts_of_model, facts_of_plan
from memaudit.run.record import Clock, RunRecord
from memaudit.score.validity import TokenRoles
from memaudit.sensitive.counting import SensitiveContent
from memaudit.target.checkpoint import Checkpoint, load_tokenizer
from memaudit.target.entities import EntityModel


@dataclass(frozen=True, eq=False)
class Ready:
    """An audit that passed all checks before its first attack."""

    config: ScanConfig
    """Settings whose windows are chosen."""
    sources: Mapping[str, str]
    """Source of each setting that was chosen, by dotted name."""
    key: ProjectKey
    tokenizer: Any
    checkpoint: Checkpoint
    roles: TokenRoles
    """Roles of the checkpoint's ids; stay valid after it is released."""
    target: TargetFacts
    """Facts about the model for the report; stay valid after it is released."""
    plan: Plan
    earlier: tuple[FoldPrompts, ...]
    prompts_note: str | None
    """Doubt about the prompts of ``--generator``; None without any."""
    fingerprints: Mapping[str, tuple[str, ...]]
    """Role to the fingerprints of its windows."""
    sample_fingerprints: Mapping[str, tuple[str, ...]]
    baseline: Baseline | None
    sensitive: SensitiveContent | None
    extractor: Extractor
    batch_reason: str


def prepare(config: ScanConfig, key: ProjectKey, clock: Clock, processes: Processes) -> Ready:
    """Prepare an audit. Raises the errors of its stages."""
    record, where = clock.record, f"--baseline {config.gate.baseline}"
    with clock.stage("reading files", 1):
        detectors = load_detectors(config, key)
        summaries = check_files(config)
        prompts_note = None if config.generator is None else check_prompts(config.generator, key)
        agree(record, processes, "files and settings", facts_of_files(config, summaries, key))
        baseline = _baseline(config, key)
        tokenizer = load_tokenizer(config.model, config.target)
        resolved = resolve_windows(config, tokenizer, baseline)
        agree(record, processes, "choice of windows", resolved.facts())
        config = resolved.config
        if baseline is not None:
            require_same_terms(baseline.terms, _terms(config, summaries, key), where)
        windows = cut_files(config, tokenizer)
    if config.reference is not None:
        with clock.stage("checking the reference", 1):
            check_reference(config, tokenizer, windows)
    with clock.stage("loading the model", 1):
        checkpoint = load_target(config, tokenizer, windows)
        agree(record, processes, "model", facts_of_model(checkpoint))
        earlier = load_earlier(config, checkpoint, windows)
        entities = load_entities(config, checkpoint)
        agree(record, processes, "entity model", _about(entities))
    with clock.stage("clustering near-duplicates", 1):
        seen_runs = [SeenRuns(fold.marks, fold.cluster_run) for fold in earlier]
        plan = make_plan(config, summaries, windows, seen_runs)
        plan = replace(plan, notes=(*resolved.notes, *plan.notes))
        agree(record, processes, "windows", facts_of_plan(plan))
        fingerprints = _fingerprints(plan, key, fingerprint_windows)
        sample_fingerprints = _fingerprints(plan, key, fingerprint_samples)
    if plan.left_out:
        clock.note(plan.why_left_out)
    if baseline is not None:
        terms = _terms(config, summaries, key, checkpoint)
        plan = _compared(plan, baseline, terms, sample_fingerprints["data"], where, clock)
    with clock.stage("looking for sensitive content", 1):  # may fail, so it runs before the attacks
        sensitive = find_sensitive(config, plan, tokenizer, entities, detectors)
        plan = replace(plan, notes=(*plan.notes, *detection_notes(plan, detectors)))
    extractor, reason = recorded_extractor(config, checkpoint, record, processes, "batch size")
    return Ready(
        config=config,
        sources=resolved.sources,
        key=key,
        tokenizer=tokenizer,
        checkpoint=checkpoint,
        roles=token_roles(checkpoint),
        target=describe_target(extractor),
        plan=plan,
        earlier=earlier,
        prompts_note=prompts_note,
        fingerprints=fingerprints,
        sample_fingerprints=sample_fingerprints,
        baseline=baseline,
        sensitive=sensitive,
        extractor=extractor,
        batch_reason=reason,
    )


def _about(entities: EntityModel | None) -> dict[str, str]:
    return {} if entities is None else {"the entity model": entities.about}


def _baseline(config: ScanConfig, key: ProjectKey) -> Baseline | None:
    path = config.gate.baseline
    return None if path is None else read_baseline(path, key)


def recorded_extractor(
    config: ScanConfig, checkpoint: Checkpoint, record: RunRecord, processes: Processes, name: str
) -> tuple[Extractor, str]:
    """Make the extractor with the batch size in the record; return it and the reason for the size.

    All processes, and a resumed run, use the size of the first start: the free memory must not
    change figures. name: the size's name in the record.
    """
    size, reason = choose_size(config, checkpoint)
    return make_extractor(
        config, checkpoint, processes.broadcast(record.settle(name, size))
    ), reason


def _compared(
    plan: Plan,
    baseline: Baseline,
    terms: Terms,
    fingerprints: tuple[str, ...],
    where: str,
    clock: Clock,
) -> Plan:
    """Return the plan with a note if its data differ from the baseline's, which is shown too.

    where: the flag that names the baseline. Raises UsageError if the two cannot be compared.
    """
    require_comparable(baseline, terms, fingerprints, where)
    if not (note := data_note(baseline, terms, fingerprints)):
        return plan
    clock.note(note)
    return replace(plan, notes=(*plan.notes, note))


def _terms(
    config: ScanConfig,
    summaries: Mapping[Role, DataSummary],
    key: ProjectKey,
    checkpoint: Checkpoint | None = None,
) -> Terms:
    """Return the terms of this audit, as far as known without or with the loaded model."""
    hmacs = {role: key.sign_file(summary.sha256) for role, summary in summaries.items()}
    choices = {} if checkpoint is None else checkpoint.choices
    chosen = {name: choices[name].value for name in ("bos", "chat_date") if name in choices}
    return terms_of(config, hmacs["data"], hmacs.get("control"), key.key_id, **chosen)


def _fingerprints(
    plan: Plan, key: ProjectKey, fingerprint: Callable[[Windows, ProjectKey], tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the fingerprints of each role's windows, or of its samples."""
    return {role: fingerprint(windows, key) for role, windows in planned_windows(plan).items()}
