"""Building blocks of settings: bounded numbers and frozen objects that validate themselves.

Knows no setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from memaudit.system.home import expand_home

if TYPE_CHECKING:
    from typing import Self

MAX_INTEGER = 10**18 - 1
"""Largest integer that a setting may hold; reports with larger ones cannot be read back."""
Positive = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
NotNegative = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


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
