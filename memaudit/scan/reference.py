"""The reference: the model before fine-tuning, checked, attacked after the target, and paired.

Knows how a reference is named and loaded, that it has to take the target's own windows, and that
two models are never held in memory at once. Knows nothing of how an attack is run: the scan does
that, for both models alike.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from memaudit.attack.campaign import AttackOutcome
from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.corpus import Corpus
from memaudit.data.plan import Plan, Role, bos_source, cut_files
from memaudit.data.windows import Windows
from memaudit.errors import DataError, UsageError
from memaudit.report.result import AttackResult, ReferenceAttack, ReferenceResult, TargetFacts
from memaudit.scan.loading import load_target
from memaudit.scan.scoring import fold_fits, score_outcome
from memaudit.score.origin import Origin, Pair, origins
from memaudit.score.scores import Rate
from memaudit.target.checkpoint import Checkpoint, choose_bos, load_tokenizer

PREFIX = "reference "
"""Stands before the names of the reference's stages."""
_PAIRED = 100
"""Sets the resamples of what is paired apart from those of single attacks."""


class ReferenceRun(NamedTuple):
    """What the attacks on the reference came to."""

    model: TargetFacts
    outcomes: Mapping[AttackName, AttackOutcome]


def reference_config(config: ScanConfig) -> ScanConfig:
    """The settings of a scan with the reference in the target's place.

    What names a part of the target, its revision and its base, is not said of the reference.
    """
    target = config.target.model_copy(update={"revision": None, "base": None})
    asked = tuple(attack for attack in config.attacks if attack != "copy")
    gate = config.gate.model_copy(update={"max_leaked": None})
    changed = {"model": config.reference, "reference": None, "target": target, "attacks": asked}
    return config.model_copy(update={**changed, "gate": gate})


def check_reference(config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]) -> None:
    """Make sure, before hours are spent, that the reference can be attacked as the target will be.

    tokenizer: of the target; windows: as it cut them. The reference is loaded, checked and let go.

    Raises:
        UsageError: its tokenizer makes other ids of this text, or begins inputs differently; or
            no attack that asks a model is among those asked for.
        TargetError: it cannot be loaded, or takes no soft prompts.
    """
    own = reference_config(config)
    if not own.attacks:
        raise UsageError(
            f"--reference {own.model}: no attack on a model is asked for; name one beside copy "
            "with --attacks"
        )
    check_tokenizer(f"--reference {own.model}", config, own, tokenizer, windows)
    release(load_reference(config, tokenizer, windows))


def load_reference(
    config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]
) -> Checkpoint:
    """The reference, known to take these windows; it reads them with the target's tokenizer."""
    return load_target(reference_config(config), tokenizer, windows)


def planned_windows(plan: Plan) -> dict[Role, Windows]:
    """The windows that are audited, by role."""
    sides: dict[Role, Corpus | None] = {"data": plan.data, "control": plan.controls}
    return {role: corpus.windows for role, corpus in sides.items() if corpus is not None}


def release(checkpoint: Checkpoint) -> None:
    """Let go of a model's weights, whoever still holds on to the model; it is of no use after."""
    copied = vars(checkpoint).pop("prepacked", checkpoint)  # if one was made
    for module in (*checkpoint.model.modules(), *copied.model.modules()):
        vars(module).pop("forward", None)  # which holds what is prepacked
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
    """Hold what the attacks got of each window of the target beside what they got of the
    reference.
    """
    scored = tuple(
        ReferenceAttack(attack, *score_outcome(plan, outcome))
        for attack, outcome in run.outcomes.items()
    )
    by_name = {attack.attack: attack for attack in attacks}
    data = [Pair(one.attack, by_name[one.attack].data, one.data) for one in scored]
    controls = [
        Pair(one.attack, before, one.controls)
        for one in scored
        if (before := by_name[one.attack].controls) is not None and one.controls is not None
    ]
    seed = [config.protocol.seed, _PAIRED]
    on_controls: tuple[Origin, ...] | None = None
    if plan.controls is not None:
        on_controls = origins(controls, plan.controls.clusters, config.scores, [*seed, 1])
    return ReferenceResult(
        model=run.model,
        attacks=scored,
        data=origins(data, plan.data.clusters, config.scores, [*seed, 0]),
        controls=on_controls,
        fits=fold_fits(run.outcomes),
    )


