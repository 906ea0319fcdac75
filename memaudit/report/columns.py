"""Columns of ``samples.csv`` and ``windows.csv``, in order (contract, section 2).

Knows names only.
"""

from __future__ import annotations

from memaudit.config.settings import LADDER

SUFFIXES = tuple(attack.replace("-", "_") for attack in LADDER)
"""Ends of the names of an attack's columns, weakest attack first."""
ASKING = tuple(attack for attack in LADDER if attack != "copy")
"""Attacks that query a model, and so the reference too."""
WINDOW_SCORES = ("exact", "fractional", "matched", "longest_run", "suffix_nll", "log_p_z")
ON_REFERENCE = ("exact", "fractional", "suffix_nll")
SAMPLE_SCORES = (
    *("exact", "extracted", "windows_exact"),
    *("fractional", "longest_run", "suffix_nll"),
)
TEXTS = ("text_prefix", "text_suffix", *(f"text_{attack}" for attack in SUFFIXES))
"""Columns of ``windows.csv`` after all others of its own, if text is revealed."""

WINDOW_COLUMNS = (
    *("schema_version", "role", "sample_id", "line", "window", "fingerprint", "cluster", "fold"),
    *("status", "reason", "prefix_tokens", "suffix_tokens", "new_tokens", "template_tokens"),
    *(f"{score}_{attack}" for attack in SUFFIXES for score in WINDOW_SCORES),
    *("edit_similarity", "queries_p50", "categories"),
)
"""Columns of every ``windows.csv``: one row per window, and one per record without any."""

REFERENCE_COLUMNS = tuple(
    f"reference_{score}_{attack.replace('-', '_')}" for attack in ASKING for score in ON_REFERENCE
)
"""Columns of ``windows.csv`` after those of every run, if there is a reference."""

SAMPLE_COLUMNS = (
    *("schema_version", "role", "sample_id", "line", "group", "fingerprint", "cluster", "fold"),
    *("status", "reason", "tokens", "audited_tokens", "template_tokens", "windows"),
    *(f"{score}_{attack}" for attack in SUFFIXES for score in SAMPLE_SCORES),
    *("exact_any", "extracted_any", "categories"),
)
"""Columns of every ``samples.csv``: one row per record."""

OWN = frozenset((*WINDOW_COLUMNS, *REFERENCE_COLUMNS, *SAMPLE_COLUMNS, *TEXTS))
"""Names that no column passed through has, in either table."""
