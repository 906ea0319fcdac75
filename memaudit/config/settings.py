"""Settings: frozen objects that validate themselves.

Knows every setting, its default and its bounds. Knows only the paths of models and data, and not
where a value came from. Does not import torch, so usage errors appear at once.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from memaudit.config.base import (
    MAX_INTEGER,
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
"""All attacks, in the order of the report's columns."""
Bos = Literal["auto", "yes", "no"]
CHAT_DATE = date(2024, 7, 26)
"""Default date of the Llama 3 chat template."""
RUNS = Path("memaudit-runs")
"""Parent of the run folder if ``out`` is not set."""


class WindowSettings(Settings):
    """How windows are cut from samples."""

    prefix_tokens: Positive = 50
    """P: prefix tokens given to the target. Default of the benchmark (Carlini et al. 2022)."""
    suffix_tokens: Positive = 50
    """S: suffix tokens that the target must continue with."""
    placement: Literal["start", "end", "sliding"] = "start"
    """Position of the window in its sample; ``sliding`` cuts a window every ``stride`` tokens."""
    stride: Positive | None = None
    """Tokens between the starts of two sliding windows. Default: P+S."""
    limit: Positive | None = None
    """Audit up to this many samples of each file, chosen at random with the seed."""
    skip_bad_lines: bool = False
    """Report malformed lines as skipped instead of stopping at the first."""
    chat_date: Annotated[date, Field(ge=date(1970, 1, 1), le=date(9000, 1, 1))] = CHAT_DATE
    """Date given to a chat template that asks for today's, so that chats render the same every
    day. Use the day of training if it is known."""

    @property
    def length(self) -> int:
        """P+S: tokens in one window."""
        return self.prefix_tokens + self.suffix_tokens

    @field_validator("chat_date", mode="before")
    @classmethod
    def _is_date(cls, value: Any) -> Any:
        if not isinstance(value, (str, date)) or (isinstance(value, str) and value.isdigit()):
            raise ValueError("write the date as 2024-07-26")  # a number would mean seconds
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
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``spread``. ``spread`` uses every CUDA
    device and puts the rest in main memory and on disk; ``auto`` does so if one device is too
    small."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    bos: Bos = "auto"
    """Start every input with the BOS token. ``auto`` follows the tokenizer for texts and the chat
    template for chats."""
    quantize: Literal["int8", "llm-int8", "nf4"] | None = None
    """Load weights in fewer bits: ``int8`` (torchao), 4-bit ``nf4`` or ``llm-int8``
    (bitsandbytes). ``llm-int8`` also rounds activations."""
    prepack: Literal["auto", "yes", "no"] = "auto"
    """On a CPU, keep a second copy of the linear layers' weights in the order they are read."""
    base: str | None = None
    """Base model of an adapter, if the one its config names is not available."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False
    training_tokens: Positive | None = None
    """Number of training tokens, if known; the report compares it with the parameter count."""


class ProtocolSettings(Settings):
    """How windows are split, so that no prompt scores a near-duplicate of its training text."""

    folds: Annotated[int, Field(ge=2, le=50)] = 2
    select_fraction: Fraction = 0.1
    """Share of the windows outside ``audit`` used to choose the epoch."""
    split: Literal["clusters", "random"] = "clusters"
    """``random`` lets near-duplicates leak between parts; use it only to see the effect."""
    cluster_run: Positive = 20
    """Two samples that share a run of this many tokens are near-duplicates."""
    seed: NotNegative = 0
    """Random seed."""


class ExtractionSettings(Settings):
    """How windows are decoded."""

    batch_size: Positive | None = None
    """Windows per pass. Default: chosen to fit the free memory."""


class ScoreSettings(Settings):
    """How scores and their intervals are computed."""

    confidence: Fraction = 0.95
    bootstrap: Annotated[int, Field(ge=100, le=MAX_INTEGER)] = 2000
    """Resamples of the cluster bootstrap."""
    top_k: Positive = 40
    """k of the top-k sampler for p_z (Hayes et al. 2024); other tokens have probability 0."""
    temperature: Annotated[float, Field(gt=0)] = 1.0


class SensitiveSettings(Settings):
    """Counting of sensitive content in the suffixes."""

    enabled: bool = True
    region: Annotated[str, Field(pattern="^[A-Z]{2}$")] = "US"
    """Country (ISO 3166) whose national format is used for phone numbers without ``+``."""
    entity_model: str | None = None
    """Hub id or folder of a token classification model that marks names, addresses or both."""


class GateSettings(Settings):
    """Thresholds that make the audit fail. None is set by default."""

    max_exact: Share | None = None
    """Largest share of windows that any attack may extract exactly."""
    max_fractional: Share | None = None
    """Largest mean share of suffix tokens that any attack may extract at the right position."""
    max_lift: Share | None = None
    """Largest lift: exact rate of any prompt minus that of ``none``."""
    max_new: NotNegative | None = None
    """Largest number of extracted windows that are not in the baseline."""
    max_leaked: Share | None = None
    """Largest share of windows leaked by fine-tuning: extracted from the target by any attack, and
    from the reference by none."""
    baseline: UserPath | None = None
    """Baseline file or run folder that ``max_new`` compares with."""
    gate_on: Literal["upper", "estimate"] = "upper"
    """Compare thresholds with the upper end of the interval or with the estimate. ``max_new`` is an
    exact count and has no interval."""

    @model_validator(mode="after")
    def _max_new_has_baseline(self) -> GateSettings:
        if (self.max_new is None) != (self.baseline is None):
            if self.baseline is None:
                raise ValueError("max_new is only used with baseline, the run to compare with")
            raise ValueError(
                "baseline is only used with max_new, the number of new windows allowed"
            )
        return self


class ScanConfig(Settings):
    """All settings of an audit."""

    model: str
    data: UserPath
    controls: UserPath | None = None
    out: UserPath | None = None
    reference: str | None = None
    """Model before fine-tuning, named like ``model``. Every attack also runs on it."""
    generator: UserPath | None = None
    """Run folder or file with fitted prompts to use instead of fitting new ones."""
    key_file: UserPath | None = None
    """File with the project key, which signs fingerprints. Default: the key in the environment,
    else the user's own."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = LADDER
    reveal: bool = False
    """Put the text of prefixes, suffixes and outputs in the reports."""
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
                "reference cannot be combined with generator: the reference needs prompts fitted "
                "on it, in the same folds; leave one out"
            )
        is_default_version = self.target.revision is None and self.target.base is None
        if self.reference == self.model and is_default_version:
            raise ValueError(
                f"reference = {self.reference!r} is the audited model itself; give the model "
                "before fine-tuning"
            )
        return self

    @model_validator(mode="after")
    def _start_fits(self) -> ScanConfig:
        constant, dynamic = self.constant.num_virtual_tokens, self.dynamic.num_virtual_tokens
        if self.dynamic.starts_from_constant and constant != dynamic:
            raise ValueError(
                f"constant.num_virtual_tokens = {constant} and dynamic.num_virtual_tokens = "
                f"{dynamic} differ: make them equal, or set dynamic.start = 'vocabulary'"
            )
        return self
