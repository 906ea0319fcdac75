"""Start a scan, or resume one with the settings that it began with.

Knows which flags go with ``--resume``. Knows nothing of how a scan is run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memaudit.cli.errors import Streams
from memaudit.cli.report_files import Output
from memaudit.cli.running import (
    ScanRequest,
    named_key_file,
    resolve_settings,
    scan_to_code,
    show_finished,
)
from memaudit.errors import UsageError
from memaudit.system.network import go_offline

if TYPE_CHECKING:
    from memaudit.config.settings import ScanConfig
    from memaudit.config.shard import Shard
    from memaudit.config.sources import ResolvedConfig
    from memaudit.data.project_key import ProjectKey
    from memaudit.run.record import RunNotes


@dataclass(frozen=True)
class GivenSettings:
    """Settings that the user gave on the command line."""

    flags: dict[str, Any]
    profile: str | None = None
    config_file: Path | None = None
    sets: list[str] | None = None

    def resolved(self) -> ResolvedConfig:
        """Return these merged over all other sources of settings."""
        return resolve_settings(self.flags, self.profile, self.config_file, self.sets)

    @property
    def only_safeguards(self) -> bool:
        """True if nothing was given but the key file and flags that lift safeguards."""
        from memaudit.config.sources import ONLY_BY_FLAG, leaves

        names = dict(leaves(self.flags)).keys() - {"key_file"}
        return not (self.profile or self.config_file or self.sets) and names <= ONLY_BY_FLAG


def scan_or_resume(
    given: GivenSettings,
    resume: Path | None,
    shard: str | None,
    output: Output,
    streams: Streams,
) -> int:
    """Start or resume a scan, or show a finished run; return the exit code."""
    from memaudit.config.environment import unknown_variables
    from memaudit.config.shard import Shard
    from memaudit.data.project_key import kept_key
    from memaudit.run.manifest import is_finished
    from memaudit.system.home import settings_folder

    warnings = unknown_variables(os.environ)
    share = None if shard is None else Shard.parse(shard)
    if share is not None and output.files:
        raise UsageError(f"--report with --shard {shard}: a shard has no report; give it to merge")
    if resume is None:
        request = ScanRequest(given.resolved(), shard=share)
    elif is_finished(resume):
        key = kept_key(given_key_file(given.flags), settings_folder())
        check_finished(resume, given, share, key)
        return show_finished(resume, key, output, streams)
    else:
        request = resumed_request(resume, given, share)
    return scan_to_code(replace(request, warnings=warnings), output, streams)


def resumed_request(run: Path, given: GivenSettings, shard: Shard | None) -> ScanRequest:
    """Return the request that continues an unfinished run.

    The settings may be left out or all given again; the scan refuses any that differ. Safeguards
    that were lifted must be lifted again. Raises UsageError.
    """
    from memaudit.config.shard import Shard
    from memaudit.run.unfinished import read_notes

    notes = read_notes(run)
    began_with = None if notes.shard is None else Shard.parse(notes.shard)
    if shard is not None and shard != began_with:
        raise UsageError(f"--shard {shard}: {run} was started with {began_with or 'no shard'}")
    if given.only_safeguards:
        return ScanRequest(stored_settings(notes, given.flags, str(run)), run, began_with)
    return ScanRequest(_all_settings(run, given), run, began_with)


def check_finished(
    run: Path, given: GivenSettings, shard: Shard | None, key: ProjectKey | None
) -> None:
    """Raise UsageError where a given model, data or setting is not that of the finished run."""
    from memaudit.config.sources import named_settings
    from memaudit.run.baselines import config_of_run
    from memaudit.run.load import read_run
    from memaudit.run.record import differences

    if shard is not None:
        raise UsageError(f"--shard {shard}: {run} is already finished, and is no shard")
    if given.only_safeguards:
        return
    stored = read_run(run, key)
    config = config_of_run(stored)
    given_now = _with_choice(_all_settings(run, given).config, config, stored.report.config.sources)
    before, now = (
        {
            name: str(value)
            for name, value in named_settings(settings).items()
            if name not in ("out", "key_file")
        }
        for settings in (config, given_now)
    )
    if changed := differences(before, now):
        raise UsageError(
            f"--resume {run}: is already finished, with other settings: {changed}; "
            "leave them out to see its result, or start a new scan"
        )


def _with_choice(now: ScanConfig, run: ScanConfig, sources: Mapping[str, str]) -> ScanConfig:
    """Return settings with the windows that the run chose where both leave them open."""
    choice: dict[str, Any] = {"placement": now.windows.chosen_placement}
    if now.windows.placement == "auto" and sources.get("windows.placement") == "baseline":
        choice["placement"] = run.windows.placement
    for name in ("prefix_tokens", "suffix_tokens"):
        by_hand = sources.get(f"windows.{name}") not in ("data", "baseline", "generator")
        if not (getattr(now.windows, name) or by_hand):
            choice[name] = getattr(run.windows, name)
    return now.model_copy(update={"windows": now.windows.model_copy(update=choice)})


def _all_settings(run: Path, given: GivenSettings) -> ResolvedConfig:
    """Return the settings that were all given again. Raises UsageError if only some were."""
    if not {"model", "data"} <= given.flags.keys() and given.config_file is None:
        raise UsageError(
            f"--resume {run}: a resumed scan keeps its settings; give none of them, or all"
        )
    return given.resolved()


def given_key_file(flags: Mapping[str, Any]) -> Path | None:
    """Return the key file that the user names now.

    The one in a run's notes is ignored, as whoever changed the notes could have named another.
    Raises UsageError if pyproject.toml cannot be read, or the variable is empty.
    """
    from memaudit.config.sources import load_project_settings

    if (named := named_key_file(flags)) is not None:
        return named
    project = load_project_settings(Path.cwd())
    named = project.values.get("key_file") if project is not None else None
    return Path(named) if isinstance(named, str) else None


def stored_settings(notes: RunNotes, flags: Mapping[str, Any], where: str) -> ResolvedConfig:
    """Return the settings in a run's notes, with the key file that is named now.

    Raises UsageError if they lift a safeguard that the flags do not, are invalid in this
    version, or are not those of the environment.
    """
    from pydantic import ValidationError

    from memaudit.config.settings import ScanConfig
    from memaudit.config.sources import ONLY_BY_FLAG, ResolvedConfig, leaves, named_settings

    try:
        named = {"key_file": given_key_file(flags)}
        config = ScanConfig.model_validate({**notes.config, **named})
    except ValidationError:
        raise UsageError(
            f"{where}: its settings are not valid in this version of memaudit; start a new scan"
        ) from None
    stored, given = named_settings(config), dict(leaves(flags))
    for name in sorted(ONLY_BY_FLAG):
        if stored[name] and not given.get(name):
            flag = name.rpartition(".")[2].replace("_", "-")
            raise UsageError(f"{where}: was started with --{flag}; give it again to resume")
    _refuse_other_variables(notes, where)
    if config.target.offline:
        go_offline(os.environ)
    return ResolvedConfig(config=config, sources=notes.sources)


def _refuse_other_variables(notes: RunNotes, where: str) -> None:
    """Raise UsageError if the environment sets what the run began without.

    Ignoring it would judge the run by other gates than the environment says. Flags and arguments
    win over the environment, so it may differ where they set the value.
    """
    from memaudit.config.sources import (
        ARGUMENT,
        FLAG,
        Layer,
        environment_layers,
        leaves,
        named_settings,
        resolve,
    )

    free = {"out", "key_file"}  # where the folder lies and how the key is found may change
    layers = [
        layer
        for layer in environment_layers(os.environ)
        for name, _ in leaves(layer.values)
        if name not in free and notes.sources.get(name) not in (FLAG, ARGUMENT)
    ]
    stored = Layer(source=FLAG, values=notes.config)
    before, now = (named_settings(resolve(parts).config) for parts in ([stored], [stored, *layers]))
    for layer in layers:
        for name, _ in leaves(layer.values):
            if before[name] != now[name]:
                variable = layer.source.removeprefix("environment ")
                raise UsageError(
                    f"{where}: began with another {name} than {variable} says; unset the variable "
                    "to go on, or start a new scan"
                )
