"""Figures of a report as a machine-learning bill of materials: CycloneDX 1.6, JSON.

Knows CycloneDX's model card and the report. Writes no ids or text of windows. Strings
are raw, as JSON's own escapes make them harmless. The same report gives the same bytes.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from memaudit.report.hashes import canonical
from memaudit.report.model import Corpus, Report
from memaudit.report.model_parts import AnyAttack, Interval, Rate
from memaudit.report.reading import check_state, checks_of, gate_id, ladder_rows, limits_of
from memaudit.report.wording import json_text

Json = dict[str, Any]

_NAMESPACE = uuid.UUID("3f6e3f0a-0a5e-5a0c-9d0e-3d1f4f2b7a60")
"""Namespace of the serial numbers, which are derived from the report."""
_MODEL, _DATA, _CONTROLS = "model", "data", "controls"


def to_cyclonedx(report: Report) -> str:
    """Return the bill of materials as text: ASCII, indented, ending in a line end."""
    serial = uuid.uuid5(_NAMESPACE, canonical(report.document()))
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": report.run.finished,
            "tools": {"components": [{"type": "application", **report.tool.model_dump()}]},
            "component": _model(report),
            "properties": _properties(report),
        },
        "components": [
            _data(corpus, name)
            for name, corpus in ((_DATA, report.data), (_CONTROLS, report.controls))
            if corpus is not None
        ],
    }
    return json_text(bom)


def _model(report: Report) -> Json:
    target = report.target
    files = [
        {"type": "file", "name": name, "hashes": [_sha256(digest)]}
        for name, digest in target.fingerprint.items()
    ]
    revision = {} if target.revision is None else {"version": target.revision}
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": target.name,
        **revision,
        "components": files,
        "modelCard": {
            "modelParameters": {"modelArchitecture": target.architecture},
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report))},
            "considerations": {"technicalLimitations": report.limits},
        },
    }


def _metrics(report: Report) -> Iterator[Json]:
    for attack in ladder_rows(report):
        name, controls = attack.attack, attack.controls
        yield _rate("extraction rate", attack.extracted, _slice(_DATA, name))
        if controls is not None:
            yield _rate("extraction rate", controls.extracted, _slice(_CONTROLS, name))
        if isinstance(attack, AnyAttack):
            continue
        fractional = attack.fractional
        yield _metric(
            "fractional extraction rate",
            fractional.estimate,
            _slice(_DATA, name),
            fractional.interval,
        )
        if attack.lift is not None:
            lift = attack.lift
            yield _metric(
                "lift of the extraction rate above none",
                lift.estimate,
                _slice(_DATA, name),
                lift.interval,
            )
    for origin in report.reference.data if report.reference is not None else ():
        yield _rate(
            "extraction rate, leaked by the fine-tuning",
            origin.leaked,
            _slice(_DATA, origin.attack),
        )
    for leak in report.sensitive.data if report.sensitive is not None else ():
        if leak.samples:
            share = leak.extracted / leak.samples
            place = f"{_DATA}, samples that hold {leak.title} ({leak.samples}), any attack"
            yield _metric("extraction rate", share, place)


def _rate(kind: str, rate: Rate, place: str) -> Json:
    return _metric(kind, rate.estimate, f"{place}, {rate.n} samples", rate.interval)


def _slice(part: str, attack: str) -> str:
    return f"{part}, attack {attack}"


def _metric(kind: str, value: float, place: str, interval: Interval | None = None) -> Json:
    """Return one metric; CycloneDX has figures as strings, here ``n/a`` where there is none."""
    metric: Json = {"type": kind, "value": _figure(value), "slice": place}
    if interval is not None:
        bounds = {"lowerBound": interval.low, "upperBound": interval.high}
        metric["confidenceInterval"] = {name: _figure(end) for name, end in bounds.items()}
    return metric


def _figure(value: float) -> str:
    return "n/a" if math.isnan(value) else format(value, ".6g")


def _data(corpus: Corpus, ref: str) -> Json:
    names = {"hmac_sha256": corpus.hmac_sha256, "key_id": corpus.key_id}
    return {
        "type": "data",
        "bom-ref": ref,
        "name": corpus.path,
        # No hash: the format has plain ones only, and that of a short file gives its content away.
        "data": [{"type": "dataset", "name": ref}],
        "properties": _named(names),
    }


def _properties(report: Report) -> list[Json]:
    """Return values that have no field in the standard: verdicts, hashes, settings of trust."""
    gates: dict[str, str] = {f"gate:{gate_id(g)}": g.verdict for g in limits_of(report)}
    gates |= {f"check:{check.name}": check_state(check) for check in checks_of(report)}
    hashes = {f"sha256:{name}": digest for name, digest in report.hashes.model_dump().items()}
    target = report.target
    facts = {
        "parameters": str(target.parameters),
        "training_tokens": str(target.training_tokens or "unknown"),
        "remote_code_allowed": str(target.remote_code_allowed).lower(),
        "pickle_allowed": str(target.pickle_allowed).lower(),
        "attacks_not_run": ", ".join(report.attacks_not_run) or "-",
        "exit_code": str(report.exit_code),
    }
    return _named({**facts, **gates, **hashes})


def _named(values: Mapping[str, str]) -> list[Json]:
    return [{"name": f"memaudit:{name}", "value": value} for name, value in values.items()]


def _sha256(digest: str) -> Json:
    return {"alg": "SHA-256", "content": digest}
