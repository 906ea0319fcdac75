"""Finished run opened for a diagnosis: its windows with their scores, and its model.

Knows run folders, the data room and how a target is loaded; refuses files that differ from those
of the run. Must not know any diagnosis.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from memaudit.attack.memory import choose_batch_size
from memaudit.config.settings import ScanConfig, TargetSettings
from memaudit.data.plan import Role, bos_source, check_files, cut_files
from memaudit.data.project_key import ProjectKey, kept_key
from memaudit.data.samples import DataSummary
from memaudit.data.windows import Windows
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.passes import Passes, padding_of
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.errors import UsageError
from memaudit.pipeline.loading import check_positions
from memaudit.report.model import Corpus, Report
from memaudit.report.reading import column, figures, model_attacks
from memaudit.run.load import StoredRun, read_run
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.system.home import settings_folder
from memaudit.system.network import go_offline
from memaudit.target.checkpoint import Checkpoint, load_checkpoint, load_tokenizer

_Index = NDArray[np.integer[Any]] | NDArray[np.bool_]


_RESAMPLING = 41
"""Second part of the seed of resamples; other random choices of one seed have other numbers."""


@dataclass(frozen=True, eq=False)
class Part:
    """Windows of one role, and their scores in the run."""

    ids: NDArray[np.int32]
    """(N,P+S); PADDING comes before a prefix of fewer than P tokens."""
    rows: pd.DataFrame
    """(N) rows of ``samples.csv`` in the order of ``ids``, numbered from 0."""
    attacks: tuple[str, ...]
    """Attacks on the model, weakest first; always includes ``none``."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def clusters(self) -> Ints:
        """(N,) near-duplicate cluster, numbered over data and controls together."""
        return np.asarray(self.rows["cluster"].to_numpy(dtype=np.int64))

    @property
    def extracted(self) -> Bools:
        """(N,) whether ``none``, the plain prefix, extracts the window exactly."""
        return self.exact("none")

    @property
    def hidden(self) -> Bools:
        """(N,) whether another attack extracts the window exactly, and ``none`` does not."""
        by_any = np.zeros(len(self), dtype=bool)
        for attack in self.attacks:
            by_any |= self.exact(attack)
        return by_any & ~self.extracted

    @property
    def untouched(self) -> Bools:
        """(N,) whether no attack extracts the window exactly."""
        return ~(self.extracted | self.hidden)

    def exact(self, attack: str) -> Bools:
        """(N,) whether the attack extracts the window exactly."""
        return np.asarray(self.score("exact", attack) == 1)

    def score(self, score: str, attack: str) -> Floats:
        """(N,) score of a column of ``samples.csv``, such as ``matched`` or ``suffix_nll``."""
        return figures(self.rows, column(score, attack))

    def take(self, index: _Index) -> Part:
        """Return the windows at ``index``, row numbers or a mask (N,)."""
        picked = np.arange(len(self))[index]
        return Part(self.ids[picked], self.rows.iloc[picked].reset_index(drop=True), self.attacks)

    def sample(self, limit: int, rng: np.random.Generator, mask: Bools | None = None) -> Part:
        """Sample at most ``limit`` of the windows, or of those in a mask (N,); keep their order."""
        return self.take(draw(np.ones(len(self), dtype=bool) if mask is None else mask, limit, rng))


