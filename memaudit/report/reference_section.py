"""Section ``reference`` of report.json: the model before fine-tuning, and windows leaked since.

Knows results and the form of the section. Writes no ids or text of windows.
"""

from __future__ import annotations

from collections.abc import Sequence

from memaudit.report.json_parts import (
    CLUSTERED,
    Document,
    fit_json,
    interval_json,
    model_json,
    rate_json,
)
from memaudit.report.result import ReferenceResult, ScanResult
from memaudit.score.origin import Origin

SCOPE = (
    "Every attack was also run on the reference, on the same windows and folds, with prompts "
    "fitted "
    "on the reference itself. A window extracted from both models was known before the "
    "fine-tuning; "
    "one extracted from the fine-tuned model alone was leaked by it."
)


def reference_section(result: ScanResult) -> Document | None:
    """Return the section; None without a reference."""
    reference = result.reference
    if reference is None:
        return None
    on_controls = reference.controls
    return {
        "scope": SCOPE,
        "model": _model(result, reference),
        "data": _origins(reference.data),
        "controls": None if on_controls is None else _origins(on_controls),
        "fits": [{"attack": fit.attack, **fit_json(fit)} for fit in reference.fits],
    }


def _model(result: ScanResult, reference: ReferenceResult) -> Document:
    settings = result.config.target.model_copy(update={"training_tokens": None})
    return model_json(reference.model, settings)


def _origins(origins: Sequence[Origin]) -> list[Document]:
    return [_origin(origin) for origin in origins]


def _origin(origin: Origin) -> Document:
    nll = origin.nll
    return {
        "attack": origin.attack,
        "known_before": origin.known,
        "leaked": rate_json(origin.leaked),
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
            "interval": interval_json(nll.interval, CLUSTERED),
        },
    }
