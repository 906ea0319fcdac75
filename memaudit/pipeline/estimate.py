"""Cost of a scan: number of operations, and seconds extrapolated from timed samples.

Knows the plan, the extractor and the tuner. Writes nothing, and discards what it fits.

Operations are the floating-point multiplications and additions of matrix products. A target has N
weights outside its embeddings, width D and vocabulary X: each token of a pass takes 2N, and each
position with logits 2DX more. A tuning step takes twice that, for the backward pass to the inputs.
Attention scores and elementwise operations are left out, as usual (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1).
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
from memaudit.data.windows import PADDING
from memaudit.target.checkpoint import Checkpoint

TIMED_PASSES = 15
"""Largest number of timed verification passes; their median counts."""
TIMED_BATCHES = 3
"""Largest number of timed tuning batches."""
ENOUGH_SECONDS = 5.0
"""Timing stops after this many seconds."""


@dataclass(frozen=True)
class CostEstimate:
    """Expected time and memory of a scan."""

    windows_per_second: float
    """Measured speed of verification without a soft prompt."""
    extraction_seconds: float
    tuning_seconds: float
    """Seconds for all epochs."""
    may_stop_early: bool
    """True if a fit has more epochs than ``patience``, so it may end before the last."""
    memory_bytes: int
    """Resident weights (twice if prepacked), ids, logits of one pass and the decoding cache; tuning
    and the libraries take more."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a target that determine its number of operations."""

    body: int
    """N: weights outside the two embeddings."""
    head: int
    """D times X: weights of the output embedding."""

    def forward(self, tokens: int, logits: int) -> int:
        """Operations of a pass over ``tokens`` positions, of which ``logits`` have logits."""
        return 2 * self.body * tokens + 2 * self.head * logits

    def step(self, tokens: int, logits: int) -> int:
        """Operations of a pass and its backward pass to the inputs; weights have no gradient."""
        return 2 * self.forward(tokens, logits)


def shape_of(checkpoint: Checkpoint) -> Shape:
    """Count the weights of a target outside its embeddings, and those of its head.

    All experts of a mixture are counted, though a token uses few of them.
    """
    model = checkpoint.model
    head = model.get_output_embeddings() or model.get_input_embeddings()
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    sizes = {id(table.weight): table.weight.numel() for table in [*tables, head]}
    return Shape(checkpoint.num_parameters - sum(sizes.values()), int(head.weight.numel()))


def estimate_cost(config: ScanConfig, plan: Plan, extractor: Extractor) -> CostEstimate:
    """Estimate time and memory of the scan from samples timed on windows of the file."""
    ids = plan.data.windows.ids
    pace = measure_pace(extractor, ids)
    total = len(plan.data.windows) + (len(plan.controls.windows) if plan.controls else 0)
    extraction = sum(
        pace.extraction(total, _virtual(config, attack)) for attack in extracting_attacks(config)
    )
    tuning, may_stop_early = 0.0, False
    for attack in sorted(fitted_attacks(config)):
        settings = _settings(config, attack)
        window = _measure_step(extractor, settings, ids)
        fitted = [fold for fold in plan.folds if len(fold.select) >= config.protocol.least_select]
        tuning += sum(fit_seconds(settings, fold, window, pace) for fold in fitted)
        may_stop_early |= any(_may_stop_early(settings, fold) for fold in fitted)
    return CostEstimate(
        windows_per_second=1 / pace.verification,
        extraction_seconds=extraction,
        tuning_seconds=tuning,
        may_stop_early=may_stop_early,
        memory_bytes=_memory(extractor, ids),
    )


def combine_sequential(first: CostEstimate, second: CostEstimate) -> CostEstimate:
    """Add the costs of two models that are never in memory at once; the pace is the first's."""
    return CostEstimate(
        windows_per_second=first.windows_per_second,
        extraction_seconds=first.extraction_seconds + second.extraction_seconds,
        tuning_seconds=first.tuning_seconds + second.tuning_seconds,
        may_stop_early=first.may_stop_early or second.may_stop_early,
        memory_bytes=max(first.memory_bytes, second.memory_bytes),
    )


def extracting_attacks(config: ScanConfig) -> set[AttackName]:
    """Attacks that query the target; includes ``none`` if it only ranks the fit windows."""
    ranks = any(_settings(config, attack).fit_share < 1 for attack in fitted_attacks(config))
    attacks = set(config.attacks) - {"copy"}
    return attacks | {"none"} if ranks else attacks


