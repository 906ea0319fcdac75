"""report.json: everything a later reader, a gate or another run needs (contract, section 2).

Knows the document's form, which ``report.schema.json`` defines. Writes no ids or text of windows.
Strings are raw: JSON's own escapes make them harmless.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from typing import Any

import numpy as np

from memaudit.config.settings import LADDER
from memaudit.data.fingerprints import FORM
from memaudit.report.findings import count_reasons, headline
from memaudit.report.frameworks import NOTE as FRAMEWORKS_NOTE
from memaudit.report.frameworks import framework_rows
from memaudit.report.hashes import config_hash, policy_hash, results_hash
from memaudit.report.json_parts import CLUSTERED, fit_json, interval_json, model_json, rate_json
from memaudit.report.leaks import sensitive_section
from memaudit.report.reference_section import reference_section
from memaudit.report.result import AttackResult, RunFacts, ScanResult
from memaudit.report.validity_section import validity_section
from memaudit.report.wording import LIMITS, SCHEMA_VERSION, json_text
from memaudit.score.scores import AttackSummary, Difference, Lift

Document = dict[str, Any]


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
        "reference": reference_section(result),
        "validity": validity_section(result.validity),
        "notes": list(result.notes),
        "limits": list(LIMITS),
        "frameworks_note": FRAMEWORKS_NOTE,
        "frameworks": [{**row._asdict(), "evidence": list(row.evidence)} for row in rows],
        "target": model_json(result.target, result.config.target),
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
    cleaned: Document = _finite(document)
    hashes = {"config": config_hash(result.config), "policy": policy_hash(result.config)}
    return {**cleaned, "hashes": {**hashes, "results": results_hash(cleaned)}}


def schema() -> Document:
    """Return the JSON Schema (2020-12) of the document."""
    text = resources.files("memaudit.report").joinpath("report.schema.json").read_text("utf-8")
    loaded: Document = json.loads(text)
    return loaded


def _attack(result: ScanResult, attack: AttackResult) -> Document:
    summary = attack.summary
    fits = [fit_json(fit) for fit in result.fits if fit.attack == attack.attack]
    return {
        "attack": attack.attack,
        "settings": _settings(result, attack.attack),
        "exact": rate_json(summary.exact),
        "fractional": {
            "estimate": summary.fractional,
            "interval": interval_json(summary.fractional_interval, CLUSTERED),
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
        "exact": rate_json(summary.controls_exact),
        "fractional": summary.controls_fractional,
        "difference": None if summary.difference is None else _difference(summary.difference),
    }


def _difference(difference: Difference) -> Document:
    return {
        "estimate": difference.estimate,
        "interval": interval_json(
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
        "interval": interval_json(lift.interval, CLUSTERED),
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


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
