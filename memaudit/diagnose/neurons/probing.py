"""Probes of a run's windows: hidden states and baselines that separate extracted windows.

Knows groups of windows, their hidden states and the probe, not the report. N: windows of all groups
together, L: probed blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from memaudit.attack.journal import Progress
from memaudit.data.windows import PADDING
from memaudit.diagnose.anatomy.blocks import Block, find_blocks
from memaudit.diagnose.groups import ids_of, sample_groups
from memaudit.diagnose.neurons.representations import (
    PLACES,
    Place,
    Representations,
    represent,
    spaced,
    untrained_twin,
)
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.passes import by_length
from memaudit.diagnose.probes import assign_folds, can_fit, permuted_labels, probe_scores
from memaudit.diagnose.section import count_clusters
from memaudit.diagnose.subject import Subject
from memaudit.errors import RunError, TargetError
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints

Figure = TypeVar("Figure")
Against = Literal["data", "controls"]
"""Negatives of a probe: data that no attack extracts, or controls."""
Source = Literal["trained", "random", "permuted", "hidden"]
"""Hidden states of the audited model; of its twin with random weights; of the audited model with
labels permuted between clusters; of the audited model, tested on hidden windows instead of the
extracted windows that the probe was fitted on."""
Baseline = Literal["tokens", "nll"]
"""Predictors without hidden states: token frequency and repetition; the suffix's NLL."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of all groups."""

    ids: npt.NDArray[np.int32]
    """(N,P+S)."""
    clusters: Ints
    nll: Floats
    """(N,) suffix NLL with the plain prefix, nats/token."""
    extracted: Bools
    hidden: Bools
    """(N,) extracted only by attacks other than ``none``: on neither side of a probe."""
    control: Bools

    def negatives(self, against: Against) -> Bools:
        """Return a mask (N,) of the negatives."""
        if against == "controls":
            return self.control
        return ~(self.extracted | self.hidden | self.control)


class Scored(NamedTuple):
    """Scores of windows, and the windows that they should find."""

    scores: Floats
    """(M,) higher for positives; NaN if the states that they rest on are not finite."""
    positive: Bools
    clusters: Ints

    def auc(self, resamples: Resamples) -> Estimate:
        """Return the AUC; without a value for NaN."""
        if np.isnan(self.scores).any():
            return Estimate(None)
        return resamples.auc(self.scores, self.positive, self.clusters)


@dataclass(frozen=True, eq=False)
class Contrast(Generic[Figure]):
    """Separation of extracted windows from one kind of negatives: scores, or their AUCs."""

    against: Against
    negatives: int
    """Windows."""
    negative_clusters: int
    probes: Mapping[tuple[Source, Place], Sequence[Figure]]
    """(L) by block. Empty if there are too few clusters; without ``hidden`` if there are too few
    clusters of hidden windows."""
    baselines: Mapping[Baseline, Figure]
    hidden_nll: Figure | None
    """Suffix NLL of hidden windows; None if there are too few."""


@dataclass(frozen=True, eq=False)
class Probing(Generic[Figure]):
    """Results of all probes."""

    blocks: tuple[int, ...]
    """(L) block numbers, from 0."""
    depth: int
    """Blocks of the model."""
    extracted: int
    """Windows."""
    extracted_clusters: int
    hidden: int
    contrasts: Sequence[Contrast[Figure]]
    no_twin: str | None
    """Reason why there is no model with random weights."""

    @property
    def has_probes(self) -> bool:
        """True if a probe was fitted."""
        return any(contrast.probes for contrast in self.contrasts)


def judge(probing: Probing[Scored], resamples: Resamples) -> Probing[Estimate]:
    """Return the AUCs of all probes."""
    contrasts = [
        Contrast(
            contrast.against,
            contrast.negatives,
            contrast.negative_clusters,
            {
                name: [scored.auc(resamples) for scored in blocks]
                for name, blocks in contrast.probes.items()
            },
            {name: scored.auc(resamples) for name, scored in contrast.baselines.items()},
            None if contrast.hidden_nll is None else contrast.hidden_nll.auc(resamples),
        )
        for contrast in probing.contrasts
    ]
    return Probing(**{**vars(probing), "contrasts": contrasts})


