"""What is timed: a target, and windows made up so that it is known which come out.

Knows the extractor, and how many operations a window needs at least
(:mod:`memaudit.scan.estimate`).
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
from memaudit.scan.estimate import Shape, shape_of
from memaudit.scan.loading import check_positions, choose_size, make_extractor
from memaudit.target.checkpoint import Checkpoint, load_checkpoint
from memaudit.target.softprompt_check import check_soft_prompts

Ids = NDArray[np.int32]

TARGET_SECONDS = 2.0
"""What verifying all windows should take, where their number is not given."""
MAX_WINDOWS = 1024
GENERATE_BATCHES = {"cpu": (32, 64, 128, 256), "cuda": (64, 128, 256, 512, 1024)}


@dataclass(frozen=True)
class BenchSettings:
    """What is timed, and how often."""

    config: ScanConfig
    """The settings of a scan: target, windows, batch sizes and the dynamic prompt are its own."""
    rounds: int
    """Timed runs of every way; medians are reported."""
    windows: int | None
    """In one run of extraction; found from the machine's speed where not given."""
    generate_batches: tuple[int, ...]
    """Tried for ``generate``; GENERATE_BATCHES of the device where none are given."""


@dataclass(frozen=True)
class Work:
    """A target that is ready, and prefixes for it to go on from."""

    settings: BenchSettings
    extractor: Extractor
    shape: Shape
    prefixes: Ids
    """(N,P)."""
    said: Ids
    """(N,S) what the target says to them."""

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
        """Tried for ``generate``, none larger than there are windows."""
        kind = self.checkpoint.device.type
        usual = GENERATE_BATCHES.get(kind, GENERATE_BATCHES["cpu"])
        asked = self.settings.generate_batches or usual
        return tuple(dict.fromkeys(min(batch, len(self.prefixes)) for batch in asked))

    @property
    def decode_batch_size(self) -> int:
        """Windows that memaudit decodes together."""
        return min(self.extractor.decode_batch_size(self._tokens(0)), len(self.prefixes))

    @property
    def verifying(self) -> int:
        """Least operations of a window that is verified."""
        return self.shape.forward(self._tokens(0), self.suffix_tokens)

    @property
    def decoding(self) -> int:
        """Least operations of a window whose suffix is decoded from its second token on."""
        steps = self.suffix_tokens - 1
        return self.shape.forward(steps, steps)

    @property
    def tuning(self) -> int:
        """Least operations of the target for a window of a tuning step; a prompt's come on top."""
        tokens = self._tokens(self.settings.config.dynamic.num_virtual_tokens)
        return self.shape.step(tokens, self.suffix_tokens)

    def windows(self, exact_share: float) -> Ids:
        """(N,P+S): prefixes with what the target says to them, which is spoilt in all but a share.

        Spoilt is the first token of the suffix, so that all the others have to be decoded.
        """
        suffixes = self.said.copy()
        spoilt = np.arange(len(suffixes)) >= round(exact_share * len(suffixes))
        suffixes[spoilt, 0] = (suffixes[spoilt, 0] + 1) % self.checkpoint.vocabulary
        return np.concatenate([self.prefixes, suffixes], axis=1)

    def on_device(self, ids: Ids) -> torch.Tensor:
        """The ids where the target is, long."""
        return torch.as_tensor(ids, dtype=torch.long, device=self.checkpoint.device)

    def _tokens(self, virtual: int) -> int:
        """Tokens that a pass sees of a window: all but its last."""
        begin = self.checkpoint.bos_id is not None
        return begin + virtual + self.prefix_tokens + self.suffix_tokens - 1


def prepare(settings: BenchSettings) -> Work:
    """Load and check the target, and draw as many prefixes as the machine has time for."""
    config = settings.config
    checkpoint = load_checkpoint(config.model, config.target)
    check_positions(config, checkpoint, config.dynamic.num_virtual_tokens)
    check_soft_prompts(checkpoint)
    size, _ = choose_size(config, checkpoint)
    extractor = make_extractor(config, checkpoint, size)
    count = settings.windows or _affordable(extractor, config.windows.length)
    ids = _random_ids(checkpoint, count, config.windows.length)  # of the suffixes nothing is kept
    said = extractor.extract(NoPrompt(), ids).continuation_ids
    prefixes = ids[:, : config.windows.prefix_tokens]
    return Work(settings, extractor, shape_of(checkpoint), prefixes, said)


def _random_ids(checkpoint: Checkpoint, rows: int, columns: int) -> Ids:
    """Ordinary tokens: which ones they are changes no figure."""
    usual = np.arange(min(checkpoint.vocabulary, len(checkpoint.tokenizer)))
    usual = np.setdiff1d(usual, checkpoint.tokenizer.all_special_ids)
    return np.random.default_rng(0).choice(usual, (rows, columns)).astype(np.int32)


def _affordable(extractor: Extractor, length: int) -> int:
    """Windows of P+S tokens that are verified in about TARGET_SECONDS, in whole batches."""
    batch = _random_ids(extractor.checkpoint, extractor.batch_size, length)
    extractor.verify(NoPrompt(), batch)
    begun = time.perf_counter()
    extractor.verify(NoPrompt(), batch)
    batches = TARGET_SECONDS / (time.perf_counter() - begun)
    most = max(1, MAX_WINDOWS // len(batch))
    return len(batch) * min(most, max(2, round(batches)))
