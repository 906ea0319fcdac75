"""The reference (the model before fine-tuning): check it, and pair its scores with the target's.

Knows how to load a reference, that it is attacked on the target's windows, and that two models are
never in memory at once. Knows nothing of how an attack runs.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from memaudit.attack.campaign import AttackOutcome
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.corpus import Corpus
from memaudit.data.plan import Plan, Role, bos_source, cut_files
from memaudit.data.windows import PADDING, Windows
from memaudit.errors import DataError, UsageError
from memaudit.pipeline.loading import load_target
from memaudit.pipeline.scoring import fold_fits, score_outcome
from memaudit.report.result import AttackResult, ReferenceAttack, ReferenceResult, TargetFacts
from memaudit.score.origin import Origin, Pair, origins, pair_seed
from memaudit.score.samples import Arm, group_windows
from memaudit.score.scores import WindowScores
from memaudit.score.summary import Rate
from memaudit.target.checkpoint import Checkpoint, choose_bos, load_tokenizer

PREFIX = "reference "
"""Prefix of the names of the reference's stages."""


class ReferenceRun(NamedTuple):
    """Outcomes of the attacks on the reference."""

    model: TargetFacts
    outcomes: Mapping[AttackName, AttackOutcome]


def reference_config(config: ScanConfig) -> ScanConfig:
    """Return the settings of a scan with the reference as its target.

    Revision and base belong to the target, so the reference gets neither.
    """
    target = config.target.model_copy(update={"revision": None, "base": None})
    attacks = tuple(attack for attack in config.attacks if attack != "copy")
    gate = config.gate.model_copy(update={"max_leaked": None})
    changed = {"model": config.reference, "reference": None, "target": target, "attacks": attacks}
    return config.model_copy(update={**changed, "gate": gate})


def check_reference(config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]) -> None:
    """Check, before hours are spent, that the reference can be attacked like the target.

    tokenizer: the target's; windows: cut with it. The reference is loaded, checked and released.

    Raises:
        UsageError: its tokenizer gives other ids for this text, or begins inputs differently; or
            no attack on a model is requested.
        TargetError: it cannot be loaded, or takes no soft prompts.
    """
    settings = reference_config(config)
    where = f"--reference {settings.model}"
    if not settings.attacks:
        raise UsageError(f"{where}: --attacks names no attack on a model; add one besides copy")
    check_tokenizer(where, config, settings, tokenizer, windows)
    release(load_reference(config, tokenizer, windows))


def load_reference(
    config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]
) -> Checkpoint:
    """Load the reference with the target's tokenizer and check it for these windows."""
    return load_target(reference_config(config), tokenizer, windows)


def planned_windows(plan: Plan) -> dict[Role, Windows]:
    """Windows of the audit, by role."""
    sides: dict[Role, Corpus | None] = {"data": plan.data, "control": plan.controls}
    return {role: corpus.windows for role, corpus in sides.items() if corpus is not None}


def release(checkpoint: Checkpoint) -> None:
    """Free a model's weights even if the model is still referenced; it is unusable afterwards."""
    copied = vars(checkpoint).pop("prepacked", checkpoint)  # cached property, if it was used
    for module in (*checkpoint.model.modules(), *copied.model.modules()):
        vars(module).pop("forward", None)  # holds the prepacked weights
        for name, _ in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            delattr(module, name)
        for name, _ in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            delattr(module, name)
    gc.collect()
    if checkpoint.device.type == "cuda":
        torch.cuda.empty_cache()


def pair_with_reference(
    config: ScanConfig, plan: Plan, attacks: tuple[AttackResult, ...], run: ReferenceRun
) -> ReferenceResult:
    """Pair the scores of each window on the target with those on the reference."""
    scored = tuple(
        ReferenceAttack(attack, *score_outcome(plan, outcome))
        for attack, outcome in run.outcomes.items()
    )
    by_name = {attack.attack: attack for attack in attacks}
    data = [(by_name[result.attack].data, result.data) for result in scored]
    controls = [(by_name[result.attack].controls, result.controls) for result in scored]
    names = [result.attack for result in scored]
    return ReferenceResult(
        model=run.model,
        attacks=scored,
        data=_origins(config, plan.data, names, data, "data"),
        controls=None
        if plan.controls is None
        else _origins(config, plan.controls, names, controls, "controls"),
        fits=fold_fits(run.outcomes),
    )


