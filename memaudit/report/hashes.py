"""Hashes of a run's settings and results, recorded in the report.

Knows canonical JSON. A hash proves that nothing changed since, not who made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from memaudit.config.settings import ScanConfig
from memaudit.config.sources import to_toml

RESULTS = ("attacks", "any", "gates", "sensitive", "reference")
"""Parts of a report that hold figures and verdicts."""


def sha256_text(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8 bytes, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def config_hash(config: ScanConfig) -> str:
    """Return the hash of ``config.toml`` as stored in a run folder."""
    return sha256_text(to_toml(config))


def policy_hash(config: ScanConfig) -> str:
    """Return the hash of the gate's settings, which are fixed before the run."""
    return sha256_text(canonical(config.gate.model_dump(mode="json")))


def results_hash(document: Mapping[str, Any]) -> str:
    """Return the hash of a report's figures and verdicts; equal for runs with equal results."""
    return sha256_text(canonical({part: document.get(part) for part in RESULTS}))


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces and ASCII only: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
