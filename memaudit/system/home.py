"""The user's home folder, and what lies there: a leading ``~``, the folder for settings.

Knows the environment and the platform's customs. A container may run under a user id that has no
home at all; nothing may then be written to a folder called ``~`` where the user works.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home_folder() -> Path | None:
    """Return the user's home; None where HOME and the list of users name no folder that exists."""
    if os.environ.get("HOME") == "":  # os.path.expanduser would take the root folder
        return None
    home = Path(os.path.expanduser("~"))
    return home if home.is_absolute() and home.is_dir() else None


def settings_folder() -> Path | None:
    """Return the user's own folder for settings of memaudit; None where there is no home.

    A relative or empty XDG_CONFIG_HOME counts for nothing (XDG Base Directory Specification).
    """
    home = home_folder()
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or home
    elif sys.platform == "darwin":
        base = home and home / "Library" / "Application Support"
    else:
        given = os.environ.get("XDG_CONFIG_HOME", "")
        base = given if os.path.isabs(given) else home and home / ".config"
    return Path(base) / "memaudit" if base else None


def expand_home(path: str) -> str:
    """Put the home folder in the place of a leading ``~``; a name such as ``~x.csv`` stays.

    Raises ValueError where there is no home.
    """
    rest = path[1:]
    if not path.startswith("~") or (rest and rest[0] not in (os.sep, os.altsep)):
        return path
    home = home_folder()
    if home is None:
        raise ValueError("~ stands for a home folder, and there is none here; write the path out")
    return f"{home}{rest}"
