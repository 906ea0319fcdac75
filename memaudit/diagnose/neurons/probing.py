"""Probes of a run's windows: what of extraction can be read off hidden states, and off less.

Knows groups of windows, their hidden states and the probe. Knows nothing of how it is told. N
stands for windows of all groups together, L for the blocks that are probed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from memaudit.attack.campaign import Progress
from memaudit.diagnose.anatomy.blocks import Block, find_blocks
from memaudit.diagnose.neurons.probe import assign_folds, enough, permuted_labels, probe_scores
from memaudit.diagnose.neurons.representations import (
    PLACES,
    Place,
    Representations,
    represent,
    spaced,
    untrained_twin,
)
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.subject import Subject, draw
from memaudit.errors import RunError, TargetError
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints

Against = Literal["data", "controls"]
"""Whether extracted windows are told from data that no attack extracts, or from controls."""
Source = Literal["trained", "random", "permuted", "hidden"]
"""Hidden states of the audited model; of its twin with random weights; of the audited model with
labels permuted between clusters; of the audited model, with hidden windows in the place of the
extracted ones, which the probe was fitted on."""
Baseline = Literal["tokens", "nll"]
"""What needs no hidden state: how frequent and how repetitive the tokens are; the suffix's NLL."""


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows that are looked at."""

    ids: npt.NDArray[np.int32]
    """(N,P+S)."""
    clusters: Ints
    nll: Floats
    """(N,) suffix NLL with the plain prefix, nats/token."""
    extracted: Bools
    hidden: Bools
    """(N,) extracted by another attack than ``none`` only: on neither side of a probe."""
    control: Bools

    def negatives(self, against: Against) -> Bools:
        """(N,)."""
        if against == "controls":
            return self.control
        return ~(self.extracted | self.hidden | self.control)


@dataclass(frozen=True, eq=False)
class Contrast:
    """How well extracted windows are told from others."""

    against: Against
    negatives: int
    """Windows."""
    negative_clusters: int
    probes: Mapping[tuple[Source, Place], Sequence[Estimate]]
    """(L) AUC at each block, without a value where its states are no numbers. Empty where clusters
    are too few to say anything; without ``hidden`` where hidden ones are."""
    baselines: Mapping[Baseline, Estimate]
    hidden_nll: Estimate | None
    """AUC of the suffix's NLL for hidden windows; None where there are too few."""


@dataclass(frozen=True, eq=False)
class Probing:
    """What came out."""

    blocks: tuple[int, ...]
    """(L) numbers from 0."""
    depth: int
    """Blocks that the model has."""
    extracted: int
    """Windows."""
    extracted_clusters: int
    hidden: int
    contrasts: Sequence[Contrast]
    no_twin: str | None
    """Why there is no model with random weights."""


def probe_run(
    subject: Subject, settings: NeuronsSettings, blocks: Sequence[Block], progress: Progress
) -> Probing:
    """Fit and score all probes."""
    rng = np.random.default_rng([settings.seed, 1])
    windows = _choose(subject, settings.windows, rng)
    probed = spaced(blocks, settings.probe_blocks)
    asked: list[Against] = ["data", "controls"] if windows.control.any() else ["data"]
    able = [
        against for against in asked if _comparable(subject, windows, windows.extracted, against)
    ]
    found: dict[Source, Representations] = {}
    no_twin = None
    if able:
        with progress.stage("hidden states", len(windows.ids)) as advance:
            found["trained"] = represent(subject.passes(), probed, windows.ids, advance)
        try:
            found["random"] = _random_states(subject, settings, windows.ids, progress)
        except (TargetError, RunError) as error:
            no_twin = str(error)
    prober = _Prober(subject, windows, found, rng, subject.resamples(settings.seed))
    with progress.stage("probes", len(able)) as advance:
        contrasts = []
        for against in asked:
            contrasts.append(prober.contrast(against, able=against in able))
            advance(int(against in able))
    return Probing(
        blocks=tuple(block.number for block in probed),
        depth=len(blocks),
        extracted=int(windows.extracted.sum()),
        extracted_clusters=len(np.unique(windows.clusters[windows.extracted])),
        hidden=int(windows.hidden.sum()),
        contrasts=contrasts,
        no_twin=no_twin,
    )


def _comparable(subject: Subject, windows: Windows, positive: Bools, against: Against) -> bool:
    """Whether a probe can tell these windows (N,) from the others, and figures may be written."""
    negative = windows.negatives(against)
    name = "extracted" if positive is windows.extracted else "hidden"
    other = "controls" if against == "controls" else "not extracted"
    sides = {name: windows.clusters[positive], other: windows.clusters[negative]}
    return subject.disclosure.admits_all(sides) and enough(positive, negative, windows.clusters)


def _choose(subject: Subject, most: int, rng: np.random.Generator) -> Windows:
    """At most so many of each group."""
    data, controls = subject.data, subject.controls
    groups = (data.extracted, data.hidden, ~(data.extracted | data.hidden))
    parts = [data.take(draw(group, most, rng)) for group in groups]
    if controls is not None:
        parts.append(controls.take(draw(np.ones(len(controls), dtype=bool), most, rng)))
    group = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Windows(
        ids=np.concatenate([part.ids for part in parts]),
        clusters=np.concatenate([part.clusters for part in parts]),
        nll=np.concatenate([part.score("suffix_nll", "none") for part in parts]),
        extracted=group == 0,
        hidden=group == 1,
        control=group == 3,
    )


