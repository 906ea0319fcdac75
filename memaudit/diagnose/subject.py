"""A finished run taken up again: its windows beside their scores, and its model.

Knows run folders, the data room and how a target is loaded, and refuses files that are not those
of the run. Knows nothing of what is then asked of them.
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
from memaudit.diagnose.passes import Passes
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.errors import UsageError
from memaudit.pipeline.loading import check_positions
from memaudit.report.reading import column, figures, model_attacks
from memaudit.report.report_json import Document
from memaudit.run.load import StoredRun, read_run
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.system.home import settings_folder
from memaudit.system.network import go_offline
from memaudit.target.checkpoint import Checkpoint, load_checkpoint, load_tokenizer

_Index = NDArray[np.integer[Any]] | NDArray[np.bool_]


_RESAMPLING = 41
"""Keeps the resamples of intervals apart from other random choices of one seed."""


@dataclass(frozen=True, eq=False)
class Part:
    """Windows of one role, and what the run says of them."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    rows: pd.DataFrame
    """(N): the rows of ``samples.csv`` of these windows, in their order, numbered from 0."""
    attacks: tuple[str, ...]
    """Those that asked the model, weakest first: ``none`` is always among them."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def clusters(self) -> Ints:
        """(N,) near-duplicate cluster, numbered over data and controls together."""
        return np.asarray(self.rows["cluster"].to_numpy(dtype=np.int64))

    @property
    def extracted(self) -> Bools:
        """(N,) whether ``none`` extracts the window exactly: what the plain prefix gives away."""
        return self.exact("none")

    @property
    def hidden(self) -> Bools:
        """(N,) whether another attack on the model extracts it exactly, and ``none`` does not."""
        found = np.zeros(len(self), dtype=bool)
        for attack in self.attacks:
            found |= self.exact(attack)
        return found & ~self.extracted

    def exact(self, attack: str) -> Bools:
        """(N,) whether an attack that was run extracts the window exactly."""
        return np.asarray(self.score("exact", attack) == 1)

    def score(self, score: str, attack: str) -> Floats:
        """(N,) a score of the contract's columns, as ``matched`` or ``suffix_nll``."""
        return figures(self.rows, column(score, attack))

    def take(self, index: _Index) -> Part:
        """The windows at ``index``: whole numbers, or a mask (N,)."""
        picked = np.arange(len(self))[index]
        return Part(self.ids[picked], self.rows.iloc[picked].reset_index(drop=True), self.attacks)


@dataclass(frozen=True, eq=False)
class Subject:
    """A run, its windows and its model."""

    run: StoredRun
    config: ScanConfig
    """Of the run; paths and device as they are now."""
    checkpoint: Checkpoint
    """The audited model, as it was audited: frozen. Whoever changes it for a while puts it back."""
    data: Part
    controls: Part | None
    batch_size: int
    """Windows per pass, as planned."""
    disclosure: Disclosure = field(default_factory=Disclosure)
    """Asked before a figure is made of a group of windows."""

    @property
    def document(self) -> Document:
        """The run's ``report.json``."""
        return self.run.document

    @property
    def prefix_tokens(self) -> int:
        """P."""
        return self.config.windows.prefix_tokens

    @property
    def suffix_tokens(self) -> int:
        """S."""
        return self.config.windows.suffix_tokens

    def resamples(self, seed: int) -> Resamples:
        """Return what all intervals of a diagnosis are made with."""
        scores = self.config.scores
        seeds, admits = (seed, _RESAMPLING), self.disclosure.covers
        return Resamples(scores.confidence, scores.bootstrap, seeds, admits)

    def passes(self, checkpoint: Checkpoint | None = None, **options: Any) -> Passes:
        """Passes over windows, of another model where one is given; options for its forward."""
        return Passes(checkpoint or self.checkpoint, self.prefix_tokens, self.batch_size, options)


