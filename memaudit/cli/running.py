"""From flags to a finished run folder: what every command that scans does.

Knows the order of resolving, scanning and writing. Knows nothing of single flags.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from memaudit.cli.border import Streams
from memaudit.cli.showing import show
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.config import ScanConfig
    from memaudit.layers import ResolvedConfig
    from memaudit.project_key import ProjectKey
    from memaudit.scan import ScanOutcome


def resolve_settings(
    flags: dict[str, Any], profile: str | None, config_file: Path | None, sets: list[str] | None
) -> ResolvedConfig:
    """Flags over all other sources of settings."""
    from memaudit.layers import layered, resolve

    layers = layered(flags, profile=profile, config_file=config_file, sets=sets or [])
    return resolve(layers)


def run_scan(resolved: ResolvedConfig, output_format: str, streams: Streams) -> ScanOutcome:
    """Scan, write the run folder, and print the result as it stands there."""
    from memaudit.layers import sourced_lines
    from memaudit.run_folder import choose_folder, make_folder, remove_empty, write_run
    from memaudit.scan import scan as run
    from memaudit.stored_run import read_run
    from memaudit.target.failures import quiet_transformers

    config = resolved.config
    if streams.verbose:
        for line in sourced_lines(resolved):
            streams.note(line)
    key = _project_key(config)
    folder = choose_folder(config)
    made = make_folder(folder)
    try:
        with quiet_transformers():
            outcome = run(resolved, _command_line(), streams.progress(), key)
        write_run(folder, outcome)
    finally:
        remove_empty(made)
    streams.note(f"Written to {folder}")
    show(read_run(folder), output_format, streams)
    return outcome


def _project_key(config: ScanConfig) -> ProjectKey:
    from memaudit.project_key import find_key

    key = find_key(config.key_file, Path(typer.get_app_dir("memaudit")))
    if key.note and config.gate.baseline is not None:
        raise UsageError(f"--baseline {config.gate.baseline}: {key.note}")
    return key


def _command_line() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