def leaked_rate(reference: ReferenceResult | None) -> Rate | None:
    """What any attack gets of the target and none of the reference; None without a reference."""
    return None if reference is None else reference.data[-1].leaked


def reference_notes(target: TargetFacts, reference: ReferenceResult | None) -> list[str]:
    """What besides the fine-tuning may tell the two models apart."""
    if reference is None:
        return []
    one, other = target.choices["dtype"].value, reference.model.choices["dtype"].value
    notes = []
    if one != other:
        notes.append(
            f"The model was audited in {one}, the reference in {other}: close calls may differ."
        )
    if target.fingerprint == reference.model.fingerprint:
        notes.append("Model and reference have the same files: nothing was fine-tuned.")
    return notes


def check_tokenizer(
    where: str,
    config: ScanConfig,
    own: ScanConfig,
    tokenizer: Any,
    windows: Mapping[Role, Windows],
) -> None:
    """Refuse another model whose own tokenizer would have read the files otherwise.

    where: how a message names it; own: its settings, as `reference_config` makes them. Raises
    UsageError.
    """
    other = load_tokenizer(own.model, own.target)
    if windows:
        _check_ids(where, tokenizer, other, windows)
    source = bos_source(windows)
    bos, its_bos = (choose_bos(config.target.bos, one, source)[0] for one in (tokenizer, other))
    if bos != its_bos:
        said = ("nothing" if one is None else f"token {one}" for one in (bos, its_bos))
        raise UsageError(
            f"{where}: {{}} stands before every input of the model, {{}} before the other's; "
            "choose for both with --bos yes or --bos no".format(*said)
        )
    if windows:
        _check_cut(own, where, tokenizer, other, windows)


def _check_ids(where: str, tokenizer: Any, other: Any, windows: Mapping[Role, Windows]) -> None:
    """The ids that the windows hold have to be the same tokens to both."""
    used = np.unique(np.concatenate([np.unique(part.window_ids()) for part in windows.values()]))
    if len(missing := used[used >= len(other)]):
        raise UsageError(
            f"{where}: its tokenizer has {len(other):,} entries, and {len(missing):,} ids of these "
            f"windows (the first {missing[0]}) are none of them, as where fine-tuning added tokens"
        )
    ids = used.tolist()
    tokens, its_tokens = (one.convert_ids_to_tokens(ids) for one in (tokenizer, other))
    apart = [i for i, one, its in zip(ids, tokens, its_tokens, strict=True) if one != its]
    if apart:
        raise UsageError(
            f"{where}: its tokenizer is another: {len(apart):,} of the {len(used):,} ids in these "
            f"windows are other tokens there (the first {apart[0]})"
        )


def _check_cut(
    own: ScanConfig, where: str, tokenizer: Any, other: Any, windows: Mapping[Role, Windows]
) -> None:
    """Cut the files once more with the reference's tokenizer, under the target's chat template."""
    other.chat_template = tokenizer.chat_template
    try:
        cut = cut_files(own, other)
    except DataError as error:
        raise UsageError(f"{where}: its tokenizer gives no windows of these files") from error
    for role, part in windows.items():
        its = cut[role]
        if part.bos_source != its.bos_source:
            raise UsageError(
                f"{where}: begins inputs of the {role} otherwise; choose for both with --bos yes "
                "or --bos no"
            )
        if len(part) != len(its):
            raise UsageError(
                f"{where}: its tokenizer cuts the {role} into {len(its):,} windows, that of the "
                f"model into {len(part):,}; both have to read the text alike"
            )
        apart = np.flatnonzero((part.window_ids() != its.window_ids()).any(axis=1))
        if len(apart):
            raise UsageError(
                f"{where}: its tokenizer makes other ids of {len(apart):,} of {len(part):,} "
                f"{role} windows (the first in line {part.line[apart[0]]}); both have to read the "
                "text alike"
            )
