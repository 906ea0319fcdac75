"""Fits prompts on some of a run's windows and scores each window by one that never saw its like.

Knows a finished run, its folds, and the campaign that a scan makes of them. Knows nothing of what
is varied, nor of tables.
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
    """The windows that prompts are fitted on and scored on: whole clusters, in folds."""

    data: Part
    """n windows."""
    rows: Ints
    """(n,) which of the run's."""
    controls: Part | None
    folds: tuple[Fold, ...]
    """Of these windows."""
    control_folds: Ints
    same_folds: bool
    """Whether they are the run's own, as far as these windows go."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What one attack came to on a ground."""

    exact: Bools
    """(n,) each window by the prompt of its own fold."""
    nll: Floats
    """(n,) suffix NLL, nats/token."""
    controls: Bools | None
    records: tuple[FitRecord, ...]
    """By fold; none for ``none``."""
    seconds: float
    """Fits and extraction."""


class _Verifier(Extractor):
    """Says of each window whether it comes out and how likely it is, and decodes nothing."""

    def extract_each(
        self,
        prompt: SoftPrompt,
        parts: Sequence[NDArray[np.int32]],
        advance: Advance = lambda done: None,
    ) -> Iterator[Extraction]:
        """Part by part: the suffix where it comes out, nothing where it does not."""
        for ids in parts:
            exact, nll = self.verify(prompt, ids)
            suffix = ids[:, self.prefix_tokens :]
            # The sampler is not asked: -inf is what a journal takes for no probability.
            unknown = np.full(len(ids), -np.inf)
            advance(len(ids))
            yield Extraction(np.where(exact[:, None], suffix, np.int32(-1)), nll, unknown)


class _OnlyNone(NoJournal):
    """Keeps what came out without a prompt, which every campaign on the same windows asks for."""

    def __init__(self) -> None:
        self._kept: dict[str, Entry] = {}

    def read(self, name: str) -> Entry | None:
        """What was kept under the name, if anything."""
        return self._kept.get(name)

    def keep(self, name: str, entry: Entry) -> None:
        """Keep it if it is of ``none``."""
        if name.startswith("none-"):
            self._kept[name] = entry


@dataclass(frozen=True, eq=False)
class _Named:
    """Progress with a word before the name of every stage; what is kept goes without it."""

    progress: Progress
    prefix: str

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of so many windows."""
        return self.progress.stage(f"{self.prefix}{name}", total)


def choose_ground(subject: Subject, most: int, seed: int) -> Ground:
    """At most so many windows and a third as many controls: whole clusters, drawn at random.

    The folds are the run's. Where it had none of this kind, or one would be left without windows,
    they are made anew of these. Raises DataError where there are too few clusters for that.
    """
    data, protocol = subject.data, subject.config.protocol
    draws = np.random.default_rng([seed, 42])
    rows = whole_clusters(data.clusters, most, draws)
    some = data.take(rows)
    rng = np.random.default_rng([protocol.seed, 2])  # as the run's plan
    folds = make_folds(data.clusters, protocol, rng)
    same = np.array_equal(fold_of(folds, len(data)), data.rows["fold"].to_numpy(dtype=np.int64))
    folds = tuple(_restrict(fold, rows) for fold in folds)
    if not all(len(part) for fold in folds for part in (fold.fit, fold.select, fold.audit)):
        folds, same = make_folds(some.clusters, protocol, rng), False
    controls, assigned = None, np.zeros(0, dtype=np.int64)
    if subject.controls is not None:
        limit = max(1, most // 3)
        controls = subject.controls.take(whole_clusters(subject.controls.clusters, limit, draws))
        assigned = assign_controls(controls.clusters, some.clusters, folds, rng)
    return Ground(some, rows, controls, folds, assigned, bool(same))


def whole_clusters(clusters: Ints, most: int, rng: np.random.Generator) -> Ints:
    """Windows (N,) of clusters drawn at random while they are no more than so many; in order.

    A cluster that would be too much is passed over; if all are, the smallest is taken.
    """
    if len(clusters) <= most:
        return np.arange(len(clusters))
    _, place, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    taken, left = np.zeros(len(sizes), dtype=bool), most
    for number in rng.permutation(len(sizes)).tolist():
        if sizes[number] <= left:
            taken[number] = True
            left -= int(sizes[number])
    if not taken.any():
        taken[int(np.argmin(sizes))] = True
    return np.flatnonzero(taken[place])


def _restrict(fold: Fold, rows: Ints) -> Fold:
    """A fold of all windows, as one of these rows."""
    return Fold(*(_among(part, rows) for part in (fold.fit, fold.select, fold.audit)))


def _among(part: Ints, rows: Ints) -> Ints:
    return np.flatnonzero(np.isin(rows, part))


@dataclass(frozen=True)
class Usable:
    """Lengths of prompts that the model takes."""

    lengths: tuple[int, ...]
    """V's, ascending; the run's own is among them where it is taken."""
    notes: tuple[str, ...]
    """A sentence for each that is not."""


def check_fits(subject: Subject, wanted: Sequence[int]) -> Usable:
    """Which of these V's, and of the run's own, can be fitted.

    Raises TargetError where it takes no fitted prompt at all.
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
    """Runs attacks on one ground."""

    subject: Subject
    ground: Ground
    progress: Progress

    def run(self, variants: Sequence[Variant]) -> tuple[Fitted, list[Fitted]]:
        """``none``, and every variant in turn."""
        workforce = Workforce(Processes(), _OnlyNone())
        begun = time.perf_counter()
        first = self._campaign(variants[0], workforce)
        plain = self._fitted(first.run("none", _Named(self.progress, "fits: ")), begun)
        found = []
        for number, variant in enumerate(variants):
            begun = time.perf_counter()
            place = f"fits {number + 1}/{len(variants)}, V={variant.virtual_tokens}: "
            campaign = self._campaign(variant, workforce)
            outcome = campaign.run(variant.attack, _Named(self.progress, place))
            found.append(self._fitted(outcome, begun))
        return plain, found

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

    def _exact(self, found: Extraction, ids: NDArray[np.int32]) -> Bools:
        suffixes = ids[:, self.subject.prefix_tokens :]
        return np.asarray((found.continuation_ids == suffixes).all(axis=1))
