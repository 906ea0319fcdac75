"""report.json: everything a later reader, a gate or another run needs (contract, section 2).

Knows the document's form, which ``report.schema.json`` defines. Writes no ids or text of windows.
Strings are raw: JSON's own escapes make them harmless.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import Any

import numpy as np

from memaudit.attack.facts import NO_PROMPT, Epoch
from memaudit.config.settings import LADDER, TargetSettings
from memaudit.data.fingerprints import FORM
from memaudit.gate.validity import Validity
from memaudit.report.findings import count_reasons, headline, wide_interval
from memaudit.report.frameworks import NOTE as FRAMEWORKS_NOTE
from memaudit.report.frameworks import framework_rows
from memaudit.report.hashes import config_hash, policy_hash, results_hash
from memaudit.report.leaks import sensitive_section
from memaudit.report.result import (
    AttackResult,
    FoldFit,
    ReferenceResult,
    RunFacts,
    ScanResult,
    TargetFacts,
)
from memaudit.report.wording import LIMITS, SCHEMA_VERSION, finite, json_text
from memaudit.score.origin import Origin
from memaudit.score.scores import AttackSummary, Difference, Lift, Rate
from memaudit.score.stats import Interval
from memaudit.score.validity import Continuations, Reading

Document = dict[str, Any]

EXACT = "Clopper-Pearson, windows independent"
CLUSTERED = "percentile bootstrap over clusters"
AGREED = "exact over clusters of their sizes, as all windows agree"
"""Method for a rate of 0 or 1, where the bootstrap shows no spread (score.stats.clustered_rate)."""
_REFERENCE_SCOPE = (
    "Every attack was also run on the reference, on the same windows and folds, with prompts "
    "fitted "
    "on the reference itself. A window extracted from both models was known before the "
    "fine-tuning; "
    "one extracted from the fine-tuned model alone was leaked by it."
)


def to_json(result: ScanResult) -> str:
    """Return the document as text: ASCII, indented, ending in a line end."""
    return document_text(to_document(result))


def document_text(document: Document) -> str:
    """Return a document, built or read back, as the text of the run folder's file."""
    return json_text(document)


def to_document(result: ScanResult) -> Document:
    """Return the document that `schema` describes. Numbers that are not finite become None."""
    rows = framework_rows(result)
    document = {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "memaudit", "version": result.run.version},
        "command": result.run.command,
        "exit_code": result.exit_code,
        "headline": list(headline(result)),
        "gates": [asdict(verdict) for verdict in result.verdicts],
        "attacks": [_attack(result, attack) for attack in result.attacks],
        "attacks_not_run": [name for name in LADDER if result.attack(name) is None],
        "sensitive": sensitive_section(result),
        "reference": _reference(result),
        "validity": _validity(result.validity),
        "notes": list(result.notes),
        "limits": list(LIMITS),
        "frameworks_note": FRAMEWORKS_NOTE,
        "frameworks": [{**row._asdict(), "evidence": list(row.evidence)} for row in rows],
        "target": _model(result.target, result.config.target),
        "data": _corpus(result, "data"),
        "controls": _corpus(result, "control"),
        "folds": [asdict(fold) for fold in result.fold_sizes],
        "prompt_files": {
            "origin": "fitted in this run" if result.config.generator is None else "fitted earlier",
            "sha256": dict(result.prompt_files),
        },
        "run": _run(result.run, result.config.windows.length),
        "fingerprints": {"form": FORM, "key_id": result.run.key_id},
        "seeds": {"seed": result.config.protocol.seed},
        "config": {
            "values": result.config.model_dump(mode="json"),
            "sources": dict(result.sources),
        },
    }
    cleaned: Document = finite(document)
    hashes = {"config": config_hash(result.config), "policy": policy_hash(result.config)}
    return {**cleaned, "hashes": {**hashes, "results": results_hash(cleaned)}}


def schema() -> Document:
    """Return the JSON Schema (2020-12) of the document."""
    text = resources.files("memaudit.report").joinpath("report.schema.json").read_text("utf-8")
    loaded: Document = json.loads(text)
    return loaded


def _attack(result: ScanResult, attack: AttackResult) -> Document:
    summary = attack.summary
    fits = [_fit(fit) for fit in result.fits if fit.attack == attack.attack]
    return {
        "attack": attack.attack,
        "settings": _settings(result, attack.attack),
        "exact": _rate(summary.exact),
        "fractional": {
            "estimate": summary.fractional,
            "interval": _interval(summary.fractional_interval, CLUSTERED),
        },
        "suffix_nll": summary.suffix_nll,
        "controls": _controls(summary),
        "lift": None if summary.lift is None else _lift(summary.lift),
        "permuted": asdict(attack.permuted),
        "fits": fits,
    }


