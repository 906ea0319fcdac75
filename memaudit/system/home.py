"""The user's home folder: a leading ``~``, and the folder for settings.

Knows the environment and the platform's conventions. A container may run under a user id without a
home; nothing must then be written to a folder called ``~`` in the working folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home_folder() -> Path | None:
    """Return the user's home; None if neither HOME nor the user database names an existing one."""
    if os.environ.get("HOME") == "":  # os.path.expanduser would take the root folder
        return None
    home = Path(os.path.expanduser("~"))
    return home if home.is_absolute() and home.is_dir() else None


def settings_folder() -> Path | None:
    """Return the user's folder for memaudit settings; None without a home.

    A relative or empty XDG_CONFIG_HOME is ignored (XDG Base Directory Specification).
    """
    home = home_folder()
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or home
    elif sys.platform == "darwin":
        base = home and home / "Library" / "Application Support"
    else:
        xdg = os.environ.get("XDG_CONFIG_HOME", "")
        base = xdg if os.path.isabs(xdg) else home and home / ".config"
    return Path(base) / "memaudit" if base else None


def expand_home(path: str) -> str:
    """Replace a leading ``~`` with the home folder; a name such as ``~x.csv`` is unchanged.

    Raises ValueError without a home.
    """
    rest = path[1:]
    if not path.startswith("~") or (rest and rest[0] not in (os.sep, os.altsep)):
        return path
    home = home_folder()
    if home is None:
        raise ValueError("~ means the home folder, but there is none; write the full path")
    return f"{home}{rest}"
