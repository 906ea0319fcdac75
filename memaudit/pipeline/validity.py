"""Evidence for the validity of a run, from the plan, the model and the output of its attacks.

Knows where the counts of score.validity come from. Decides nothing: gate.validity does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome
from memaudit.attack.extraction import Extraction
from memaudit.config.settings import AttackName
from memaudit.data.corpus import Corpus
from memaudit.data.plan import Plan
from memaudit.data.windows import Windows
from memaudit.gate.validity import Validity
from memaudit.pipeline.scoring import decode_rows
from memaudit.report.result import AttackResult
from memaudit.score.validity import (
    Reading,
    TokenRoles,
    count_continuations,
    find_templates,
    find_text_faults,
    measure_reading,
)
from memaudit.target.checkpoint import Checkpoint


def token_roles(checkpoint: Checkpoint) -> TokenRoles:
    """Find the ids of a loaded target that are not text.

    A tokenizer that covers any text often uses its end token as the unknown token (GPT-2's does).
    That token never encodes text, and counts only as special.
    """
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = tokenizer.unk_token_id
    unknown = None if unknown in named else unknown
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(id_ for id_, token in added.items() if token.special)}
    sources = (
        model.config,
        model.config.get_text_config(decoder=True),
        getattr(model, "generation_config", None),
        tokenizer,
    )
    return TokenRoles(
        vocabulary=checkpoint.vocabulary,
        unknown=unknown,
        special=tuple(sorted(special - {unknown})),
        end=tuple(sorted({id_ for source in sources for id_ in _end_ids(source)})),
    )


def _end_ids(source: Any) -> list[int]:
    """Return the end tokens of a config or a tokenizer: none, one or several."""
    named = getattr(source, "eos_token_id", None)
    listed = named if isinstance(named, (list, tuple)) else [named]
    return [id_ for id_ in listed if isinstance(id_, int)]


def planned_validity(plan: Plan, roles: TokenRoles, tokenizer: Any) -> Validity:
    """Collect the evidence of the windows alone, before any attack."""
    windows, controls = plan.data.windows, plan.controls
    records, used = _count_records(windows)
    templates = find_templates(
        windows.prefix_ids,
        windows.suffix_ids,
        None if controls is None else controls.windows.ids,
    )
    says_something = plan.data.sample[plan.data.is_own & ~templates.any]
    return Validity(
        text=find_text_faults(
            windows.prefix_ids, windows.suffix_ids, roles, partial(decode_rows, tokenizer)
        ),
        templates=templates,
        template_samples=len(plan.data.first_rows) - len(np.unique(says_something)),
        lines=windows.line,
        records=records,
        used=used,
        misread=windows.misread,
        chats=windows.chats,
        changed_chats=windows.changed_chats,
    )


def run_validity(
    plan: Plan,
    roles: TokenRoles,
    tokenizer: Any,
    attacks: tuple[AttackResult, ...],
    outcomes: Mapping[AttackName, AttackOutcome],
) -> Validity:
    """Collect the evidence of the windows and the attacks.

    How the model reads, and how it continues a prefix, comes from its weakest attack: ``none``, if
    it was run.
    """
    planned = planned_validity(plan, roles, tokenizer)
    results = [result for result in attacks if result.attack != "copy"]
    if not results:
        return planned
    sound = ~(planned.text.any | planned.templates.any)
    weakest = outcomes[results[0].attack]
    readings = {
        "data": _read(plan.data, weakest.data, roles, sound),
        "controls": _read(plan.controls, weakest.controls, roles),
    }
    return replace(
        planned,
        extracted=int((np.any([result.data.exact for result in results], axis=0) & sound).sum()),
        readings={part: reading for part, reading in readings.items() if reading is not None},
        continuations=count_continuations(
            weakest.data.continuation_ids, plan.data.windows.suffix_ids, roles
        ),
    )


def _read(
    corpus: Corpus | None,
    extraction: Extraction | None,
    roles: TokenRoles,
    rows: NDArray[np.bool_] | slice = slice(None),
) -> Reading | None:
    if corpus is None or extraction is None:
        return None
    suffixes = corpus.windows.suffix_ids[rows]
    return measure_reading(suffixes, extraction.suffix_nll[rows], roles.vocabulary)


def _count_records(windows: Windows) -> tuple[int, int]:
    """Count the records read, and those that gave a window."""
    used = set(zip(windows.sample_id, windows.line.tolist(), strict=True))
    skipped = {(record.sample_id, record.line) for record in windows.skipped}
    return len(used | skipped), len(used)
