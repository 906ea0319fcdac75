"""Settings: frozen objects that validate themselves.

Knows every setting, its default and its bounds. Knows nothing of models or data beyond their
paths, nor of where a value came from, and imports no torch: a usage error answers at once.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from typing_extensions import Self

AttackName = Literal["none", "copy", "dynamic-hard", "constant", "dynamic"]
LADDER: tuple[AttackName, ...] = ("none", "copy", "dynamic-hard", "constant", "dynamic")
"""Every attack, in the order of the report's columns."""

MOST = 10**18 - 1
"""Largest whole number of any setting: the most that a report is read back with."""
Positive = Annotated[int, Field(ge=1, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


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

    @property
    def length(self) -> int:
        """P+S: tokens in one window."""
        return self.prefix_tokens + self.suffix_tokens

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
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    bos: Literal["auto", "yes", "no"] = "auto"
    """Whether every input starts with the BOS token; ``auto`` does what the tokenizer does."""
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


class TuningSettings(Settings):
    """How a soft prompt is fitted. Shared by ``constant`` and ``dynamic``."""

    num_virtual_tokens: Positive = 50
    """V: length of the soft prompt."""
    epochs: Positive = 3
    min_steps: NotNegative = 200
    """Where the data are few, as many more epochs as it takes to make this many steps."""
    batch_size: Positive = 16
    """Windows per optimizer step; split into smaller passes where memory is short."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falling linearly to zero, or constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 for no limit."""
    patience: Positive | None = 5
    """Stop after this many epochs without a better ``select``, and a quarter of ``min_steps``:
    where the data are few, ``min_steps`` would go over them again and again."""
    loss: Literal["aligned", "full"] = "aligned"
    """Cross-entropy over suffix tokens, or over prefix and suffix (the paper's ablation)."""
    focus: Annotated[float, Field(ge=0)] = 2.0
    """tau: each window's gradient is weighted by exp(-tau * its NLL); 0 weights all alike."""
    fit_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the fit windows that is trained on: those likeliest under ``none``."""
    low_rank: NotNegative = 0
    """Rank of a linear change, trained along, to the embeddings of the window's tokens; 0: none."""
    learning_rate_low_rank: Annotated[float, Field(gt=0)] = 1e-3
    """Of that change."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the passes that fit; the prompt is float32, and every verdict comes from the target's own
    dtype. ``auto``: bfloat16 where the processor multiplies in it, else float32."""

    def for_one_epoch(self) -> Self:
        """The same settings for a single pass over whatever is given, as for timing it."""
        return self.model_copy(update={"epochs": 1, "min_steps": 0, "patience": None})

    def trained_on(self, windows: int) -> int:
        """How many of so many fit windows are trained on."""
        return max(1, round(self.fit_share * windows))

    def epochs_for(self, windows: int) -> int:
        """Passes over so many fit windows: ``epochs``, or what ``min_steps`` takes."""
        steps = math.ceil(windows / self.batch_size)
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def patience_for(self, windows: int) -> int | None:
        """Epochs without a better ``select`` after which a fit of so many windows stops."""
        steps = math.ceil(windows / self.batch_size)
        if self.patience is None:
            return None
        return max(self.patience, math.ceil(self.min_steps / 4 / steps))


class ConstantSettings(TuningSettings):
    """``constant``: V free vectors (Ozdayi et al., ACL 2023)."""


class DynamicSettings(TuningSettings):
    """``dynamic``: the soft-prompt generator (Wang et al., EMNLP 2024)."""

    low_rank: NotNegative = 8
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Of the transformer blocks."""
    learning_rate_embedding: Annotated[float, Field(gt=0)] = 1e-4
    """Of the embedding rows that occur in the fitted prefixes."""
    learning_rate_queries: Annotated[float, Field(gt=0)] = 1e-2
    """Of the free vectors of the ``queries`` mapping."""
    depth: Positive = 1
    """Transformer blocks in the generator."""
    initialisation: Literal["identity", "random"] = "identity"
    """``identity``: the generator returns its input before the first step."""
    mapping: Literal["naive", "queries"] = "queries"
    """``naive``: the last V prefix tokens, repeated as needed (the paper's mapping m)."""
    start: Literal["vocabulary", "constant"] = "vocabulary"
    """Where the free vectors of ``queries`` start: rows of the vocabulary, or the constant
    prompt fitted on the same fold."""
    embedding: Literal["trained", "frozen"] = "frozen"
    """Whether the embedding rows that occur in the fitted prefixes are trained too."""

    @property
    def starts_from_constant(self) -> bool:
        """Whether a constant prompt has to be fitted first."""
        return self.mapping == "queries" and self.start == "constant"


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
    baseline: Path | None = None
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
    data: Path
    controls: Path | None = None
    out: Path | None = None
    reference: str | None = None
    """The model before fine-tuning, named like ``model``: every attack is run on it too."""
    generator: Path | None = None
    """Run folder or file of prompts fitted earlier, used instead of fitting."""
    key_file: Path | None = None
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
