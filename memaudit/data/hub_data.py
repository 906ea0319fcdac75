"""Rows of a data set on the hub: ``hf://owner/name[@revision][:config][/split or file]``.

Knows the package datasets, which loads them and keeps them in its cache. No code of a data set
runs: datasets from version 4 on has no way to.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from memaudit.errors import DataError

_FORM = re.compile(
    r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+))?(:(?P<config>[\w.-]+))?(/(?P<part>.+))?"
)
_NEEDED = 4
"""Major version of datasets from which no script of a data set is run."""
_ROWS = 1000
"""Rows in memory at a time."""


class _Loaded(NamedTuple):
    """A data set, or one of its splits."""

    rows: Any
    name: str
    split: str
    splits: int
    """Number of splits to choose from."""


def is_on_hub(path: Path) -> bool:
    """Return True if a path names a data set on the hub; pathlib makes one slash of two."""
    return path.parts[:1] == ("hf:",)


def hub_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield every row, in order. Images and sounds stay bytes. Raises DataError."""
    for table in _load(path).rows.with_format("arrow").iter(batch_size=_ROWS):
        yield from table.to_pylist()


def describe_hub(path: Path) -> str:
    """Return which rows are read, as the end of a note. Raises DataError."""
    loaded = _load(path)
    others = f", one of its {loaded.splits:,} splits" if loaded.splits > 1 else ""
    return f"loaded from the hub's data set {loaded.name}, {loaded.split}{others}"


def hub_sha256(path: Path) -> str:
    """Hash the rows, whatever files hold them. Raises DataError."""
    whole = hashlib.sha256()
    for row in hub_rows(path):
        line = json.dumps(row, sort_keys=True, default=str)
        whole.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return whole.hexdigest()


def hub_size(path: Path) -> int:
    """Bytes of the rows in memory. Raises DataError."""
    return int(_load(path).rows.data.nbytes)


@functools.cache
def _load(path: Path) -> _Loaded:
    """Load a data set, once: what the hub has may change while it is read. Raises DataError."""
    named = _FORM.fullmatch("/".join(path.parts[1:]))
    if named is None:
        raise DataError(f"{path}: write hf://owner/name[@revision][:config][/split or file]")
    name, part = named["name"], named["part"]
    try:
        import datasets
        from huggingface_hub import constants
    except ImportError:
        raise DataError(
            f"{path}: data sets of the hub need the package datasets: "
            "pip install 'memaudit-dsp[hub-data]', or download the file and give it"
        ) from None
    if int(datasets.__version__.split(".")[0]) < _NEEDED:
        raise DataError(
            f"{path}: datasets {datasets.__version__} can run the code of a data set; install "
            f"datasets {_NEEDED} or newer"
        )
    if Path(name).exists():  # datasets would load it instead
        raise DataError(
            f"{path}: a file or folder {name} is here as well; give its path, or move it"
        )
    if constants.HF_HUB_OFFLINE:  # datasets copies it when it is imported, unless told otherwise
        datasets.config.HF_HUB_OFFLINE = True
    is_file = part is not None and "." in part
    options = {"data_files": part} if is_file else {"split": part}
    try:
        loaded = datasets.load_dataset(name, named["config"], revision=named["revision"], **options)
    except (OSError, ValueError, RuntimeError, LookupError, datasets.exceptions.DatasetsError) as e:
        raise DataError(
            f"{path}: cannot be loaded from the hub ({type(e).__name__}); check its name, "
            "revision, config and split, your access, and --offline"
        ) from None
    if not isinstance(loaded, Mapping):
        return _Loaded(loaded, name, f"split {part}", 1)
    split = "train" if "train" in loaded else next(iter(loaded))
    return _Loaded(loaded[split], name, part if is_file else f"split {split}", len(loaded))
