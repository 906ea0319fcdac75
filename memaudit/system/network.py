"""Network settings of the hub's client, set before it is imported.

Knows the variables that huggingface_hub reads and where it stores them. Does not import it, so that
commands that need no model start at once.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

TELEMETRY_OFF = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""Variables that turn telemetry off. Without the first, every request carries extra data, and the
client asks the hub once a day for a list of programs to detect its caller
(``/api/agent-harnesses``)."""
OFFLINE = "HF_HUB_OFFLINE"
_CONSTANTS = "huggingface_hub.constants"


def turn_telemetry_off(environment: MutableMapping[str, str]) -> None:
    """Limit the hub's client to the requests that fetching a file needs."""
    environment.update(dict.fromkeys(TELEMETRY_OFF, "1"))
    if constants := sys.modules.get(_CONSTANTS):
        vars(constants)["HF_HUB_DISABLE_TELEMETRY"] = True


def go_offline(environment: MutableMapping[str, str]) -> None:
    """Make the hub's client refuse every request, in this process and its children.

    The client reads the variable on import. If it is already imported, such as when the setting
    comes from a file, its constant is changed directly.
    """
    environment[OFFLINE] = "1"
    if constants := sys.modules.get(_CONSTANTS):
        vars(constants)[OFFLINE] = True
