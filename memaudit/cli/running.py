"""From flags to a finished run folder, for every command that scans.

Knows the order of resolving, scanning and writing, and what is kept if a scan ends early. Knows
no particular flag.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from memaudit import __version__
from memaudit.cli.errors import Streams, Terminated
from memaudit.cli.report_files import Output
from memaudit.cli.showing import show
from memaudit.errors import UsageError
from memaudit.system.network import go_offline

if TYPE_CHECKING:
    from memaudit.config.shard import Shard
    from memaudit.config.sources import ResolvedConfig
    from memaudit.data.project_key import ProjectKey
    from memaudit.distributed import Processes
    from memaudit.pipeline.scan import ScanOutcome
    from memaudit.run.record import RunRecord
    from memaudit.run.unfinished import Unfinished

_NAMED = 3
"""Files that a message names."""


def resolve_settings(
    flags: dict[str, Any], profile: str | None, config_file: Path | None, sets: list[str] | None
) -> ResolvedConfig:
    """Merge flags over all other sources of settings; go offline if they say so."""
    from memaudit.config.sources import collect_layers, resolve

    layers = collect_layers(
        flags, profile=profile, config_file=config_file, sets=sets or [], environ=os.environ
    )
    resolved = resolve(layers)
    if resolved.config.target.offline:
        go_offline(os.environ)
    return resolved


@dataclass(frozen=True)
class ScanRequest:
    """Settings of a scan, and what to resume or which share to do."""

    resolved: ResolvedConfig
    resume: Path | None = None
    """Run folder to continue; None creates a new one."""
    shard: Shard | None = None
    merged: bool = False
    """True if the folder to continue was just merged from shards, so that nothing was stopped."""
    warnings: Sequence[str] = ()
    """Sentences for the user before the scan."""


def run_scan(request: ScanRequest, output: Output, streams: Streams) -> ScanOutcome | None:
    """Scan, write the run folder, and print the result that it holds.

    Returns None for a shard, which has no result yet, and in worker processes: only the main
    process writes and prints.
    """
    config = request.resolved.config
    from memaudit.data.inputs import check_inputs

    announce(f"auditing {config.model} on {config.data}", streams)
    _check_folder_and_key(request)
    output.check_places(config, request.resume or config.out)
    check_inputs(config)
    from memaudit.data.project_key import throwaway_key
    from memaudit.distributed import join_processes

    processes = join_processes(config.target.device)
    key = processes.broadcast(_project_key(request) if processes.is_main else throwaway_key())
    with processes.session(), stoppable(streams):
        if processes.is_main:
            return _run_main(request, output, streams, key, processes)
        _run_worker(request, streams, key, processes)
        return None


def announce(what: str, streams: Streams) -> None:
    """Say on stderr what begins: loading torch and transformers takes seconds."""
    from memaudit.system.launcher import is_main_process

    if is_main_process():
        streams.note(f"memaudit {__version__}: {what}")


def _check_folder_and_key(request: ScanRequest) -> None:
    """Refuse a folder or a key before torch is loaded."""
    from memaudit.data.project_key import kept_key
    from memaudit.run.new_folder import check_folder
    from memaudit.system.files import disk_errors
    from memaudit.system.home import settings_folder
    from memaudit.system.own_folder import OwnFolder

    config = request.resolved.config
    if request.resume is None:
        check_folder(config)
    else:
        with disk_errors(request.resume):
            OwnFolder.open(request.resume)
    kept_key(config.key_file, settings_folder())


def scan_to_code(request: ScanRequest, output: Output, streams: Streams) -> int:
    """Run a scan and return its exit code; 0 if there is no result."""
    outcome = run_scan(request, output, streams)
    return 0 if outcome is None else outcome.result.exit_code


def _run_worker(
    request: ScanRequest, streams: Streams, key: ProjectKey, processes: Processes
) -> None:
    """Do this process's share of the work for the main process."""
    from memaudit.run.record import RunNotes, RunRecord

    record = RunRecord(RunNotes.new(request.resolved.config, {}, ""))
    silent = Streams(quiet=True, verbose=False)
    silent.check_stop = streams.check_stop
    _scan(request, silent, key, record, processes)


def _run_main(
    request: ScanRequest,
    output: Output,
    streams: Streams,
    key: ProjectKey,
    processes: Processes,
) -> ScanOutcome | None:
    from memaudit.pipeline.write import write_run
    from memaudit.run.load import read_run

    _note_settings(request.resolved, streams)
    for warning in request.warnings:
        streams.warn(warning)
    note_versions(streams)
    if key.is_temporary:
        streams.note(
            "This scan cannot be resumed if it is stopped: no project key is kept. Set "
            "MEMAUDIT_KEY or --key-file."
        )
    with _keep_work(request, key) as unfinished:
        outcome = _scan(request, streams, key, unfinished, processes)
        if outcome is None:
            unfinished.close()
            streams.note(f"Shard {request.shard} is done: {unfinished.run}")
            streams.note("Once all are done: memaudit merge SHARD SHARD ... --out RUN")
            return None
        write_run(unfinished.run_folder, outcome, key)
    _note_unsigned(unfinished.run, unfinished.remove(), streams)
    streams.note(f"Written to {unfinished.run}")
    show(read_run(unfinished.run, key), output, streams)
    return outcome


