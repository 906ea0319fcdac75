"""Provenance of a result: notes, files, folds, fits, model, run, settings and limits.

Knows the report: briefly for the terminal and Markdown, in full for the page. Knows nothing of
formats: each renderer neutralises the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memaudit.report.blocks import Facts, Head, Table
from memaudit.report.model import Corpus, Model, Report, Run
from memaudit.report.reading import batch_reason, batch_remark, left_out, setting
from memaudit.report.wording import count, shorten

_MOST_FACTS = 400
"""Files, settings or reasons in one list of the page."""
_LONGEST_NAME = 80
_LONGEST_VALUE = 500


def provenance(report: Report) -> Facts:
    """Return what a reader of the figures has to know, in a line each."""
    return Facts("", list(_lines(report)))


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    for place, note in enumerate(report.notes):
        yield ("" if place else "Notes"), note
    yield "Limits", " ".join(report.limits)
    yield from _corpus_lines("Data", report.data)
    if report.controls is not None:
        yield from _corpus_lines("Controls", report.controls)
    yield "Folds", _folds_line(report)
    for attack in report.attacks:
        if fits := attack.fits:
            chosen = "; ".join(f"fold {fit.fold} {fit.chosen}" for fit in fits)
            yield "Fitted", f"{attack.attack}: {chosen}; passes in {fits[0].precision}"
    target = report.target
    revision = f", revision {target.revision}" if target.revision else ""
    yield "Target", f"{target.name}{revision}: {_kind(target)}"
    for name, choice in target.choices.items():
        yield "", f"{name} {choice.value} ({choice.reason})"
    run = report.run
    yield "", f"batch of {count(run.batch_size, 'window')} ({batch_reason(report)})"
    if remark := batch_remark(report, "tuning"):
        passes = count(run.batches["tuning"].final, "window")
        yield "", f"fitting in passes of {passes} ({remark})"
    if report.reference is not None:
        model = report.reference.model
        yield "Reference", f"{model.name}: {_kind(model)}"
    spent, seed = sum(run.seconds.values()), report.seeds.seed
    version = report.tool.version
    yield "Run", f"memaudit {version}, {run.started}, {spent:.0f} s, seed {seed}{_how(run)}"


def _kind(model: Model) -> str:
    return f"{model.architecture}, {model.parameters:,} parameters"


def _how(run: Run) -> str:
    """Say how often the run was resumed and how many processes shared it, unless 0 and 1."""
    resumed = f", resumed {run.resumed:,} times" if run.resumed else ""
    shared = f", {run.processes:,} processes" if run.processes > 1 else ""
    return (resumed + shared).replace(" 1 times", " once")


def _corpus_lines(label: str, corpus: Corpus) -> Iterator[tuple[str, str]]:
    shape = f"{corpus.prefix_tokens}+{corpus.suffix_tokens}"
    yield (
        label,
        f"{corpus.path}: {count(corpus.rows, 'row')}, "
        f"{count(corpus.windows, 'window')} of {shape} tokens from "
        f"{count(corpus.used, 'sample')} in {count(corpus.clusters.count, 'cluster')}; "
        f"hmac-sha256 {corpus.hmac_sha256[:16]} (key {corpus.key_id})",
    )
    for skipped in corpus.skipped:
        yield "", f"skipped {skipped.count:,}: {skipped.reason}"


def _folds_line(report: Report) -> str:
    if not report.folds:
        earlier = setting(report, "generator")
        needed = "none possible" if left_out(report) else "none needed"
        return f"none: {'prompts fitted earlier were used' if earlier else needed}"
    sizes = "; ".join(
        f"{fold.fold}: fit {fold.fit:,}, select {fold.select:,}, audit {fold.audit:,}"
        for fold in report.folds
    )
    return f"{sizes} windows, split by {setting(report, 'protocol', 'split')}"


def full_provenance(report: Report) -> list[Facts]:
    """Return everything needed to understand and repeat the measurement."""
    reference, controls = report.reference, report.controls
    facts = [
        ("Run", _run(report)),
        ("Model", _model(report.target)),
        *([] if reference is None else [("Reference", _model(reference.model))]),
        ("Data", _corpus(report.data)),
        *([] if controls is None else [("Controls", _corpus(controls))]),
        ("Folds", _folds(report)),
    ]
    return [Facts(title, _bounded(rows)) for title, rows in facts]


def _run(report: Report) -> list[tuple[str, str]]:
    run = report.run
    return [
        ("memaudit", report.tool.version),
        ("command", report.command),
        ("started", run.started),
        ("time taken", ", ".join(f"{name} {spent:g} s" for name, spent in run.seconds.items())),
        ("resumed", f"{run.resumed:,} times"),
        ("processes", f"{run.processes:,}"),
        ("batch size", f"{run.batch_size:,} ({batch_reason(report)})"),
        *_tuning_passes(report),
        ("seed", str(report.seeds.seed)),
        *run.machine.items(),
        ("libraries", ", ".join(f"{k} {v}" for k, v in run.libraries.items())),
    ]


def _tuning_passes(report: Report) -> list[tuple[str, str]]:
    """Return the windows per fitting pass, if memory did not allow what was planned."""
    remark = batch_remark(report, "tuning")
    passes = report.run.batches["tuning"].final if remark else 0
    return [("windows per fitting pass", f"{passes:,} ({remark})")] if remark else []


def _model(model: Model) -> list[tuple[str, str]]:
    return [
        ("name", model.name),
        ("revision", model.revision or "-"),
        ("architecture", _kind(model)),
        *((name, f"{c.value} ({c.reason})") for name, c in model.choices.items()),
        *((f"SHA-256 of {name}", sha) for name, sha in model.fingerprint.items()),
    ]


def _corpus(corpus: Corpus) -> list[tuple[str, str]]:
    clusters = corpus.clusters
    return [
        ("file", corpus.path),
        ("HMAC-SHA256", corpus.hmac_sha256),
        ("project key", corpus.key_id),
        ("rows", f"{corpus.rows:,}, of which {corpus.bad:,} unusable"),
        ("samples", f"{corpus.used:,} of {corpus.samples:,} yield a window"),
        (
            "windows",
            f"{corpus.windows:,} of {corpus.prefix_tokens}+{corpus.suffix_tokens}",
        ),
        (
            "clusters",
            f"{clusters.count:,}, the largest of {count(clusters.largest, 'sample')}",
        ),
        (
            "tokens",
            f"{corpus.tokens:,}, of which {corpus.audited_tokens:,} audited and "
            f"{corpus.template_tokens:,} template",
        ),
        ("samples of template alone", f"{corpus.template_alone:,}"),
        ("tokens across the prefix boundary", f"{corpus.boundary_shifts:,}"),
        *((f"skipped {skip.count:,}", skip.reason) for skip in corpus.skipped),
    ]


def _folds(report: Report) -> list[tuple[str, str]]:
    return [
        (
            f"fold {fold.fold}",
            f"fit {fold.fit:,}, select {fold.select:,}, audit {fold.audit:,} windows",
        )
        for fold in report.folds
    ] or [("folds", "none")]


def settings(report: Report) -> Table:
    """Return every setting with its value and the source of the value."""
    sources = report.config.sources
    rows = [
        [shorten(name, _LONGEST_NAME), shorten(value, _LONGEST_VALUE), sources.get(name, "default")]
        for name, value in _leaves(report.settings)
    ]
    heads = [Head("setting"), Head("value", style="id"), Head("from")]
    return Table("settings", "Settings", "", heads, rows[:_MOST_FACTS])


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings by dotted name, two levels deep as in a config file."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", json.dumps(leaf)) for key, leaf in value.items())
        else:
            yield name, json.dumps(value)


def _bounded(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    bounded = [(name, shorten(value, _LONGEST_VALUE)) for name, value in rows[:_MOST_FACTS]]
    left = len(rows) - len(bounded)
    return [*bounded, ("", f"and {left:,} more")] if left else bounded
