"""The section ``validity`` of a report: counts that decide whether the run means anything.

Knows the form of the section only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from memaudit.report.model_parts import Count, Figure, Part, Share


class WithoutText(Part):
    """Windows whose prefix or suffix is not text, by kind."""

    any: Count
    control_or_blank: Count
    repeated: Count
    unknown: Count
    special: Count


class TemplateWindows(Part):
    """Windows of which a side is a template, by side."""

    any: Count
    suffix: Count
    prefix: Count
    in_controls: Count
    samples: Count
    """Samples in which every window is one of these, or template alone."""


class Reading(Part):
    """How well the model reads the suffixes, nats/token, under the weakest attack on it."""

    nll: Figure
    """Median over the windows."""
    frequencies_nll: Figure
    """NLL of a guess by the frequency of each token in these suffixes."""
    uniform_nll: Figure
    """NLL of a uniform guess over the vocabulary."""
    limit: Figure
    """From here on the model reads no better than by chance."""


class Continuations(Part):
    """Windows that the weakest attack on the model does not extract."""

    windows: Count
    ended: Count
    """Windows among them whose continuation ends at once."""
    same: Count
    """Windows among them with the commonest continuation."""


class Validity(Part):
    """Counts of the data's windows that decide whether the run means anything."""

    records: Count
    """Records examined."""
    records_used: Count
    """Records that gave a window."""
    windows: Count
    misread_windows: Count
    """Windows whose token ids do not decode to their text."""
    chats: Count
    """Chats that were rendered."""
    changed_chats: Count
    """Chats in which the chat template changes the last turn, or one of a user."""
    without_text: WithoutText
    unknown_tokens: Share
    """Share of the tokenizer's unknown token in all tokens."""
    template: TemplateWindows
    extracted: Count
    """Windows that an attack on the model extracts, without those above."""
    reading: Mapping[Literal["data", "controls"], Reading]
    """Empty if no attack queried the model."""
    continuations: Continuations | None
    """Null if no attack queried the model."""