def probe_run(
    subject: Subject, settings: NeuronsSettings, blocks: Sequence[Block], progress: Progress
) -> Probing[Scored]:
    """Fit all probes, and score the windows by them."""
    rng = np.random.default_rng([settings.seed, 1])
    windows = _choose(subject, settings.windows, rng)
    probed = spaced(blocks, settings.probe_blocks)
    groups: list[Against] = ["data", "controls"] if windows.control.any() else ["data"]
    comparable = [
        against for against in groups if _comparable(subject, windows, windows.extracted, against)
    ]
    states: dict[Source, Representations] = {}
    no_twin = None
    if comparable:
        with progress.stage("hidden states", len(windows.ids)) as advance:
            states["trained"] = represent(subject.passes(), probed, windows.ids, advance)
        try:
            states["random"] = _random_states(subject, settings, windows.ids, progress)
        except (TargetError, RunError) as error:
            no_twin = str(error)
    prober = _Prober(subject, windows, states, rng)
    with progress.stage("probes", len(comparable)) as advance:
        contrasts = []
        for against in groups:
            contrasts.append(prober.contrast(against, able=against in comparable))
            advance(int(against in comparable))
    return Probing(
        blocks=tuple(block.number for block in probed),
        depth=len(blocks),
        extracted=int(windows.extracted.sum()),
        extracted_clusters=count_clusters(windows.clusters[windows.extracted]),
        hidden=int(windows.hidden.sum()),
        contrasts=contrasts,
        no_twin=no_twin,
    )


def _comparable(subject: Subject, windows: Windows, positive: Bools, against: Against) -> bool:
    """Return True if a probe can be fitted on these positives (N,), and its AUC reported."""
    negative = windows.negatives(against)
    name = "extracted" if positive is windows.extracted else "hidden"
    other = "controls" if against == "controls" else "not extracted"
    sides = {name: windows.clusters[positive], other: windows.clusters[negative]}
    return subject.disclosure.admits_all(sides) and can_fit(positive, negative, windows.clusters)


