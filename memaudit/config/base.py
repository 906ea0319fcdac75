"""Building blocks of settings: bounded numbers and frozen objects that validate themselves.

Knows no setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from memaudit.system.home import expand_home

if TYPE_CHECKING:
    from typing import Self

MAX_INTEGER = 10**18 - 1
"""Largest integer that a setting may hold; reports with larger ones cannot be read back."""
Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
NotNegative = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


def _is_no_percentage(value: Any) -> Any:
    """Refuse 5 for 5 %, and name the share."""
    try:
        percentage = float(str(value).removesuffix("%"))
    except ValueError:
        return value
    if 1 <= percentage < 100 or (str(value).endswith("%") and 0 <= percentage < 100):
        share = f"{percentage / 100:.6g}"
        raise ValueError(f"a share is below 1; did you mean {share}, which is {percentage:.6g} %?")
    return value


_NoPercentage = BeforeValidator(_is_no_percentage)
Fraction = Annotated[float, Field(gt=0, lt=1), _NoPercentage]
Share = Annotated[float, Field(ge=0, lt=1), _NoPercentage]


def _expanded(path: Path) -> Path:
    return Path(expand_home(str(path)))


UserPath = Annotated[Path, AfterValidator(_expanded)]
"""Path with ``~`` expanded; shells leave the ~ of --out=~/run to the program."""


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,  # --help needs the fields, not the validators
    )

    @model_validator(mode="after")
    def _texts_are_unicode(self) -> Self:
        """Refuse file names that are not UTF-8: no run folder could record them."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, (str, Path)):
                try:
                    str(value).encode("utf-8")
                except UnicodeEncodeError:
                    raise ValueError(
                        f"{name} is not UTF-8 text; rename the file or folder"
                    ) from None
        return self
