"""Everything that memaudit reads, each with seeds and a function that tries one input on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .oracles import check_message


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    seeds: Callable[[], Sequence[bytes]]
    """Small inputs that are read well, or nearly."""
    run: Callable[[bytes, Path], str]
    """Try one in a folder; says in a word what came of it. A MemauditError is an answer too,
    whatever else is raised is a find."""
    told: bool = True
    """Whether messages may not hold what the oracles look for in them."""

    def check_message(self, message: str) -> None:
        """Raise AssertionError for a message that quotes audited text or is without end."""
        if self.told:
            check_message(message, self.name)


def all_targets() -> dict[str, Target]:
    """Every target by name."""
    from . import on_models, on_records, on_runs, on_settings, on_unfinished

    files = (*on_records.TARGETS, *on_settings.TARGETS, *on_models.TARGETS)
    listed = (*files, *on_runs.TARGETS, *on_unfinished.TARGETS)
    return {target.name: target for target in listed}
