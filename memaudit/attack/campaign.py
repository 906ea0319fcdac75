"""Run attacks over folds: fit prompts, then extract every window with its own fold's prompt.

Knows ids, folds and the ladder of attacks. Knows nothing of scores. Windows and prompts meet only
here, so only here could the protocol be broken: a window of ``audit`` reaches :class:`Extractor`
only, with the prompt of the fold that audits it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.copying import copy_continuations
from memaudit.attack.extraction import Extraction, Extractor
from memaudit.attack.journal import Advance, Journal, NoJournal, Progress
from memaudit.attack.memory import max_decode_batch
from memaudit.attack.parts import Extract, Part, PartWork, Side, cut, shard_parts
from memaudit.attack.prompts import (
    ConstantPrompt,
    HardPrompt,
    NoPrompt,
    SoftPrompt,
    untrained_prompt,
)
from memaudit.attack.stored_work import FitJournal
from memaudit.attack.tuning import Fit, Tuner, TuningData
from memaudit.config.settings import LADDER, AttackName, ScanConfig, TuningSettings
from memaudit.config.shard import Shard
from memaudit.data.folds import Fold
from memaudit.distributed import Processes
from memaudit.errors import UsageError
from memaudit.target.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """Extractions of one attack, and its fits by fold."""

    data: Extraction
    controls: Extraction | None
    fits: Mapping[int, Fit]


@dataclass(frozen=True, eq=False)
class Workforce:
    """Processes that share a campaign, and the journal they write."""

    processes: Processes
    journal: Journal
    """Journal of rank 0; other ranks keep none."""
    shard: Shard | None = None
    """The share of the windows to extract; None for all."""


ALONE = Workforce(Processes(), NoJournal())


class Campaign:
    """All attacks of one audit over the same windows.

    fitted: prompts by attack and fold; these attacks are not fitted again.
    prefix: prepended to the names of stages and journal entries.
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
        self._none_outcome: AttackOutcome | None = None
        self._fits: dict[AttackName, dict[int, Fit]] = {}

    def run(self, attack: AttackName, progress: Progress) -> AttackOutcome:
        """Fit the attack if it needs fitting, then extract every window."""
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
        elif attack == "dynamic-hard":
            virtual = self.config.dynamic.num_virtual_tokens
            prompts = self._for_all_folds(HardPrompt(self.checkpoint.embed, virtual))
        else:
            raise ValueError(f"no prompt for attack {attack}")
        return self._extract(attack, prompts, fits, progress)

    def _none(self, progress: Progress) -> AttackOutcome:
        """Extract ``none`` once: the choice of fit windows may need it first."""
        if self._none_outcome is None:
            prompts = self._for_all_folds(NoPrompt())
            self._none_outcome = self._extract("none", prompts, {}, progress)
        return self._none_outcome

    def _needs_fit(self, attack: AttackName) -> bool:
        return attack in ("constant", "dynamic") and attack not in self.fitted

    def _folds_used(self) -> list[int]:
        folds = np.concatenate([side.fold for side in self.sides.values()])
        return [int(fold) for fold in np.unique(folds)]

    def _for_all_folds(self, prompt: SoftPrompt) -> Mapping[int, SoftPrompt]:
        return dict.fromkeys(self._folds_used(), prompt)

    def _extract(
        self,
        attack: AttackName,
        prompts: Mapping[int, SoftPrompt],
        fits: Mapping[int, Fit],
        progress: Progress,
    ) -> AttackOutcome:
        """Extract every window with its own fold's prompt; folds that share one run together."""

        def key(fold: int) -> int:
            return id(prompts[fold])

        used = [fold for fold in self._folds_used() if fold in prompts]
        groups = [list(folds) for _, folds in itertools.groupby(sorted(used, key=key), key)]

        def extract(parts: Sequence[Part], advance: Advance) -> Iterator[Extraction]:
            for (_, fold), group in itertools.groupby(parts, lambda part: (part.role, part.fold)):
                ids = [self.sides[part.role].ids[part.rows] for part in group]
                yield from self.extractor.extract_each(prompts[fold], ids, advance)

        parts, journal = (
            self._shard_parts(attack, self._parts(sorted(groups))),
            self.workforce.journal,
        )
        by_role = self._work(attack, f"{attack}: extracting", parts, extract, progress, journal)
        return AttackOutcome(by_role["data"], by_role.get("control"), fits)

    def _parts(self, prompts: Sequence[Sequence[int]]) -> list[Part]:
        return cut(self.sides, prompts, max_decode_batch(self.checkpoint))

    def _work(
        self,
        attack: AttackName,
        stage: str,
        parts: Sequence[Part],
        extract: Extract,
        progress: Progress,
        journal: Journal,
    ) -> dict[str, Extraction]:
        """Extract the parts; return the extractions by role."""
        total = sum(len(part.rows) for part in parts)
        with progress.stage(f"{self.prefix}{stage}", total) as advance:
            return self._part_work.run(self._entry_name(attack), parts, extract, advance, journal)

    def _shard_parts(self, attack: AttackName, parts: Sequence[Part]) -> list[Part]:
        """Parts that this shard extracts: all of ``none`` if fits rank their windows by it."""
        if attack == "none" and self._choose_by_none():
            return list(parts)
        folds = len(self.folds) if self._needs_fit(attack) else None
        return shard_parts(parts, self.workforce.shard, folds)

    def _choose_by_none(self) -> bool:
        """True if a fit chooses its windows by their likelihood under ``none``."""
        settings = {"constant": self.config.constant, "dynamic": self.config.dynamic}
        return any(
            self._needs_fit(attack) and settings[attack].fit_share < 1
            for attack in self.config.attacks
            if attack in settings
        )

    def _entry_name(self, name: str) -> str:
        return f"{self.prefix}{name}".replace(" ", "-")

    def _fit(self, attack: AttackName, progress: Progress) -> dict[int, Fit]:
        """Fit every fold once: ``dynamic`` may also need the fits of ``constant``."""
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
        """Folds whose prompts audit a window of this shard."""
        count = len(self.folds)
        if self.workforce.shard is None:
            return list(range(count))
        parts = self._parts([[fold] for fold in range(count)])
        return sorted({part.fold for part in shard_parts(parts, self.workforce.shard, count)})

    def _fit_fold(
        self, attack: AttackName, number: int, start: torch.Tensor | None, progress: Progress
    ) -> Fit:
        settings = self.config.constant if attack == "constant" else self.config.dynamic
        # The seed depends only on the attack and the fold, so leaving an attack out does not
        # change the rest.
        rng = np.random.default_rng([self.config.protocol.seed, LADDER.index(attack), number])
        fit_ids = self._fit_ids(self.folds[number], settings, progress)
        select_ids = self.data.ids[self.folds[number].select]
        data = TuningData(fit_ids, select_ids, self.config.protocol.least_select)
        prefixes = fit_ids[:, : self.extractor.prefix_tokens]
        prompt = untrained_prompt(self.checkpoint, settings, prefixes, rng, start=start)
        processes = self.workforce.processes
        tuner = Tuner(self.checkpoint, self.extractor, settings, processes)
        entry = self._entry_name(f"fit-{attack}-{number}")
        fit_journal = FitJournal(self.workforce.journal, entry, processes)
        total = settings.epochs_for(len(data.fit_ids)) * len(data.fit_ids)
        name = f"{self.prefix}{attack}: fitting, fold {number + 1} of {len(self.folds)}"
        with progress.stage(name, total) as advance:
            return tuner.fit(prompt, data, rng, advance, fit_journal)

    def _starts(self, attack: AttackName, progress: Progress) -> dict[int, torch.Tensor]:
        """Return by fold the free vectors (V,D) that ``dynamic`` starts from.

        Empty if it starts from the vocabulary. Otherwise they are the constant prompt of the same
        fold, so the generator builds on no other window. The constant prompt is fitted here if
        ``constant`` is not among the attacks: leaving it out changes nothing.
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
        """Return the windows to train on: all fit windows, or the likeliest under ``none``.

        Likelihoods come from the extraction of ``none``, run here if it is not among the attacks:
        a cheaper pass differs in the last bits, so leaving ``none`` out would change the rest.
        """
        if settings.fit_share >= 1:
            return self.data.ids[fold.fit]
        nll = self._none(progress).data.suffix_nll[fold.fit]
        count = settings.trained_on(len(fold.fit))
        order = np.argsort(nll, kind="stable")
        return self.data.ids[np.sort(fold.fit[order[:count]])]

    def _copy(self, progress: Progress) -> AttackOutcome:
        """Run ``copy`` for every fold; it knows all data windows that the fold does not audit.

        It is quick, and its output is text of other windows: so the journal does not store it, and
        shards leave it to the merge.
        """
        prefix = self.extractor.prefix_tokens

        def extract(parts: Sequence[Part], advance: Advance) -> Iterator[Extraction]:
            for part in parts:
                ids = self.sides[part.role].ids[part.rows]
                known = self.data.ids[self.data.fold != part.fold]
                extraction = Extraction.empty(len(ids), ids.shape[1] - prefix)
                if len(known):
                    extraction.continuation_ids[:] = copy_continuations(
                        known, ids[:, :prefix], ids.shape[1] - prefix
                    )
                advance(len(ids))
                yield extraction

        folds = [[fold] for fold in self._folds_used()]
        parts = cut(self.sides, folds) if self.workforce.shard is None else []
        by_role = self._work("copy", "copy: matching", parts, extract, progress, NoJournal())
        return AttackOutcome(by_role["data"], by_role.get("control"), {})
