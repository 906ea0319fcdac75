"""Time ways of doing work in turns, and the rate of a large matrix product.

Knows torch's devices, their memory and clocks. Knows nothing of the timed work.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from memaudit.attack.memory import release_memory
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory

PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the timed matrix product: large enough to reach the peak rate."""


@dataclass(frozen=True)
class Way:
    """One way to do some work."""

    name: str
    batch: int
    """Windows at a time."""
    windows: int
    """Windows in one run."""
    run: Callable[[], object]
    dtype: torch.dtype
    """Number format of its passes."""
    operations: float | None = None
    """Minimum operations per window; None if not compared."""


@dataclass(frozen=True)
class Timing:
    """Windows per second over several rounds."""

    median: float
    slowest: float
    fastest: float


@dataclass(frozen=True)
class Rounds:
    """Results of all rounds."""

    ways: tuple[Timing | None, ...]
    """Timings in the order of the ways; None for a way that ran out of memory."""
    outputs: tuple[object, ...]
    """Outputs of the untimed runs, in the order of the ways."""
    products: dict[torch.dtype, float]
    """Median operations per second of a large matrix product, by number format."""


def time_rounds(
    ways: Sequence[Way], rounds: int, device: torch.device, advance: Callable[[int], None]
) -> Rounds:
    """Run every way once untimed, then all in turn, so that a busy machine slows all equally.

    advance is called with the windows of each run, including untimed runs.
    """
    outputs = [_first_run(way, advance) for way in ways]
    speeds: list[list[float]] = [[] for _ in ways]
    rates: dict[torch.dtype, list[float]] = {way.dtype: [] for way in ways}
    for _ in range(rounds):
        for dtype, measured in rates.items():
            measured.append(product_rate(device, dtype))
        for way, output, speed in zip(ways, outputs, speeds, strict=True):
            if not isinstance(output, OutOfMemory):
                speed.append(way.windows / _seconds(way.run, device))
            advance(way.windows)
    timings = (
        Timing(statistics.median(speed), min(speed), max(speed)) if speed else None
        for speed in speeds
    )
    products = {dtype: statistics.median(measured) for dtype, measured in rates.items()}
    return Rounds(tuple(timings), tuple(outputs), products)


class OutOfMemory:
    """Output of a way that ran out of memory."""


def _first_run(way: Way, advance: Callable[[int], None]) -> object:
    try:
        output = way.run()
    except FAILED_ALLOCATION as error:
        if not is_out_of_memory(error):
            raise
        release_memory(error)
        output = OutOfMemory()
    advance(way.windows)
    return output


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the best of three large matrix products."""
    side = PRODUCT_SIDE.get(device.type, PRODUCT_SIDE["cpu"])
    rng = torch.Generator().manual_seed(0)  # some processors are faster on equal numbers
    left, right = (torch.randn(side, side, generator=rng).to(device, dtype) for _ in range(2))
    torch.mm(left, right)
    return 2 * side**3 / min(_seconds(lambda: torch.mm(left, right), device) for _ in range(3))


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes allocated on a CUDA device, elsewhere held by the process; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
