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
DOWNLOAD_COUNTS = "HF_UPDATE_DOWNLOAD_COUNTS"
"""Variable by which datasets tells the hub that it has loaded a data set."""
OFFLINE = "HF_HUB_OFFLINE"
KERNELS = "kernels"
"""Package through which transformers and bitsandbytes fetch native code from the hub, and run it,
when they are imported."""
_CONSTANTS = "huggingface_hub.constants"


def turn_telemetry_off(environment: MutableMapping[str, str]) -> None:
    """Limit the hub's client to the requests that fetching a file needs."""
    environment.update(dict.fromkeys(TELEMETRY_OFF, "1"))
    environment[DOWNLOAD_COUNTS] = "0"
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


def hide_kernels() -> None:
    """Make the package ``kernels`` look as if it were not installed, in this process.

    Call it before transformers is imported: transformers looks for the package only once.
    """
    sys.modules[KERNELS] = None  # type: ignore[assignment]  # how Python marks a module as missing


def show_kernels() -> None:
    """Undo `hide_kernels`, for what is imported from now on."""
    if sys.modules.get(KERNELS, KERNELS) is None:
        del sys.modules[KERNELS]
