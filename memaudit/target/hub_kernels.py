"""Native code of the hub, which transformers fetches and runs where the package kernels is there.

Knows the ways in which transformers asks for it: an attention that a config names, its own faster
versions of some layers, and some models' code when it is imported. All of it is code that nobody
has allowed.
"""

from __future__ import annotations

from typing import Any, NoReturn

from transformers.integrations import hub_kernels

from memaudit.config.settings import TargetSettings
from memaudit.system.network import hide_kernels, show_kernels

_get_kernel = getattr(hub_kernels, "get_kernel", None)
_enabled = getattr(hub_kernels, "_kernels_enabled", False)


def kernels_allowed(settings: TargetSettings) -> bool:
    """Return whether code of the hub may be fetched and run."""
    return settings.trust_remote_code and not settings.offline


def switch_kernels(settings: TargetSettings) -> None:
    """Let transformers use kernels of the hub only where both code and network are allowed.

    It stays so until the next call: transformers asks for kernels in passes, too.
    """
    allowed = kernels_allowed(settings)
    (show_kernels if allowed else hide_kernels)()
    vars(hub_kernels)["get_kernel"] = _get_kernel if allowed else _refuse
    vars(hub_kernels)["_kernels_enabled"] = _enabled and allowed


def _refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    # Of this kind, because transformers then goes on with the layer that it has itself.
    raise FileNotFoundError(
        f"{name} is code on the hub, which is used with --trust-remote-code and without --offline"
    )
