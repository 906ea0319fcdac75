"""From flags to a finished run folder: what every command that scans does.

Knows the order of resolving, scanning and writing, and what is kept when that ends early. Knows
nothing of single flags.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from memaudit.cli.errors import Streams, Terminated
from memaudit.cli.showing import show
from memaudit.errors import UsageError
from memaudit.system.network import go_offline

if TYPE_CHECKING:
    from memaudit.config.shard import Shard
    from memaudit.config.sources import ResolvedConfig
    from memaudit.data.project_key import ProjectKey
    from memaudit.distributed import Processes
    from memaudit.run.record import RunRecord
    from memaudit.run.unfinished import Unfinished
    from memaudit.scan.pipeline import ScanOutcome


def resolve_settings(
    flags: dict[str, Any], profile: str | None, config_file: Path | None, sets: list[str] | None
) -> ResolvedConfig:
    """Flags over all other sources of settings; where these say offline, the process is."""
    from memaudit.config.sources import collect_layers, resolve

    layers = collect_layers(flags, profile=profile, config_file=config_file, sets=sets or [])
    resolved = resolve(layers)
    if resolved.config.target.offline:
        go_offline(os.environ)
    return resolved


@dataclass(frozen=True)
class Order:
    """What to scan, and how far it is."""

    resolved: ResolvedConfig
    resume: Path | None = None
    """Run folder to go on with; a new one is made without it."""
    shard: Shard | None = None
    merged: bool = False
    """Whether the folder to go on with has just been put together, and nothing was stopped."""


def run_scan(order: Order, output_format: str, streams: Streams) -> ScanOutcome | None:
    """Scan, write the run folder, and print the result as it stands there.

    None for a shard, which has no result yet, and in all but one of several processes: that one
    writes, prints and knows how it ends.
    """
    from memaudit.data.project_key import throwaway_key
    from memaudit.distributed import join_processes

    config = order.resolved.config
    processes = join_processes(config.target.device)
    key = processes.broadcast(_project_key(order) if processes.is_main else throwaway_key())
    with processes.session(), stoppable():
        if processes.is_main:
            return _lead(order, output_format, streams, key, processes)
        _help(order, key, processes)
        return None


def scan_to_code(order: Order, output_format: str, streams: Streams) -> int:
    """The same, for a command that only has to exit by it: 0 where there is no result."""
    outcome = run_scan(order, output_format, streams)
    return 0 if outcome is None else outcome.result.exit_code


def _help(order: Order, key: ProjectKey, processes: Processes) -> None:
    """Do this process's share for the one that leads."""
    from memaudit.run.record import RunNotes, RunRecord

    record = RunRecord(RunNotes.new(order.resolved.config, {}, ""))
    _scan(order, Streams(quiet=True, verbose=False), key, record, processes)


def _lead(
    order: Order, output_format: str, streams: Streams, key: ProjectKey, processes: Processes
) -> ScanOutcome | None:
    from memaudit.run.load import read_run
    from memaudit.scan.write import write_run

    _tell_settings(order.resolved, streams)
    note_versions(streams)
    if key.note:
        streams.note(
            "This scan cannot be resumed if it is stopped: no project key is kept. Set "
            "MEMAUDIT_KEY or --key-file."
        )
    with _kept(order, key) as unfinished:
        outcome = _scan(order, streams, key, unfinished, processes)
        if outcome is None:
            unfinished.close()
            streams.note(f"Shard {order.shard} is done: {unfinished.run}")
            streams.note("When all are: memaudit merge SHARD SHARD ... --out RUN")
            return None
        write_run(unfinished.run, outcome)
    unfinished.remove()
    streams.note(f"Written to {unfinished.run}")
    show(read_run(unfinished.run), output_format, streams)
    return outcome


def show_finished(run: Path, output_format: str, streams: Streams) -> int:
    """Print a run that was finished already, and return its exit code."""
    from memaudit.run.load import read_run
    from memaudit.run.unfinished import remove_leftovers

    stored = read_run(run)
    remove_leftovers(run)
    streams.note(f"{run}: is finished already")
    show(stored, output_format, streams)
    return int(stored.document["exit_code"])


def _scan(
    order: Order, streams: Streams, key: ProjectKey, record: RunRecord, processes: Processes
) -> ScanOutcome | None:
    from memaudit.scan.pipeline import scan, scan_shard
    from memaudit.target.failures import quiet_transformers

    with quiet_transformers():
        if order.shard is not None:
            scan_shard(order.resolved, streams.progress(), key, record, processes, order.shard)
            return None
        return scan(
            order.resolved, record.notes.command, streams.progress(), key, record, processes
        )


@contextmanager
def _kept(order: Order, key: ProjectKey) -> Iterator[Unfinished]:
    """The run's record. Where the scan ends early and something was done, the user is told how to
    go on with it; where nothing was, or nobody could check it later as the key ends with this
    process, a run that was just begun leaves nothing behind.
    """
    from memaudit.run.unfinished import is_finished
    from memaudit.scan.write import remove_empty

    made, unfinished = _open(order, key)
    try:
        yield unfinished
    except BaseException as error:
        if is_finished(unfinished.run):
            unfinished.remove()  # all is there but the page
        elif order.resume is not None and isinstance(error, UsageError):
            unfinished.close()  # which says what has to be mended first
        elif (unfinished.holds_work and not key.note) or order.resume is not None:
            unfinished.close()
            again = shlex.join(["memaudit", "scan", "--resume", str(unfinished.run)])
            typer.echo(f"What is done is kept; go on with: {again}", err=True)
        else:
            unfinished.remove()
            remove_empty(made)
        raise


def _open(order: Order, key: ProjectKey) -> tuple[list[Path], Unfinished]:
    """The record of the run, and the folders that were made for it."""
    from memaudit.run.record import RunNotes
    from memaudit.run.unfinished import Unfinished
    from memaudit.scan.write import begin_run, choose_folder

    if order.resume is not None:
        return [], Unfinished.reopen(order.resume, key, stopped=not order.merged)
    config, sources = order.resolved.config, order.resolved.sources
    notes = RunNotes.new(config, sources, command_line(), order.shard)
    return begin_run(choose_folder(config), notes, key)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a scheduler's polite request to stop end the scan as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: whoever runs it there sees to signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def note_versions(streams: Streams) -> None:
    """Tell the user on stderr where a library is newer than any tested."""
    from memaudit.system.environment import newer_than_tested

    if note := newer_than_tested():
        streams.note(note)


def _tell_settings(resolved: ResolvedConfig, streams: Streams) -> None:
    from memaudit.config.sources import sourced_lines

    if streams.verbose:
        for line in sourced_lines(resolved):
            streams.note(line)


def _project_key(order: Order) -> ProjectKey:
    from memaudit.data.project_key import find_key
    from memaudit.system.home import settings_folder

    config = order.resolved.config
    key = find_key(config.key_file, settings_folder())
    if key.note and config.gate.baseline is not None:
        raise UsageError(f"--baseline {config.gate.baseline}: {key.note}")
    if key.note and order.shard is not None:
        raise UsageError(f"--shard {order.shard}: merge could not tell whose it is. {key.note}")
    return key


def command_line() -> str:
    """What the user typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
