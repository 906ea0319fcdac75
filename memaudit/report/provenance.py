"""Provenance of a result in labelled lines: notes, files, folds, fits, model, run, limits.

Knows the document. Knows nothing of formats: each format neutralises the lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from memaudit.report.reading import batch_reason, batch_remark, setting
from memaudit.report.report_json import Document
from memaudit.report.wording import count


def provenance_lines(document: Document) -> Iterator[tuple[str, str]]:
    """Yield lines with their labels; a blank label continues the one before."""
    for place, note in enumerate(document["notes"]):
        yield ("" if place else "Notes"), note
    yield from _corpus_lines("Data", document["data"])
    if document["controls"] is not None:
        yield from _corpus_lines("Controls", document["controls"])
    yield "Folds", _folds_line(document)
    for attack in document["attacks"]:
        if fits := attack["fits"]:
            chosen = "; ".join(f"fold {fit['fold']} {fit['chosen']}" for fit in fits)
            yield "Fitted", f"{attack['attack']}: {chosen}; passes in {fits[0]['precision']}"
    target = document["target"]
    revision = f", revision {target['revision']}" if target["revision"] else ""
    kind = f"{target['architecture']}, {target['parameters']:,} parameters"
    yield "Target", f"{target['name']}{revision}: {kind}"
    for name, choice in target["choices"].items():
        yield "", f"{name} {choice['value']} ({choice['reason']})"
    run = document["run"]
    yield "", f"batch of {count(run['batch_size'], 'window')} ({batch_reason(document)})"
    if remark := batch_remark(document, "tuning"):
        passes = count(run["batches"]["tuning"]["final"], "window")
        yield "", f"fitting in passes of {passes} ({remark})"
    if document["reference"] is not None:
        model = document["reference"]["model"]
        kind = f"{model['architecture']}, {model['parameters']:,} parameters"
        yield "Reference", f"{model['name']}: {kind}"
    spent, seed = sum(run["seconds"].values()), document["seeds"].get("seed", "unknown")
    version = document["tool"]["version"]
    yield "Run", f"memaudit {version}, {run['started']}, {spent:.0f} s, seed {seed}{_how(run)}"
    yield "Limits", " ".join(document["limits"])


def _how(run: Document) -> str:
    """Say how often the run was resumed and how many processes shared it, unless 0 and 1."""
    resumed = f", resumed {run['resumed']:,} times" if run["resumed"] else ""
    shared = f", {run['processes']:,} processes" if run["processes"] > 1 else ""
    return (resumed + shared).replace(" 1 times", " once")


def _corpus_lines(label: str, corpus: Document) -> Iterator[tuple[str, str]]:
    shape = f"{corpus['prefix_tokens']}+{corpus['suffix_tokens']}"
    yield (
        label,
        f"{corpus['path']}: {count(corpus['rows'], 'row')}, "
        f"{count(corpus['windows'], 'window')} of {shape} "
        f"tokens in {count(corpus['clusters']['count'], 'cluster')}; "
        f"hmac-sha256 {corpus['hmac_sha256'][:16]} (key {corpus['key_id']})",
    )
    for skipped in corpus["skipped"]:
        yield "", f"skipped {skipped['count']:,}: {skipped['reason']}"


def _folds_line(document: Document) -> str:
    if not document["folds"]:
        earlier = setting(document, "generator")
        return f"none: {'prompts fitted earlier were used' if earlier else 'none needed'}"
    sizes = "; ".join(
        f"{fold['fold']}: fit {fold['fit']:,}, select {fold['select']:,}, audit {fold['audit']:,}"
        for fold in document["folds"]
    )
    return f"{sizes} windows, split by {setting(document, 'protocol', 'split')}"
