"""Shards of one scan, done on several machines, put together as one unfinished run.

Knows which shards belong together, and copies what each has done. What is then left, the scores
and the report, is the scan's own to do: it goes on from the folder that is made here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memaudit.errors import UsageError
from memaudit.run_record import RunNotes, differences
from memaudit.shard import Shard
from memaudit.unfinished import UNFINISHED, Unfinished, find_work, read_notes
from memaudit.whole_files import disk_errors


class ShardRun(NamedTuple):
    """One shard on disk."""

    folder: Path
    shard: Shard
    notes: RunNotes


def read_shards(folders: Sequence[Path]) -> list[ShardRun]:
    """The shards of one scan, in their own order, whatever the order they are named in.

    Raises UsageError where one is no shard or not done, where they are not of one scan (naming
    what differs), and where one is missing or there twice.
    """
    shards = sorted((_read(folder) for folder in folders), key=lambda one: one.shard.index)
    first = shards[0]
    for other in shards[1:]:
        if different := differences(first.notes.facts, other.notes.facts):
            raise UsageError(f"{first.folder} and {other.folder} are not of one scan: {different}")
    if len({one.shard.count for one in shards}) > 1:
        raise UsageError("these shards are of scans that were shared out differently")
    there = [one.shard.index for one in shards]
    count = first.shard.count
    if missing := [str(Shard(i, count)) for i in range(count) if i not in there]:
        raise UsageError(f"shard {', '.join(missing)} is missing; name the run folders of all")
    if twice := {one.shard for one in shards if there.count(one.shard.index) > 1}:
        raise UsageError(f"shard {', '.join(map(str, twice))} is there twice; name each once")
    return shards


def _read(folder: Path) -> ShardRun:
    notes = read_notes(folder)
    if notes.shard is None:
        raise UsageError(f"{folder}: is no shard; merge takes what scan --shard i/n has made")
    if not notes.complete:
        raise UsageError(f"{folder}: is not done; go on with memaudit scan --resume {folder}")
    return ShardRun(folder, Shard.parse(notes.shard), notes)


def merged_notes(shards: Sequence[ShardRun], command: str) -> RunNotes:
    """Of the run that they are together: it began with the first, and took the time of all."""
    first = shards[0].notes
    seconds: dict[str, float] = {}
    for one in shards:
        for stage, spent in one.notes.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)
    return first.model_copy(
        update={
            "command": command,
            "started": min(one.notes.started for one in shards),
            "seconds": seconds,
            "resumed": sum(one.notes.resumed for one in shards),
            "shard": None,
            "complete": False,
        }
    )


def copy_work(shards: Sequence[ShardRun], merged: Unfinished) -> None:
    """Copy every piece of work; of one that several shards did, that of the first.

    Raises RunError where the disk refuses.
    """
    with disk_errors(merged.run):
        for one in shards:
            for path in find_work(one.folder / UNFINISHED):
                target = merged.folder / path.name
                if not target.exists():
                    shutil.copyfile(path, target)
                    target.chmod(0o600)
