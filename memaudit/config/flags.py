"""Flags of settings: name, help and place in ``--help``, as metadata of the setting's field.

Knows no command and no setting. What turns these into a command line is in memaudit.cli.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Panel = Literal["Options", "Windows", "Model", "Audit", "Gates", "Settings", "Output"]
"""Heading in ``--help``, in the order shown. ``Options`` has what most scans need."""


@dataclass(frozen=True)
class Flag:
    """Flag or argument that sets a setting."""

    name: str
    """As typed, such as ``--max-exact``; in capitals for an argument, such as ``MODEL``."""
    help: str
    """Meaning of the setting. The settings page adds the field's docstring."""
    panel: Panel = "Options"
    metavar: str | None = None
    """Name of the value in ``--help``, if its type says too little."""
    repeatable: bool = False
    """Every use adds a value. Without it, several values are separated by commas."""

    @property
    def is_argument(self) -> bool:
        """True if only its place tells what it is."""
        return not self.name.startswith("-")


class Flagged(NamedTuple):
    """A setting with a flag."""

    flag: Flag
    field: FieldInfo

    @property
    def kind(self) -> type:
        """Type of the value: bool, int, float, Path, tuple, or str for anything else."""
        return plain_type(self.field.annotation)


def flags_of(kind: type[BaseModel]) -> dict[str, Flagged]:
    """Return every setting that has a flag, by dotted name."""
    return {
        name: Flagged(flag, field)
        for name, field in fields_of(kind).items()
        for flag in field.metadata
        if isinstance(flag, Flag)
    }


def fields_of(kind: type[BaseModel], section: str = "") -> dict[str, FieldInfo]:
    """Return every setting by dotted name, with those of sections."""
    fields: dict[str, FieldInfo] = {}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            fields |= fields_of(inner, f"{section}{name}.")
        else:
            fields[f"{section}{name}"] = field
    return fields


def plain_type(annotation: Any) -> type:
    """Return the type that a text is turned into, without None, bounds and choices."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return plain_type(get_args(annotation)[0])
    if origin is Literal:
        return str
    if origin is tuple:
        return tuple
    if inspect.isclass(annotation):
        return annotation
    return plain_type(next(part for part in get_args(annotation) if part is not type(None)))


DEVICE = Flag("--device", "Device: auto, cpu, cuda, cuda:1, mps or spread.")
BATCH_SIZE = Flag("--batch-size", "Windows per extraction pass.", "Audit")
SEED = Flag("--seed", "Random seed.", "Audit")
TRUST_REMOTE_CODE = Flag("--trust-remote-code", "Run code that comes with the model.", "Model")
ALLOW_PICKLE = Flag("--allow-pickle", "Open pickled weights, which can run code.", "Model")
OFFLINE = Flag("--offline", "Never use the network.", "Model")
