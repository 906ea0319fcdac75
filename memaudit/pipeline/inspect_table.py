"""Render an inspection. Pure: Inspection -> text."""

from __future__ import annotations

from memaudit.data.windows import percent
from memaudit.pipeline.inspect import Inspection
from memaudit.report.blocks import Block, Facts, Text
from memaudit.report.result import TargetFacts
from memaudit.report.terminal import render_blocks


def render_inspection(inspection: Inspection, *, width: int, color: bool) -> str:
    """Render the target, its checks, the files, the folds and the cost."""
    notes = [f"Note: {note}" for note in inspection.notes]
    sections = [Facts(title, rows) for title, rows in _sections(inspection)]
    blocks: list[Block] = [*sections, *([Text(notes)] if notes else [])]
    return render_blocks(blocks, width=width, color=color)


def _sections(inspection: Inspection) -> list[tuple[str, list[tuple[str, str]]]]:
    sections = [("Target", _target_rows(inspection))]
    if (reference := inspection.reference) is not None:
        sections.append(("Reference", _reference_rows(reference)))
    sections.extend((role.capitalize(), _file_rows(inspection, role)) for role in inspection.files)
    if inspection.folds:
        folds = [
            (f"fold {fold.fold}", f"fit {fold.fit:,}, select {fold.select:,}, audit {fold.audit:,}")
            for fold in inspection.folds
        ]
        sections.append(("Folds", folds))
    if inspection.estimate is not None:
        sections.append(("Expected", _cost_rows(inspection)))
    return sections


def _target_rows(inspection: Inspection) -> list[tuple[str, str]]:
    target = inspection.target
    limit = inspection.max_tokens
    rows = [
        ("model", target.name),
        ("architecture", f"{target.architecture}, {target.parameters:,} parameters"),
        ("embedding", f"{inspection.vocabulary:,} rows of {inspection.width:,}"),
        ("positions", f"{limit:,}" if limit is not None else "no limit stated"),
    ]
    rows += [(n, f"{c.value} ({c.reason})") for n, c in target.choices.items()]
    rows.append(("batch size", f"{inspection.batch_size} ({inspection.batch_size_reason})"))
    flow = "gradients flow" if inspection.gradients else "no attack needs gradients"
    rows.append(("soft prompts", f"inputs_embeds gives the same logits as input_ids; {flow}"))
    return rows


def _reference_rows(reference: TargetFacts) -> list[tuple[str, str]]:
    return [
        ("model", reference.name),
        ("architecture", f"{reference.architecture}, {reference.parameters:,} parameters"),
        ("tokenizer", "reads the files like the target's"),
        *((n, f"{c.value} ({c.reason})") for n, c in reference.choices.items()),
    ]


def _file_rows(inspection: Inspection, role: str) -> list[tuple[str, str]]:
    facts = inspection.files[role]
    rows = [
        ("file", facts.path),
        ("rows", f"{facts.rows:,}"),
        ("windows", f"{facts.windows:,} of up to {facts.shape}"),
        ("audited", f"{percent(facts.audited)} of the tokens of all records"),
        ("clusters", f"{facts.clusters:,}, the largest of {facts.largest_cluster:,} windows"),
    ]
    rows += [("skipped", f"{count:,}: {reason}") for reason, count in facts.skipped.items()]
    return rows


def _cost_rows(inspection: Inspection) -> list[tuple[str, str]]:
    cost = inspection.estimate
    assert cost is not None
    twice = [("models", "two, one after the other; the speed is the first model's")]
    return [
        *(twice if inspection.reference is not None else []),
        ("measured", f"{cost.windows_per_second:,.0f} windows/s in one pass"),
        ("extraction", duration(cost.extraction_seconds)),
        ("tuning", ("up to " if cost.may_stop_early else "") + duration(cost.tuning_seconds)),
        (
            "memory",
            f"about {cost.memory_bytes / 2**30:.1f} GiB; tuning and the libraries take more",
        ),
    ]


def duration(seconds: float) -> str:
    """Seconds in words: s, min or h."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
