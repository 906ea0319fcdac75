"""What every setting is made of: numbers with bounds, and frozen objects that validate themselves.

Knows no setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from memaudit.system.home import expand_home

if TYPE_CHECKING:
    from typing import Self

MOST = 10**18 - 1
"""Largest whole number of any setting: the most that a report is read back with."""
Positive = Annotated[int, Field(ge=1, le=MOST)]
NotNegative = Annotated[int, Field(ge=0, le=MOST)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _expanded(path: Path) -> Path:
    return Path(expand_home(str(path)))


UserPath = Annotated[Path, AfterValidator(_expanded)]
"""A path of the user's; shells leave the ~ of --out=~/run to the program."""


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _texts_are_unicode(self) -> Self:
        """Names of files are bytes; those that no run folder could name are refused at once."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, (str, Path)):
                try:
                    str(value).encode("utf-8")
                except UnicodeEncodeError:
                    raise ValueError(
                        f"{name} is not UTF-8 text; rename that file or folder"
                    ) from None
        return self
