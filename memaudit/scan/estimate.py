"""What a scan costs: operations that have to be made, and seconds from pieces that are timed.

Knows the plan, the extractor and the tuner. Writes nothing, and keeps nothing that it fits.

Operations are counted as floating-point multiplications and additions of matrix products, of a
target with N weights beside its embeddings, width D and vocabulary X: 2N for every token of a
pass, 2DX more for every position whose logits are computed, and for a step of tuning once more
each, for the way back to the inputs. Attention scores and whatever is done number by number are
left out, as usual (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt, untrained_prompt
from memaudit.attack.tuning import Tuner, TuningData
from memaudit.config.settings import AttackName, ScanConfig, TuningSettings
from memaudit.data.folds import Fold
from memaudit.data.plan import Plan
from memaudit.target.checkpoint import Checkpoint

TIMED_PASSES = 15
"""Passes of verification whose median counts, where they do not take long."""
TIMED_BATCHES = 3
"""Batches of tuning that are timed where that does not take long."""
ENOUGH_SECONDS = 5.0
"""A piece that takes longer than this tells enough."""


@dataclass(frozen=True)
class Estimate:
    """What the scan should take."""

    windows_per_second: float
    """Of one verification pass without a soft prompt, measured just now."""
    extraction_seconds: float
    tuning_seconds: float
    """Of all epochs."""
    may_stop_early: bool
    """Whether a fit has more epochs than ``patience``, so that it may end before the last."""
    memory_bytes: int
    """Weights that stay where they are used, twice where they are prepacked, ids, the logits of one
    pass and what decoding keeps; what tuning keeps and what the libraries take come on top."""


@dataclass(frozen=True)
class Shape:
    """What decides how many operations a target takes."""

    body: int
    """N: weights outside the two embeddings."""
    head: int
    """D times X of the output embedding."""

    def forward(self, tokens: int, logits: int) -> int:
        """Operations of a pass over so many tokens, with logits at so many of them."""
        return 2 * self.body * tokens + 2 * self.head * logits

    def step(self, tokens: int, logits: int) -> int:
        """Operations of a pass and its way back to the inputs: no weight has a gradient."""
        return 2 * self.forward(tokens, logits)


def shape_of(checkpoint: Checkpoint) -> Shape:
    """Count the weights of a target: all but those of its embeddings, and those of its head.

    Of a mixture of experts all are counted, though a token meets few of them.
    """
    model = checkpoint.model
    head = model.get_output_embeddings() or model.get_input_embeddings()
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    sizes = {id(table.weight): table.weight.numel() for table in [*tables, head]}
    return Shape(checkpoint.num_parameters - sum(sizes.values()), int(head.weight.numel()))


def estimate(config: ScanConfig, plan: Plan, extractor: Extractor) -> Estimate:
    """Time and memory of the scan, from pieces of it timed on the file's own windows."""
    ids = plan.data.windows.window_ids()
    pace = measure_pace(extractor, ids)
    total = len(plan.data.windows) + (len(plan.controls.windows) if plan.controls else 0)
    extraction = sum(
        pace.extraction(total, _virtual(config, attack)) for attack in extracting_attacks(config)
    )
    tuning, may_stop_early = 0.0, False
    for attack in sorted(fitted_attacks(config)):
        settings = _settings(config, attack)
        window = _measure_step(extractor, settings, ids)
        tuning += sum(fit_seconds(settings, fold, window, pace) for fold in plan.folds)
        may_stop_early |= any(_may_stop_early(settings, fold) for fold in plan.folds)
    return Estimate(
        windows_per_second=1 / pace.verification,
        extraction_seconds=extraction,
        tuning_seconds=tuning,
        may_stop_early=may_stop_early,
        memory_bytes=_memory(extractor, ids),
    )


def one_after_the_other(first: Estimate, second: Estimate) -> Estimate:
    """The cost of two models that are never held at once; the pace is that of the first."""
    return Estimate(
        windows_per_second=first.windows_per_second,
        extraction_seconds=first.extraction_seconds + second.extraction_seconds,
        tuning_seconds=first.tuning_seconds + second.tuning_seconds,
        may_stop_early=first.may_stop_early or second.may_stop_early,
        memory_bytes=max(first.memory_bytes, second.memory_bytes),
    )


def extracting_attacks(config: ScanConfig) -> set[AttackName]:
    """Attacks that ask the target, ``none`` also where it only ranks the fit windows."""
    ranks = any(_settings(config, attack).fit_share < 1 for attack in fitted_attacks(config))
    asked = set(config.attacks) - {"copy"}
    return asked | {"none"} if ranks else asked


def fitted_attacks(config: ScanConfig) -> set[AttackName]:
    """Attacks whose prompts are fitted, also where only another one starts from them."""
    fitted = set(config.attacks) & {"constant", "dynamic"}
    if "dynamic" in fitted and config.dynamic.starts_from_constant:
        fitted.add("constant")
    return fitted