def _origins(
    config: ScanConfig,
    corpus: Corpus,
    names: Sequence[AttackName],
    scores: Sequence[tuple[WindowScores | None, WindowScores | None]],
    part: str,
) -> tuple[Origin, ...]:
    """Return the origins on one corpus; ``scores`` are the target's and the reference's."""
    groups = group_windows(corpus)
    pairs = [
        Pair(name, Arm.of(target, groups).scores, Arm.of(reference, groups).scores)
        for name, (target, reference) in zip(names, scores, strict=True)
        if target is not None and reference is not None
    ]
    clusters = groups.clusters[groups.counted]
    return origins(pairs, clusters, config.scores, pair_seed(config.protocol.seed, part))


def leaked_rate(reference: ReferenceResult | None) -> Rate | None:
    """Rate extracted from the target and not from the reference; None without a reference."""
    return None if reference is None else reference.data[-1].leaked


def reference_notes(target: TargetFacts, reference: ReferenceResult | None) -> list[str]:
    """Notes on differences between the two models other than the fine-tuning."""
    if reference is None:
        return []
    dtype, reference_dtype = (facts.choices["dtype"].value for facts in (target, reference.model))
    notes = []
    if dtype != reference_dtype:
        notes.append(
            f"The model was audited in {dtype}, the reference in {reference_dtype}: "
            "close calls may differ."
        )
    if target.fingerprint == reference.model.fingerprint:
        notes.append("Model and reference have the same files: nothing was fine-tuned.")
    return notes


def check_tokenizer(
    where: str,
    config: ScanConfig,
    settings: ScanConfig,
    tokenizer: Any,
    windows: Mapping[Role, Windows],
) -> None:
    """Refuse another model whose tokenizer reads the files differently. Raises UsageError.

    where: its name in messages; settings: its settings, as `reference_config` makes them.
    """
    other = load_tokenizer(settings.model, settings.target)
    if windows:
        _check_ids(where, tokenizer, other, windows)
    source = bos_source(windows)
    bos = choose_bos(config.target.bos, tokenizer, source)[0]
    other_bos = choose_bos(config.target.bos, other, source)[0]
    if bos != other_bos:
        raise UsageError(
            f"{where}: inputs of this model begin with {_token_name(other_bos)}, those of the "
            f"target with {_token_name(bos)}; choose for both with --bos yes or --bos no"
        )
    if windows:
        _check_cut(settings, where, tokenizer, other, windows)


def _token_name(bos: int | None) -> str:
    return "no extra token" if bos is None else f"token {bos}"


def _check_ids(where: str, tokenizer: Any, other: Any, windows: Mapping[Role, Windows]) -> None:
    """Raise UsageError unless the ids of the windows are the same tokens for both."""
    used = np.unique(np.concatenate([np.unique(part.ids) for part in windows.values()]))
    used = used[used != PADDING]
    if len(missing := used[used >= len(other)]):
        raise UsageError(
            f"{where}: its tokenizer has {len(other):,} entries and lacks {len(missing):,} ids of "
            f"these windows (first: {missing[0]}); fine-tuning may have added tokens"
        )
    ids = used.tolist()
    tokens, other_tokens = tokenizer.convert_ids_to_tokens(ids), other.convert_ids_to_tokens(ids)
    differing = [id_ for id_, a, b in zip(ids, tokens, other_tokens, strict=True) if a != b]
    if differing:
        raise UsageError(
            f"{where}: its tokenizer differs: {len(differing):,} of the {len(used):,} ids in these "
            f"windows are different tokens (first: {differing[0]})"
        )


def _check_cut(
    settings: ScanConfig, where: str, tokenizer: Any, other: Any, windows: Mapping[Role, Windows]
) -> None:
    """Cut the files again with the other tokenizer and the target's chat template; compare."""
    other.chat_template = tokenizer.chat_template
    try:
        cut = cut_files(settings, other)
    except DataError as error:
        raise UsageError(f"{where}: its tokenizer gives no windows for these files") from error
    for role, part in windows.items():
        other_part = cut[role]
        if part.bos_source != other_part.bos_source:
            raise UsageError(
                f"{where}: begins inputs of the {role} differently; choose for both with --bos yes "
                "or --bos no"
            )
        if len(part) != len(other_part):
            raise UsageError(
                f"{where}: its tokenizer cuts the {role} into {len(other_part):,} windows, the "
                f"target's into {len(part):,}; both must tokenize the text identically"
            )
        rows = np.flatnonzero((part.ids != other_part.ids).any(axis=1))
        if len(rows):
            raise UsageError(
                f"{where}: its tokenizer gives other ids for {len(rows):,} of {len(part):,} {role} "
                f"windows (first in line {part.line[rows[0]]}); both must tokenize the text "
                "identically"
            )
