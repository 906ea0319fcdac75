"""Signals of all windows that are looked at: one pass over prefixes, one over whole windows.

Knows a subject, which of its windows are asked for, and how often the model is to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import Progress
from memaudit.diagnose.passes import Found
from memaudit.diagnose.signals.curves import split_border
from memaudit.diagnose.signals.features import (
    Prefixes,
    Signal,
    characters,
    logit_signals,
    nearest_similarity,
    rarity,
    text_signals,
)
from memaudit.diagnose.signals.groups import Look
from memaudit.diagnose.signals.readings import (
    PrefixReading,
    passes_for,
    read_prefixes,
    read_windows,
)
from memaudit.diagnose.subject import Subject
from memaudit.score.stats import Ints


@dataclass(frozen=True, eq=False)
class Chosen:
    """Windows whose prefixes are read: rows of the data, and of the controls."""

    data: Ints
    """(N,), in order."""
    controls: Ints
    """(C,), in order."""

    def places(self, data: Ints, controls: Ints) -> Ints:
        """Where rows of data and then of controls stand among these windows."""
        behind = len(self.data) + np.searchsorted(self.controls, controls)
        return np.concatenate([np.searchsorted(self.data, data), behind])


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of each chosen window, N of the data and C controls, from its prefix."""

    signals: Sequence[Signal]
    """Each (N+C,); finite."""
    states: NDArray[np.float32] | None
    """(N+C,D) at the border; None where the model shows none."""


def read_known(
    subject: Subject, chosen: Chosen, even: Ints, near: int, progress: Progress
) -> Known:
    """Signals of prefixes alone: no suffix is handed on from here.

    even: rows of the data, drawn evenly, that states are compared with; all are chosen.
    """
    length = subject.prefix_tokens
    file = subject.data.ids[:, :length]
    ids, clusters = file[chosen.data], subject.data.clusters[chosen.data]
    own = chosen.data
    if subject.controls is not None and len(chosen.controls):
        there = subject.controls
        ids = np.concatenate([ids, there.ids[chosen.controls, :length]])
        clusters = np.concatenate([clusters, there.clusters[chosen.controls]])
        own = np.concatenate([own, np.full(len(chosen.controls), -1)])
    with progress.stage("signals: prefixes", len(ids)) as advance:
        passes = passes_for(subject.passes(), length, subject.suffix_tokens)
        reading = read_prefixes(passes, ids, advance)
    run, tokenizer = subject.config.protocol.cluster_run, subject.checkpoint.tokenizer
    signals = [
        *text_signals(Prefixes(ids, own, file), run, tokenizer),
        *logit_signals(reading, near),
        *_state_signals(reading, clusters, np.searchsorted(chosen.data, even)),
    ]
    return Known([one for one in signals if np.isfinite(one.values).all()], reading.state)


def _state_signals(reading: PrefixReading, clusters: Ints, known: Ints) -> list[Signal]:
    found = []
    if reading.likeness is not None:
        values = reading.likeness.astype(np.float64)
        found.append(Signal("likeness of the states in the prefix", "state", values))
    if reading.state is not None:
        states = reading.state
        values = nearest_similarity(states, clusters, states[known], clusters[known])
        found.append(Signal("state: nearest of another cluster", "state", values))
    return found


def read_look(subject: Subject, look: Look, progress: Progress) -> Found:
    """Figures of each token of the windows looked at (N,P+S-1)."""
    positions = look.ids.shape[1] - 1
    with progress.stage("signals: windows", len(look)) as advance:
        passes = passes_for(subject.passes(), positions, subject.suffix_tokens)
        return read_windows(passes, look.ids, advance)


def suffix_signals(subject: Subject, look: Look, found: Found, near: int) -> list[Signal]:
    """The signals that only the suffix gives, for the windows looked at."""
    length = subject.prefix_tokens
    suffixes = look.ids[:, length:]
    counts = np.bincount(subject.data.ids[:, :length].ravel())
    outside = np.zeros(len(look), dtype=bool)
    before, after = split_border(found, "entropy", length, near)
    values = {
        "suffix: log p": found["log_p"][:, length - 1 :].mean(axis=1),
        "suffix: entropy": found["entropy"][:, length - 1 :].mean(axis=1),
        "suffix: largest p": found["top_p"][:, length - 1 :].mean(axis=1),
        "fall of entropy over the border": before - after,
        "characters per suffix token": characters(suffixes, subject.checkpoint.tokenizer),
        "rarity of suffix tokens": rarity(suffixes, counts, outside),
    }
    return [Signal(name, "suffix", one.astype(np.float64)) for name, one in values.items()]
