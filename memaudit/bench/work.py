"""The timed work: a target, and windows built so that it is known which are extracted.

Knows the extractor, and the minimum operations of a window (:mod:`memaudit.pipeline.estimate`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt
from memaudit.config.settings import ScanConfig
from memaudit.pipeline.estimate import Shape, shape_of
from memaudit.pipeline.loading import check_positions, choose_size, make_extractor
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.softprompt_check import check_soft_prompts

Ids = NDArray[np.int32]

TARGET_SECONDS = 2.0
"""Seconds that verifying all windows should take, if their number is not given."""
MAX_WINDOWS = 1024
GENERATE_BATCHES = {"cpu": (32, 64, 128, 256), "cuda": (64, 128, 256, 512, 1024)}


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a benchmark."""

    config: ScanConfig
    """Settings of a scan; target, windows, batch sizes and the dynamic prompt are used."""
    rounds: int
    """Timed runs of every way; medians are reported."""
    windows: int | None
    """Windows in one run of extraction; None chooses by the machine's speed."""
    generate_batches: tuple[int, ...]
    """Batch sizes for ``generate``; if empty, GENERATE_BATCHES of the device."""


@dataclass(frozen=True)
class Work:
    """A loaded target, and prefixes for it to continue."""

    settings: BenchSettings
    extractor: Extractor
    shape: Shape
    prefixes: Ids
    """(N,P)."""
    continuation_ids: Ids
    """(N,S) the target's greedy continuations."""

    @property
    def prefix_tokens(self) -> int:
        """P."""
        return self.settings.config.windows.prefix_tokens

    @property
    def suffix_tokens(self) -> int:
        """S."""
        return self.settings.config.windows.suffix_tokens

    @property
    def checkpoint(self) -> Checkpoint:
        """The target."""
        return self.extractor.checkpoint

    @property
    def generate_batches(self) -> tuple[int, ...]:
        """Batch sizes for ``generate``, limited to the number of windows."""
        kind = self.checkpoint.device.type
        usual = GENERATE_BATCHES.get(kind, GENERATE_BATCHES["cpu"])
        sizes = self.settings.generate_batches or usual
        return tuple(dict.fromkeys(min(size, len(self.prefixes)) for size in sizes))

    @property
    def decode_batch_size(self) -> int:
        """Windows that memaudit decodes at once."""
        return min(self.extractor.decode_batch_size(self._tokens(0)), len(self.prefixes))

    @property
    def verifying(self) -> int:
        """Minimum operations to verify a window."""
        return self.shape.forward(self._tokens(0), self.suffix_tokens)

    @property
    def decoding(self) -> int:
        """Minimum operations to decode a suffix from its second token."""
        steps = self.suffix_tokens - 1
        return self.shape.forward(steps, steps)

    @property
    def tuning(self) -> int:
        """Minimum operations of the target per window of a tuning step, without the prompt's."""
        tokens = self._tokens(self.settings.config.dynamic.num_virtual_tokens)
        return self.shape.step(tokens, self.suffix_tokens)

    def windows(self, exact_share: float) -> Ids:
        """(N,P+S): prefixes and their continuations; all but a share get another first token.

        The rest of a changed suffix has to be decoded.
        """
        suffixes = self.continuation_ids.copy()
        changed = np.arange(len(suffixes)) >= round(exact_share * len(suffixes))
        suffixes[changed, 0] = (suffixes[changed, 0] + 1) % self.checkpoint.vocabulary
        return np.concatenate([self.prefixes, suffixes], axis=1)

    def on_device(self, ids: Ids) -> torch.Tensor:
        """Move ids to the target's device, as int64."""
        return torch.as_tensor(ids, dtype=torch.long, device=self.checkpoint.device)

    def _tokens(self, virtual: int) -> int:
        """Input tokens of a window in a pass: all but its last."""
        begin = self.checkpoint.bos_id is not None
        return begin + virtual + self.prefix_tokens + self.suffix_tokens - 1


def prepare(settings: BenchSettings) -> Work:
    """Load and check the target, and sample as many prefixes as the machine has time for."""
    config = settings.config
    checkpoint = load_checkpoint(config.model, config.target)
    check_positions(config, checkpoint, config.dynamic.num_virtual_tokens)
    check_soft_prompts(checkpoint)
    size, _ = choose_size(config, checkpoint)
    extractor = make_extractor(config, checkpoint, size)
    count = settings.windows or _affordable(extractor, config.windows.length)
    ids = _random_ids(checkpoint, count, config.windows.length)  # suffixes are discarded
    continuation_ids = extractor.extract(NoPrompt(), ids).continuation_ids
    prefixes = ids[:, : config.windows.prefix_tokens]
    return Work(settings, extractor, shape_of(checkpoint), prefixes, continuation_ids)


def _random_ids(checkpoint: Checkpoint, rows: int, columns: int) -> Ids:
    """Sample ordinary tokens; the choice changes no figure."""
    usual = np.arange(min(checkpoint.vocabulary, len(checkpoint.tokenizer)))
    usual = np.setdiff1d(usual, checkpoint.tokenizer.all_special_ids)
    return np.random.default_rng(0).choice(usual, (rows, columns)).astype(np.int32)


def _affordable(extractor: Extractor, length: int) -> int:
    """Return the windows of P+S tokens verified in about TARGET_SECONDS, in whole batches."""
    batch = _random_ids(extractor.checkpoint, extractor.batch_size, length)
    extractor.verify(NoPrompt(), batch)
    begun = time.perf_counter()
    extractor.verify(NoPrompt(), batch)
    batches = TARGET_SECONDS / (time.perf_counter() - begun)
    limit = max(1, MAX_WINDOWS // len(batch))
    return len(batch) * min(limit, max(2, round(batches)))
