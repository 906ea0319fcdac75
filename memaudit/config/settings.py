"""Settings: frozen objects that validate themselves.

Knows every setting, its default and its bounds. Knows nothing of models or data beyond their
paths, nor of where a value came from, and imports no torch: a usage error answers at once.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from memaudit.config.base import (
    MOST,
    Fraction,
    NotNegative,
    Positive,
    Settings,
    Share,
    UserPath,
)
from memaudit.config.tuning import ConstantSettings as ConstantSettings
from memaudit.config.tuning import DynamicSettings as DynamicSettings
from memaudit.config.tuning import TuningSettings as TuningSettings

AttackName = Literal["none", "copy", "dynamic-hard", "constant", "dynamic"]
LADDER: tuple[AttackName, ...] = ("none", "copy", "dynamic-hard", "constant", "dynamic")
"""Every attack, in the order of the report's columns."""
Bos = Literal["auto", "yes", "no"]
CHAT_DATE = date(2024, 7, 26)
"""What the chat template of Llama 3 takes for today where it is told no date."""
RUNS = Path("memaudit-runs")
"""Folder that gets the folder of a run, where ``out`` is not given."""


class WindowSettings(Settings):
    """How windows are cut from samples."""

    prefix_tokens: Positive = 50
    """P: tokens the target is shown. The benchmark's default (Carlini et al. 2022)."""
    suffix_tokens: Positive = 50
    """S: tokens it has to continue with."""
    placement: Literal["start", "end", "sliding"] = "start"
    """Where a window lies in its sample; ``sliding`` cuts one every ``stride`` tokens."""
    stride: Positive | None = None
    """Tokens between the starts of two sliding windows; P+S where not given."""
    limit: Positive | None = None
    """Audit at most this many samples of each file, drawn at random with the seed."""
    skip_bad_lines: bool = False
    """Keep malformed lines in the report as skipped, instead of stopping at the first."""
    chat_date: Annotated[date, Field(ge=date(1970, 1, 1), le=date(9000, 1, 1))] = CHAT_DATE
    """Date that a chat template is told where it asks for today's, so that a chat reads the same
    every day; the day of training, where that is known."""

    @property
    def length(self) -> int:
        """P+S: tokens in one window."""
        return self.prefix_tokens + self.suffix_tokens

    @field_validator("chat_date", mode="before")
    @classmethod
    def _is_date(cls, value: Any) -> Any:
        if not isinstance(value, (str, date)) or (isinstance(value, str) and value.isdigit()):
            raise ValueError("a date is written as 2024-07-26")  # a number would be seconds
        return value

    @model_validator(mode="after")
    def _stride_slides(self) -> WindowSettings:
        if self.stride is not None and self.placement != "sliding":
            raise ValueError("stride is only used with placement = 'sliding'")
        return self


