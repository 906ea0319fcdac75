"""What a run depends on and how far it is: kept in memory here, and on disk by ``unfinished``.

Knows which changes forbid to go on with a run. Knows nothing of files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from memaudit.attack.campaign import Progress
from memaudit.attack.extraction import Advance
from memaudit.attack.journal import NoJournal
from memaudit.config.settings import ScanConfig
from memaudit.config.shard import Shard
from memaudit.errors import UsageError
from memaudit.report.wording import neutral
from memaudit.system.memory import short_of_memory

_SHOWN = 4
"""Changes that a message names."""
_LONGEST_VALUE = 40
"""Characters of a value in a message; a hash, which is longer, says nothing to anybody."""
_Text = Annotated[str, Field(max_length=1 << 16)]
NO_KEY = "none kept"
"""Stands for the id of a key that no other process can have."""


class RunNotes(BaseModel):
    """What an unfinished run is, and what it depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    config: dict[str, Any]
    """Every setting, as the run began."""
    sources: dict[str, _Text]
    """Where each setting came from."""
    command: _Text
    started: _Text
    facts: dict[str, dict[str, _Text]] = {}
    """What must be the same for the run to go on: by group, and by its name in a message."""
    sizes: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Sizes that were found from the memory there was."""
    seconds: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """By stage, the time that it has taken so far."""
    resumed: Annotated[int, Field(ge=0)] = 0
    """How often the run was gone on with."""
    shard: Annotated[str, Field(pattern=r"^[0-9]{1,4}/[0-9]{1,4}$")] | None = None
    work: tuple[_Text, ...] | None = None
    """Of a shard that has done all that is its own: the names of what it keeps."""
    key_id: Annotated[str, Field(max_length=64)] = ""
    """Of the project key that the notes and all that is kept are signed with; `NO_KEY` for one that
    ended with the process, empty in notes that were not written yet."""
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)] = ""
    """Over all of the above (work_signature)."""

    @classmethod
    def new(
        cls,
        config: ScanConfig,
        sources: Mapping[str, str],
        command: str,
        shard: Shard | None = None,
    ) -> RunNotes:
        """Of a run that begins now."""
        return cls(
            config=config.model_dump(mode="json"),
            sources=dict(sources),
            command=command,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            shard=None if shard is None else str(shard),
        )


class RunRecord(NoJournal):
    """Keeps nothing beyond this process. where: the run, as messages name it."""

    def __init__(self, notes: RunNotes, where: str = "") -> None:
        self.notes = notes
        self._where = where

    def agree(self, group: str, facts: Mapping[str, str]) -> None:
        """Note what the run depends on: all that there is of a group.

        Raises UsageError, naming what, where something is no longer what it was, is gone or new.
        """
        known = self.notes.facts.get(group)
        if known is None:
            self._change(facts={**self.notes.facts, group: dict(facts)})
        elif changed := differences(known, facts):
            raise UsageError(
                f"{self._where}: not gone on with, because since it began this has changed: "
                f"{changed}. Put it back, or scan anew"
            )

    def settle(self, name: str, size: int) -> int:
        """The size under a name: the one that the run began with, or this one from now on."""
        if name not in self.notes.sizes:
            self._change(sizes={**self.notes.sizes, name: size})
        return self.notes.sizes[name]

    def spent(self, stage: str, seconds: float) -> None:
        """Note that a stage has taken so much longer."""
        before = self.notes.seconds.get(stage, 0.0)
        self._change(seconds={**self.notes.seconds, stage: round(before + seconds, 3)})

    def _change(self, **changes: Any) -> None:
        self.notes = self.notes.model_copy(update=changes)
        self._write()

    def complete(self) -> None:
        """Note that all of a shard is done."""

    def _write(self) -> None:
        """Keep the notes."""


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Which of two sets of facts are not the same, in words; empty where all are."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shown = [_difference(name, before.get(name), now.get(name)) for name in changed[:_SHOWN]]
    more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return "; ".join(shown) + more


def _difference(name: str, before: str | None, now: str | None) -> str:
    if before is None or now is None:
        return f"{neutral(name)} ({'new' if before is None else 'gone'})"
    if max(len(before), len(now)) > _LONGEST_VALUE:
        return neutral(name)
    return f"{neutral(name)} ({neutral(before)}, now {neutral(now)})"


class Stopwatch:
    """Passes stages on to the user's progress and tells how long each took."""

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


class Clock(Stopwatch):
    """One that notes in the run's record how long each stage took."""

    def __init__(self, progress: Progress, record: RunRecord) -> None:
        super().__init__(progress, record.spent)
        self.record = record
