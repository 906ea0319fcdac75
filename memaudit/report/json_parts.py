"""Parts that several sections of report.json share: rates, intervals, fits and models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memaudit.attack.facts import NO_PROMPT, Epoch
from memaudit.config.settings import TargetSettings
from memaudit.report.findings import wide_interval
from memaudit.report.result import FoldFit, TargetFacts
from memaudit.score.scores import Rate
from memaudit.score.stats import Interval

Document = dict[str, Any]

EXACT = "Clopper-Pearson, windows independent"
CLUSTERED = "percentile bootstrap over clusters"
AGREED = "exact over clusters of their sizes, as all windows agree"
"""Method for a rate of 0 or 1, where the bootstrap shows no spread (score.stats.clustered_rate)."""


def rate_json(rate: Rate) -> Document:
    """Return a rate with all its intervals."""
    mixed = 0 < rate.k < rate.n
    return {
        "k": rate.k,
        "n": rate.n,
        "estimate": rate.estimate,
        "confidence": rate.confidence,
        "interval": interval_json(wide_interval(rate), "outer ends of the two below"),
        "exact_interval": interval_json(rate.interval, EXACT),
        "clustered_interval": interval_json(rate.clustered, CLUSTERED if mixed else AGREED),
    }


def interval_json(interval: Interval, method: str) -> Document:
    """Return an interval and its method."""
    return {"low": interval.low, "high": interval.high, "method": method}


def fit_json(fit: FoldFit) -> Document:
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


def model_json(target: TargetFacts, settings: TargetSettings) -> Document:
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