@dataclass(frozen=True, eq=False)
class Subject:
    """Audited run: its windows and its model."""

    run: StoredRun
    config: ScanConfig
    """Settings of the run, with current paths and device."""
    checkpoint: Checkpoint
    """Audited model, frozen. Code that changes it for a while must restore it."""
    data: Part
    controls: Part | None
    """None if the run had no controls."""
    batch_size: int
    """Planned windows per pass."""
    disclosure: Disclosure = field(default_factory=Disclosure)
    """Must admit a group of windows before a figure of it is computed."""

    @property
    def report(self) -> Report:
        """Report of the run."""
        return self.run.report

    @property
    def prefix_tokens(self) -> int:
        """P."""
        return self.config.windows.prefix_tokens

    def prefix_lengths(self, ids: NDArray[np.int32]) -> Ints:
        """Count the tokens of the prefixes of windows (N,P+S): (N,), at most P."""
        return self.prefix_tokens - padding_of(ids)

    @property
    def longest_prefix(self) -> int:
        """Tokens of the longest prefix, at most P."""
        parts = (self.data,) if self.controls is None else (self.data, self.controls)
        return max(int(self.prefix_lengths(part.ids).max()) for part in parts if len(part))

    def length_notes(self) -> list[str]:
        """Return a sentence on the lengths of prefixes; none if all prefixes have one length."""
        data = self.data
        groups = {"extracted windows": data.extracted, "other windows": ~data.extracted}
        sides = {name: data.take(mask) for name, mask in groups.items() if mask.any()}
        if self.controls is not None and len(self.controls):
            sides["controls"] = self.controls
        lengths = {name: self.prefix_lengths(part.ids) for name, part in sides.items()}
        every = np.concatenate(list(lengths.values()))
        if not np.ptp(every):
            return []
        medians = ", ".join(
            f"{name} {np.median(lengths[name]):g}"
            for name, part in sides.items()
            if self.disclosure.covers(part.clusters)
        )
        return [
            f"Prefixes have {every.min()} to {every.max()} tokens{medians and '; median of '}"
            f"{medians}. Groups that differ in it may differ in other figures for that reason."
        ]

    @property
    def suffix_tokens(self) -> int:
        """S."""
        return self.config.windows.suffix_tokens

    def resamples(self, seed: int) -> Resamples:
        """Return the resamples behind all intervals of a diagnosis."""
        scores = self.config.scores
        seeds, admits = (seed, _RESAMPLING), self.disclosure.covers
        return Resamples(scores.confidence, scores.bootstrap, seeds, admits)

    def passes(self, checkpoint: Checkpoint | None = None, **options: Any) -> Passes:
        """Return passes of the audited or another model; options go to its forward."""
        return Passes(checkpoint or self.checkpoint, self.prefix_tokens, self.batch_size, options)


def draw(mask: Bools, limit: int, rng: np.random.Generator) -> Ints:
    """Sample at most ``limit`` rows of the mask (N,); return them in order (rows,)."""
    rows = np.flatnonzero(mask)
    if len(rows) > limit:
        rows = np.sort(rng.choice(rows, limit, replace=False))
    return rows


def open_subject(settings: DiagnoseSettings) -> Subject:
    """Open a finished run for a diagnosis.

    Raises UsageError if the folder holds no run, a file is not the audited one, or the run cannot
    be diagnosed; and the errors of loading data and models.
    """
    run = read_run(settings.run)
    config = _config(run, settings)
    if config.target.offline:
        go_offline(os.environ)
    _require_there(config)
    summaries = check_files(config)
    _require_same_data(run, summaries)
    tokenizer = load_tokenizer(config.model, config.target)
    windows = cut_files(config, tokenizer)
    source = bos_source(windows)
    if source == "text":
        raise UsageError(
            f"{run.folder}: its windows start with the BOS token of the texts, which diagnoses do "
            "not support; scan again with one prefix token less"
        )
    checkpoint = load_checkpoint(config.model, config.target, tokenizer, source)
    require_same_model(run, checkpoint)
    for part in windows.values():
        checkpoint.check_ids(part.ids)
    longest = max(int(part.prefix_tokens.max()) for part in windows.values())
    check_positions(config, checkpoint, 0, longest)
    size = config.extraction.batch_size
    return Subject(
        run=run,
        config=config,
        checkpoint=checkpoint,
        data=_part(run, "data", windows["data"]),
        controls=_part(run, "control", windows["control"]) if "control" in windows else None,
        batch_size=size or choose_batch_size(checkpoint, config.windows.suffix_tokens)[0],
        disclosure=Disclosure(settings.reveal),
    )


