"""Native code from the hub, which transformers runs if the package kernels is installed.

Knows how transformers asks for it: an attention that a config names, its own faster versions of
some layers, and some models' code when it is imported. None of this code has been allowed by the
user.
"""

from __future__ import annotations

from typing import Any, NoReturn

from transformers.integrations import hub_kernels

from memaudit.config.settings import TargetSettings
from memaudit.system.network import hide_kernels, show_kernels

_get_kernel = getattr(hub_kernels, "get_kernel", None)
_enabled = getattr(hub_kernels, "_kernels_enabled", False)


def kernels_allowed(settings: TargetSettings) -> bool:
    """Return True if code from the hub may be fetched and run."""
    return settings.trust_remote_code and not settings.offline


def switch_kernels(settings: TargetSettings) -> None:
    """Let transformers use kernels from the hub only if both code and network are allowed.

    This holds until the next call: transformers asks for kernels during passes, too.
    """
    allowed = kernels_allowed(settings)
    (show_kernels if allowed else hide_kernels)()
    vars(hub_kernels)["get_kernel"] = _get_kernel if allowed else _refuse
    vars(hub_kernels)["_kernels_enabled"] = _enabled and allowed


def _refuse(name: str, *_: Any, **__: Any) -> NoReturn:
    # FileNotFoundError, because transformers then falls back to its own layer.
    raise FileNotFoundError(
        f"{name} is code on the hub, which is used with --trust-remote-code and without --offline"
    )
