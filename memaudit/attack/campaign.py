"""Runs attacks over folds: fits what has to be fitted, and extracts every window by the prompt
of its own fold.

Knows ids, folds and the ladder of attacks. Knows nothing of scores. The one place where
windows and prompts meet, so the one place where the protocol could be broken: a window of
``audit`` reaches :class:`Extractor` only, with the prompt of the fold that audits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.copying import copy_continuations
from memaudit.attack.extraction import Advance, Extraction, Extractor
from memaudit.attack.prompts import ConstantPrompt, HardPrompt, NoPrompt, SoftPrompt
from memaudit.attack.tuning import Fit, Tuner, TuningData
from memaudit.attack.untrained import untrained_prompt
from memaudit.config import LADDER, AttackName, ScanConfig, TuningSettings
from memaudit.data.folds import Fold
from memaudit.errors import UsageError
from memaudit.target.checkpoint import Checkpoint


class Progress(Protocol):
    """Where a stage says how far it is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """A stage of ``total`` windows; the function it gives takes how many are newly done."""


@dataclass(frozen=True, eq=False)
class Side:
    """The windows of the data, or the controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    fold: NDArray[np.int64]
    """(N,) the fold whose prompts score each window."""


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What one attack extracted, and its fits by fold."""

    data: Extraction
    controls: Extraction | None
    fits: Mapping[int, Fit]


class Campaign:
    """All attacks of one audit over the same windows.

    fitted: prompts by attack and fold to use instead of fitting, for those attacks it names.
    prefix: stands before the names of its stages.
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
        prefix: str = "",
    ) -> None:
        self.extractor = extractor
        self.checkpoint: Checkpoint = extractor.checkpoint
        self.config = config
        self.folds = folds
        self.data = data
        self.controls = controls
        self.fitted = fitted
        self.prefix = prefix
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
        return AttackOutcome(*self._extract_all(attack, prompts, progress), fits)

    def _none(self, progress: Progress) -> AttackOutcome:
        """``none``, extracted once, though choosing the fit windows may ask for it first."""
        if self._plain is None:
            plain = self._extract_all("none", self._same(NoPrompt()), progress)
            self._plain = AttackOutcome(*plain, {})
        return self._plain

    def _needs_fit(self, attack: AttackName) -> bool:
        return attack in ("constant", "dynamic") and attack not in self.fitted

    def _folds_used(self) -> list[int]:
        sides = [self.data.fold] + ([self.controls.fold] if self.controls else [])
        return [int(fold) for fold in np.unique(np.concatenate(sides))]

    def _same(self, prompt: SoftPrompt) -> Mapping[int, SoftPrompt]:
        return dict.fromkeys(self._folds_used(), prompt)

    def _extract_all(
        self, attack: AttackName, prompts: Mapping[int, SoftPrompt], progress: Progress
    ) -> tuple[Extraction, Extraction | None]:
        total = len(self.data.ids) + (len(self.controls.ids) if self.controls else 0)
        with progress.stage(f"{self.prefix}{attack}: extracting", total) as advance:
            data = self._extract(prompts, self.data, advance)
            controls = self._extract(prompts, self.controls, advance) if self.controls else None
        return data, controls

    def _extract(
        self, prompts: Mapping[int, SoftPrompt], side: Side, advance: Advance
    ) -> Extraction:
        """Every window by its own fold's prompt; folds that share one prompt go together."""
        parts: dict[int, tuple[SoftPrompt, list[int]]] = {}
        for fold in np.unique(side.fold).tolist():
            parts.setdefault(id(prompts[fold]), (prompts[fold], []))[1].append(fold)
        size = (len(side.ids), side.ids.shape[1] - self.extractor.prefix_tokens)
        whole = Extraction.empty(*size)
        for prompt, folds in parts.values():
            rows = np.flatnonzero(np.isin(side.fold, folds))
            whole.put(rows, self.extractor.extract(prompt, side.ids[rows], advance))
        return whole

    def _fit(self, attack: AttackName, progress: Progress) -> dict[int, Fit]:
        """Fits by fold; done once, though ``dynamic`` may ask for those of ``constant`` too."""
        if attack in self._fits:
            return self._fits[attack]
        if not self.folds:
            raise UsageError(f"--generator holds no {attack} prompt; leave it out of --attacks")
        settings = self.config.constant if attack == "constant" else self.config.dynamic
        starts = self._starts(attack, progress)
        fits = {}
        for number, fold in enumerate(self.folds):
            # Seeds depend on the attack and the fold alone: leaving an attack out changes
            # nothing for the others.
            key = [self.config.protocol.seed, LADDER.index(attack), number]
            rng = np.random.default_rng(key)
            fit_ids = self._fit_ids(fold, settings, progress)
            data = TuningData(fit_ids, self.data.ids[fold.select])
            prefixes = fit_ids[:, : self.extractor.prefix_tokens]
            prompt = untrained_prompt(
                self.checkpoint, settings, prefixes, rng, start=starts.get(number)
            )
            name = f"{self.prefix}{attack}: fitting, fold {number + 1} of {len(self.folds)}"
            tuner = Tuner(self.checkpoint, self.extractor, settings)
            total = settings.epochs_for(len(data.fit_ids)) * len(data.fit_ids)
            with progress.stage(name, total) as advance:
                fits[number] = tuner.fit(prompt, data, rng, advance)
        self._fits[attack] = fits
        return fits

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
        """``copy`` for every fold: known are all data windows that the fold does not audit."""
        prefix = self.extractor.prefix_tokens
        sides = [self.data] + ([self.controls] if self.controls else [])
        results = [Extraction.empty(len(side.ids), side.ids.shape[1] - prefix) for side in sides]
        total = sum(len(side.ids) for side in sides)
        with progress.stage(f"{self.prefix}copy: matching", total) as advance:
            for fold in self._folds_used():
                known = self.data.ids[self.data.fold != fold]
                for side, result in zip(sides, results, strict=True):
                    rows = np.flatnonzero(side.fold == fold)
                    if len(rows) and len(known):
                        result.continuation_ids[rows] = copy_continuations(
                            known, side.ids[rows, :prefix], side.ids.shape[1] - prefix
                        )
                    advance(len(rows))
        return AttackOutcome(results[0], results[1] if self.controls else None, {})
