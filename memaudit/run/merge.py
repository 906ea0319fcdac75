"""Shards of one scan, done on several machines, put together as one unfinished run.

Knows which shards belong together, and copies what each has done. What is then left, the scores
and the report, is the scan's own to do: it goes on from the folder that is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from memaudit.config.shard import Shard
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.report.wording import neutral
from memaudit.run.record import RunNotes, differences
from memaudit.run.signature import check_notes
from memaudit.run.unfinished import UNFINISHED, Unfinished, find_work, read_notes, read_piece
from memaudit.system.files import disk_errors, file_sha256


class ShardRun(NamedTuple):
    """One shard on disk."""

    folder: Path
    shard: Shard
    notes: RunNotes


def read_shards(folders: Sequence[Path], key: ProjectKey) -> list[ShardRun]:
    """The shards of one scan, in their own order, whatever the order they are named in.

    Raises UsageError where one was not written under the project key, is no shard or not done,
    where they are not of one scan (naming what differs), and where one is missing or there twice.
    """
    shards = sorted((_read(folder, key) for folder in folders), key=lambda one: one.shard.index)
    first = shards[0]
    for other in shards[1:]:
        if different := differences(_all_facts(first), _all_facts(other)):
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


def _read(folder: Path, key: ProjectKey) -> ShardRun:
    notes = read_notes(folder)
    check_notes(str(folder), notes, key)
    if notes.shard is None:
        raise UsageError(f"{folder}: is no shard; merge takes what scan --shard i/n has made")
    if notes.work is None:
        raise UsageError(f"{folder}: is not done; go on with memaudit scan --resume {folder}")
    there = {path.stem for path in find_work(folder / UNFINISHED)}
    if missing := sorted(set(notes.work) - there):
        raise UsageError(
            f"{folder}: {neutral(missing[0])}.safetensors is missing, which it had done; scan that "
            "shard anew"
        )
    return ShardRun(folder, Shard.parse(notes.shard), notes)


def _all_facts(one: ShardRun) -> dict[str, str]:
    """What a shard depends on, and the sizes that were found for it."""
    facts = {name: value for group in one.notes.facts.values() for name, value in group.items()}
    return facts | {name: str(size) for name, size in one.notes.sizes.items()}


def merged_notes(shards: Sequence[ShardRun], out: Path, command: str) -> RunNotes:
    """Of the run that they are together: it began with the first, and took the time of all."""
    first = shards[0].notes
    seconds: dict[str, float] = {}
    for one in shards:
        for stage, spent in one.notes.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)
    return first.model_copy(
        update={
            "config": {**first.config, "out": str(out)},
            "command": command,
            "started": min(one.notes.started for one in shards),
            "seconds": seconds,
            "resumed": sum(one.notes.resumed for one in shards),
            "shard": None,
            "work": None,
        }
    )


def copy_work(shards: Sequence[ShardRun], key: ProjectKey, merged: Unfinished) -> None:
    """Copy every piece of work to the merged run, each whole.

    Raises:
        UsageError: a piece is not what its shard wrote under the project key, or one that several
            shards did came out differently, so that a fold's windows would be audited by more than
            one prompt.
        RunError: the disk refuses.
    """
    with disk_errors(merged.run):
        for one in shards:
            for path in find_work(one.folder / UNFINISHED):
                target = merged.folder / path.name
                read_piece(path, one.notes, key)
                if not target.exists():
                    merged.keep_as_it_is(path.stem, _chunks(path))
                elif file_sha256(target) != file_sha256(path):
                    raise UsageError(
                        f"{path}: came out differently in another shard, as on other hardware; use "
                        "no more shards than --folds"
                    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