def _settings(result: ScanResult, attack: str) -> Document | None:
    """Return the settings of the attack's prompt; None if it has no prompt."""
    if attack == "constant":
        return result.config.constant.model_dump(mode="json")
    if attack == "dynamic":
        return result.config.dynamic.model_dump(mode="json")
    if attack == "dynamic-hard":
        return {"num_virtual_tokens": result.config.dynamic.num_virtual_tokens}
    return None


def _controls(summary: AttackSummary) -> Document | None:
    if summary.controls_exact is None:
        return None
    return {
        "exact": _rate(summary.controls_exact),
        "fractional": summary.controls_fractional,
        "difference": None if summary.difference is None else _difference(summary.difference),
    }


def _difference(difference: Difference) -> Document:
    return {
        "estimate": difference.estimate,
        "interval": _interval(
            difference.interval, "corners of two Clopper-Pearson intervals (Bonferroni)"
        ),
        "p_value": difference.p_value,
        "test": "Fisher's exact test, one-sided: data above controls",
    }


def _lift(lift: Lift) -> Document:
    return {
        "estimate": lift.estimate,
        "gained": lift.gained,
        "lost": lift.lost,
        "interval": _interval(lift.interval, CLUSTERED),
        "p_value": lift.p_value,
        "test": "exact McNemar test, two-sided, windows independent",
        "clustered_p_value": lift.clustered_p_value,
        "clustered_test": "sign-flip permutation test over clusters, two-sided",
    }


def _corpus(result: ScanResult, role: str) -> Document | None:
    corpus = result.data if role == "data" else result.controls
    if corpus is None:
        return None
    summary, windows = corpus.summary, corpus.windows
    _, sizes = np.unique(corpus.clusters, return_counts=True)
    folds, audited = np.unique(corpus.folds, return_counts=True)
    by_size = sorted(Counter(sizes.tolist()).items())
    return {
        "path": str(summary.path),
        "hmac_sha256": result.file_hmacs[role],
        "key_id": result.run.key_id,
        "rows": summary.rows,
        "bad": summary.bad,
        "samples": windows.samples,
        "used": len(np.unique(windows.sample)),
        "windows": len(windows),
        "prefix_tokens": windows.prefix_ids.shape[1],
        "suffix_tokens": windows.suffix_ids.shape[1],
        "boundary_shifts": windows.boundary_shifts,
        "skipped": [
            {"reason": reason, "count": records}
            for reason, records in count_reasons(windows.skipped)
        ],
        "clusters": {
            "count": len(sizes),
            "largest": int(sizes.max(initial=0)),
            "sizes": [{"windows": size, "clusters": clusters} for size, clusters in by_size],
        },
        "scored_by_fold": [
            {"fold": fold, "windows": number}
            for fold, number in zip(folds.tolist(), audited.tolist(), strict=True)
        ],
    }


def _run(run: RunFacts, tokens: int) -> Document:
    return {
        "started": run.started,
        "finished": run.finished,
        "seconds": dict(run.seconds),
        "resumed": run.resumed,
        "processes": run.processes,
        "batch_size": run.batch_size,
        "batch_size_reason": run.batch_size_reason,
        "batch_shape": [run.batch_size, tokens],
        "batches": {
            stage: {**asdict(facts), "remark": facts.remark} for stage, facts in run.batches.items()
        },
        "libraries": dict(run.libraries),
        "machine": dict(run.machine),
        "determinism": dict(run.determinism),
    }


def _reference(result: ScanResult) -> Document | None:
    """Return the section; None without a reference."""
    reference = result.reference
    if reference is None:
        return None
    on_controls = reference.controls
    return {
        "scope": _REFERENCE_SCOPE,
        "model": _reference_model(result, reference),
        "data": _origins(reference.data),
        "controls": None if on_controls is None else _origins(on_controls),
        "fits": [{"attack": fit.attack, **_fit(fit)} for fit in reference.fits],
    }


def _reference_model(result: ScanResult, reference: ReferenceResult) -> Document:
    settings = result.config.target.model_copy(update={"training_tokens": None})
    return _model(reference.model, settings)


