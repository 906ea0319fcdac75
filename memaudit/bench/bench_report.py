"""Render a benchmark: tables for a terminal, or one JSON document. Pure: Benchmark -> text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from memaudit.bench.benchmark import Benchmark, BenchTable
from memaudit.report.blocks import Block, Facts, Head, Table
from memaudit.report.terminal import render_blocks
from memaudit.report.wording import count

SCHEMA_VERSION = 1
_JSON_KEYS = {"slowest": "least", "fastest": "most"}


def bench_to_json(result: Benchmark) -> str:
    """Serialize all measurements; ends with a line break."""
    fields = asdict(result, dict_factory=_rename_keys)
    document = {"schema_version": SCHEMA_VERSION, "tool": "memaudit bench", **fields}
    document["settings"]["config"] = result.settings.config.model_dump(mode="json")
    return json.dumps(document, indent=2) + "\n"


def _rename_keys(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_JSON_KEYS.get(name, name): value for name, value in fields}


def render_bench(result: Benchmark, *, width: int, color: bool) -> str:
    """Render one table per kind of work, and the conditions of the measurement below."""
    blocks: list[Block] = [*map(_table, result.tables), Facts("", list(_conditions(result)))]
    return render_blocks(blocks, width=width, color=color)


def _table(bench: BenchTable) -> Table:
    agree = "" if bench.agree is None else f", {bench.agree:,} with equal continuations"
    title = f"{bench.title}: {count(bench.windows, 'window')}{agree}"
    heads = [Head(name, "count") for name in ("batch", "numbers", "windows/s", "of the rate")]
    rows = [
        [
            way.name,
            str(way.batch),
            way.numbers,
            "no memory" if way.windows_per_second is None else _speed(way.windows_per_second),
            "" if way.share_of_rate is None else f"{way.share_of_rate:.0%}",
            "" if way.memaudit_is is None else f"{way.memaudit_is:.2f} ×",
        ]
        for way in bench.ways
    ]
    return Table("ways", title, "", [Head("way"), *heads, Head("memaudit is", "count")], rows)


def _conditions(result: Benchmark) -> Iterator[tuple[str, str]]:
    config, target = result.settings.config, result.target
    yield "Target", f"{target.name}: {target.architecture}, {target.parameters:,} parameters"
    for name in ("device", "dtype", "decoding"):
        choice = target.choices[name]
        yield "", f"{name} {choice.value} ({choice.reason})"
    yield (
        "Windows",
        f"{config.windows.prefix_tokens}+{config.windows.suffix_tokens} tokens, prompts of "
        f"{config.dynamic.num_virtual_tokens}; "
        f"medians of {count(result.settings.rounds, 'interleaved round')}",
    )
    rates = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in result.products.items()
    )
    yield "Rate", f"a large matrix product reaches {rates}"
    if result.peak_memory_bytes is not None:
        yield "Memory", f"peak of {result.peak_memory_bytes / 2**30:.2f} GiB over all ways"
    yield "Machine", f"{result.machine['platform']}, {count(result.threads, 'thread')}"
    yield "", ", ".join(f"{name} {result.libraries[name]}" for name in ("torch", "transformers"))


def _speed(windows: float) -> str:
    return f"{windows:,.0f}" if windows >= 100 else f"{windows:.3g}"