def show_finished(run: Path, key: ProjectKey | None, output: Output, streams: Streams) -> int:
    """Print a finished run, and return its exit code.

    key: the project key; identifies leftover work as memaudit's, so that it may be removed.
    """
    from memaudit.run.baselines import config_of_run
    from memaudit.run.load import read_run
    from memaudit.run.unfinished import remove_leftovers

    stored = read_run(run, key)
    output.check_places(config_of_run(stored), run)
    _note_unsigned(run, remove_leftovers(run, key), streams)
    streams.note(f"{run} is already finished")
    show(stored, output, streams)
    return stored.report.exit_code


def _note_unsigned(run: Path, names: Sequence[str], streams: Streams) -> None:
    """Note on stderr which files of unfinished work stay."""
    from memaudit.run.unfinished import UNFINISHED

    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        streams.note(
            f"{run / UNFINISHED}: {', '.join(names[:_NAMED])}{more} stay, as they are not signed "
            "with the project key; remove what you do not need"
        )


def _scan(
    request: ScanRequest, streams: Streams, key: ProjectKey, record: RunRecord, processes: Processes
) -> ScanOutcome | None:
    from memaudit.pipeline.scan import scan, scan_shard
    from memaudit.target.failures import quiet_transformers

    with quiet_transformers():
        if request.shard is not None:
            scan_shard(request.resolved, streams.progress(), key, record, processes, request.shard)
            return None
        return scan(
            request.resolved, record.notes.command, streams.progress(), key, record, processes
        )


@contextmanager
def _keep_work(request: ScanRequest, key: ProjectKey) -> Iterator[Unfinished]:
    """Open the run's record, and keep its work if the scan ends early.

    Tells the user how to resume if anything was done. A new run's folder is removed if nothing was
    done, or if its key was temporary: nobody could check the work without it.
    """
    from memaudit.run.manifest import is_finished
    from memaudit.run.new_folder import remove_empty

    created, unfinished = _open_run(request, key)
    try:
        yield unfinished
    except BaseException as error:
        if is_finished(unfinished.run):
            unfinished.remove()  # everything is there but the page
        elif request.resume is not None and isinstance(error, UsageError):
            unfinished.close()  # the error says what to fix first
        elif (unfinished.holds_work and not key.is_temporary) or request.resume is not None:
            unfinished.close()
            command = shlex.join(["memaudit", "scan", "--resume", str(unfinished.run)])
            typer.echo(f"Finished work is kept; resume with: {command}", err=True)
        else:
            unfinished.remove()
            remove_empty(created)
        raise


def _open_run(request: ScanRequest, key: ProjectKey) -> tuple[list[Path], Unfinished]:
    """Open the run's record; also return the folders created for it."""
    from memaudit.run.new_folder import begin_run, choose_folder
    from memaudit.run.record import RunNotes
    from memaudit.run.unfinished import Unfinished

    if request.resume is not None:
        return [], Unfinished.reopen(request.resume, key, stopped=not request.merged)
    config, sources = request.resolved.config, request.resolved.sources
    notes = RunNotes.new(config, sources, command_line(), request.shard)
    return begin_run(choose_folder(config), notes, key)


@contextmanager
def stoppable(streams: Streams) -> Iterator[None]:
    """Let SIGTERM end the scan as Ctrl-C does, at the next step of a stage at the latest.

    Python swallows an exception that a signal raises in a finalizer or a callback of a library, so
    every step of a stage also checks whether a signal arrived.
    """
    asked: list[type[BaseException]] = []

    def stop(number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        asked.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise asked[0]

    def check() -> None:
        if asked:
            raise asked[0]

    before = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored
            before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread: its caller handles signals
        yield
        return
    streams.check_stop = check
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note_versions(streams: Streams) -> None:
    """Note on stderr which libraries are newer than any tested."""
    from memaudit.system.environment import newer_than_tested

    if note := newer_than_tested():
        streams.note(note)


def variables() -> dict[str, str | list[str]]:
    """Return the settings in variables of the environment, by dotted name."""
    from memaudit.config.environment import read_environment

    return read_environment(os.environ)


def named_key_file(flags: Mapping[str, Any]) -> Path | None:
    """Return the key file that a flag names, else the one of the environment."""
    from memaudit.config.environment import read_variable, variable_of

    named = flags.get("key_file") or read_variable(os.environ, variable_of("key_file"))
    return None if named is None else Path(named)


def note_unknown_variables(streams: Streams) -> None:
    """Note on stderr which variables of the environment look like settings and are none."""
    from memaudit.config.environment import unknown_variables

    for sentence in unknown_variables(os.environ):
        streams.warn(sentence)


def _note_settings(resolved: ResolvedConfig, streams: Streams) -> None:
    from memaudit.config.sources import sourced_lines

    if streams.verbose:
        for line in sourced_lines(resolved):
            streams.note(line)


def _project_key(request: ScanRequest) -> ProjectKey:
    from memaudit.data.project_key import find_key, require_kept
    from memaudit.system.home import settings_folder

    config = request.resolved.config
    key = find_key(config.key_file, settings_folder())
    if config.gate.baseline is not None:
        require_kept(key, f"--baseline {config.gate.baseline}")
    if key.is_temporary and request.shard is not None:
        raise UsageError(f"--shard {request.shard}: merge could not check its origin. {key.note}")
    return key


def command_line() -> str:
    """Return the command that the user typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
