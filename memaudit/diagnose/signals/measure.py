"""Signals of windows by group, read in a pass over prefixes and a pass over whole windows.

Knows a finished run, its groups of windows and its model. Groups: extracted, hidden, partly
extracted, untouched, and controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.journal import Progress
from memaudit.diagnose.disclosure import STRETCH
from memaudit.diagnose.passes import Found, by_length, padding_of
from memaudit.diagnose.probes import can_fit
from memaudit.diagnose.section import count_clusters
from memaudit.diagnose.signals.features import (
    COUNTED,
    PREFIX_LOG_P,
    Kind,
    Prefixes,
    Signal,
    characters,
    count_tokens,
    logit_signals,
    nearest_similarity,
    put_together,
    rarity,
    split_border,
    text_signals,
)
from memaudit.diagnose.signals.readings import passes_for, read_prefixes, read_windows
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.signals.triage import (
    ALL,
    LOGITS,
    TEXT,
    Features,
    Target,
    Triage,
    forecast,
)
from memaudit.diagnose.subject import Part, Subject, draw
from memaudit.errors import UsageError
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.target.softprompt_check import architecture_of

GroupName = Literal["extracted", "hidden", "partly extracted", "untouched", "controls"]
GROUPS: tuple[GroupName, ...] = (
    *("extracted", "hidden", "partly extracted"),
    *("untouched", "controls"),
)


@dataclass(frozen=True, eq=False)
class Grouped:
    """N windows that are read token by token: first those of the data, then controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    clusters: Ints
    """(N,)."""
    rows: Ints
    """(N,) row of each in its part."""
    groups: NDArray[np.str_]
    """(N,) names of `GROUPS`."""
    fair: Bools
    """(N,) whether a window is in the sample of extracted windows, in the sample of all windows
    that are not, or a control. These compare extracted windows with the mix of the data."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Bools) -> Grouped:
        """Return the windows where ``rows`` (N,) is true."""
        return Grouped(
            self.ids[rows],
            self.clusters[rows],
            self.rows[rows],
            self.groups[rows],
            self.fair[rows],
        )

    def of(self, group: GroupName) -> Bools:
        """(N,) whether a window is of this group."""
        return np.asarray(self.groups == group)

    def means(self, values: Floats, resamples: Resamples) -> dict[GroupName, list[Estimate]]:
        """Return the means of values (N,F) by group."""
        return {
            group: resamples.each_mean(values[self.of(group)], self.clusters[self.of(group)])
            for group in self.present
        }

    def count_clusters(self, group: GroupName) -> int:
        """Return the number of clusters of a group."""
        return count_clusters(self.clusters[self.of(group)])

    @property
    def present(self) -> tuple[GroupName, ...]:
        """Groups that have a window."""
        return tuple(group for group in GROUPS if self.of(group).any())


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


@dataclass(frozen=True, eq=False)
class Measurements:
    """Signals of the windows compared, and predictions of what is extracted."""

    grouped: Grouped
    figures: Found
    """Figures of each token of ``grouped``, each (N,P+S-1); NaN before a shorter prefix."""
    signals: Sequence[Signal]
    """Signals of ``grouped``, each (N,)."""
    prefix_tokens: int
    """P, that of the longest prefix of ``grouped``."""
    too_short: int
    """Windows left out because their prefix has one token, and other prefixes have more."""
    sampled: int
    """Windows sampled uniformly from the data."""
    targets: Sequence[Target]
    """Extraction to predict, of the windows sampled for it."""
    target_clusters: Ints
    """Clusters of these windows."""
    triage: Triage | None
    """Predictions; None if no predictor can be fitted."""
    has_controls: bool
    has_states: bool
    """True if the model shows its state at the output head."""
    architecture: str


def measure(subject: Subject, settings: SignalsSettings, progress: Progress) -> Measurements | None:
    """Read the signals of groups of windows, and fit predictors of what is extracted.

    None if every group is withheld. Raises UsageError for a border of few tokens without
    ``--reveal``, and as the passes do.
    """
    if settings.border < STRETCH and not subject.disclosure.reveal:
        raise UsageError(  # several runs would reveal single tokens
            f"--set border={settings.border}: figures of fewer than {STRETCH} tokens can reveal "
            "text; use more, or --reveal"
        )
    subject, too_short = _comparable(subject)
    rng = np.random.default_rng([settings.seed, 5])
    grouped = choose_groups(subject, settings.partly, settings.windows, rng)
    if not len(grouped):
        return None
    data, limit = subject.data, settings.predictor_windows
    every = np.ones(len(data), dtype=bool)
    even = draw(every, limit, rng)
    targets, clusters = _targets(subject, even), data.clusters[even]
    fits = subject.longest_prefix > 1 and any(
        can_fit(target.labels, ~target.labels, clusters) for target in targets
    )
    if not fits:  # only to compare states with
        even = draw(every, min(settings.windows, limit), rng)
    control = grouped.of("controls")
    chosen = Chosen(np.union1d(grouped.rows[~control], even), grouped.rows[control])
    prefixes = read_prefix_signals(subject, chosen, even, settings.border, progress)
    figures = read_grouped(subject, grouped, progress)
    places = chosen.places(grouped.rows[~control], grouped.rows[control])
    signals = [signal._replace(values=signal.values[places]) for signal in prefixes.signals]
    triage = None
    if fits:
        with progress.stage("signals: predictors", 1) as advance:
            triage = _triage(subject, chosen, prefixes, even, rng)
            advance(1)
    return Measurements(
        grouped=grouped,
        figures=figures,
        signals=signals + suffix_signals(subject, grouped, figures, settings.border),
        prefix_tokens=_prefix_tokens(figures, subject.suffix_tokens),
        too_short=too_short,
        sampled=len(even),
        targets=targets,
        target_clusters=clusters,
        triage=triage,
        has_controls=subject.controls is not None,
        has_states=prefixes.states is not None,
        architecture=architecture_of(subject.checkpoint),
    )


def _comparable(subject: Subject) -> tuple[Subject, int]:
    """Leave out windows with one prefix token, which nothing predicts; return their number.

    If the data have no others, only those are left: one that lacks a signal cannot be compared.
    """
    have_more = bool((subject.prefix_lengths(subject.data.ids) > 1).any())

    def comparable(part: Part) -> Part:
        return part.take((subject.prefix_lengths(part.ids) > 1) == have_more)

    data, controls = comparable(subject.data), subject.controls
    left_out = len(subject.data) - len(data)
    if controls is not None:
        kept = comparable(controls)
        left_out, controls = left_out + len(controls) - len(kept), kept
    return replace(subject, data=data, controls=controls), left_out


def _targets(subject: Subject, even: Ints) -> list[Target]:
    """Return extraction by ``none`` and, if another attack extracts more, by any attack."""
    extracted, hidden = subject.data.extracted, subject.data.hidden
    targets = [Target("none", "extracted by the plain prefix", extracted[even])]
    if hidden.any():
        targets.append(Target("any", "extracted by any attack", (extracted | hidden)[even]))
    return targets


def label(part: Part, partly: float) -> NDArray[np.str_]:
    """(N,) first group that each window of the data belongs to.

    Extracted: exactly, by ``none``. Hidden: exactly by another attack on the model, not by
    ``none``. Partly: ``none`` returns at least the share ``partly`` of the suffix.
    """
    fractional = part.score("fractional", "none") >= partly
    kinds = [part.extracted, part.hidden, fractional]
    return np.asarray(np.select(kinds, GROUPS[:3], GROUPS[3]))


def choose_groups(subject: Subject, partly: float, limit: int, rng: np.random.Generator) -> Grouped:
    """Sample at most ``limit`` windows of each group, and as many of all not extracted."""
    data, controls = subject.data, subject.controls
    groups = label(data, partly)
    extracted = draw(groups == "extracted", limit, rng)
    rest = draw(groups != "extracted", limit, rng)
    fair = np.concatenate([extracted, rest])
    more = [draw(groups == group, limit, rng) for group in ("hidden", "partly extracted")]
    rows = np.unique(np.concatenate([fair, *more]))
    parts = [(data, rows, groups[rows], np.isin(rows, fair))]
    if controls is not None:
        sampled = draw(np.ones(len(controls), dtype=bool), limit, rng)
        names = np.full(len(sampled), "controls", dtype=groups.dtype)
        parts.append((controls, sampled, names, np.ones(len(sampled), dtype=bool)))
    grouped = Grouped(
        np.concatenate([part.ids[index] for part, index, _, _ in parts]),
        np.concatenate([part.clusters[index] for part, index, _, _ in parts]),
        np.concatenate([index for _, index, _, _ in parts]),
        np.concatenate([names for _, _, names, _ in parts]),
        np.concatenate([mixed for _, _, _, mixed in parts]),
    )
    disclosed = [
        group
        for group in grouped.present
        if subject.disclosure.admits(group, grouped.clusters[grouped.of(group)])
    ]
    return grouped.take(np.isin(grouped.groups, disclosed))


def read_prefix_signals(
    subject: Subject, chosen: Chosen, even: Ints, near: int, progress: Progress
) -> PrefixSignals:
    """Read the signals of prefixes; no suffix is passed on from here.

    even: uniformly sampled rows of the data that states are compared with, all among ``chosen``.
    """
    file = subject.data.ids[:, : subject.prefix_tokens]
    ids, clusters = file[chosen.data], subject.data.clusters[chosen.data]
    own = chosen.data
    if subject.controls is not None and len(chosen.controls):
        controls = subject.controls
        ids = np.concatenate([ids, controls.ids[chosen.controls, : file.shape[1]]])
        clusters = np.concatenate([clusters, controls.clusters[chosen.controls]])
        own = np.concatenate([own, np.full(len(chosen.controls), -1)])
    with progress.stage("signals: prefixes", len(ids)) as advance:
        passes = passes_for(subject.passes(), subject.longest_prefix, subject.suffix_tokens)
        readings = [(rows, read_prefixes(passes, own, advance)) for rows, own in by_length(ids)]
    states = put_together([(rows, reading.states) for rows, reading in readings])
    run, tokenizer = subject.config.protocol.cluster_run, subject.checkpoint.tokenizer
    signals = [
        *text_signals(Prefixes(ids, own, file), run, tokenizer),
        *logit_signals(readings, near),
        *_state_signals(states, clusters, np.searchsorted(chosen.data, even)),
    ]
    return PrefixSignals(
        [signal for signal in signals if np.isfinite(signal.values).all()], states.get("state")
    )


def _state_signals(states: Mapping[str, NDArray[Any]], clusters: Ints, known: Ints) -> list[Signal]:
    signals = []
    if "likeness" in states:
        values = states["likeness"].astype(np.float64)
        signals.append(Signal("likeness of the states in the prefix", "state", values))
    if "state" in states:
        each = states["state"]
        values = nearest_similarity(each, clusters, each[known], clusters[known])
        signals.append(Signal("state: nearest of another cluster", "state", values))
    return signals


def read_grouped(subject: Subject, grouped: Grouped, progress: Progress) -> Found:
    """Read the figures of each token of the windows (N,P+S-1), P that of the longest prefix."""
    ids = grouped.ids[:, int(padding_of(grouped.ids).min()) :]
    positions = ids.shape[1] - 1
    with progress.stage("signals: windows", len(grouped)) as advance:
        passes = passes_for(subject.passes(), positions, subject.suffix_tokens)
        return read_windows(passes, ids, advance)


def _prefix_tokens(figures: Found, suffix_tokens: int) -> int:
    """Return P of the figures (N,P+S-1) of `read_grouped`."""
    return int(figures["entropy"].shape[1]) + 1 - suffix_tokens


def suffix_signals(subject: Subject, grouped: Grouped, figures: Found, near: int) -> list[Signal]:
    """Return the signals that need the suffix."""
    suffix = subject.suffix_tokens
    suffixes = grouped.ids[:, -suffix:]
    counts = count_tokens(subject.data.ids[:, :-suffix])
    outside = np.zeros(len(grouped), dtype=bool)
    before, after = split_border(figures, "entropy", _prefix_tokens(figures, suffix), near)
    values = {
        "suffix: log p": figures["log_p"][:, -suffix:].mean(axis=1),
        "suffix: entropy": figures["entropy"][:, -suffix:].mean(axis=1),
        "suffix: largest p": figures["top_p"][:, -suffix:].mean(axis=1),
        "fall of entropy over the border": before - after,
        "characters per suffix token": characters(suffixes, subject.checkpoint.tokenizer),
        "rarity of suffix tokens": rarity(suffixes, counts, outside),
    }
    return [Signal(name, "suffix", column.astype(np.float64)) for name, column in values.items()]


_FAMILIES: dict[str, tuple[Kind, ...]] = {
    TEXT: ("text",),
    LOGITS: ("text", "logits"),
    ALL: ("text", "logits", "state"),
}


def _triage(
    subject: Subject, chosen: Chosen, prefixes: PrefixSignals, even: Ints, rng: np.random.Generator
) -> Triage:
    """Fit the predictors on the sampled windows, and count the tokens of a scan."""
    rows = np.searchsorted(chosen.data, even)
    control = len(chosen.data) + np.arange(len(chosen.controls))
    (alone,) = (signal.values[rows] for signal in prefixes.signals if signal.name == PREFIX_LOG_P)
    clusters, controls = subject.data.clusters[even], subject.controls
    own, other = (
        {name: _features(prefixes, name, places) for name in _FAMILIES}
        for places in (rows, control)
    )
    return Triage(
        forecasts=[
            forecast(target, own, other, clusters, rng) for target in _targets(subject, even)
        ],
        alone=alone,
        clusters=clusters,
        control_clusters=np.empty(0, dtype=np.int64)
        if controls is None
        else controls.clusters[chosen.controls],
        prefix_cost=_start(subject) + subject.prefix_lengths(subject.data.ids[even]),
        scan_cost=_scan_cost(subject, even),
    )


def _features(prefixes: PrefixSignals, family: str, rows: Ints) -> Features:
    scalars = [
        np.log1p(signal.values[rows]) if signal.name in COUNTED else signal.values[rows]
        for signal in prefixes.signals
        if signal.kind in _FAMILIES[family]
    ]
    states = prefixes.states[rows] if family == ALL and prefixes.states is not None else None
    return Features(np.stack(scalars, axis=1), states)


def _start(subject: Subject) -> int:
    return int(subject.checkpoint.bos_id is not None)


def _scan_cost(subject: Subject, rows: Ints) -> Floats:
    """Return the tokens that scanning each window by ``none`` takes (rows,).

    One pass over the window without its last token, then the tokens decoded after the first
    mismatch; the pass already gives the mismatched token.
    """
    prefixes = subject.prefix_lengths(subject.data.ids[rows])
    verified = _start(subject) + prefixes + subject.suffix_tokens - 1
    matched = subject.data.score("matched", "none")[rows]
    return np.asarray(verified + np.maximum(subject.suffix_tokens - matched - 1, 0))
