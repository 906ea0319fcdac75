"""Scans from Python: ``from memaudit import scan, load_run``, for notebooks and pipelines.

Knows the order of a scan outside the command line, and what a finished run offers to read. Prints
nothing and never exits: what is wrong is raised, as :mod:`memaudit.errors`. Imports torch only in
`scan`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import pandas as pd

    from memaudit.config.sources import ResolvedConfig
    from memaudit.data.project_key import ProjectKey
    from memaudit.run.load import StoredRun
    from memaudit.run.record import Display
    from memaudit.run.unfinished import Unfinished

Verdict = Literal["pass", "fail", "inconclusive", "none"]
_COMMAND = "memaudit.scan()"
"""How a report names the call; its arguments are among the settings."""


@dataclass(frozen=True)
class Rate:
    """Share of the audited samples that an attack extracts."""

    value: float
    """k/n."""
    low: float
    """Lower end of its interval, at the level ``scores.confidence``."""
    high: float
    """Upper end of its interval, which gates judge."""
    k: int
    """Samples extracted."""
    n: int
    """Samples scored."""


@dataclass(frozen=True)
class Gate:
    """A gate, judged; see ``memaudit help gates``."""

    name: str
    verdict: Verdict
    threshold: float | None
    attack: str
    """Attack that decided; empty if none did, or all together."""
    estimate: float | None
    bound: float | None
    """Upper end of the interval of the estimate."""
    reason: str
    category: str = ""
    """Category of sensitive content that ``max-sensitive`` limits."""


class Run:
    """A finished run, read from its folder."""

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.verdict})"

    @property
    def path(self) -> Path:
        """Run folder."""
        return self._stored.folder

    @property
    def report(self) -> dict[str, Any]:
        """Content of ``report.json``. Its strings may hold anything that a file name may."""
        return self._stored.report.document()

    @property
    def samples(self) -> pd.DataFrame:
        """Content of ``samples.csv``: a row for each sample, with or without windows."""
        return self._stored.samples

    @property
    def windows(self) -> pd.DataFrame:
        """Content of ``windows.csv``: a row for each window and each skipped sample."""
        return self._stored.windows

    @property
    def exit_code(self) -> int:
        """Exit code of ``memaudit scan`` for this run: 0, 1 or 4."""
        return self._stored.report.exit_code

    @property
    def verdict(self) -> Verdict:
        """Verdict of all gates together; ``none`` if no limit was set, though all checks are ok."""
        from memaudit.report.reading import verdict

        return cast(Verdict, verdict(self._stored.report)[0])

    @property
    def passed(self) -> bool:
        """True if a threshold was set and every gate passed: a run without one proves nothing."""
        return self.verdict == "pass"

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Gates that were judged, and the checks ``controls``, ``attacks`` and ``validity``."""
        return tuple(Gate(**gate) for gate in self.report["gates"])

    @property
    def rates(self) -> dict[str, Rate]:
        """Rate of each attack that was run, weakest attack first."""
        return {attack["attack"]: _rate(attack["extracted"]) for attack in self.report["attacks"]}

    def to_html(self) -> str:
        """Return the page of the run, with the diagnoses in its folder."""
        from memaudit.report.page import to_html
        from memaudit.run.diagnoses import read_diagnoses

        return to_html(self._stored.report, self.windows, read_diagnoses(self._stored))


def load_run(path: str | Path) -> Run:
    """Read a finished run and check that it is unchanged. Raises UsageError.

    Warns (memaudit.errors.UnsealedRunWarning) if the project key at hand did not seal it.
    """
    from memaudit.run.load import read_run

    return Run(read_run(Path(path)))


def scan(
    model: str | Path,
    data: str | Path,
    *,
    controls: str | Path | None = None,
    reference: str | Path | None = None,
    out: str | Path | None = None,
    profile: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Display | None = None,
) -> Run:
    """Audit a model, write the run folder and return the run.

    settings: any others, as ``{"gate.max_exact": 0.01}`` or ``{"gate": {"max_exact": 0.01}}``.
    They win over the environment, ``pyproject.toml`` and the profile, as flags do. progress: shows
    the stages, such as `memaudit.progress.Log`.

    Raises the errors of ``memaudit scan``: UsageError, DataError, TargetError, RunError. A gate
    that fails raises nothing. If the scan ends early, finished work stays in the folder, for
    ``memaudit scan --resume``.
    """
    from memaudit.system.launcher import require_one_process
    from memaudit.system.memory import short_of_memory
    from memaudit.system.network import turn_telemetry_off

    require_one_process("memaudit.scan()")
    turn_telemetry_off(os.environ)
    places = {"model": model, "controls": controls, "data": data, "reference": reference}
    given = {**(settings or {}), **{k: str(v) for k, v in places.items() if v is not None}}
    if out is not None:
        given["out"] = str(out)
    with short_of_memory():
        return Run(_scanned(_resolved(given, profile), progress))


def _resolved(given: Mapping[str, Any], profile: str | None) -> ResolvedConfig:
    from memaudit.config.environment import unknown_variables
    from memaudit.config.sources import ARGUMENT, collect_layers, leaves, nested, resolve
    from memaudit.system.network import go_offline

    for sentence in unknown_variables(os.environ):
        warnings.warn(sentence, stacklevel=3)
    values = nested(dict(leaves(given)), ARGUMENT)
    layers = collect_layers(
        values, profile=profile, config_file=None, sets=[], environ=os.environ, source=ARGUMENT
    )
    resolved = resolve(layers)
    if resolved.config.target.offline:
        go_offline(os.environ)
    return resolved


def _scanned(resolved: ResolvedConfig, progress: Display | None) -> StoredRun:
    from memaudit.data.project_key import find_key, require_kept
    from memaudit.pipeline.scan import scan as run_stages
    from memaudit.pipeline.write import write_run
    from memaudit.progress import Silent
    from memaudit.run.load import read_run
    from memaudit.system.home import settings_folder
    from memaudit.target.failures import quiet_transformers

    key = find_key(resolved.config.key_file, settings_folder())
    if (baseline := resolved.config.gate.baseline) is not None:
        require_kept(key, f"--baseline {baseline}")
    with _new_run(resolved, key) as unfinished, quiet_transformers():
        outcome = run_stages(resolved, _COMMAND, progress or Silent(), key, unfinished)
        write_run(unfinished.run_folder, outcome, key)
    return read_run(unfinished.run, key)


@contextmanager
def _new_run(resolved: ResolvedConfig, key: ProjectKey) -> Iterator[Unfinished]:
    """Begin a run. If it ends early, keep its work where it can be resumed, else remove it."""
    from memaudit.run.manifest import is_finished
    from memaudit.run.new_folder import begin_run, choose_folder, remove_empty
    from memaudit.run.record import RunNotes

    notes = RunNotes.new(resolved.config, resolved.sources, _COMMAND)
    created, unfinished = begin_run(choose_folder(resolved.config), notes, key)
    try:
        yield unfinished
    except BaseException:
        if unfinished.holds_work and not key.is_temporary and not is_finished(unfinished.run):
            unfinished.close()
        else:
            unfinished.remove()
            remove_empty(created)
        raise
    unfinished.remove()


def _rate(rate: Mapping[str, Any]) -> Rate:
    ends = rate["interval"]
    return Rate(rate["estimate"], ends["low"], ends["high"], rate["k"], rate["n"])
