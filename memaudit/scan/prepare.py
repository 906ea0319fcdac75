"""Everything before the first attack: files, model, plan, and all that can be wrong with them.

Knows the order in which things are looked at: what is quickly found wrong before what takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompt_files import FoldPrompts
from memaudit.config.settings import ScanConfig
from memaudit.data.fingerprints import digest_of, fingerprint_windows
from memaudit.data.plan import Plan, Role, SeenRuns, check_files, cut_files, make_plan
from memaudit.data.project_key import ProjectKey
from memaudit.data.samples import DataSummary
from memaudit.distributed import Processes
from memaudit.gate.baseline import Baseline, require_own_windows, require_same_windows
from memaudit.report.result import TargetFacts
from memaudit.run.baselines import scan_baseline
from memaudit.run.inputs import agree, facts_of_files, facts_of_model, facts_of_plan
from memaudit.run.record import Clock, RunRecord
from memaudit.scan.loading import (
    choose_size,
    describe_target,
    load_earlier,
    load_entities,
    load_target,
    make_extractor,
)
from memaudit.scan.reference import check_reference
from memaudit.scan.scoring import find_sensitive
from memaudit.scan.validity import token_roles
from memaudit.score.validity import TokenRoles
from memaudit.sensitive.counting import SensitiveContent
from memaudit.target.checkpoint import Checkpoint, load_tokenizer


@dataclass(frozen=True, eq=False)
class Ready:
    """An audit before its first attack: all that can be wrong has been looked at."""

    key: ProjectKey
    tokenizer: Any
    checkpoint: Checkpoint
    roles: TokenRoles
    """Of the checkpoint's ids; known also once it is let go, as the next."""
    target: TargetFacts
    """What the report says of it."""
    plan: Plan
    earlier: tuple[FoldPrompts, ...]
    fingerprints: Mapping[str, tuple[str, ...]]
    baseline: Baseline | None
    sensitive: SensitiveContent | None
    extractor: Extractor
    batch_reason: str


def prepare(config: ScanConfig, key: ProjectKey, clock: Clock, processes: Processes) -> Ready:
    """Make an audit ready. Raises the errors of the rooms it passes through."""
    record = clock.record
    with clock.stage("reading files", 1):
        summaries = check_files(config)
        agree(record, processes, "files and settings", facts_of_files(config, summaries, key))
        baseline = _baseline(config, summaries, key)
        tokenizer = load_tokenizer(config.model, config.target)
        windows = cut_files(config, tokenizer)
    if config.reference is not None:
        with clock.stage("checking the reference", 1):
            check_reference(config, tokenizer, windows)
    with clock.stage("loading the model", 1):
        checkpoint = load_target(config, tokenizer, windows)
        agree(record, processes, "model", facts_of_model(checkpoint))
        earlier = load_earlier(config, checkpoint)
        entities = load_entities(config, checkpoint)
        about = {} if entities is None else {"the entity model": entities.about}
        agree(record, processes, "entity model", about)
    with clock.stage("clustering near-duplicates", 1):
        plan = make_plan(config, summaries, windows, [_seen(fold) for fold in earlier])
        agree(record, processes, "windows", facts_of_plan(plan))
        fingerprints = _fingerprints(plan, key)
    if baseline is not None:
        _require_same(baseline, fingerprints["data"], checkpoint, config)
    with clock.stage("looking for sensitive content", 1):  # may fail: so before the attacks
        sensitive = find_sensitive(config, plan, tokenizer, entities)
    extractor, reason = settled_extractor(config, checkpoint, record, processes, "batch size")
    return Ready(
        key=key,
        tokenizer=tokenizer,
        checkpoint=checkpoint,
        roles=token_roles(checkpoint),
        target=describe_target(extractor),
        plan=plan,
        earlier=earlier,
        fingerprints=fingerprints,
        baseline=baseline,
        sensitive=sensitive,
        extractor=extractor,
        batch_reason=reason,
    )


def settled_extractor(
    config: ScanConfig, checkpoint: Checkpoint, record: RunRecord, processes: Processes, name: str
) -> tuple[Extractor, str]:
    """The extractor, and why it takes so many windows at a time: as many as when the run began, in
    every process, for another memory must not change figures.

    name: what the record calls the size.
    """
    size, reason = choose_size(config, checkpoint)
    return make_extractor(
        config, checkpoint, processes.broadcast(record.settle(name, size))
    ), reason


def _baseline(
    config: ScanConfig, summaries: Mapping[Role, DataSummary], key: ProjectKey
) -> Baseline | None:
    """What ``max_new`` counts from, known to be comparable as far as that can be told yet."""
    hmacs = {role: key.sign_file(summary.sha256) for role, summary in summaries.items()}
    return scan_baseline(config, hmacs["data"], hmacs.get("control"), key.key_id)


def _require_same(
    baseline: Baseline, found: tuple[str, ...], checkpoint: Checkpoint, config: ScanConfig
) -> None:
    where = f"--baseline {config.gate.baseline}"
    chosen = {name: choice.value for name, choice in checkpoint.choices.items()}
    require_same_windows(
        baseline,
        digest_of(found),
        where,
        bos=chosen.get("bos"),
        chat_date=chosen.get("chat_date"),
    )
    require_own_windows(baseline, found, where)


def _fingerprints(plan: Plan, key: ProjectKey) -> dict[str, tuple[str, ...]]:
    made = {"data": fingerprint_windows(plan.data.windows, key)}
    if plan.controls is not None:
        made["control"] = fingerprint_windows(plan.controls.windows, key)
    return made


def _seen(fold: FoldPrompts) -> SeenRuns:
    return SeenRuns(fold.seen, fold.cluster_run)
