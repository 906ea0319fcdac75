"""Hashes by which a report names what it rests on and what it found.

Knows canonical JSON. A hash proves that nothing changed since, not who made it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from memaudit.config.settings import ScanConfig
from memaudit.config.sources import to_toml

RESULTS = ("attacks", "gates", "sensitive", "reference")
"""The parts of a report that hold figures and verdicts."""


def sha256_text(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def config_hash(config: ScanConfig) -> str:
    """That of ``config.toml`` as a run folder holds it."""
    return sha256_text(to_toml(config))


def policy_hash(config: ScanConfig) -> str:
    """That of the gate's settings: fixed before the run, the same after it."""
    return sha256_text(canonical(config.gate.model_dump(mode="json")))


def results_hash(document: Mapping[str, Any]) -> str:
    """That of a report's figures and verdicts: of two runs alike where these are."""
    return sha256_text(canonical({part: document.get(part) for part in RESULTS}))


def canonical(value: Any) -> str:
    """JSON with sorted keys, no space and ASCII only: the same value gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
