"""The error for a model that cannot be used: every refusal of this room is made here.

Knows the form of the message. Knows no model: fault and remedy come from the check that failed.
"""

from __future__ import annotations

from memaudit.errors import TargetError


def refusal(name: str, fault: str, *, architecture: str | None = None) -> TargetError:
    """Return the error to raise for a model.

    name: the model, as the user gave it. fault: what is wrong and what to do. architecture: class
    of a loaded model that an audit cannot work with.
    """
    if architecture is not None:
        fault = f"{architecture} cannot be audited: {fault}"
    return TargetError(f"{name}: {fault}")