def _origins(origins: Sequence[Origin]) -> list[Document]:
    return [_origin(origin) for origin in origins]


def _origin(origin: Origin) -> Document:
    nll = origin.nll
    return {
        "attack": origin.attack,
        "known_before": origin.known,
        "leaked": _rate(origin.leaked),
        "forgotten": origin.forgotten,
        "neither": origin.neither,
        "p_value": origin.p_value,
        "test": "exact McNemar test, two-sided, windows independent",
        "clustered_p_value": origin.clustered_p_value,
        "clustered_test": "sign-flip permutation test over clusters, two-sided",
        "suffix_nll": {
            "target": nll.target,
            "reference": nll.reference,
            "change": nll.change,
            "interval": _interval(nll.interval, CLUSTERED),
        },
    }


def _validity(validity: Validity | None) -> dict[str, Any] | None:
    """Return the section; None if nothing was counted."""
    if validity is None:
        return None
    text, templates = validity.text, validity.templates
    continuations = validity.continuations
    return {
        "records": validity.records,
        "records_used": validity.used,
        "windows": validity.windows,
        "misread_windows": int(validity.misread.sum()),
        "chats": validity.chats,
        "changed_chats": validity.changed_chats,
        "without_text": {
            "any": int(text.any.sum()),
            "control_or_blank": int(text.control.sum()),
            "repeated": int(text.repeated.sum()),
            "unknown": int(text.unknown.sum()),
            "special": int(text.special.sum()),
        },
        "unknown_tokens": text.unknown_tokens,
        "template": {
            "any": int(templates.any.sum()),
            "suffix": int(templates.suffix.sum()),
            "prefix": int(templates.prefix.sum()),
            "in_controls": int(templates.in_controls.sum()),
        },
        "extracted": validity.extracted,
        "reading": {part: _reading(reading) for part, reading in validity.readings.items()},
        "continuations": None if continuations is None else _continuations(continuations),
    }


def _reading(reading: Reading) -> dict[str, float]:
    figures = {
        "nll": reading.nll,
        "frequencies_nll": reading.frequencies,
        "uniform_nll": reading.uniform,
        "limit": reading.limit,
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _continuations(counts: Continuations) -> dict[str, int]:
    return {"windows": counts.windows, "ended": counts.ended, "same": counts.alike}


def _rate(rate: Rate) -> Document:
    """Return a rate with all its intervals."""
    mixed = 0 < rate.k < rate.n
    return {
        "k": rate.k,
        "n": rate.n,
        "estimate": rate.estimate,
        "confidence": rate.confidence,
        "interval": _interval(wide_interval(rate), "outer ends of the two below"),
        "exact_interval": _interval(rate.interval, EXACT),
        "clustered_interval": _interval(rate.clustered, CLUSTERED if mixed else AGREED),
    }


def _interval(interval: Interval, method: str) -> Document:
    """Return an interval and its method."""
    return {"low": interval.low, "high": interval.high, "method": method}


def _fit(fit: FoldFit) -> Document:
    """Return a fit: the chosen prompt and the training curve."""
    record = fit.record
    return {
        "fold": fit.fold,
        "chosen": record.chosen,
        "chosen_epoch": _chosen_epoch(record.chosen, record.epochs),
        "stop_reason": record.stop_reason,
        "trainable_parameters": record.trainable_parameters,
        "fit_windows": record.fit_windows,
        "select_windows": record.select_windows,
        "precision": record.precision,
        "epochs": [asdict(epoch) for epoch in record.epochs],
    }


def _chosen_epoch(chosen: str, epochs: tuple[Epoch, ...]) -> int | None:
    if chosen == NO_PROMPT:
        return None
    return next((point.epoch for point in epochs if chosen == f"epoch {point.epoch}"), None)


def _model(target: TargetFacts, settings: TargetSettings) -> Document:
    """Return a model: name, files and resolved choices."""
    tokens = settings.training_tokens
    return {
        "name": target.name,
        "revision": target.revision,
        "architecture": target.architecture,
        "parameters": target.parameters,
        "training_tokens": tokens,
        "training_tokens_per_parameter": None if tokens is None else tokens / target.parameters,
        "remote_code_allowed": settings.trust_remote_code,
        "pickle_allowed": settings.allow_pickle,
        "fingerprint": dict(target.fingerprint),
        "choices": {
            name: {"value": choice.value, "reason": choice.reason}
            for name, choice in target.choices.items()
        },
    }
