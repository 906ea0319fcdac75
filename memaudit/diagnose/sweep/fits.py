"""Fits of prompts on some of a run's windows, each scored by a prompt of another fold.

Knows a finished run, its folds and a scan's campaign. Knows no findings and no tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome, Campaign, Progress, Workforce
from memaudit.attack.decoding_check import check_causal
from memaudit.attack.extraction import Advance, Extraction, Extractor
from memaudit.attack.facts import FitRecord
from memaudit.attack.journal import Entry, NoJournal
from memaudit.attack.parts import Side
from memaudit.attack.prompts import SoftPrompt
from memaudit.data.folds import Fold, assign_controls, fold_of, make_folds
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.variants import Variant
from memaudit.distributed import Processes
from memaudit.errors import TargetError, UsageError
from memaudit.pipeline.loading import check_positions
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.target.softprompt_check import check_soft_prompts


@dataclass(frozen=True, eq=False)
class Ground:
    """Windows to fit and score prompts on: whole clusters, in folds."""

    data: Part
    """n windows."""
    rows: Ints
    """(n,) rows among the run's windows."""
    controls: Part | None
    folds: tuple[Fold, ...]
    """Folds of these windows."""
    control_folds: Ints
    same_folds: bool
    """True if the folds are the run's, restricted to these windows."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Results of one attack on a ground."""

    exact: Bools
    """(n,) windows extracted by the prompt of their fold."""
    nll: Floats
    """(n,) suffix NLL, nats/token."""
    controls: Bools | None
    records: tuple[FitRecord, ...]
    """Records by fold; empty for ``none``."""
    seconds: float
    """Seconds for fits and extraction."""


class _Verifier(Extractor):
    """Extractor that verifies each window by teacher forcing and decodes nothing."""

    def extract_each(
        self,
        prompt: SoftPrompt,
        parts: Sequence[NDArray[np.int32]],
        advance: Advance = lambda done: None,
    ) -> Iterator[Extraction]:
        """Yield one extraction per part: the suffix if it is extracted, else -1."""
        for ids in parts:
            exact, nll = self.verify(prompt, ids)
            suffix = ids[:, self.prefix_tokens :]
            # No sampler runs here: a journal takes -inf for an unknown probability.
            unknown = np.full(len(ids), -np.inf)
            advance(len(ids))
            yield Extraction(np.where(exact[:, None], suffix, np.int32(-1)), nll, unknown)


class _OnlyNone(NoJournal):
    """Journal of the ``none`` attack in memory, shared by all campaigns on the same windows."""

    def __init__(self) -> None:
        self._kept: dict[str, Entry] = {}

    def read(self, name: str) -> Entry | None:
        """Return the entry of that name, or None."""
        return self._kept.get(name)

    def keep(self, name: str, entry: Entry) -> None:
        """Store the entry if it belongs to ``none``."""
        if name.startswith("none-"):
            self._kept[name] = entry


