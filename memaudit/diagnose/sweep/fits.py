"""Prompts fitted with one setting varied, each window scored by a prompt of another fold.

Knows a finished run, its folds, its settings and a scan's campaign. Knows no findings, no tables.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import AttackOutcome, Campaign, Workforce
from memaudit.attack.decoding_check import check_causal
from memaudit.attack.extraction import Extraction, Extractor
from memaudit.attack.facts import FitRecord
from memaudit.attack.journal import Advance, Entry, NoJournal, Progress
from memaudit.attack.parts import Side
from memaudit.attack.prompts import SoftPrompt
from memaudit.config.settings import ConstantSettings, DynamicSettings, ScanConfig
from memaudit.data.folds import Fold, assign_controls, fold_of, make_folds
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.distributed import Processes
from memaudit.errors import DataError, TargetError, UsageError
from memaudit.pipeline.loading import check_positions
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.target.softprompt_check import check_soft_prompts

CLOSE = 1.01
"""A select NLL within 1 % of the best has converged."""
FittedName = Literal["constant", "dynamic"]
BUDGET = (
    *("epochs", "min_steps", "batch_size", "windows_per_pass", "schedule", "warmup"),
    *("patience", "loss", "focus", "fit_share", "precision", "weight_decay", "clip_norm"),
)
"""Settings that ``constant`` takes from ``dynamic``, for equal windows, steps and stops."""
RANDOM = "dynamic, random start"


@dataclass(frozen=True)
class Variant:
    """Settings of one prompt, fitted in every fold."""

    name: str
    """Description without V and seed."""
    attack: FittedName
    virtual_tokens: int
    """V."""
    seed: int
    """Added to the run's seed: 0 repeats the run's start and order."""
    config: ScanConfig
    """The run's settings with the variation applied."""


def plan_variants(config: ScanConfig, lengths: Sequence[int], seeds: int) -> list[Variant]:
    """Plan every V for both attacks; at the run's V also seeds, starts, depths, low-rank changes.

    lengths: V's that the model has positions for; the run's own is among them.
    """
    own = config.dynamic.num_virtual_tokens
    base = _Maker(config)
    wanted = [base.constant(v) for v in lengths] + [base.dynamic(v) for v in lengths]
    for seed in range(seeds):
        repeated = _Maker(config, seed)
        wanted += [repeated.constant(own), repeated.dynamic(own)] if seed else []
        wanted.append(repeated.dynamic(own, RANDOM, initialisation="random"))
    depth = 2 if config.dynamic.depth == 1 else 1
    wanted.append(base.dynamic(own, f"dynamic, depth {depth}", depth=depth))
    if config.dynamic.low_rank:
        rank = config.dynamic.low_rank
        wanted.append(base.constant(own, f"constant, low rank {rank}", low_rank=rank))
        wanted.append(base.dynamic(own, "dynamic, no low rank", low_rank=0))
    return wanted


@dataclass(frozen=True)
class _Maker:
    """Variants with one seed."""

    run: ScanConfig
    seed: int = 0

    def constant(self, virtual: int, name: str = "constant", **changes: object) -> Variant:
        """Return ``constant`` with the budget of ``dynamic``."""
        return self._make(name, "constant", virtual, changes)

    def dynamic(self, virtual: int, name: str = "dynamic", **changes: object) -> Variant:
        """Return ``dynamic`` with an identity start."""
        return self._make(name, "dynamic", virtual, {"initialisation": "identity", **changes})

    def _make(
        self, name: str, attack: FittedName, virtual: int, changes: dict[str, object]
    ) -> Variant:
        same = {key: getattr(self.run.dynamic, key) for key in BUDGET}
        constant = self.run.constant.model_dump() | same | {"num_virtual_tokens": virtual}
        dynamic = self.run.dynamic.model_dump() | {"num_virtual_tokens": virtual}
        if attack == "constant":
            constant |= changes
        else:
            dynamic |= changes
        seed = self.run.protocol.seed + self.seed
        protocol = self.run.protocol.model_copy(update={"seed": seed, "least_select": 1})
        update = {
            "attacks": ("none", attack),
            "generator": None,
            "protocol": protocol,
            "constant": ConstantSettings.model_validate(constant),
            "dynamic": DynamicSettings.model_validate(dynamic),
        }
        return Variant(name, attack, virtual, self.seed, self.run.model_copy(update=update))


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
class Result:
    """Scores of one variant, fitted in every fold."""

    name: str
    virtual_tokens: int
    """V; 0 without a prompt."""
    seed: int
    exact: Bools
    """(n,)."""
    nll: Floats
    """(n,) suffix NLL of windows that the prompt did not see, nats/token."""
    controls: Bools | None
    records: tuple[FitRecord, ...]
    seconds: float

    @property
    def before(self) -> float:
        """Select NLL before the first step, mean over folds."""
        return float(np.mean([record.epochs[0].select_nll for record in self.records]))

    @property
    def best(self) -> float:
        """Lowest select NLL, mean over folds."""
        return float(np.mean([_lowest(record) for record in self.records]))

    @property
    def converged(self) -> float:
        """First epoch within 1 % of the best, mean over folds."""
        return float(np.mean([_converged(record) for record in self.records]))

    @property
    def chosen(self) -> str:
        """Epoch that each fold audits with, as ``3, 4``; ``-`` for no prompt."""
        words = [record.chosen.removeprefix("epoch ") for record in self.records]
        return ", ".join(word if word.isdigit() else "-" for word in words)


