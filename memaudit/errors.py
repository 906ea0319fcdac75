"""Exit codes, and the exception tree: every error knows its exit code.

::

    MemauditError                3
    ├── UsageError               2   a flag, a setting or a profile is wrong
    ├── DataError                2   the data file is wrong; the message starts with file:line
    ├── TargetError              3   the model cannot be loaded, or cannot take a soft prompt
    └── RunError                 3   the run itself failed: memory, a non-finite loss, a disk

`UnsealedRunWarning` is no error: a run is read, but no key at hand proves who wrote it.

A message says in one or two lines what is wrong, where, and what to do. It never quotes audited
text.
"""

from __future__ import annotations

FAILED = 1
"""Exit code if a gate fails or a comparison finds a regression."""
INCONCLUSIVE = 4
"""Exit code if a finished command neither passes nor fails."""


class MemauditError(Exception):
    """Base of every error that memaudit raises on purpose."""

    exit_code: int = 3


class UsageError(MemauditError):
    """A flag, a setting, a profile or a path is wrong."""

    exit_code = 2


class DataError(MemauditError):
    """The data file is missing, unreadable, malformed, or gives nothing to audit."""

    exit_code = 2


class TargetError(MemauditError):
    """The model cannot be loaded, or does not accept soft prompts."""

    exit_code = 3


class RunError(MemauditError):
    """The audit started and could not finish."""

    exit_code = 3


class UnsealedRunWarning(UserWarning):
    """A finished run is not sealed by the project key at hand."""
