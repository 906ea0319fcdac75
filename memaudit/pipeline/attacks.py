"""Attack the model, then the reference if one is given.

Knows that two models are never in memory at once. Knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from memaudit.attack.campaign import AttackOutcome, Campaign, Workforce
from memaudit.attack.extraction import Extractor
from memaudit.attack.parts import Side
from memaudit.attack.prompt_files import FoldPrompts
from memaudit.attack.verification import NotFinite
from memaudit.config.settings import LADDER, AttackName, ScanConfig
from memaudit.data.corpus import Corpus
from memaudit.data.plan import Plan
from memaudit.data.windows import find_rows
from memaudit.errors import RunError
from memaudit.pipeline.first_finding import first_finding
from memaudit.pipeline.loading import describe_target
from memaudit.pipeline.prepare import Ready, recorded_extractor
from memaudit.pipeline.reference import (
    PREFIX,
    ReferenceRun,
    load_reference,
    planned_windows,
    reference_config,
    release,
)
from memaudit.run.inputs import agree, facts_of_model
from memaudit.run.record import Clock

Outcomes = Mapping[AttackName, AttackOutcome]
Ran = Callable[[AttackName, AttackOutcome], None]
"""Is called with each attack and its outcome, before the next attack starts."""


class Attacked(NamedTuple):
    """Outcomes of the attacks on both models."""

    target: Outcomes
    reference: ReferenceRun | None
    """None if no reference was given."""


def attack_all(config: ScanConfig, ready: Ready, clock: Clock, workforce: Workforce) -> Attacked:
    """Run every attack that can run on every model.

    The target is released before the reference is loaded. As soon as ``none`` is done on the
    target, the clock shows what it extracts.
    """
    config = ready.plan.runnable(config)

    def announce(attack: AttackName, outcome: AttackOutcome) -> None:
        if attack == "none" and len(config.attacks) > 1:  # else the report follows at once
            finding = first_finding(ready.plan, outcome, ready.sensitive, workforce.shard)
            clock.note(" ".join(finding))

    target = _attack(
        config, ready.plan, ready.extractor, clock, workforce, ready.earlier, ran=announce
    )
    ready.checkpoint.require_unchanged()
    if config.reference is None:
        return Attacked(target, None)
    return Attacked(target, _attack_reference(config, ready, clock, workforce))


def _attack(
    config: ScanConfig,
    plan: Plan,
    extractor: Extractor,
    clock: Clock,
    workforce: Workforce,
    earlier: tuple[FoldPrompts, ...] = (),
    prefix: str = "",
    ran: Ran = lambda attack, outcome: None,
) -> Outcomes:
    """Run the requested attacks on one model; ``prefix`` is prepended to the stage names."""
    campaign = Campaign(
        extractor,
        config,
        plan.folds,
        data=_side(plan.data),
        controls=_side(plan.controls) if plan.controls else None,
        fitted=_by_attack(earlier),
        workforce=workforce,
        prefix=prefix,
    )
    # `copy` needs the text that prompts were fitted on, which is missing for earlier prompts.
    requested = set(config.attacks) - ({"copy"} if earlier else set())
    outcomes: dict[AttackName, AttackOutcome] = {}
    for attack in (name for name in LADDER if name in requested):
        with _first_record_named(plan):
            outcomes[attack] = campaign.run(attack, clock)
        ran(attack, outcomes[attack])
    return outcomes


def _attack_reference(
    config: ScanConfig, ready: Ready, clock: Clock, workforce: Workforce
) -> ReferenceRun:
    """Release the target's weights, then run the same attacks on the reference."""
    release(ready.checkpoint)
    settings, record = reference_config(config), clock.record
    with clock.stage("loading the reference", 1):
        checkpoint = load_reference(config, ready.tokenizer, planned_windows(ready.plan))
        agree(record, workforce.processes, "reference", facts_of_model(checkpoint))
    name = "batch size of the reference"
    extractor, _ = recorded_extractor(settings, checkpoint, record, workforce.processes, name)
    outcomes = _attack(settings, ready.plan, extractor, clock, workforce, prefix=PREFIX)
    checkpoint.require_unchanged()
    return ReferenceRun(describe_target(extractor), outcomes)


@contextmanager
def _first_record_named(plan: Plan) -> Iterator[None]:
    """Name the first record in an error for logits that are not finite."""
    try:
        yield
    except NotFinite as error:
        for corpus in filter(None, (plan.data, plan.controls)):
            rows = find_rows(corpus.windows, error.ids)
            if len(rows):
                place = f"{corpus.summary.path}:{corpus.windows.line[rows[0]]}"
                raise RunError(f"{error}; or remove the records that fail ({place})") from None
        raise


def _side(corpus: Corpus) -> Side:
    return Side(corpus.windows.ids, corpus.folds)


def _by_attack(earlier: tuple[FoldPrompts, ...]) -> dict[str, dict[int, Any]]:
    """Prompts fitted earlier, by attack and number of their file."""
    attacks = {attack for fold in earlier for attack in fold.usable}
    return {
        attack: {number: fold.usable[attack] for number, fold in enumerate(earlier)}
        for attack in attacks
    }