def _lowest(record: FitRecord) -> float:
    return min(epoch.select_nll for epoch in record.epochs)


def _converged(record: FitRecord) -> int:
    limit = CLOSE * _lowest(record)
    return next(epoch.epoch for epoch in record.epochs if epoch.select_nll <= limit)


@dataclass(frozen=True, eq=False)
class FitRun:
    """Results of all variants on one ground."""

    config: ScanConfig
    """Settings of the run."""
    lengths: Sequence[int]
    """V's that were fitted."""
    ground: Ground
    none: Result
    fitted: Sequence[Result]
    known_elsewhere: Bools | None
    """(n,) windows that a further model extracts and the audited model does not; None if not
    known."""


@dataclass(frozen=True, eq=False)
class Fits:
    """Prompts fitted, or the reason why not."""

    notes: Sequence[str]
    """A sentence for each V that the model does not accept."""
    own: int
    """V of the run."""
    run: FitRun | None = None
    reason: str = ""
    """Reason why nothing was fitted; empty if prompts were fitted."""


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
    folds = tuple(
        Fold(*(np.flatnonzero(np.isin(rows, part)) for part in (fold.fit, fold.select, fold.audit)))
        for fold in folds
    )
    if not all(len(part) for fold in folds for part in (fold.fit, fold.select, fold.audit)):
        folds, same_folds = make_folds(sample.clusters, protocol, rng), False
    controls, assigned = None, np.zeros(0, dtype=np.int64)
    if subject.controls is not None:
        most_controls = max(1, limit // 3)
        controls = subject.controls.take(
            whole_clusters(subject.controls.clusters, most_controls, sampler)
        )
        each = np.arange(len(controls.clusters))
        assigned = assign_controls(each, controls.clusters, sample.clusters, folds, rng)
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
    before = subject.longest_prefix + (subject.checkpoint.bos_id is not None)
    good, notes = [], []
    for virtual in sorted({*wanted, subject.config.dynamic.num_virtual_tokens}):
        try:
            check_positions(subject.config, subject.checkpoint, virtual, subject.longest_prefix)
            check_causal(subject.checkpoint, before + virtual, subject.suffix_tokens)
        except (UsageError, TargetError) as error:
            notes.append(f"V = {virtual} was left out: {error}.")
        else:
            good.append(virtual)
    return Usable(tuple(good), tuple(notes))


def fit_variants(
    subject: Subject,
    settings: SweepSettings,
    usable: Usable,
    elsewhere: Bools | None,
    progress: Progress,
) -> Fits:
    """Fit every variant on a sample of the windows.

    elsewhere: (N,) windows that a further model extracts and the audited one does not.
    """
    own, notes = subject.config.dynamic.num_virtual_tokens, usable.notes
    if own not in usable.lengths:
        return Fits(notes, own, reason=f"the model does not take the run's V = {own}")
    try:
        ground = choose_ground(subject, settings.fit_windows, settings.seed)
    except DataError as error:
        return Fits(notes, own, reason=f"none was made: {error}")
    groups = {"windows of fits": ground.data.clusters}
    for number, fold in enumerate(ground.folds):
        groups[f"windows that fold {number} selects by"] = ground.data.clusters[fold.select]
    if not subject.disclosure.admits_all(groups):
        return Fits(notes, own, reason="none was made: too few windows to report")
    variants = plan_variants(subject.config, usable.lengths, settings.seeds)
    none, fitted = Laboratory(subject, ground, progress).run(variants)
    known = None if elsewhere is None else np.asarray(elsewhere[ground.rows])
    run = FitRun(subject.config, usable.lengths, ground, none, fitted, known)
    return Fits(notes, own, run)


@dataclass(frozen=True, eq=False)
class Laboratory:
    """Attacks on one ground."""

    subject: Subject
    ground: Ground
    progress: Progress

    def run(self, variants: Sequence[Variant]) -> tuple[Result, list[Result]]:
        """Run ``none``, then every variant."""
        workforce = Workforce(Processes(), _OnlyNone())
        begun = time.perf_counter()
        first = self._campaign(variants[0], workforce)
        none = Variant("none", "constant", 0, 0, self.subject.config)
        plain = self._result(none, first.run("none", _Named(self.progress, "fits: ")), begun)
        fitted = []
        for number, variant in enumerate(variants):
            begun = time.perf_counter()
            place = f"fits {number + 1}/{len(variants)}, V={variant.virtual_tokens}: "
            campaign = self._campaign(variant, workforce)
            outcome = campaign.run(variant.attack, _Named(self.progress, place))
            fitted.append(self._result(variant, outcome, begun))
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

    def _result(self, variant: Variant, outcome: AttackOutcome, begun: float) -> Result:
        ground = self.ground
        controls = None
        if ground.controls is not None and outcome.controls is not None:
            controls = self._exact(outcome.controls, ground.controls.ids)
        return Result(
            name=variant.name,
            virtual_tokens=variant.virtual_tokens,
            seed=variant.seed,
            exact=self._exact(outcome.data, ground.data.ids),
            nll=outcome.data.suffix_nll,
            controls=controls,
            records=tuple(fit.record for fit in outcome.fits.values()),
            seconds=time.perf_counter() - begun,
        )

    def _exact(self, extraction: Extraction, ids: NDArray[np.int32]) -> Bools:
        suffixes = ids[:, self.subject.prefix_tokens :]
        return np.asarray((extraction.continuation_ids == suffixes).all(axis=1))
