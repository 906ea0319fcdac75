"""The record of a run in progress: its inputs, sizes and times. ``unfinished`` keeps it on disk.

Knows which changed inputs forbid resuming a run. Knows nothing of files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from memaudit.attack.journal import Advance, NoJournal, Progress
from memaudit.config.settings import ScanConfig
from memaudit.config.shard import Shard
from memaudit.errors import UsageError
from memaudit.system.memory import short_of_memory
from memaudit.system.plain_text import neutral

_MAX_NAMED = 4
"""Changes named in one message."""
_LONGEST_VALUE = 40
"""Characters of a value in a message; longer ones, such as hashes, tell a reader nothing."""
_Text = Annotated[str, Field(max_length=1 << 16)]
NO_KEY = "none kept"
"""Key id for a key that exists in this process only."""


class RunNotes(BaseModel):
    """Description of an unfinished run and its inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    config: dict[str, Any]
    """Every setting at the start of the run."""
    sources: dict[str, _Text]
    """Setting to where its value came from."""
    command: _Text
    started: _Text
    facts: dict[str, dict[str, _Text]] = {}
    """Inputs that must be unchanged before the run may resume, by group and by name."""
    sizes: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Sizes chosen from the memory available."""
    seconds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """Stage to wall time so far."""
    resumed: Annotated[int, Field(ge=0)] = 0
    """Times the run was resumed."""
    shard: Annotated[str, Field(pattern=r"^[0-9]{1,4}/[0-9]{1,4}$")] | None = None
    work: tuple[_Text, ...] | None = None
    """Names of the pieces of work of a completed shard; None until it is complete."""
    key_id: Annotated[str, Field(max_length=64)] = ""
    """Id of the project key that signs the notes and all work; `NO_KEY` for a key that ended with
    the process, empty before the notes are first written."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)] = ""
    """Signature over all fields above (run.signature)."""

    @classmethod
    def new(
        cls,
        config: ScanConfig,
        sources: Mapping[str, str],
        command: str,
        shard: Shard | None = None,
    ) -> RunNotes:
        """Return notes of a run that starts now."""
        return cls(
            config=config.model_dump(mode="json"),
            sources=dict(sources),
            command=command,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            shard=None if shard is None else str(shard),
        )


class RunRecord(NoJournal):
    """In-memory record of a run. where: the run, as messages name it."""

    def __init__(self, notes: RunNotes, where: str = "") -> None:
        self.notes = notes
        self._where = where

    def agree(self, group: str, facts: Mapping[str, str]) -> None:
        """Record all inputs of a group, or compare them with those recorded before.

        Raises UsageError, naming the inputs, where any was changed, added or removed.
        """
        known = self.notes.facts.get(group)
        if known is None:
            self._change(facts={**self.notes.facts, group: dict(facts)})
        elif changed := differences(known, facts):
            raise UsageError(
                f"{self._where}: cannot resume: these inputs changed since the run began: "
                f"{changed}. "
                "Restore them, or start a new scan"
            )

    def settle(self, name: str, size: int) -> int:
        """Return the size recorded under a name; record this one if there is none yet."""
        if name not in self.notes.sizes:
            self._change(sizes={**self.notes.sizes, name: size})
        return self.notes.sizes[name]

    def spent(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken."""
        before = self.notes.seconds.get(stage, 0.0)
        self._change(seconds={**self.notes.seconds, stage: round(before + seconds, 3)})

    def _change(self, **changes: Any) -> None:
        self.notes = self.notes.model_copy(update=changes)
        self._write()

    def complete(self) -> None:
        """Mark a shard as complete."""

    def _write(self) -> None:
        """Save the notes; nothing to do in memory."""


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describe the facts that differ; empty where none do."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    named = [_difference(name, before.get(name), now.get(name)) for name in changed[:_MAX_NAMED]]
    more = f"; and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
    return "; ".join(named) + more


def _difference(name: str, before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return f"{neutral(name)} ({'new' if before is None else 'gone'})"
    if max(len(before), len(now)) > _LONGEST_VALUE:
        return neutral(name)
    return f"{neutral(name)} ({neutral(before)}, now {neutral(now)})"


class Stopwatch:
    """Shows the progress of stages and reports how long each took."""

    def __init__(self, progress: Progress, spent: Callable[[str, float], None]) -> None:
        self._progress = progress
        self._spent = spent

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Run a stage of ``total`` windows."""
        begun = time.perf_counter()
        with (
            short_of_memory(f'in the stage "{name}"'),
            self._progress.stage(name, total) as advance,
        ):
            yield advance
        self._spent(name, time.perf_counter() - begun)


class Display(Progress, Protocol):
    """Shows a user the stages of a scan, and what it finds before its end."""

    def note(self, text: str) -> None:
        """Show a sentence between two stages."""


class Clock(Stopwatch):
    """A stopwatch that records each stage's time in the run's record."""

    def __init__(self, display: Display, record: RunRecord) -> None:
        super().__init__(display, record.spent)
        self.record = record
        self.note = display.note
