"""benchmark(settings, progress) -> Benchmark: extraction and tuning, each done in several ways.

Knows the order of things. Prints nothing, and changes no weight of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memaudit import __version__
from memaudit.attack.campaign import Progress
from memaudit.bench.timing import Rounds, Way, peak_memory, time_rounds
from memaudit.bench.ways import extraction_ways, tuning_ways
from memaudit.bench.work import BenchSettings, Work, prepare
from memaudit.report.result import TargetFacts
from memaudit.scan.loading import describe_target
from memaudit.system.environment import describe_libraries, describe_machine

EXACT_SHARES = (0.0, 0.9)
"""Shares of the windows that come out exactly: none, as of most text, and most."""


@dataclass(frozen=True)
class WayFigures:
    """One way, timed."""

    name: str
    batch: int
    """Windows at a time; of memaudit's extraction those that are decoded together."""
    numbers: str
    """Number format of its passes."""
    windows_per_second: float | None
    """Median over the rounds; None, as the next two, where memory did not suffice."""
    least: float | None
    most: float | None
    share_of_rate: float | None
    """Least operations that its work takes, over those of a large matrix product in the same time
    and number format; of memaudit's ways alone, as the others do less or other work."""
    memaudit_is: float | None
    """How many times as fast the table's first way is; None for memaudit's own."""


@dataclass(frozen=True)
class BenchTable:
    """Ways of working on the same windows, timed in turns."""

    title: str
    windows: int
    """In one run; of the way without a cache fewer."""
    agree: int | None
    """Windows that every way which was given them continues alike; None for tuning."""
    ways: tuple[WayFigures, ...]


@dataclass(frozen=True)
class Benchmark:
    """Everything that was measured."""

    version: str
    settings: BenchSettings
    target: TargetFacts
    threads: int
    products: Mapping[str, float]
    """Operations per second of a large matrix product by number format; median."""
    tables: tuple[BenchTable, ...]
    peak_memory_bytes: int | None
    """Of all ways together: of the device's allocator on CUDA, else of the process."""
    machine: Mapping[str, str]
    libraries: Mapping[str, str]


def benchmark(settings: BenchSettings, progress: Progress) -> Benchmark:
    """Load the model and time every way. Raises what loading and checking it raises."""
    work = prepare(settings)
    tables: list[BenchTable] = []
    products: dict[str, float] = {}
    for share in EXACT_SHARES:
        ids = work.windows(share)
        ways = extraction_ways(work, ids, share)
        tables.append(_timed(work, f"extraction, {share:.0%} exact", ways, products, progress))
    ids = np.resize(work.windows(0.0), (settings.config.dynamic.batch_size, ids.shape[1]))
    tables.append(_timed(work, "tuning", tuning_ways(work, ids), products, progress))
    return Benchmark(
        version=__version__,
        settings=settings,
        target=describe_target(work.extractor),
        threads=torch.get_num_threads(),
        products=products,
        tables=tuple(tables),
        peak_memory_bytes=peak_memory(work.checkpoint.device),
        machine=describe_machine(),
        libraries=describe_libraries(),
    )


def _timed(
    work: Work, title: str, ways: Sequence[Way], products: dict[str, float], progress: Progress
) -> BenchTable:
    """One table; the rates of matrix products met on the way are noted in ``products``."""
    rounds = work.settings.rounds
    total = (rounds + 1) * sum(way.windows for way in ways)
    with progress.stage(title, total) as advance:
        timed = time_rounds(ways, rounds, work.checkpoint.device, advance)
    products |= {_name(dtype): rate for dtype, rate in timed.products.items()}
    return BenchTable(
        title=title,
        windows=max(way.windows for way in ways),
        agree=_agreeing(timed),
        ways=tuple(_figures(way, place, timed) for place, way in enumerate(ways)),
    )


def _figures(way: Way, place: int, timed: Rounds) -> WayFigures:
    timing, first = timed.ways[place], timed.ways[0]
    share = ratio = None
    if timing is not None and way.operations is not None:
        share = way.operations * timing.median / timed.products[way.dtype]
    if timing is not None and first is not None and not way.name.startswith("memaudit"):
        ratio = first.median / timing.median
    return WayFigures(
        name=way.name,
        batch=way.batch,
        numbers=_name(way.dtype),
        windows_per_second=timing.median if timing else None,
        least=timing.least if timing else None,
        most=timing.most if timing else None,
        share_of_rate=share,
        memaudit_is=ratio,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _agreeing(timed: Rounds) -> int | None:
    said = [output for output in timed.outputs if isinstance(output, np.ndarray)]
    if not said:
        return None
    alike = np.ones(len(said[0]), dtype=np.bool_)
    for other in said[1:]:
        alike[: len(other)] &= (said[0][: len(other)] == other).all(axis=1)
    return int(alike.sum())
