"""Mistakes in MODEL, DATA and controls that their paths alone show.

Knows the file system and the settings. Loads no torch and reads no record, so that a mistake is
refused at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from memaudit.config.settings import ScanConfig
from memaudit.data.hub_data import is_on_hub
from memaudit.data.records import read_records, sha256_of, size_of
from memaudit.errors import UsageError

_CONFIGS = ("config.json", "adapter_config.json")
"""Files that a model's folder has and a folder of texts has not."""


def check_inputs(config: ScanConfig) -> None:
    """Raise UsageError or DataError for files that are missing, exchanged or given twice."""
    _refuse_exchanged(Path(os.path.expanduser(config.model)), config.data)
    for path in filter(None, (config.data, config.controls)):
        read_records(path)  # raises if nothing can read the path; reads no record yet
    if config.controls is not None and _are_same(config.data, config.controls):
        raise UsageError(
            f"--controls {config.controls}: holds the same as DATA ({config.data}); give text that "
            "the model has not seen"
        )


def _refuse_exchanged(model: Path, data: Path) -> None:
    """Refuse data in the place of the model; a model in the place of the data may be a hub id."""
    try:
        if not model.exists() or _is_model(model):
            return
        if _is_model(data):
            kinds = ["file" if path.is_file() else "folder" for path in (data, model)]
            raise UsageError(
                f"DATA ({data}) is a model {kinds[0]} and MODEL ({model}) a data {kinds[1]}; swap "
                "them"
            )
        if model.is_file() and not (data.exists() or is_on_hub(data)):
            raise UsageError(
                f"MODEL ({model}) is a data file and DATA ({data}) does not exist; the model comes "
                "first: memaudit scan MODEL DATA"
            )
    except OSError:
        return  # whoever reads the paths says what is wrong with them


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in _CONFIGS) or any(path.glob("*.gguf"))
    return path.suffix.lower() == ".gguf"


def _are_same(data: Path, controls: Path) -> bool:
    """True if both hold the same bytes; two data sets on the hub, if they have one name."""
    if is_on_hub(data) or is_on_hub(controls):
        return data == controls
    if os.path.samefile(data, controls):
        return True
    return size_of(data) == size_of(controls) and sha256_of(data) == sha256_of(controls)
