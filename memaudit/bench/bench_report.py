"""A benchmark, shown: tables for a terminal, or one JSON document. Pure: Benchmark -> text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.bench.benchmark import Benchmark, BenchTable
from memaudit.report.rendering import glue_units, harmless, titled_table, to_text
from memaudit.report.wording import count

SCHEMA_VERSION = 1


def bench_to_json(found: Benchmark) -> str:
    """Everything that was measured, ending in a line end."""
    document = {"schema_version": SCHEMA_VERSION, "tool": "memaudit bench", **asdict(found)}
    document["settings"]["config"] = found.settings.config.model_dump(mode="json")
    return json.dumps(document, indent=2) + "\n"


def render_bench(found: Benchmark, *, width: int, color: bool) -> str:
    """One table for each kind of work, and below them what they were measured on."""
    parts: list[RenderableType] = []
    for one in found.tables:
        parts += [_table(one), Text()]
    footing = Table.grid(padding=(0, 2))
    footing.add_column(style="bold", no_wrap=True)
    footing.add_column(max_width=90)
    for label, line in _footing(found):
        footing.add_row(label, harmless(line))
    return to_text([*parts, footing], width=max(width, 78), color=color)


def _table(one: BenchTable) -> Table:
    alike = "" if one.agree is None else f", {one.agree:,} of them continued alike"
    table = titled_table(f"{one.title}: {count(one.windows, 'window')}{alike}")
    table.add_column("way", no_wrap=True)
    for head in ("batch", "numbers", "windows/s", "of the rate", "memaudit is"):
        table.add_column(head, justify="right", no_wrap=True)
    for way in one.ways:
        table.add_row(
            way.name,
            str(way.batch),
            way.numbers,
            "no memory" if way.windows_per_second is None else _speed(way.windows_per_second),
            "" if way.share_of_rate is None else glue_units(f"{way.share_of_rate:.0%}"),
            "" if way.memaudit_is is None else f"{way.memaudit_is:.2f} ×",
        )
    return table


def _footing(found: Benchmark) -> Iterator[tuple[str, str]]:
    config, target = found.settings.config, found.target
    yield "Target", f"{target.name}: {target.architecture}, {target.parameters:,} parameters"
    for name in ("device", "dtype", "decoding"):
        choice = target.choices[name]
        yield "", f"{name} {choice.value} ({choice.reason})"
    yield (
        "Windows",
        f"{config.windows.prefix_tokens}+{config.windows.suffix_tokens} tokens, prompts of "
        f"{config.dynamic.num_virtual_tokens}; "
        f"medians of {count(found.settings.rounds, 'interleaved round')}",
    )
    rates = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in found.products.items()
    )
    yield "Rate", f"a large matrix product here reaches {rates}"
    if found.peak_memory_bytes is not None:
        yield "Memory", f"{found.peak_memory_bytes / 2**30:.2f} GiB at most, of all ways together"
    yield "Machine", f"{found.machine['platform']}, {count(found.threads, 'thread')}"
    yield "", ", ".join(f"{name} {found.libraries[name]}" for name in ("torch", "transformers"))


def _speed(windows: float) -> str:
    return f"{windows:,.0f}" if windows >= 100 else f"{windows:.3g}"