def _random_states(
    subject: Subject, settings: NeuronsSettings, ids: npt.NDArray[np.int32], progress: Progress
) -> Representations:
    twin = untrained_twin(subject.checkpoint, settings.seed)
    blocks = spaced(find_blocks(twin), settings.probe_blocks)
    with progress.stage("hidden states of random weights", len(ids)) as advance:
        return represent(subject.passes(twin), blocks, ids, advance)


@dataclass(frozen=True, eq=False)
class _Prober:
    subject: Subject
    windows: Windows
    found: Mapping[Source, Representations]
    rng: np.random.Generator
    resamples: Resamples

    def contrast(self, against: Against, *, able: bool) -> Contrast:
        windows, negative = self.windows, self.windows.negatives(against)
        clusters = len(np.unique(windows.clusters[negative]))
        if not able:
            return Contrast(against, int(negative.sum()), clusters, {}, {}, None)
        both = windows.extracted | negative
        folds = assign_folds(windows.extracted, windows.clusters, self.rng)
        probes: dict[tuple[Source, Place], list[Estimate]] = {}
        told = _comparable(self.subject, windows, windows.hidden, against)
        for source, place, detection in self._probes(both, folds, told=told):
            probes.setdefault((source, place), []).append(detection)
        features = token_features(windows.ids, windows.clusters, self.subject.prefix_tokens)
        tokens = probe_scores(features, windows.extracted, both, folds)
        baselines: dict[Baseline, Estimate] = {
            "tokens": self._auc(tokens, windows.extracted, both),
            "nll": self._auc(-windows.nll, windows.extracted, both),
        }
        hidden = None
        if _comparable(self.subject, windows, windows.hidden, against):
            hidden = self._auc(-windows.nll, windows.hidden, windows.hidden | negative)
        return Contrast(against, int(negative.sum()), clusters, probes, baselines, hidden)

    def _probes(
        self, both: Bools, folds: Ints, *, told: bool
    ) -> Iterator[tuple[Source, Place, Estimate]]:
        """AUC of every block in turn, for every source and place.

        told: whether hidden windows have figures.
        """
        windows = self.windows
        positive, negative = windows.extracted, both & ~windows.extracted
        for source, representations in self.found.items():
            for place in PLACES:
                for states in representations.states[place].transpose(1, 0, 2):
                    scores = self._scores(states, positive, both, folds)
                    yield source, place, self._auc(scores, positive, both)
                    if source == "random":
                        continue
                    if told:
                        rows = windows.hidden | negative
                        yield "hidden", place, self._auc(scores, windows.hidden, rows)
                    yield "permuted", place, self._permuted(states, both)

    def _permuted(self, states: npt.NDArray[np.float32], both: Bools) -> Estimate:
        clusters = self.windows.clusters[both]
        labels = permuted_labels(self.windows.extracted[both], clusters, self.rng)
        positive = np.zeros_like(both)
        positive[both] = labels
        folds = np.zeros(len(both), dtype=np.int64)
        folds[both] = assign_folds(labels, clusters, self.rng)
        return self._auc(self._scores(states, positive, both, folds), positive, both)

    def _scores(
        self, states: npt.NDArray[np.float32], positive: Bools, both: Bools, folds: Ints
    ) -> Floats:
        """(N,) NaN where the states are no numbers."""
        if not np.isfinite(states).all():
            return np.full(len(states), np.nan)
        return probe_scores(states, positive, both, folds)

    def _auc(self, scores: Floats, positive: Bools, among: Bools) -> Estimate:
        if np.isnan(scores[among]).any():
            return Estimate(None)
        clusters = self.windows.clusters[among]
        return self.resamples.auc(scores[among], positive[among], clusters)


def token_features(
    ids: npt.NDArray[np.int32], clusters: Ints, prefix: int
) -> npt.NDArray[np.float32]:
    """(N,8) what the tokens alone say of ids (N,P+S): of prefix and of suffix the mean and the
    least log frequency and the share of tokens that are unlike, how much of the suffix stood in
    the prefix, and how frequent the prefix's last token is.

    A token is as frequent as the share of clusters that it occurs in: copies do not make it so.
    """
    seen = np.unique(np.stack([np.repeat(clusters, ids.shape[1]), ids.ravel()], axis=1), axis=0)
    counts = np.bincount(seen[:, 1], minlength=int(ids.max()) + 1)
    frequency = np.log((counts + 1) / (len(np.unique(clusters)) + 1))[ids]
    features = []
    for part in (slice(None, prefix), slice(prefix, None)):
        ordered = np.sort(ids[:, part], axis=1)
        unlike = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
        features += [frequency[:, part].mean(axis=1), frequency[:, part].min(axis=1)]
        features.append(unlike / ordered.shape[1])
    again = [np.isin(row[prefix:], row[:prefix]).mean() for row in ids]
    last = frequency[:, prefix - 1]  # what the border's state is made of
    return np.stack([*features, np.array(again), last], axis=1).astype(np.float32)