class TargetSettings(Settings):
    """How the model under audit is loaded."""

    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``spread``: every CUDA device, and what
    they do not hold in main memory and on disk. ``auto`` does so where one device is too small."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    bos: Bos = "auto"
    """Whether every input starts with the BOS token; ``auto`` does what the tokenizer does with a
    text, and for chats what their template does."""
    quantize: Literal["int8", "llm-int8", "nf4"] | None = None
    """Weights in fewer bits than they are stored in: ``int8`` by torchao; by bitsandbytes the 4-bit
    ``nf4``, and ``llm-int8``, which rounds activations too."""
    prepack: Literal["auto", "yes", "no"] = "auto"
    """Whether a CPU keeps linear layers' weights once more, in the order that it reads them."""
    base: str | None = None
    """Base model of an adapter, where its own config names one that is not to be had."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False
    training_tokens: Positive | None = None
    """Tokens that the model was trained on, where known: the report sets its parameters beside."""


class ProtocolSettings(Settings):
    """How windows are split, so that no window is scored by a prompt that saw its like."""

    folds: Annotated[int, Field(ge=2, le=50)] = 2
    select_fraction: Fraction = 0.1
    """Share of the windows outside ``audit`` that picks the epoch."""
    split: Literal["clusters", "random"] = "clusters"
    """``random`` lets near-duplicates leak; it is there to show what that does."""
    cluster_run: Positive = 20
    """Two samples that share a run of this many tokens are near-duplicates."""
    seed: NotNegative = 0


class ExtractionSettings(Settings):
    """How windows are decoded."""

    batch_size: Positive | None = None
    """Windows per pass; found from the memory there is where not given."""


class ScoreSettings(Settings):
    """How scores and their intervals are computed."""

    confidence: Fraction = 0.95
    bootstrap: Annotated[int, Field(ge=100, le=MOST)] = 2000
    """Resamples of the cluster bootstrap."""
    top_k: Positive = 40
    """Sampler of p_z (Hayes et al. 2024): tokens outside the top k have probability 0."""
    temperature: Annotated[float, Field(gt=0)] = 1.0


class SensitiveSettings(Settings):
    """Which kinds of sensitive content are counted in the suffixes."""

    enabled: bool = True
    region: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "US"
    """Country (ISO 3166) as whose national form a phone number without ``+`` is read."""
    entity_model: str | None = None
    """Hub id or folder of a token classification model that marks names, or addresses too."""


class GateSettings(Settings):
    """What makes the audit fail. No threshold is set silently."""

    max_exact: Share | None = None
    """Largest share of windows that any attack may extract exactly."""
    max_fractional: Share | None = None
    """Largest mean share of suffix tokens that any attack may extract in their place."""
    max_lift: Share | None = None
    """Largest exact rate above that of ``none`` that any prompt may reach."""
    max_new: NotNegative | None = None
    """Largest number of windows that are extracted and not in the baseline."""
    max_leaked: Share | None = None
    """Largest share of windows that any attack may extract from the target and none does from the
    reference: what the fine-tuning leaked."""
    baseline: UserPath | None = None
    """Baseline file or run folder that ``max_new`` counts from."""
    gate_on: Literal["upper", "estimate"] = "upper"
    """Judge the interval's upper end, or the plain estimate. ``max_new`` is a count of these very
    windows, and judged as it is."""

    @model_validator(mode="after")
    def _new_since_when(self) -> GateSettings:
        if (self.max_new is None) != (self.baseline is None):
            given, lacks = "max_new", "baseline, the run that is counted from"
            if self.max_new is None:
                given, lacks = "baseline", "max_new, the number of new windows allowed"
            raise ValueError(f"{given} is only used with {lacks}")
        return self


class ScanConfig(Settings):
    """Everything one audit depends on."""

    model: str
    data: UserPath
    controls: UserPath | None = None
    out: UserPath | None = None
    reference: str | None = None
    """The model before fine-tuning, named like ``model``: every attack is run on it too."""
    generator: UserPath | None = None
    """Run folder or file of prompts fitted earlier, used instead of fitting."""
    key_file: UserPath | None = None
    """File with the project's key, which fingerprints are made under; that of the environment or
    the user's own where not given."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = LADDER
    reveal: bool = False
    """Put prefix, suffix and output text in the reports."""
    windows: WindowSettings = WindowSettings()
    target: TargetSettings = TargetSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    constant: ConstantSettings = ConstantSettings()
    dynamic: DynamicSettings = DynamicSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    scores: ScoreSettings = ScoreSettings()
    sensitive: SensitiveSettings = SensitiveSettings()
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _reference_fits(self) -> ScanConfig:
        if self.reference is None:
            if self.gate.max_leaked is not None:
                raise ValueError(
                    "gate.max_leaked is only used with reference, the model before fine-tuning"
                )
            return self
        if self.generator is not None:
            raise ValueError(
                "reference does not go with generator: prompts for the reference are fitted on it, "
                "in the same folds as the model's own; leave one out"
            )
        same_place = self.target.revision is None and self.target.base is None
        if self.reference == self.model and same_place:
            raise ValueError(
                f"reference = {self.reference!r} is the audited model itself; name the model "
                "before fine-tuning"
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> ScanConfig:
        lengths = (self.constant.num_virtual_tokens, self.dynamic.num_virtual_tokens)
        if self.dynamic.starts_from_constant and lengths[0] != lengths[1]:
            raise ValueError(
                f"constant.num_virtual_tokens = {lengths[0]} and dynamic.num_virtual_tokens = "
                f"{lengths[1]} differ: make them equal, or set dynamic.start = 'vocabulary'"
            )
        return self
