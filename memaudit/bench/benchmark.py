"""benchmark(settings, progress) -> Benchmark: time extraction and tuning, each in several ways.

Knows the order of the measurements. Prints nothing, and changes no weight of the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memaudit import __version__
from memaudit.attack.journal import Progress
from memaudit.bench.timing import Rounds, Way, peak_memory, time_rounds
from memaudit.bench.ways import extraction_ways, tuning_ways
from memaudit.bench.work import BenchSettings, Work, prepare
from memaudit.pipeline.loading import describe_target
from memaudit.report.result import TargetFacts
from memaudit.system.environment import describe_libraries, describe_machine

EXACT_SHARES = (0.0, 0.9)
"""Shares of windows extracted exactly: none, as for most text, and most."""


@dataclass(frozen=True)
class WayFigures:
    """One way, timed."""

    name: str
    batch: int
    """Windows at a time; for memaudit's extraction, windows decoded at once."""
    numbers: str
    """Number format of its passes."""
    windows_per_second: float | None
    """Median over the rounds; like the next two, None if memory ran out."""
    slowest: float | None
    fastest: float | None
    share_of_rate: float | None
    """Minimum operations of its work, divided by those of a large matrix product in the same time
    and number format; only for memaudit's ways, as the plain ones do less or other work."""
    memaudit_is: float | None
    """Speed of the table's first way divided by this one's; None for memaudit's own ways."""


@dataclass(frozen=True)
class BenchTable:
    """Ways of doing the same work, timed in turns."""

    title: str
    windows: int
    """Windows in one run; fewer for the way without a cache."""
    agree: int | None
    """Windows that all ways continue identically; None for tuning."""
    ways: tuple[WayFigures, ...]


@dataclass(frozen=True)
class Benchmark:
    """All measurements."""

    version: str
    settings: BenchSettings
    target: TargetFacts
    threads: int
    products: Mapping[str, float]
    """Median operations per second of a large matrix product, by number format."""
    tables: tuple[BenchTable, ...]
    peak_memory_bytes: int | None
    """Peak over all ways: of the device's allocator on CUDA, else of the process."""
    machine: Mapping[str, str]
    libraries: Mapping[str, str]


def benchmark(settings: BenchSettings, progress: Progress) -> Benchmark:
    """Load the model and time every way. Raises the errors of loading and checking it."""
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
    """Time the ways of one table; add the rates of matrix products to ``products``."""
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
        slowest=timing.slowest if timing else None,
        fastest=timing.fastest if timing else None,
        share_of_rate=share,
        memaudit_is=ratio,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _agreeing(timed: Rounds) -> int | None:
    outputs = [output for output in timed.outputs if isinstance(output, np.ndarray)]
    if not outputs:
        return None
    first, *rest = outputs
    equal = np.ones(len(first), dtype=np.bool_)
    for output in rest:
        equal[: len(output)] &= (first[: len(output)] == output).all(axis=1)
    return int(equal.sum())
