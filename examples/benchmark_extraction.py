"""Time extraction: memaudit beside the two ways to decode with transformers itself.

    python examples/benchmark_extraction.py MODEL DATA

MODEL and DATA are what ``memaudit scan`` takes. Greedy decoding of the same windows by
memaudit (which also gives the suffix NLL and p_z), by ``model.generate`` with its cache, by the
same and a scoring pass for the NLL, and by a loop without a cache over full logits. They take
turns, so that a busy machine slows them alike; the table shows medians. ``--loop-windows`` bounds
the slow loop, which is timed on fewer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from memaudit.attack.extraction import Extractor, choose_batch_size
from memaudit.attack.prompts import NoPrompt
from memaudit.config import ScoreSettings, TargetSettings, WindowSettings
from memaudit.data.samples import read_samples
from memaudit.data.windows import cut_windows
from memaudit.target.checkpoint import Checkpoint, load_checkpoint


class Way(NamedTuple):
    """One way to extract, at one batch size."""

    name: str
    batch: int
    windows: int
    run: Callable[[], torch.Tensor]
    """Gives the continuations (N,S)."""


def generate(checkpoint: Checkpoint, context: torch.Tensor, suffix: torch.Tensor) -> torch.Tensor:
    """(B,P) -> (B,S) by transformers, with its key-value cache."""
    settings = GenerationConfig(max_new_tokens=suffix.shape[1], do_sample=False, pad_token_id=0)
    said: torch.Tensor = checkpoint.model.generate(
        input_ids=context,
        attention_mask=torch.ones_like(context),
        generation_config=settings,
    )
    return said[:, context.shape[1] :]


def generate_and_score(
    checkpoint: Checkpoint, context: torch.Tensor, suffix: torch.Tensor
) -> torch.Tensor:
    """The same, and the suffix NLL, which memaudit gives too, from a pass of its own."""
    said = generate(checkpoint, context, suffix)
    ids = torch.cat([context, suffix[:, :-1]], dim=1)
    logits = checkpoint.model(input_ids=ids, logits_to_keep=suffix.shape[1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), suffix.flatten())
    return said


def decode_without_cache(
    checkpoint: Checkpoint, context: torch.Tensor, suffix: torch.Tensor
) -> torch.Tensor:
    """(B,P) -> (B,S), computing every position and all of its logits at every step."""
    ids = context
    for _ in range(suffix.shape[1]):
        logits = checkpoint.model(input_ids=ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    return ids[:, context.shape[1] :]


def make_ways(
    checkpoint: Checkpoint, ids: NDArray[np.int32], prefix: int, options: argparse.Namespace
) -> list[Way]:
    """memaudit at the batch size it chooses, generate at each asked for, the loop at one."""
    whole = torch.as_tensor(ids, dtype=torch.long, device=checkpoint.device)
    contexts, suffixes = whole[:, :prefix], whole[:, prefix:]
    if checkpoint.bos_id is not None:  # the ways of transformers see the same input
        first = torch.full_like(contexts[:, :1], checkpoint.bos_id)
        contexts = torch.cat([first, contexts], dim=1)
    size, _ = choose_batch_size(checkpoint, suffixes.shape[1])
    extractor = Extractor(checkpoint, prefix, ScoreSettings(), size)

    def extract() -> torch.Tensor:
        return torch.as_tensor(extractor.extract(NoPrompt(), ids).continuation_ids)

    def batches(decode: Callable[..., torch.Tensor], batch: int, windows: int) -> Way:
        def run() -> torch.Tensor:
            parts = zip(
                torch.split(contexts[:windows], batch),
                torch.split(suffixes[:windows], batch),
                strict=True,
            )
            return torch.cat([decode(checkpoint, *part) for part in parts]).cpu()

        return Way(decode.__name__.replace("_", " "), batch, min(windows, len(ids)), run)

    return [
        Way("memaudit", size, len(ids), extract),
        *(batches(generate, batch, len(ids)) for batch in options.batch),
        batches(generate_and_score, options.batch[-1], len(ids)),
        batches(decode_without_cache, size, options.loop_windows),
    ]


def time_ways(ways: list[Way], rounds: int) -> list[float]:
    """Median windows per second of each way, over rounds in which they take turns."""
    speeds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, speeds, strict=True):
            begun = time.perf_counter()
            way.run()
            found.append(way.windows / (time.perf_counter() - begun))
    return [statistics.median(found) for found in speeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--windows", type=int, default=256)
    parser.add_argument("--loop-windows", type=int, default=32)
    parser.add_argument("--prefix-tokens", type=int, default=50)
    parser.add_argument("--suffix-tokens", type=int, default=50)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    checkpoint = load_checkpoint(options.model, TargetSettings())
    # Nothing ends early: the windows are as long as memaudit's.
    checkpoint.model.generation_config.eos_token_id = None
    windows = cut_windows(
        read_samples(options.data, skip_bad_lines=True),
        checkpoint.tokenizer,
        WindowSettings(
            prefix_tokens=options.prefix_tokens,
            suffix_tokens=options.suffix_tokens,
            limit=options.windows,
        ),
        np.random.default_rng(0),
    )
    ids = windows.window_ids()
    with torch.inference_mode():
        ways = make_ways(checkpoint, ids, options.prefix_tokens, options)
        ways[0].run()  # not timed: threads and buffers start
        speeds = time_ways(ways, options.rounds)
    print(f"{len(ids)} windows, {torch.get_num_threads()} threads, {checkpoint.device}")
    print(f"{'':22}{'batch':>6}{'windows/s':>11}{'memaudit is':>13}")
    for way, speed in zip(ways, speeds, strict=True):
        print(f"{way.name:22}{way.batch:6}{speed:11.1f}{speeds[0] / speed:12.2f}x")


if __name__ == "__main__":
    main()
