"""Settings from environment variables: ``MEMAUDIT_GATE_MAX_EXACT`` sets ``gate.max_exact``.

Knows how variables are named and read. Does not know what a setting means.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from memaudit.config.flags import fields_of, plain_type
from memaudit.config.settings import ScanConfig
from memaudit.errors import UsageError

PREFIX = "MEMAUDIT_"
PROFILE = f"{PREFIX}PROFILE"
"""Variable that names the profile."""
_NOT_SETTINGS = frozenset((PROFILE, f"{PREFIX}KEY"))
_GATES = f"{PREFIX}GATE"


def variable_of(name: str) -> str:
    """Return the variable of a setting, such as ``MEMAUDIT_TARGET_DEVICE``."""
    return PREFIX + name.upper().replace(".", "_")


def read_environment(environ: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Return the settings in variables, by dotted name: texts, which the settings parse.

    Raises UsageError for an empty variable, and for a name that might be a misspelt gate: an
    audit without its gate would pass.
    """
    unknown_variables(environ)
    values: dict[str, str | list[str]] = {}
    for name, field in fields_of(ScanConfig).items():
        text = read_variable(environ, variable_of(name))
        if text is not None:
            is_list = plain_type(field.annotation) is tuple
            values[name] = [item.strip() for item in text.split(",")] if is_list else text
    return values


def read_variable(environ: Mapping[str, str], variable: str) -> str | None:
    """Return the text of a variable; None if it is not set. Raises UsageError if it is empty."""
    text = environ.get(variable)
    if text is not None and not text.strip():
        raise UsageError(f"the variable {variable} is empty: give it a value or unset it")
    return text and text.strip()


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for every variable that looks like a setting and is none.

    Raises UsageError if one might be a misspelt gate.
    """
    known = {variable_of(name): name for name in fields_of(ScanConfig)}
    sentences = []
    for variable in sorted(environ):
        name = variable.upper()
        if not name.startswith(PREFIX) or variable in known or variable in _NOT_SETTINGS:
            continue
        nearest = _nearest(name, [*known, *_NOT_SETTINGS])
        remedy = f"did you mean {nearest}?" if nearest else "see memaudit help settings"
        sentence = f"the environment variable {variable} is no setting; {remedy}"
        if name.startswith(_GATES) or nearest.startswith(_GATES):
            raise UsageError(f"{sentence} Rename or unset it.")
        sentences.append(sentence)
    return sentences


def _nearest(variable: str, known: list[str]) -> str:
    """Return the known name most like a variable; empty if none is like it."""
    short = {name.removeprefix(PREFIX): name for name in known}
    matches = difflib.get_close_matches(variable.removeprefix(PREFIX), short, n=1)
    return short[matches[0]] if matches else ""