@dataclass(frozen=True, eq=False)
class _Named:
    """Progress that puts a prefix before the name of every stage."""

    progress: Progress
    prefix: str

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` windows."""
        return self.progress.stage(f"{self.prefix}{name}", total)


def choose_ground(subject: Subject, limit: int, seed: int) -> Ground:
    """Sample at most ``limit`` windows and a third as many controls, in whole clusters.

    The folds are the run's, unless one would be left without windows: then new folds are made of
    the sample. Raises DataError if there are too few clusters for folds.
    """
    data, protocol = subject.data, subject.config.protocol
    sampler = np.random.default_rng([seed, 42])
    rows = whole_clusters(data.clusters, limit, sampler)
    sample = data.take(rows)
    rng = np.random.default_rng([protocol.seed, 2])  # as the run's plan
    folds = make_folds(data.clusters, protocol, rng)
    same_folds = np.array_equal(
        fold_of(folds, len(data)), data.rows["fold"].to_numpy(dtype=np.int64)
    )
    folds = tuple(_restrict(fold, rows) for fold in folds)
    if not all(len(part) for fold in folds for part in (fold.fit, fold.select, fold.audit)):
        folds, same_folds = make_folds(sample.clusters, protocol, rng), False
    controls, assigned = None, np.zeros(0, dtype=np.int64)
    if subject.controls is not None:
        most_controls = max(1, limit // 3)
        controls = subject.controls.take(
            whole_clusters(subject.controls.clusters, most_controls, sampler)
        )
        assigned = assign_controls(controls.clusters, sample.clusters, folds, rng)
    return Ground(sample, rows, controls, folds, assigned, bool(same_folds))


def whole_clusters(clusters: Ints, limit: int, rng: np.random.Generator) -> Ints:
    """Return at most ``limit`` windows of whole clusters, sampled at random; ascending.

    A cluster that does not fit is skipped; if none fits, the smallest is taken.
    """
    if len(clusters) <= limit:
        return np.arange(len(clusters))
    _, place, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    taken, remaining = np.zeros(len(sizes), dtype=bool), limit
    for number in rng.permutation(len(sizes)).tolist():
        if sizes[number] <= remaining:
            taken[number] = True
            remaining -= int(sizes[number])
    if not taken.any():
        taken[int(np.argmin(sizes))] = True
    return np.flatnonzero(taken[place])


def _restrict(fold: Fold, rows: Ints) -> Fold:
    """Return the fold restricted to these rows."""
    return Fold(*(_among(part, rows) for part in (fold.fit, fold.select, fold.audit)))


def _among(part: Ints, rows: Ints) -> Ints:
    return np.flatnonzero(np.isin(rows, part))


@dataclass(frozen=True)
class Usable:
    """Prompt lengths that the model accepts."""

    lengths: tuple[int, ...]
    """V, ascending; includes the run's V if the model accepts it."""
    notes: tuple[str, ...]
    """A sentence for each rejected V."""


def check_fits(subject: Subject, wanted: Sequence[int]) -> Usable:
    """Return the V that can be fitted, among the wanted ones and the run's.

    Raises TargetError if the model takes no fitted prompt at all.
    """
    check_soft_prompts(subject.checkpoint, gradients=True)
    before = subject.prefix_tokens + (subject.checkpoint.bos_id is not None)
    good, notes = [], []
    for virtual in sorted({*wanted, subject.config.dynamic.num_virtual_tokens}):
        try:
            check_positions(subject.config, subject.checkpoint, virtual)
            check_causal(subject.checkpoint, before + virtual, subject.suffix_tokens)
        except (UsageError, TargetError) as error:
            notes.append(f"V = {virtual} was left out: {error}.")
        else:
            good.append(virtual)
    return Usable(tuple(good), tuple(notes))


@dataclass(frozen=True, eq=False)
class Laboratory:
    """Attacks on one ground."""

    subject: Subject
    ground: Ground
    progress: Progress

    def run(self, variants: Sequence[Variant]) -> tuple[Fitted, list[Fitted]]:
        """Run ``none``, then every variant."""
        workforce = Workforce(Processes(), _OnlyNone())
        begun = time.perf_counter()
        first = self._campaign(variants[0], workforce)
        plain = self._fitted(first.run("none", _Named(self.progress, "fits: ")), begun)
        fitted = []
        for number, variant in enumerate(variants):
            begun = time.perf_counter()
            place = f"fits {number + 1}/{len(variants)}, V={variant.virtual_tokens}: "
            campaign = self._campaign(variant, workforce)
            outcome = campaign.run(variant.attack, _Named(self.progress, place))
            fitted.append(self._fitted(outcome, begun))
        return plain, fitted

    def _campaign(self, variant: Variant, workforce: Workforce) -> Campaign:
        ground, subject = self.ground, self.subject
        controls = ground.controls
        return Campaign(
            _Verifier(
                subject.checkpoint, subject.prefix_tokens, subject.config.scores, subject.batch_size
            ),
            variant.config,
            ground.folds,
            data=Side(ground.data.ids, fold_of(ground.folds, len(ground.data))),
            controls=None if controls is None else Side(controls.ids, ground.control_folds),
            fitted={},
            workforce=workforce,
        )

    def _fitted(self, outcome: AttackOutcome, begun: float) -> Fitted:
        ground = self.ground
        controls = None
        if ground.controls is not None and outcome.controls is not None:
            controls = self._exact(outcome.controls, ground.controls.ids)
        return Fitted(
            exact=self._exact(outcome.data, ground.data.ids),
            nll=outcome.data.suffix_nll,
            controls=controls,
            records=tuple(fit.record for fit in outcome.fits.values()),
            seconds=time.perf_counter() - begun,
        )

    def _exact(self, extraction: Extraction, ids: NDArray[np.int32]) -> Bools:
        suffixes = ids[:, self.subject.prefix_tokens :]
        return np.asarray((extraction.continuation_ids == suffixes).all(axis=1))