def draw(mask: Bools, most: int, rng: np.random.Generator) -> Ints:
    """Rows of the mask (N,), at most so many of them, drawn at random; in order: (rows,)."""
    rows = np.flatnonzero(mask)
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    return rows


def open_subject(settings: DiagnoseSettings) -> Subject:
    """Take up a finished run.

    Raises UsageError where the folder holds none, where a file is not the one that was audited,
    or where the run cannot be diagnosed; and what loading data and models raises.
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
            f"{run.folder}: its windows hold the BOS token that the texts begin with, and a "
            "diagnosis takes windows without; scan again with one prefix token less"
        )
    checkpoint = load_checkpoint(config.model, config.target, tokenizer, source)
    require_same_model(run, checkpoint)
    for part in windows.values():
        checkpoint.check_ids(part.window_ids())
    check_positions(config, checkpoint, 0)
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
    """The run's settings with files and device as they are now, and no safeguard lifted by it."""
    document = run.document
    try:
        config = ScanConfig.model_validate(document["config"]["values"])
    except ValidationError:
        raise UsageError(
            f"{run.folder}: its settings are none of this memaudit; scan again"
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
    elif document["target"]["revision"] is not None:
        target["revision"] = document["target"]["revision"]
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
    """Raise UsageError, naming the flag, where a file that the run names is not there any more."""
    places = {"--data": config.data, "--controls": config.controls, "--model": Path(config.model)}
    for flag, place in places.items():
        # What is no whole path may be the name of a model on the hub.
        named = place is not None and (flag != "--model" or place.is_absolute())
        if place is not None and named and not place.exists():
            raise UsageError(f"{place}: was audited, and is not here; say where with {flag}")


def _require_same_data(run: StoredRun, summaries: Mapping[Role, DataSummary]) -> None:
    project_key = kept_key(None, settings_folder())
    for role, key in (("data", "data"), ("control", "controls")):
        recorded, summary = run.document[key], summaries.get(role)  # type: ignore[call-overload]
        if summary is not None and not _is_same(summary, recorded, project_key):
            raise UsageError(
                f"{summary.path}: is not the file that was audited (its content is another); "
                f"name that one with --{key}"
            )


def _is_same(summary: DataSummary, recorded: Document | None, key: ProjectKey | None) -> bool:
    """Whether a file is the one that was recorded; under another key, whether it may be."""
    if recorded is None:
        return False
    if key is None or key.key_id != recorded["key_id"]:
        return (summary.rows, summary.bad) == (recorded["rows"], recorded["bad"])
    return key.sign_file(summary.sha256) == str(recorded["hmac_sha256"])


def require_same_model(run: StoredRun, checkpoint: Checkpoint) -> None:
    """Raise UsageError where a file of the model is not as the run recorded it."""
    recorded = run.document["target"]["fingerprint"]
    apart = sorted(
        name
        for name in {*recorded, *checkpoint.fingerprint}
        if recorded.get(name) != checkpoint.fingerprint.get(name)
    )
    if apart:
        raise UsageError(
            f"{checkpoint.name}: is not the model that was audited ({apart[0]} is another, or "
            "missing); name that one with --model"
        )


def _part(run: StoredRun, role: Role, windows: Windows) -> Part:
    """The windows that the run scored, beside their rows: both are in the order of the file."""
    rows = run.scored(role).reset_index(drop=True)
    wanted = list(zip(rows["line"].tolist(), rows["window"].tolist(), strict=True))
    there = zip(windows.line.tolist(), windows.window.tolist(), strict=True)
    places, at = [], 0
    for place, key in enumerate(there):
        if at < len(wanted) and key == wanted[at]:
            places.append(place)
            at += 1
    if at < len(wanted) or not places:
        raise UsageError(
            f"{run.folder}: its windows are not those of the {role} files; scan again with this "
            "memaudit"
        )
    attacks = tuple(attack["attack"] for attack in model_attacks(run.document))
    return Part(windows.window_ids()[places], rows, attacks)
