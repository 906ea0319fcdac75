"""Unfinished runs: their notes and pieces of work, read back before a scan goes on."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from memaudit.attack.extraction import Extraction
from memaudit.attack.facts import Epoch
from memaudit.attack.stored_work import (
    FitState,
    entry_to_extraction,
    entry_to_fit,
    extraction_to_entry,
    fit_to_entry,
)
from memaudit.cli.resuming import stored_settings
from memaudit.config.settings import ScanConfig
from memaudit.data.project_key import ProjectKey
from memaudit.errors import MemauditError
from memaudit.run.merge import merged_notes, read_shards
from memaudit.run.record import RunNotes
from memaudit.run.unfinished import UNFINISHED, Unfinished
from memaudit.system.own_folder import OwnFolder

from .targets import Target

KEY = ProjectKey(bytes(range(32)))
SUFFIX = np.arange(12, dtype=np.int32).reshape(4, 3)
NAMES = ("run.json", "none-data-0-0-4.safetensors", "fit-constant-0.safetensors")


@cache
def _whole() -> Path:
    """A small unfinished run with one part and one fit."""
    folder = Path(mkdtemp(prefix="memaudit-fuzz-")) / "run"
    folder.mkdir()
    protocol = {"least_select": 1}  # as the environment of the tests says
    config = ScanConfig(model="model", data=Path("data.jsonl"), protocol=protocol)
    notes = RunNotes.new(config, {"model": "flag"}, "memaudit scan model data.jsonl")
    own = OwnFolder.claim(folder)
    begun = Unfinished.begin(own, notes.model_copy(update={"shard": "1/1"}), KEY)
    begun.agree("files", {"the data (data.jsonl)": "0" * 64, "device": "cpu"})
    begun.spent("reading files", 0.5)
    begun.settle("batch size", 16)
    nll = np.linspace(0.1, 1, 4)
    begun.keep("none-data-0-0-4", extraction_to_entry(Extraction(SUFFIX, nll, -nll), SUFFIX))
    vectors = torch.ones(2, 3)
    state = FitState(
        none=(1, 0.5),
        best=(2, 0.6, 1),
        epochs=(Epoch(0, float("nan"), 1, 2.0), Epoch(1, 1.5, 2, 1.9)),
        prompt={"vectors": vectors},
        best_prompt={"vectors": vectors},
        optimizer={0: {"step": torch.tensor(3.0), "exp_avg": vectors}},
        stop_reason="all 1 epochs done",
    )
    begun.keep("fit-constant-0", fit_to_entry(state))
    begun.complete()
    begun.close()
    return folder


def _seeds() -> list[bytes]:
    return [
        bytes([number]) + (_whole() / UNFINISHED / name).read_bytes()
        for number, name in enumerate(NAMES)
    ]


def _run(content: bytes, folder: Path) -> str:
    """One file is what the input says, the others are as they were."""
    name = NAMES[content[0] % len(NAMES)] if content else NAMES[0]
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(_whole(), run)
    (run / UNFINISHED / name).write_bytes(content[1:])
    try:
        merged_notes(read_shards([run], KEY), run, "memaudit merge run")
        said = "shard"
    except MemauditError as error:
        said = type(error).__name__
    opened = Unfinished.reopen(run, KEY)
    try:
        stored_settings(opened.notes, {}, str(run))
        opened.agree("files", {"the data (data.jsonl)": "0" * 64, "device": "cpu"})
        assert opened.settle("batch size", 8) >= 1
        part, fit = opened.read("none-data-0-0-4"), opened.read("fit-constant-0")
        found = None if part is None else entry_to_extraction(part, SUFFIX)
        if found is not None:
            assert found.continuation_ids.shape == SUFFIX.shape
            assert (found.continuation_ids >= -1).all()
        if fit is not None:
            try:
                entry_to_fit(fit)
            except (KeyError, ValueError, TypeError, IndexError, OverflowError):
                said += " damaged"  # which FitJournal says in a line
    finally:
        opened.close()
    return said


TARGETS = (Target("unfinished", _seeds, _run),)
