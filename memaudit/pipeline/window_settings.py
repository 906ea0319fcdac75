"""The windows of an audit: what the settings leave open of them, resolved before anything is cut.

Knows where a choice comes from: the settings, a baseline, earlier prompts, or the data. All that
comes after sees a size and a placement that are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memaudit.attack.prompt_files import fitted_prefix_tokens
from memaudit.config.settings import ScanConfig, WindowSettings
from memaudit.data.plan import measure_data
from memaudit.data.window_choice import BENCHMARK, choose_windows
from memaudit.errors import UsageError
from memaudit.gate.baseline import Baseline
from memaudit.pipeline.loading import prompt_lengths
from memaudit.pipeline.reference import reference_config
from memaudit.target.checkpoint import load_max_tokens

CHOICE = ("prefix_tokens", "suffix_tokens", "placement")
"""Settings of windows that may be left open."""


@dataclass(frozen=True)
class ResolvedWindows:
    """Settings whose windows are chosen."""

    config: ScanConfig
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each setting that was chosen here, by dotted name."""
    notes: tuple[str, ...] = ()
    """The choice and its reasons, for the reader."""

    def facts(self) -> dict[str, str]:
        """Return the windows as inputs of a run: whoever continues it must choose alike."""
        windows = self.config.windows
        return {f"windows.{name}, as chosen": str(getattr(windows, name)) for name in CHOICE}


def resolve_windows(
    config: ScanConfig, tokenizer: Any, baseline: Baseline | None = None
) -> ResolvedWindows:
    """Choose what the settings leave open of the windows: by a baseline, else by the data.

    The baseline decides, so that a change of the data does not change the question. Earlier prompts
    decide P, as they fit no other.

    Raises:
        DataError: as `cut_files`.
        TargetError: as `cut_files`, or the model's config cannot be read.
        UsageError: the baseline or the prompts record no windows that fit.
    """
    if baseline is not None:
        return _from_baseline(config, baseline)
    given = config.windows.model_copy(update={"placement": config.windows.chosen_placement})
    fitted = config.generator is not None and not given.prefix_tokens
    if config.generator is not None and fitted:
        given = given.model_copy(update={"prefix_tokens": fitted_prefix_tokens(config.generator)})
    source, note = "default", None
    if not (given.prefix_tokens and given.suffix_tokens):
        choice = choose_windows(given, measure_data(config, tokenizer), _room(config))
        given, source, note = choice.settings, "data", choice.note
    resolved = _resolved(config, given, source, note)
    own = {"windows.prefix_tokens": "generator"} if fitted else {}
    return replace(resolved, sources={**resolved.sources, **own})


def benchmark_windows(config: ScanConfig) -> ScanConfig:
    """Return settings for work without data: windows of the benchmark's size, if none is given."""
    windows = config.windows
    size = {
        "prefix_tokens": windows.prefix_tokens or BENCHMARK,
        "suffix_tokens": windows.suffix_tokens or BENCHMARK,
    }
    return config.model_copy(update={"windows": windows.model_copy(update=size)})


def _from_baseline(config: ScanConfig, baseline: Baseline) -> ResolvedWindows:
    recorded = baseline.terms.settings
    values = {name: recorded.get(f"windows.{name}") for name in _left_open(config.windows)}
    try:
        windows = WindowSettings.model_validate({**config.windows.model_dump(), **values})
        size = f"{windows.prefix_tokens}+{windows.suffix_tokens}"
        if not windows.length or windows.placement == "auto":
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--baseline {config.gate.baseline}: its windows do not fit these settings; give "
            "--prefix-tokens, --suffix-tokens and --placement, or write it again"
        ) from None
    if not values:
        return ResolvedWindows(config)
    note = (
        f"Windows of up to {size} tokens, {windows.placement}, as in the baseline, so that a "
        "change of the data does not change the question."
    )
    return _resolved(config, windows, "baseline", note)


def _left_open(windows: WindowSettings) -> list[str]:
    return [name for name in CHOICE if getattr(windows, name) in (0, "auto")]


def _resolved(
    config: ScanConfig, windows: WindowSettings, source: str, note: str | None = None
) -> ResolvedWindows:
    sources = {f"windows.{name}": source for name in _left_open(config.windows)}
    notes = () if note is None else (note,)
    return ResolvedWindows(config.model_copy(update={"windows": windows}), sources, notes)


def _room(config: ScanConfig) -> int | None:
    """Return the tokens that a prefix and a suffix may have together; None if nothing says so.

    Soft prompt and BOS take their places too. A reference gets the same windows.
    """
    configs = [config, *([reference_config(config)] if config.reference is not None else [])]
    limits = [load_max_tokens(each.model, each.target) for each in configs]
    known = [limit for limit in limits if limit is not None]
    return min(known) - max(prompt_lengths(config)) - 1 if known else None