@dataclass(frozen=True)
class Pace:
    """How fast the target is here."""

    extractor: Extractor
    verification: float
    """Seconds for each window of a full pass without a soft prompt."""
    step: float
    """Least seconds of a decoding step: what it takes for one window."""
    prefix: int
    """P, tokens."""
    suffix: int
    """S, tokens."""

    @property
    def token(self) -> float:
        """Seconds for each token of a full pass."""
        return self.verification / (self.prefix + self.suffix - 1)

    def verifying(self, virtual: int) -> float:
        """Seconds for each window behind a soft prompt of so many tokens."""
        return self.verification + virtual * self.token

    def extraction(self, windows: int, virtual: int) -> float:
        """Seconds to verify the windows and to decode them all from their first token.

        Decoding is taken to be as fast as a pass, token by token, and a step to take no less
        than it does for one window. Where nothing is carried on, a step is a whole pass.
        """
        tokens = virtual + self.prefix + self.suffix - 1
        steps = (self.suffix - 1) * math.ceil(windows / self.extractor.decoded_together(tokens))
        fed = 1 if self.extractor.decoding.carries else tokens
        decoding = steps * self.step + windows * (self.suffix - 1) * fed * self.token
        return windows * self.verifying(virtual) + decoding


def measure_pace(extractor: Extractor, ids: NDArray[np.int32]) -> Pace:
    """Time batches of ids (N,P+S) verified, and one window verified and decoded."""
    batch, prompt = ids[: extractor.batch_size], NoPrompt()
    prefix, suffix = extractor.prefix_tokens, ids.shape[1] - extractor.prefix_tokens
    extractor.verify(prompt, batch)  # the first pass warms up
    passes: list[float] = []
    while len(passes) < TIMED_PASSES and sum(passes) < ENOUGH_SECONDS:
        begun = time.perf_counter()
        extractor.verify(prompt, batch)
        passes.append(time.perf_counter() - begun)
    verification = statistics.median(passes) / len(batch)
    one = _never_extracted(extractor, ids[:1])
    begun = time.perf_counter()
    extractor.verify(prompt, one)
    verified = time.perf_counter()
    extractor.extract(prompt, one)
    decoding = max(0.0, (time.perf_counter() - verified) - (verified - begun))
    return Pace(extractor, verification, decoding / max(1, suffix - 1), prefix, suffix)


def _never_extracted(extractor: Extractor, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """One window (1,P+S) with another first suffix token than the target says."""
    said = extractor.extract(NoPrompt(), ids).continuation_ids
    spoilt = ids.copy()
    place = extractor.prefix_tokens
    spoilt[:, place] = (said[:, 0] + 1) % extractor.checkpoint.vocabulary
    return spoilt


def _measure_step(extractor: Extractor, settings: TuningSettings, ids: NDArray[np.int32]) -> float:
    """Seconds for each window that a prompt is trained on, from a few steps of a real fit.

    First of few windows, then of more, until it has taken long enough to tell.
    """
    size = settings.batch_size
    short = settings.for_one_epoch()
    tuner = Tuner(extractor.checkpoint, extractor, short)
    each = 0.0
    for count in (min(size, 4), min(size, 16), TIMED_BATCHES * size):
        rng = np.random.default_rng(0)
        data = TuningData(np.resize(ids, (count, ids.shape[1])), ids[:1])
        prefixes = data.fit_ids[:, : extractor.prefix_tokens]
        prompt = untrained_prompt(extractor.checkpoint, short, prefixes, rng)
        begun = time.perf_counter()
        tuner.fit(prompt, data, rng)
        seconds = time.perf_counter() - begun
        each = seconds / count
        if seconds > ENOUGH_SECONDS:
            break
    return each


def fit_seconds(settings: TuningSettings, fold: Fold, window: float, pace: Pace) -> float:
    """A fit on one fold: its epochs, and a look at ``select`` after each, before the first, and
    without a prompt.
    """
    fit = settings.trained_on(len(fold.fit))
    epochs = settings.epochs_for(fit)
    looks = (epochs + 2) * len(fold.select) * pace.verifying(settings.num_virtual_tokens)
    return epochs * fit * window + looks


def _may_stop_early(settings: TuningSettings, fold: Fold) -> bool:
    windows = settings.trained_on(len(fold.fit))
    patience = settings.patience_for(windows)
    return patience is not None and patience < settings.epochs_for(windows)


def _virtual(config: ScanConfig, attack: AttackName) -> int:
    return 0 if attack == "none" else _settings(config, attack).num_virtual_tokens


def _settings(config: ScanConfig, attack: AttackName) -> TuningSettings:
    return config.constant if attack == "constant" else config.dynamic


def _memory(extractor: Extractor, ids: NDArray[np.int32]) -> int:
    checkpoint = extractor.checkpoint
    parameters = list(checkpoint.model.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters if p.device.type != "meta")
    weights *= 2 if checkpoint.prepacks else 1
    suffix = ids.shape[1] - extractor.prefix_tokens
    logits = 3 * 4 * extractor.batch_size * suffix * checkpoint.vocabulary
    tokens = ids.shape[1]
    kept = min(len(ids), extractor.decoded_together(tokens)) * tokens * extractor.bytes_per_token
    return int(weights + ids.nbytes + logits + kept)