def _config(run: StoredRun, settings: DiagnoseSettings) -> ScanConfig:
    """Return the run's settings with current files and device; the run lifts no safeguard."""
    try:
        config = ScanConfig.model_validate(run.report.settings)
    except ValidationError:
        raise UsageError(
            f"{run.folder}: its settings do not fit this version of memaudit; scan again"
        ) from None
    if "none" not in run.attacks:
        raise UsageError(f"{run.folder}: attack none was not run; scan with it (--attacks)")
    if settings.controls is not None and config.controls is None:
        raise UsageError(f"--controls {settings.controls}: the run had none; leave the flag out")
    target = {
        "trust_remote_code": settings.trust_remote_code,
        "allow_pickle": settings.allow_pickle,
        "offline": settings.offline or config.target.offline,
        "device": settings.device or config.target.device,
    }
    if settings.model is not None:
        target["revision"] = None
    elif run.report.target.revision is not None:
        target["revision"] = run.report.target.revision
    update = {
        "model": settings.model or config.model,
        "data": settings.data or config.data,
        "controls": settings.controls or config.controls,
        "reference": None,
        "out": None,
        "target": TargetSettings.model_validate({**config.target.model_dump(), **target}),
        "extraction": config.extraction.model_copy(update={"batch_size": settings.batch_size}),
    }
    return config.model_copy(update=update)


def _require_there(config: ScanConfig) -> None:
    """Raise UsageError, naming the flag, if a file that the run names does not exist."""
    places = {"--data": config.data, "--controls": config.controls, "--model": Path(config.model)}
    for flag, place in places.items():
        # A relative path may be the name of a model on the hub.
        named = place is not None and (flag != "--model" or place.is_absolute())
        if place is not None and named and not place.exists():
            raise UsageError(f"{place}: the audited file is missing; give its path with {flag}")


def _require_same_data(run: StoredRun, summaries: Mapping[Role, DataSummary]) -> None:
    project_key = kept_key(None, settings_folder())
    for role, key in (("data", "data"), ("control", "controls")):
        recorded, summary = getattr(run.report, key), summaries.get(role)  # type: ignore[call-overload]
        if summary is not None and not _is_same(summary, recorded, project_key):
            raise UsageError(
                f"{summary.path}: is not the file that was audited (its content differs); give "
                f"the path of that file with --{key}"
            )


def _is_same(summary: DataSummary, recorded: Corpus | None, key: ProjectKey | None) -> bool:
    """Return whether a file is the recorded one; under another key, whether it may be."""
    if recorded is None:
        return False
    if key is None or key.key_id != recorded.key_id:
        return (summary.rows, summary.bad) == (recorded.rows, recorded.bad)
    return key.sign_file(summary.sha256) == recorded.hmac_sha256


def require_same_model(run: StoredRun, checkpoint: Checkpoint) -> None:
    """Raise UsageError if a file of the model is not as the run recorded it."""
    recorded = run.report.target.fingerprint
    changed = sorted(
        name
        for name in {*recorded, *checkpoint.fingerprint}
        if recorded.get(name) != checkpoint.fingerprint.get(name)
    )
    if changed:
        raise UsageError(
            f"{checkpoint.name}: is not the model that was audited ({changed[0]} differs or is "
            "missing); give the path of that model with --model"
        )


def _part(run: StoredRun, role: Role, windows: Windows) -> Part:
    """Return the windows that the run scored with their rows, both in the order of the file."""
    rows = run.scored(role).reset_index(drop=True)
    wanted = list(zip(rows["line"].tolist(), rows["window"].tolist(), strict=True))
    cut = zip(windows.line.tolist(), windows.window.tolist(), strict=True)
    places, matched = [], 0
    for place, key in enumerate(cut):
        if matched < len(wanted) and key == wanted[matched]:
            places.append(place)
            matched += 1
    if matched < len(wanted) or not places:
        raise UsageError(
            f"{run.folder}: its windows are not those of the {role} file; scan again with this "
            "version of memaudit"
        )
    attacks = tuple(attack.attack for attack in model_attacks(run.report))
    return Part(windows.ids[places], rows, attacks)