def _choose(subject: Subject, limit: int, rng: np.random.Generator) -> Windows:
    """Sample at most ``limit`` windows of each group."""
    data = subject.data
    masks = {"extracted": data.extracted, "hidden": data.hidden, "not extracted": data.untouched}
    parts = sample_groups(subject, masks, limit, rng)
    group = np.repeat(list(parts), [len(part) for part in parts.values()])
    return Windows(
        ids=ids_of(parts),
        clusters=np.concatenate([part.clusters for part in parts.values()]),
        nll=np.concatenate([part.score("suffix_nll", "none") for part in parts.values()]),
        extracted=group == "extracted",
        hidden=group == "hidden",
        control=group == "controls",
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
    states: Mapping[Source, Representations]
    rng: np.random.Generator

    def contrast(self, against: Against, *, able: bool) -> Contrast[Scored]:
        windows, negative = self.windows, self.windows.negatives(against)
        clusters = count_clusters(windows.clusters[negative])
        if not able:
            return Contrast(against, int(negative.sum()), clusters, {}, {}, None)
        both = windows.extracted | negative
        folds = self._folds(windows.extracted, windows.clusters)
        probes: dict[tuple[Source, Place], list[Scored]] = {}
        report_hidden = _comparable(self.subject, windows, windows.hidden, against)
        for source, place, scored in self._probes(both, folds, report_hidden=report_hidden):
            probes.setdefault((source, place), []).append(scored)
        features = token_features(windows.ids, windows.clusters, self.subject.prefix_tokens)
        tokens = probe_scores(features, windows.extracted, both, folds)
        baselines: dict[Baseline, Scored] = {
            "tokens": self._scored(tokens, windows.extracted, both),
            "nll": self._scored(-windows.nll, windows.extracted, both),
        }
        hidden = None
        if report_hidden:
            hidden = self._scored(-windows.nll, windows.hidden, windows.hidden | negative)
        return Contrast(against, int(negative.sum()), clusters, probes, baselines, hidden)

    def _probes(
        self, both: Bools, folds: Ints, *, report_hidden: bool
    ) -> Iterator[tuple[Source, Place, Scored]]:
        """Yield the scores by every block, for every source and place.

        report_hidden: True to test hidden windows, too.
        """
        windows = self.windows
        positive, negative = windows.extracted, both & ~windows.extracted
        for source, representations in self.states.items():
            for place in PLACES:
                for block_states in representations.states[place].transpose(1, 0, 2):
                    scores = self._scores(block_states, positive, both, folds)
                    yield source, place, self._scored(scores, positive, both)
                    if source == "random":
                        continue
                    if report_hidden:
                        rows = windows.hidden | negative
                        yield "hidden", place, self._scored(scores, windows.hidden, rows)
                    yield "permuted", place, self._permuted(block_states, both)

    def _permuted(self, block_states: npt.NDArray[np.float32], both: Bools) -> Scored:
        clusters = self.windows.clusters[both]
        labels = permuted_labels(self.windows.extracted[both], clusters, self.rng)
        positive = np.zeros_like(both)
        positive[both] = labels
        folds = np.zeros(len(both), dtype=np.int64)
        folds[both] = self._folds(labels, clusters)
        return self._scored(self._scores(block_states, positive, both, folds), positive, both)

    def _folds(self, positive: Bools, clusters: Ints) -> Ints:
        return assign_folds(positive, clusters, int(self.rng.integers(2**31)))

    def _scores(
        self, block_states: npt.NDArray[np.float32], positive: Bools, both: Bools, folds: Ints
    ) -> Floats:
        """Return scores (N,); NaN if the states are not finite."""
        if not np.isfinite(block_states).all():
            return np.full(len(block_states), np.nan)
        return probe_scores(block_states, positive, both, folds)

    def _scored(self, scores: Floats, positive: Bools, among: Bools) -> Scored:
        return Scored(scores[among], positive[among], self.windows.clusters[among])


def token_features(
    ids: npt.NDArray[np.int32], clusters: Ints, prefix: int
) -> npt.NDArray[np.float32]:
    """Return features (N,8) of the tokens of ids (N,P+S).

    For prefix and suffix: mean and minimum of the log frequency, and the share of distinct tokens.
    Then the share of suffix tokens that occur in the prefix, and the log frequency of the prefix's
    last token. A token's frequency is the share of clusters that it occurs in, so copies do not
    count.
    """
    places = np.stack([np.repeat(clusters, ids.shape[1]), ids.ravel()], axis=1)
    pairs = np.unique(places[places[:, 1] != PADDING], axis=0)
    counts = np.bincount(pairs[:, 1], minlength=int(ids.max()) + 1)
    frequency = np.log((counts + 1) / (len(np.unique(clusters)) + 1))
    features, suffix = np.empty((len(ids), 8), dtype=np.float32), ids.shape[1] - prefix
    for rows, tokens in by_length(ids):
        features[rows] = _features_of(tokens, frequency[tokens], tokens.shape[1] - suffix)
    return features


def _features_of(ids: npt.NDArray[np.int32], frequency: Floats, prefix: int) -> Floats:
    """Return the features of ids (N,T) without padding; frequency: (N,T) log frequencies."""
    features = []
    for part in (slice(None, prefix), slice(prefix, None)):
        ordered = np.sort(ids[:, part], axis=1)
        distinct = 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)
        features += [frequency[:, part].mean(axis=1), frequency[:, part].min(axis=1)]
        features.append(distinct / ordered.shape[1])
    repeated = [np.isin(row[prefix:], row[:prefix]).mean() for row in ids]
    last = frequency[:, prefix - 1]  # the token at the border
    return np.stack([*features, np.array(repeated), last], axis=1)
