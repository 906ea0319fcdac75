"""The ways to compare: memaudit's own, and plain implementations of the same work.

Knows what each does and the minimum of its operations. Times nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from memaudit.attack.prompts import DynamicPrompt, NoPrompt, untrained_prompt
from memaudit.attack.tuning import Tuner, TuningData
from memaudit.bench.plain_ways import PlainTuning, decode_without_cache, generate
from memaudit.bench.timing import Way
from memaudit.bench.work import Ids, Work
from memaudit.config.settings import DynamicSettings

STEPS = 4
"""Optimizer steps in one run of tuning."""
UNCACHED = 32
"""Upper limit of windows decoded without a cache: it is slow, and no faster for more. A way without
a cache decodes one in eight windows if that is fewer."""

Decode = Callable[..., torch.Tensor]


def extraction_ways(work: Work, ids: Ids, exact_share: float) -> list[Way]:
    """Continue every prefix of ids (N,P+S): memaudit first, then ``generate``, then no cache."""
    extractor = work.extractor
    operations = work.verifying + (1 - exact_share) * work.decoding

    def extract() -> Ids:
        return extractor.extract(NoPrompt(), ids).continuation_ids

    def verify() -> None:
        extractor.verify(NoPrompt(), ids)

    dtype, size = work.checkpoint.dtype, min(extractor.batch_size, len(ids))
    few = min(UNCACHED, max(2, len(ids) // 8))
    return [
        Way("memaudit", work.decode_batch_size, len(ids), extract, dtype, operations),
        Way("memaudit, verifying alone", size, len(ids), verify, dtype, work.verifying),
        *(_plain_way(work, "generate", generate, ids, batch) for batch in work.generate_batches),
        _plain_way(work, "no cache, all logits", decode_without_cache, ids[:few], few),
    ]


def tuning_ways(work: Work, ids: Ids) -> list[Way]:
    """A few steps on ids (B,P+S): the paper's prompt, the profile's, and a plain version."""
    profile = work.settings.config.dynamic.for_one_epoch()
    change = {"depth": 1, "mapping": "naive", "embedding": "trained", "low_rank": 0, "focus": 0.0}
    paper = profile.model_copy(update=change)
    plain = PlainTuning(work.checkpoint, profile.num_virtual_tokens, work.prefix_tokens)
    batch = work.on_device(ids)

    def steps() -> None:
        for _ in range(STEPS):
            plain.step(batch)

    size, dtype = len(ids), work.checkpoint.dtype
    return [
        _fitting(work, "memaudit, the paper's prompt", paper, ids),
        _fitting(work, "memaudit, as the profile says", profile, ids),
        Way("all logits, whole embedding", size, STEPS * size, steps, dtype),
    ]


def _plain_way(work: Work, name: str, decode: Decode, ids: Ids, batch: int) -> Way:
    prefixes = work.on_device(ids[:, : work.prefix_tokens])
    count = work.suffix_tokens

    def run() -> Ids:
        outputs = [decode(work.checkpoint, part, count) for part in torch.split(prefixes, batch)]
        return np.asarray(torch.cat(outputs).int().cpu().numpy())

    return Way(name, min(batch, len(ids)), len(ids), run, work.checkpoint.dtype)


def _fitting(work: Work, name: str, settings: DynamicSettings, ids: Ids) -> Way:
    data = TuningData(np.concatenate([ids] * STEPS), ids[:1])
    tuner = Tuner(work.checkpoint, work.extractor, settings)
    prefixes = ids[:, : work.prefix_tokens]
    start = untrained_prompt(work.checkpoint, settings, prefixes, np.random.default_rng(0))
    assert isinstance(start, DynamicPrompt)
    # Every weight of the generator has a gradient: three products each, not two.
    weights = sum(weight.numel() for weight in start.generator.blocks.parameters())
    length = settings.num_virtual_tokens
    length += prefixes.shape[1] if settings.mapping == "queries" else 0
    operations = work.tuning + 6 * weights * length

    def fit() -> None:
        rng = np.random.default_rng(0)
        tuner.fit(untrained_prompt(work.checkpoint, settings, prefixes, rng), data, rng)

    return Way(name, len(ids), len(data.fit_ids), fit, tuner.passes.dtype, operations)
