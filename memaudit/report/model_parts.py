"""Parts of a report that several of its sections share: figures, intervals, rates, fits, attacks.

Knows fields and their bounds, as `model` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core.core_schema import (
    CoreSchema,
    no_info_plain_validator_function,
    plain_serializer_function_ser_schema,
)

from memaudit.config.settings import AttackName
from memaudit.score import stats


@dataclass(frozen=True)
class Bounds:
    """Form and bounds of a number that is read as it is written: 1 stays 1, and 1.0 stays 1.0."""

    low: float = -math.inf
    high: float = math.inf
    missing: bool = True
    """True if there may be no figure: NaN in Python, null in JSON."""

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the validator and the serializer."""
        written = plain_serializer_function_ser_schema(_json_figure)
        return no_info_plain_validator_function(self._read, serialization=written)

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the JSON schema."""
        ends = {"minimum": self.low, "maximum": self.high}
        kind: Any = ["number", "null"] if self.missing else "number"
        return {"type": kind} | {name: end for name, end in ends.items() if math.isfinite(end)}

    def _read(self, value: object) -> float:
        if self.missing and (value is None or (isinstance(value, float) and not _finite(value))):
            return math.nan  # always the same object, so that equal reports compare equal
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            raise ValueError("not a number")
        if not self.low <= value <= self.high:
            raise ValueError("out of bounds")
        return value


class FirstFault(FailFast):
    """Stops at the first fault of a list; can be part of a union, unlike its base."""

    __hash__ = object.__hash__


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _json_figure(value: float) -> float | None:
    return None if math.isnan(value) else value


Figure = Annotated[float, Bounds()]
Share = Annotated[float, Bounds(0, 1)]
"""Fraction, or the p-value of a test."""
Count = Annotated[int, Field(strict=True, ge=0)]
Whole = Annotated[int, Field(strict=True, ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Item = TypeVar("_Item")
Many = Annotated[tuple[_Item, ...], FirstFault()]
"""A list, of which one fault is reported: a forged file may hold millions."""


def _settings(values: object) -> Mapping[str, Any]:
    """Return settings as they are. Raises ValueError where a value is none that TOML nests."""
    if not isinstance(values, dict):
        raise ValueError("not settings")
    nested = [value if isinstance(value, dict) else {"": value} for value in values.values()]
    for value in (value for part in nested for value in part.values()):
        for scalar in value if isinstance(value, list) else [value]:
            if not (scalar is None or isinstance(scalar, (str, bool, int, float))):
                raise ValueError("not a setting")
    return values


_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_SETTING = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}
_PART = {"type": "object", "additionalProperties": _SETTING}
_NESTED = {"type": "object", "additionalProperties": {"anyOf": [_SETTING, _PART]}}
Settings = Annotated[Mapping[str, Any], PlainValidator(_settings), WithJsonSchema(_NESTED)]
"""Settings, nested as in config.toml."""


class Part(BaseModel):
    """A part of the report: every key is there, and no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Interval(Part):
    """A two-sided confidence interval, ends included."""

    low: Figure
    high: Figure
    method: str

    @property
    def ends(self) -> stats.Interval:
        """Both ends; NaN where they do not exist."""
        return stats.Interval(self.low, self.high)


class Rate(Part):
    """Share of samples that were hit."""

    k: Count
    """Samples hit."""
    n: Count
    """Samples scored."""
    estimate: Share
    """k/n; null if no sample was scored."""
    confidence: Annotated[float, Field(strict=True, gt=0, lt=1)]
    """Confidence level of the intervals."""
    interval: Interval
    """Outer ends of the next two, which gates judge."""
    exact_interval: Interval
    """Interval that treats samples as independent."""
    clustered_interval: Interval
    """Interval over clusters of near-duplicate windows."""


class Fractional(Part):
    """Mean share of suffix tokens that are extracted in place."""

    estimate: Share
    interval: Interval


class Difference(Part):
    """Exact rate on the data minus that on the controls."""

    estimate: Figure
    interval: Interval
    p_value: Share
    test: str


class OnControls(Part):
    """The attack on the controls."""

    extracted: Rate
    exact: Rate
    fractional: Share
    """Mean share of suffix tokens that are extracted in place."""
    difference: Difference | None


class Lift(Part):
    """Rate extracted minus that by none, on the same samples."""

    estimate: Figure
    gained: Count
    """Samples extracted, but not by none."""
    lost: Count
    """Samples extracted by none alone."""
    interval: Interval
    p_value: Share
    test: str
    clustered_p_value: Share
    clustered_test: str


class Permuted(Part):
    """Outputs compared with the suffixes of unrelated windows."""

    k: Count
    """Outputs equal to such a suffix."""
    n: Count
    """Windows that could be compared."""
    fractional: Share
    """Mean share of equal positions."""


class Epoch(Part):
    """One point of a training curve."""

    epoch: Count
    """0 is the prompt before training."""
    loss: Figure
    """Mean cross-entropy of the fit windows, nats/token; null for epoch 0."""
    select_exact: Count
    """Select windows extracted exactly."""
    select_nll: Figure
    """Mean suffix NLL on the select windows, nats/token."""


class Fit(Part):
    """A fitted prompt and its training curve."""

    fold: Count
    chosen: str
    """``epoch K``, or ``no prompt`` if that did better than every epoch."""
    chosen_epoch: Count | None
    """0 is the prompt before training; null if no prompt did better."""
    stop_reason: str
    trainable_parameters: Count
    fit_windows: Count
    """Windows trained on."""
    select_windows: Count
    """Windows used to choose the epoch."""
    precision: str
    """Number format of the tuning passes."""
    epochs: Many[Epoch]


class Attack(Part):
    """One attack over all samples that are not template alone."""

    attack: AttackName
    settings: Settings | None
    """How the prompt was made; null without a prompt."""
    extracted: Rate
    """Samples with a window that comes out whole and is not template alone: what gates judge."""
    exact: Rate
    """Samples of which every audited token is extracted."""
    fractional: Fractional
    suffix_nll: Figure
    """Mean suffix NLL, nats/token."""
    controls: OnControls | None
    """Null without controls."""
    lift: Lift | None
    """Null for none, and without it."""
    permuted: Permuted
    fits: Many[Fit]


class AnyAttack(Part):
    """All attacks on the model together, without copy, over the same samples as each attack."""

    attack: ClassVar[str] = "any"
    """Name in tables."""
    extracted: Rate
    """Samples that at least one attack extracts."""
    exact: Rate
    """Samples of which at least one attack brings back every audited token."""
    controls: OnControls | None
    """Null without controls; fractional is then the mean of each control's best attack."""


class Seeds(Part):
    """Seeds of the run."""

    seed: StrictInt
