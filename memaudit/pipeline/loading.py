"""Load a target, check it for the windows to audit, and make its extractor.

Knows the target room and its settings. Knows nothing of folds, results of attacks or scores.
Scan and inspection both start here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from memaudit.attack.decoding_check import check_causal
from memaudit.attack.extraction import Extractor
from memaudit.attack.memory import choose_batch_size
from memaudit.attack.prompt_files import FoldPrompts, load_all
from memaudit.config.settings import ScanConfig
from memaudit.data.plan import Role, bos_source
from memaudit.data.windows import Windows
from memaudit.errors import UsageError
from memaudit.report.result import TargetFacts
from memaudit.sensitive.detectors import check_region
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.entities import EntityModel, load_entity_model
from memaudit.target.placement import Choice
from memaudit.target.softprompt_check import architecture_of, check_soft_prompts


def load_target(config: ScanConfig, tokenizer: Any, windows: Mapping[Role, Windows]) -> Checkpoint:
    """Load the target and check, for these windows, that embeddings and ids give equal logits."""
    checkpoint = load_checkpoint(config.model, config.target, tokenizer, bos_source(windows))
    for day in {part.chat_date for part in windows.values()} - {None}:
        choice = Choice(str(day), "windows.chat_date: the chat template asks for the date")
        checkpoint = replace(checkpoint, choices={**checkpoint.choices, "chat_date": choice})
    for part in windows.values():
        checkpoint.check_ids(part.ids)
    prefix = _longest_prefix(config, windows)
    check_positions(config, checkpoint, prefix=prefix)
    check_inputs(config, checkpoint, windows.values())
    _check_causal(config, checkpoint, prefix, prompt_lengths(config))
    return checkpoint


def _longest_prefix(config: ScanConfig, windows: Mapping[Role, Windows]) -> int:
    """Return the tokens of the longest prefix, up to P; P without windows."""
    lengths = [int(part.prefix_tokens.max()) for part in windows.values()]
    return max(lengths, default=config.windows.prefix_tokens)


def check_inputs(config: ScanConfig, checkpoint: Checkpoint, parts: Iterable[Windows]) -> None:
    """Raise TargetError if embeddings give other logits than token ids.

    Every attack uses embeddings, even ``none``.
    """
    ids = {int(id_) for part in parts for id_ in np.unique(part.ids)}
    prompts = bool(set(config.attacks) - {"none", "copy"})
    check_soft_prompts(checkpoint, gradients=fits_prompts(config), prompts=prompts, window_ids=ids)


def prompt_lengths(config: ScanConfig) -> set[int]:
    """V of every prompt of the attacks, and 0 for ``none``."""
    attacks = set(config.attacks)
    constant, dynamic = config.constant.num_virtual_tokens, config.dynamic.num_virtual_tokens
    lengths = {0} | ({constant} if "constant" in attacks else set())
    return lengths | ({dynamic} if attacks & {"dynamic", "dynamic-hard"} else set())


def _check_causal(
    config: ScanConfig, checkpoint: Checkpoint, prefix: int, lengths: Iterable[int]
) -> None:
    """Raise TargetError if one pass over a window does not agree with decoding it.

    prefix: tokens of the longest prefix. lengths: V of the prompts.
    """
    before = prefix + (checkpoint.bos_id is not None)
    for virtual in sorted(lengths):
        check_causal(checkpoint, before + virtual, config.windows.suffix_tokens)


def fits_prompts(config: ScanConfig) -> bool:
    """True if an attack needs gradients: its prompts were not fitted earlier."""
    return config.generator is None and bool({"constant", "dynamic"} & set(config.attacks))


def load_earlier(
    config: ScanConfig, checkpoint: Checkpoint, windows: Mapping[Role, Windows]
) -> tuple[FoldPrompts, ...]:
    """Load the prompts of ``--generator``, if any. Raises UsageError if they do not fit."""
    if config.generator is None:
        return ()
    earlier = load_all(config.generator, checkpoint)
    if missing := ({"constant", "dynamic"} & set(config.attacks)) - set(earlier[0].prompts):
        raise UsageError(
            f"--generator {config.generator}: holds no prompt of {' and '.join(sorted(missing))}; "
            "select other attacks with --attacks"
        )
    prefix = _longest_prefix(config, windows)
    for fold in earlier:
        if fold.prefix_tokens != config.windows.prefix_tokens:
            raise UsageError(
                f"--generator {config.generator}: fitted for prefixes of {fold.prefix_tokens} "
                f"tokens; use --prefix-tokens {fold.prefix_tokens}"
            )
        for prompt in fold.prompts.values():
            check_positions(config, checkpoint, prompt.settings.num_virtual_tokens, prefix)
    prompts = [prompt for fold in earlier for prompt in fold.prompts.values()]
    lengths = {prompt.settings.num_virtual_tokens for prompt in prompts}
    _check_causal(config, checkpoint, prefix, lengths - prompt_lengths(config))
    return earlier


def load_entities(config: ScanConfig, checkpoint: Checkpoint) -> EntityModel | None:
    """Load the model that finds names in suffixes, before the attacks; None if not requested.

    Raises TargetError if it is not an entity model, UsageError for an unknown region.
    """
    settings = config.sensitive
    check_region(settings.region)
    if settings.entity_model is None or not settings.enabled:
        return None
    return load_entity_model(settings.entity_model, config.target.offline, checkpoint.device)


def reuse_notes(
    config: ScanConfig, earlier: tuple[FoldPrompts, ...], doubt: str | None = None
) -> list[str]:
    """Notes for the reader about prompts that were fitted earlier, with any doubt about them."""
    if not earlier:
        return []
    notes = ["The prompts were fitted earlier; copy is not run, as it needs the text they saw."]
    if earlier[0].target != config.model:
        notes.append(f"The prompts were fitted on {earlier[0].target}, not on this model.")
    return [*notes, *filter(None, [doubt])]


def check_positions(
    config: ScanConfig,
    checkpoint: Checkpoint,
    virtual: int | None = None,
    prefix: int | None = None,
) -> None:
    """Raise UsageError if prompt and window are longer than the model's positions.

    virtual: V of the longest prompt; None takes the longest of the attacks. prefix: tokens of the
    longest prefix; None takes P.
    """
    if virtual is None:
        virtual = max(prompt_lengths(config))
    window = config.windows.suffix_tokens + (prefix or config.windows.prefix_tokens)
    needed = window + virtual + (checkpoint.bos_id is not None)
    if checkpoint.max_tokens is not None and needed > checkpoint.max_tokens:
        raise UsageError(
            f"soft prompt and window take {needed} tokens, {checkpoint.name} has "
            f"{checkpoint.max_tokens} positions; lower --prefix-tokens, --suffix-tokens or "
            "num_virtual_tokens"
        )


def choose_size(config: ScanConfig, checkpoint: Checkpoint) -> tuple[int, str]:
    """Return the windows per pass and the reason."""
    if config.extraction.batch_size is not None:
        return config.extraction.batch_size, "as configured"
    return choose_batch_size(checkpoint, config.windows.suffix_tokens)


def make_extractor(config: ScanConfig, checkpoint: Checkpoint, batch_size: int) -> Extractor:
    """Make the extractor for the windows of these settings."""
    return Extractor(checkpoint, config.windows.prefix_tokens, config.scores, batch_size)


def describe_target(extractor: Extractor) -> TargetFacts:
    """Facts about the model for the report; an adapter has the class name of its base."""
    checkpoint, decoding = extractor.checkpoint, extractor.decoding
    return TargetFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        architecture=architecture_of(checkpoint),
        parameters=checkpoint.num_parameters,
        fingerprint=checkpoint.fingerprint,
        choices={**checkpoint.choices, "decoding": Choice(decoding.path, decoding.reason)},
    )
