"""What the libraries that know the hub are told about the network, before they are imported.

Knows the variables that huggingface_hub reads, and where it keeps what it read. Imports none of it:
a command that needs no model has to start at once.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

TELEMETRY_OFF = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""Without the first, every request says more than it has to, and asks the hub once a day for a list
of programs by which it can tell who runs this one (``/api/agent-harnesses``)."""
OFFLINE = "HF_HUB_OFFLINE"
_CONSTANTS = "huggingface_hub.constants"


def turn_telemetry_off(environment: MutableMapping[str, str]) -> None:
    """Have the hub's client tell and ask nothing but what fetching a file takes."""
    environment.update(dict.fromkeys(TELEMETRY_OFF, "1"))
    if constants := sys.modules.get(_CONSTANTS):
        vars(constants)["HF_HUB_DISABLE_TELEMETRY"] = True


def go_offline(environment: MutableMapping[str, str]) -> None:
    """Have the hub's client refuse every request, in this process and those that it starts.

    The client reads the variable as it is imported. Where it is there already, as under a command
    whose settings say so in a file, it is told directly.
    """
    environment[OFFLINE] = "1"
    if constants := sys.modules.get(_CONSTANTS):
        vars(constants)[OFFLINE] = True
