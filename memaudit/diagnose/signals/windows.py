"""Signals of the windows compared: one pass over prefixes, one over whole windows.

Knows a subject and which of its windows to read.
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
from memaudit.diagnose.signals.groups import Grouped
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
    """Windows whose prefixes are read, as rows of the data and of the controls."""

    data: Ints
    """(N,), in order."""
    controls: Ints
    """(C,), in order."""

    def places(self, data: Ints, controls: Ints) -> Ints:
        """Return the places of rows of data, then of controls, among these windows."""
        behind = len(self.data) + np.searchsorted(self.controls, controls)
        return np.concatenate([np.searchsorted(self.data, data), behind])


@dataclass(frozen=True, eq=False)
class PrefixSignals:
    """Signals of the prefixes of the chosen windows, N of the data and C controls."""

    signals: Sequence[Signal]
    """Each (N+C,); finite."""
    states: NDArray[np.float32] | None
    """(N+C,D) at the border; None if the model shows none."""


def read_prefix_signals(
    subject: Subject, chosen: Chosen, even: Ints, near: int, progress: Progress
) -> PrefixSignals:
    """Read the signals of prefixes; no suffix is passed on from here.

    even: uniformly sampled rows of the data that states are compared with, all among ``chosen``.
    """
    length = subject.prefix_tokens
    file = subject.data.ids[:, :length]
    ids, clusters = file[chosen.data], subject.data.clusters[chosen.data]
    own = chosen.data
    if subject.controls is not None and len(chosen.controls):
        controls = subject.controls
        ids = np.concatenate([ids, controls.ids[chosen.controls, :length]])
        clusters = np.concatenate([clusters, controls.clusters[chosen.controls]])
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
    return PrefixSignals(
        [signal for signal in signals if np.isfinite(signal.values).all()], reading.state
    )


def _state_signals(reading: PrefixReading, clusters: Ints, known: Ints) -> list[Signal]:
    signals = []
    if reading.likeness is not None:
        values = reading.likeness.astype(np.float64)
        signals.append(Signal("likeness of the states in the prefix", "state", values))
    if reading.state is not None:
        states = reading.state
        values = nearest_similarity(states, clusters, states[known], clusters[known])
        signals.append(Signal("state: nearest of another cluster", "state", values))
    return signals


def read_grouped(subject: Subject, grouped: Grouped, progress: Progress) -> Found:
    """Read the figures of each token of the windows (N,P+S-1)."""
    positions = grouped.ids.shape[1] - 1
    with progress.stage("signals: windows", len(grouped)) as advance:
        passes = passes_for(subject.passes(), positions, subject.suffix_tokens)
        return read_windows(passes, grouped.ids, advance)


def suffix_signals(subject: Subject, grouped: Grouped, figures: Found, near: int) -> list[Signal]:
    """Return the signals that need the suffix."""
    length = subject.prefix_tokens
    suffixes = grouped.ids[:, length:]
    counts = np.bincount(subject.data.ids[:, :length].ravel())
    outside = np.zeros(len(grouped), dtype=bool)
    before, after = split_border(figures, "entropy", length, near)
    values = {
        "suffix: log p": figures["log_p"][:, length - 1 :].mean(axis=1),
        "suffix: entropy": figures["entropy"][:, length - 1 :].mean(axis=1),
        "suffix: largest p": figures["top_p"][:, length - 1 :].mean(axis=1),
        "fall of entropy over the border": before - after,
        "characters per suffix token": characters(suffixes, subject.checkpoint.tokenizer),
        "rarity of suffix tokens": rarity(suffixes, counts, outside),
    }
    return [Signal(name, "suffix", column.astype(np.float64)) for name, column in values.items()]
