"""Merge the shards of one scan into one unfinished run.

Knows which shards belong together, and copies the work of each. The scan then resumes from the
merged folder to compute the scores and the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from memaudit.config.shard import Shard
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.run.record import RunNotes, differences
from memaudit.run.signature import check_notes
from memaudit.run.unfinished import UNFINISHED, Unfinished, find_work, read_notes, read_piece
from memaudit.system.files import disk_errors, file_sha256
from memaudit.system.plain_text import neutral


class ShardRun(NamedTuple):
    """One shard on disk."""

    folder: Path
    shard: Shard
    notes: RunNotes


def read_shards(folders: Sequence[Path], key: ProjectKey) -> list[ShardRun]:
    """Read the shards of one scan, sorted by index.

    Raises UsageError where a shard was not written under the project key, is no shard or not
    complete, where shards are from different scans (naming the differences), and where one is
    missing or given twice.
    """
    shards = sorted((_read(folder, key) for folder in folders), key=lambda run: run.shard.index)
    first = shards[0]
    for other in shards[1:]:
        if different := differences(_all_facts(first), _all_facts(other)):
            raise UsageError(
                f"{first.folder} and {other.folder} are from different scans: {different}"
            )
    if len({run.shard.count for run in shards}) > 1:
        raise UsageError("these shards are from scans with different numbers of shards")
    indices = [run.shard.index for run in shards]
    count = first.shard.count
    if missing := [str(Shard(i, count)) for i in range(count) if i not in indices]:
        raise UsageError(
            f"shard {', '.join(missing)} is missing; name the run folders of all shards"
        )
    if twice := {run.shard for run in shards if indices.count(run.shard.index) > 1}:
        raise UsageError(f"shard {', '.join(map(str, twice))} is given twice; name each once")
    return shards


def _read(folder: Path, key: ProjectKey) -> ShardRun:
    notes = read_notes(folder)
    check_notes(str(folder), notes, key)
    if notes.shard is None:
        raise UsageError(f"{folder}: is not a shard; merge takes runs of scan --shard i/n")
    if notes.work is None:
        raise UsageError(
            f"{folder}: is not complete; resume it with memaudit scan --resume {folder}"
        )
    stored = {path.stem for path in find_work(folder / UNFINISHED)}
    if missing := sorted(set(notes.work) - stored):
        raise UsageError(
            f"{folder}: {neutral(missing[0])}.safetensors is missing from the completed work; scan "
            "that shard again"
        )
    return ShardRun(folder, Shard.parse(notes.shard), notes)


def _all_facts(run: ShardRun) -> dict[str, str]:
    """Return a shard's inputs and the sizes chosen for it."""
    facts = {name: value for group in run.notes.facts.values() for name, value in group.items()}
    return facts | {name: str(size) for name, size in run.notes.sizes.items()}


def merged_notes(shards: Sequence[ShardRun], out: Path, command: str) -> RunNotes:
    """Return the notes of the merged run: the earliest start and the total time of all shards."""
    first = shards[0].notes
    seconds: dict[str, float] = {}
    for run in shards:
        for stage, spent in run.notes.seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)
    return first.model_copy(
        update={
            "config": {**first.config, "out": str(out)},
            "command": command,
            "started": min(run.notes.started for run in shards),
            "seconds": seconds,
            "resumed": sum(run.notes.resumed for run in shards),
            "shard": None,
            "work": None,
        }
    )


def copy_work(shards: Sequence[ShardRun], key: ProjectKey, merged: Unfinished) -> None:
    """Copy every piece of work to the merged run, each whole.

    Raises:
        UsageError: a piece is not what its shard wrote under the project key, or several shards
            have different versions of it, so that more than one prompt would audit the windows
            of a fold.
        RunError: the disk refuses.
    """
    with disk_errors(merged.run):
        for shard in shards:
            for path in find_work(shard.folder / UNFINISHED):
                target = merged.folder / path.name
                read_piece(path, shard.notes, key)
                if not target.exists():
                    merged.keep_as_it_is(path.stem, _chunks(path))
                elif file_sha256(target) != file_sha256(path):
                    raise UsageError(
                        f"{path}: differs from the same work in another shard, perhaps done on "
                        "other "
                        "hardware; use no more shards than --folds"
                    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
