"""Runs attacks over folds: fits what has to be fitted, and extracts every window by the prompt
of its own fold.

Knows ids, folds and the ladder of attacks. Knows nothing of scores. The one place where
windows and prompts meet, so the one place where the protocol could be broken: a window of
``audit`` reaches :class:`Extractor` only, with the prompt of the fold that audits it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.choosing import Fit
from memaudit.attack.copying import copy_continuations
from memaudit.attack.extraction import Advance, Extraction, Extractor
from memaudit.attack.fit_state import FitKeeper
from memaudit.attack.journal import Journal, NoJournal
from memaudit.attack.memory import most_together
from memaudit.attack.parts import Extract, Part, PartWork, Side, cut, deal_shard
from memaudit.attack.prompts import ConstantPrompt, HardPrompt, NoPrompt, SoftPrompt
from memaudit.attack.tuning import Tuner, TuningData
from memaudit.attack.untrained import untrained_prompt
from memaudit.config.settings import LADDER, AttackName, ScanConfig, TuningSettings
from memaudit.config.shard import Shard
from memaudit.data.folds import Fold
from memaudit.distributed import Processes
from memaudit.errors import UsageError
from memaudit.target.checkpoint import Checkpoint


class Progress(Protocol):
    """Where a stage says how far it is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of ``total`` windows; the function it gives takes how many are newly done."""


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What one attack extracted, and its fits by fold."""

    data: Extraction
    controls: Extraction | None
    fits: Mapping[int, Fit]


@dataclass(frozen=True, eq=False)
class Workforce:
    """Who does the work of a campaign, and where it is noted."""

    processes: Processes
    journal: Journal
    """Of the first process; the others' is not asked."""
    shard: Shard | None = None
    """The share of the windows that is extracted; all without one."""


ALONE = Workforce(Processes(), NoJournal())


