"""A scan anew, or one that goes on: whose settings are those that it began with.

Knows what a user may say beside ``--resume``. Knows nothing of how a scan is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memaudit.cli.errors import Streams
from memaudit.cli.running import Order, resolve_settings, scan_to_code, show_finished
from memaudit.errors import UsageError
from memaudit.system.network import go_offline

if TYPE_CHECKING:
    from memaudit.config.shard import Shard
    from memaudit.config.sources import ResolvedConfig
    from memaudit.run.record import RunNotes


@dataclass(frozen=True)
class Said:
    """What the user has said of the settings."""

    flags: dict[str, Any]
    profile: str | None = None
    config_file: Path | None = None
    sets: list[str] | None = None

    def resolved(self) -> ResolvedConfig:
        """These over all other sources of settings."""
        return resolve_settings(self.flags, self.profile, self.config_file, self.sets)

    @property
    def only_safeguards(self) -> bool:
        """Whether nothing was said but that safeguards are lifted, and where the key is."""
        from memaudit.config.sources import ONLY_BY_FLAG, leaves

        names = dict(leaves(self.flags)).keys() - {"key_file"}
        return not (self.profile or self.config_file or self.sets) and names <= ONLY_BY_FLAG


def scan_or_resume(
    said: Said, resume: Path | None, shard: str | None, output_format: str, streams: Streams
) -> int:
    """Scan anew, or go on with a run; returns the exit code. A run that is finished is shown."""
    from memaudit.config.shard import Shard
    from memaudit.run.unfinished import is_finished

    share = None if shard is None else Shard.parse(shard)
    if resume is None:
        order = Order(said.resolved(), shard=share)
    elif is_finished(resume):
        return show_finished(resume, output_format, streams)
    else:
        order = resumed_order(resume, said, share)
    return scan_to_code(order, output_format, streams)


def resumed_order(run: Path, said: Said, shard: Shard | None) -> Order:
    """What is left to do of an unfinished run.

    Settings may be said again or left out; where they are said, all are, and the scan refuses
    those that differ. Safeguards that were lifted have to be lifted again. Raises UsageError.
    """
    from memaudit.config.shard import Shard
    from memaudit.run.unfinished import read_notes

    notes = read_notes(run)
    began_with = None if notes.shard is None else Shard.parse(notes.shard)
    if shard is not None and shard != began_with:
        raise UsageError(f"--shard {shard}: {run} was begun with {began_with or 'no shard'}")
    if said.only_safeguards:
        return Order(stored_settings(notes, said.flags, str(run)), run, began_with)
    if not {"model", "data"} <= said.flags.keys() and said.config_file is None:
        raise UsageError(
            f"--resume {run}: its settings are those that it began with; say none of them, or all"
        )
    return Order(said.resolved(), run, began_with)


def said_key_file(flags: Mapping[str, Any]) -> Path | None:
    """The key file that the user names now. That of a run's notes counts for nothing: who changed
    them could have named another there. Raises UsageError where pyproject.toml cannot be read.
    """
    from memaudit.config.sources import load_project_settings

    if (named := flags.get("key_file")) is not None:
        return Path(named)
    project = load_project_settings(Path.cwd())
    named = project.values.get("key_file") if project is not None else None
    return Path(named) if isinstance(named, str) else None


def stored_settings(notes: RunNotes, flags: Mapping[str, Any], where: str) -> ResolvedConfig:
    """The settings of the notes of a run, with the key file that is named now.

    Raises UsageError where they lift a safeguard that the flags do not, or are none of this
    version.
    """
    from pydantic import ValidationError

    from memaudit.config.settings import ScanConfig
    from memaudit.config.sources import ONLY_BY_FLAG, ResolvedConfig, leaves, named_settings

    try:
        named = {"key_file": said_key_file(flags)}
        config = ScanConfig.model_validate({**notes.config, **named})
    except ValidationError:
        raise UsageError(
            f"{where}: its settings are none of this version of memaudit; scan anew"
        ) from None
    stored, said = named_settings(config), dict(leaves(flags))
    for name in sorted(ONLY_BY_FLAG):
        if stored[name] and not said.get(name):
            flag = name.rpartition(".")[2].replace("_", "-")
            raise UsageError(f"{where}: was begun with --{flag}; say so again to go on")
    if config.target.offline:
        go_offline(os.environ)
    return ResolvedConfig(config=config, sources=notes.sources)