def fitted_attacks(config: ScanConfig) -> set[AttackName]:
    """Attacks whose prompts are fitted, including ``constant`` as a start of ``dynamic``."""
    fitted = set(config.attacks) & {"constant", "dynamic"}
    if "dynamic" in fitted and config.dynamic.starts_from_constant:
        fitted.add("constant")
    return fitted


@dataclass(frozen=True)
class Pace:
    """Measured speed of the target on this machine."""

    extractor: Extractor
    verification: float
    """Seconds per window of a full pass without a soft prompt."""
    step: float
    """Seconds of a decoding step for one window: the minimum of any step."""
    prefix: float
    """Mean tokens of a prefix, P at most."""
    suffix: int
    """S, tokens."""

    @property
    def token(self) -> float:
        """Seconds per token of a full pass."""
        return self.verification / (self.prefix + self.suffix - 1)

    def verifying(self, virtual: int) -> float:
        """Seconds per window with a soft prompt of ``virtual`` tokens."""
        return self.verification + virtual * self.token

    def extraction(self, windows: int, virtual: int) -> float:
        """Seconds to verify the windows and decode all of them from their first token.

        Assumes that decoding is as fast per token as a pass, and that a step takes no less than
        for one window. Without a reusable state a step is a whole pass.
        """
        tokens = virtual + self.prefix + self.suffix - 1
        longest = virtual + self.extractor.prefix_tokens + self.suffix - 1
        steps = (self.suffix - 1) * math.ceil(windows / self.extractor.decode_batch_size(longest))
        fed = 1 if self.extractor.decoding.reuses_state else tokens
        decoding = steps * self.step + windows * (self.suffix - 1) * fed * self.token
        return windows * self.verifying(virtual) + decoding


def measure_pace(extractor: Extractor, ids: NDArray[np.int32]) -> Pace:
    """Time verification of batches of ids (N,P+S), and verification and decoding of one window.

    Seconds grow with the tokens of a window, so the timed windows are of middling length, and their
    seconds are scaled to the mean of all.
    """
    prompt, suffix = NoPrompt(), ids.shape[1] - extractor.prefix_tokens
    lengths = (ids != PADDING).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    first = max(0, (len(ids) - extractor.batch_size) // 2)
    batch = ids[order[first : first + extractor.batch_size]]
    mean = float(lengths.mean())
    extractor.verify(prompt, batch)  # the first pass warms up
    passes: list[float] = []
    while len(passes) < TIMED_PASSES and sum(passes) < ENOUGH_SECONDS:
        begun = time.perf_counter()
        extractor.verify(prompt, batch)
        passes.append(time.perf_counter() - begun)
    verification = statistics.median(passes) / len(batch)
    verification *= (mean - 1) / max(1, float((batch != PADDING).sum(axis=1).mean()) - 1)
    window = _never_extracted(extractor, batch[:1])
    begun = time.perf_counter()
    extractor.verify(prompt, window)
    verified = time.perf_counter()
    extractor.extract(prompt, window)
    decoding = max(0.0, (time.perf_counter() - verified) - (verified - begun))
    return Pace(extractor, verification, decoding / max(1, suffix - 1), mean - suffix, suffix)


def _never_extracted(extractor: Extractor, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return one window (1,P+S) whose first suffix token differs from the target's."""
    continuation_ids = extractor.extract(NoPrompt(), ids).continuation_ids
    changed = ids.copy()
    first = (continuation_ids[:, 0] + 1) % extractor.checkpoint.vocabulary
    changed[:, extractor.prefix_tokens] = first
    return changed


def _measure_step(extractor: Extractor, settings: TuningSettings, ids: NDArray[np.int32]) -> float:
    """Measure seconds per training window in a few steps of a real fit.

    Starts with few windows and takes more until the time is long enough.
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
    """Seconds of a fit on one fold.

    ``select`` is scored after each epoch, before the first, and without a prompt.
    """
    fit = settings.trained_on(len(fold.fit))
    epochs = settings.epochs_for(fit)
    scoring = (epochs + 2) * len(fold.select) * pace.verifying(settings.num_virtual_tokens)
    return epochs * fit * window + scoring


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
    rows = min(len(ids), extractor.decode_batch_size(tokens))
    cache = rows * tokens * extractor.bytes_per_token
    return int(weights + ids.nbytes + logits + cache)