class Campaign:
    """All attacks of one audit over the same windows.

    fitted: prompts by attack and fold to use instead of fitting, for those attacks it names.
    prefix: put before the names of stages, and of what is kept.
    """

    def __init__(
        self,
        extractor: Extractor,
        config: ScanConfig,
        folds: Sequence[Fold],
        *,
        data: Side,
        controls: Side | None,
        fitted: Mapping[str, Mapping[int, SoftPrompt]],
        workforce: Workforce = ALONE,
        prefix: str = "",
    ) -> None:
        self.extractor = extractor
        self.checkpoint: Checkpoint = extractor.checkpoint
        self.config = config
        self.folds = folds
        self.data = data
        self.sides = {"data": data} | ({"control": controls} if controls else {})
        self.fitted = fitted
        self.workforce = workforce
        self.prefix = prefix
        self._part_work = PartWork(self.sides, extractor.prefix_tokens, workforce.processes)
        self._plain: AttackOutcome | None = None
        self._fits: dict[AttackName, dict[int, Fit]] = {}

    def run(self, attack: AttackName, progress: Progress) -> AttackOutcome:
        """Fit the attack where it is one that is fitted, then extract every window."""
        if attack == "copy":
            return self._copy(progress)
        if attack == "none":
            return self._none(progress)
        fits = self._fit(attack, progress) if self._needs_fit(attack) else {}
        prompts: Mapping[int, SoftPrompt]
        if attack in self.fitted:
            prompts = self.fitted[attack]
        elif fits:
            prompts = {fold: fit.prompt for fold, fit in fits.items()}
        else:
            virtual = self.config.dynamic.num_virtual_tokens
            prompts = self._same(HardPrompt(self.checkpoint.embed, virtual))
        return self._extract(attack, prompts, fits, progress)

    def _none(self, progress: Progress) -> AttackOutcome:
        """``none``, extracted once, though choosing the fit windows may ask for it first."""
        if self._plain is None:
            self._plain = self._extract("none", self._same(NoPrompt()), {}, progress)
        return self._plain

    def _needs_fit(self, attack: AttackName) -> bool:
        return attack in ("constant", "dynamic") and attack not in self.fitted

    def _folds_used(self) -> list[int]:
        folds = np.concatenate([side.fold for side in self.sides.values()])
        return [int(fold) for fold in np.unique(folds)]

    def _same(self, prompt: SoftPrompt) -> Mapping[int, SoftPrompt]:
        return dict.fromkeys(self._folds_used(), prompt)

    def _extract(
        self,
        attack: AttackName,
        prompts: Mapping[int, SoftPrompt],
        fits: Mapping[int, Fit],
        progress: Progress,
    ) -> AttackOutcome:
        """Every window by its own fold's prompt; folds that share one prompt go together."""

        def key(fold: int) -> int:
            return id(prompts[fold])

        used = [fold for fold in self._folds_used() if fold in prompts]
        together = [list(folds) for _, folds in itertools.groupby(sorted(used, key=key), key)]

        def extract(parts: Sequence[Part], advance: Advance) -> Iterator[Extraction]:
            for (_, fold), those in itertools.groupby(parts, lambda part: (part.role, part.fold)):
                ids = [self.sides[part.role].ids[part.rows] for part in those]
                yield from self.extractor.extract_each(prompts[fold], ids, advance)

        mine = self._mine(attack, self._parts(sorted(together)))
        kept = self.workforce.journal
        found = self._work(attack, f"{attack}: extracting", mine, extract, progress, kept)
        return AttackOutcome(found["data"], found.get("control"), fits)

    def _parts(self, prompts: Sequence[Sequence[int]]) -> list[Part]:
        return cut(self.sides, prompts, most_together(self.checkpoint))

    def _work(
        self,
        attack: AttackName,
        stage: str,
        parts: Sequence[Part],
        extract: Extract,
        progress: Progress,
        journal: Journal,
    ) -> dict[str, Extraction]:
        """What came out of the parts, by role."""
        total = sum(len(part.rows) for part in parts)
        with progress.stage(f"{self.prefix}{stage}", total) as advance:
            return self._part_work.run(self._kept_as(attack), parts, extract, advance, journal)

    def _mine(self, attack: AttackName, parts: Sequence[Part]) -> list[Part]:
        """The parts that this shard extracts; of ``none`` all, where fits ask for all."""
        if attack == "none" and self._choose_by_none():
            return list(parts)
        folds = len(self.folds) if self._needs_fit(attack) else None
        return deal_shard(parts, self.workforce.shard, folds)

    def _choose_by_none(self) -> bool:
        """Whether a fit picks its windows by how likely they are under ``none``."""
        settings = {"constant": self.config.constant, "dynamic": self.config.dynamic}
        return any(
            self._needs_fit(attack) and settings[attack].fit_share < 1
            for attack in self.config.attacks
            if attack in settings
        )

    def _kept_as(self, name: str) -> str:
        return f"{self.prefix}{name}".replace(" ", "-")

    def _fit(self, attack: AttackName, progress: Progress) -> dict[int, Fit]:
        """Fits by fold; done once, though ``dynamic`` may ask for those of ``constant`` too."""
        if attack in self._fits:
            return self._fits[attack]
        if not self.folds:
            raise UsageError(f"--generator holds no {attack} prompt; leave it out of --attacks")
        starts = self._starts(attack, progress)
        fits = {
            number: self._fit_fold(attack, number, starts.get(number), progress)
            for number in self._folds_fitted()
        }
        self._fits[attack] = fits
        return fits

    def _folds_fitted(self) -> list[int]:
        """The folds whose prompts audit a window of this shard."""
        count = len(self.folds)
        if self.workforce.shard is None:
            return list(range(count))
        parts = self._parts([[fold] for fold in range(count)])
        return sorted({part.fold for part in deal_shard(parts, self.workforce.shard, count)})

    def _fit_fold(
        self, attack: AttackName, number: int, start: torch.Tensor | None, progress: Progress
    ) -> Fit:
        settings = self.config.constant if attack == "constant" else self.config.dynamic
        # Seeds depend on the attack and the fold alone: leaving an attack out changes
        # nothing for the others.
        rng = np.random.default_rng([self.config.protocol.seed, LADDER.index(attack), number])
        fit_ids = self._fit_ids(self.folds[number], settings, progress)
        data = TuningData(fit_ids, self.data.ids[self.folds[number].select])
        prefixes = fit_ids[:, : self.extractor.prefix_tokens]
        prompt = untrained_prompt(self.checkpoint, settings, prefixes, rng, start=start)
        processes = self.workforce.processes
        tuner = Tuner(self.checkpoint, self.extractor, settings, processes)
        keeper = FitKeeper(
            self.workforce.journal, self._kept_as(f"fit-{attack}-{number}"), processes
        )
        total = settings.epochs_for(len(data.fit_ids)) * len(data.fit_ids)
        name = f"{self.prefix}{attack}: fitting, fold {number + 1} of {len(self.folds)}"
        with progress.stage(name, total) as advance:
            return tuner.fit(prompt, data, rng, advance, keeper)

    def _starts(self, attack: AttackName, progress: Progress) -> dict[int, torch.Tensor]:
        """By fold, the free vectors (V,D) that ``dynamic`` starts from, if not from the vocabulary.

        They are the constant prompt fitted on the same fold, so what the generator adds to it
        has seen no other window. It is fitted here if ``constant`` is not among the attacks, so
        that leaving that one out changes nothing.
        """
        if attack != "dynamic" or not self.config.dynamic.starts_from_constant:
            return {}
        return {
            number: fit.fitted.vectors.detach().cpu()
            for number, fit in self._fit("constant", progress).items()
            if isinstance(fit.fitted, ConstantPrompt)
        }

    def _fit_ids(
        self, fold: Fold, settings: TuningSettings, progress: Progress
    ) -> NDArray[np.int32]:
        """The fit windows trained on: all, or those likeliest under ``none``.

        Likeliest as its extraction says, which is made where ``none`` is not among the attacks:
        a cheaper pass differs in its last bits, and leaving ``none`` out would change the rest.
        """
        if settings.fit_share >= 1:
            return self.data.ids[fold.fit]
        nll = self._none(progress).data.suffix_nll[fold.fit]
        count = settings.trained_on(len(fold.fit))
        order = np.argsort(nll, kind="stable")
        return self.data.ids[np.sort(fold.fit[order[:count]])]

    def _copy(self, progress: Progress) -> AttackOutcome:
        """``copy`` for every fold: known are all data windows that the fold does not audit.

        It is quick, and what it says is others' text: so it is not kept, and of shards left to
        whoever puts them together.
        """
        prefix = self.extractor.prefix_tokens

        def extract(parts: Sequence[Part], advance: Advance) -> Iterator[Extraction]:
            for part in parts:
                ids = self.sides[part.role].ids[part.rows]
                known = self.data.ids[self.data.fold != part.fold]
                found = Extraction.empty(len(ids), ids.shape[1] - prefix)
                if len(known):
                    found.continuation_ids[:] = copy_continuations(
                        known, ids[:, :prefix], ids.shape[1] - prefix
                    )
                advance(len(ids))
                yield found

        folds = [[fold] for fold in self._folds_used()]
        parts = cut(self.sides, folds) if self.workforce.shard is None else []
        found = self._work("copy", "copy: matching", parts, extract, progress, NoJournal())
        return AttackOutcome(found["data"], found.get("control"), {})
