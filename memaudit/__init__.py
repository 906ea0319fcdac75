"""memaudit: audit a causal language model for memorized training data before it is released."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memaudit.api import Run as Run
    from memaudit.api import load_run as load_run
    from memaudit.api import scan as scan

__version__ = "0.1.0"
__all__ = ("Run", "__version__", "load_run", "scan")


def __getattr__(name: str) -> object:
    """Import the public interface when it is first used: importing memaudit loads nothing."""
    if name in __all__:
        from memaudit import api

        return getattr(api, name)
    raise AttributeError(f"module 'memaudit' has no attribute {name!r}")
