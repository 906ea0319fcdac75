"""What MODEL names: a folder, a ``.gguf`` file, an adapter folder, or a model on the hub.

Knows paths, the names that checkpoint files go by, and the hub's client. Opens no weights.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers.utils import HF_MODULES_CACHE

from memaudit.config import TargetSettings
from memaudit.errors import TargetError, UsageError
from memaudit.home import expand_home
from memaudit.target.failures import explained, quiet_transformers

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")  # the hub allows 96 characters
PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")
READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
"""Files that loading may read. Other names (logs, optimizer states, READMEs) are left alone."""
TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class Source:
    """Where a target is to be had."""

    kind: Literal["folder", "gguf", "adapter", "hub"]
    name: str
    """As the user wrote it."""
    location: str
    """Folder, or id on the hub. For ``gguf`` the folder that the file is in."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None for what lies here."""
    gguf_file: str | None = None
    here_only: bool = True
    """Whether only files that lie here are used, the hub's cache included."""
    base: Source | None = None
    """For ``adapter``: the model under it."""

    @property
    def weights(self) -> Source:
        """The source that the main weights come from: an adapter's base, or this one."""
        return self.base or self


def find_source(model: str, settings: TargetSettings) -> Source:
    """Find out what ``model`` names, and refuse early what cannot be loaded.

    Raises:
        UsageError: a setting that does not go with what ``model`` is.
        TargetError: nothing is there, or it is no checkpoint, or only pickled weights.
    """
    try:
        path = Path(os.path.expanduser(expand_home(model)))
    except ValueError as error:
        raise UsageError(f"{model}: {error}") from None
    if not model.strip():
        raise UsageError("MODEL is empty; give a folder, a .gguf file or a hub id")
    if _is_there(path.is_dir):
        source = _folder(model, path, settings)
    elif _is_there(path.is_file):
        source = _file(model, path)
    elif HUB_ID.fullmatch(model) and path.suffix != ".gguf":
        source = _hub(model, settings)
    else:
        raise TargetError(
            f"{model}: no such folder or file, and no possible hub id; check the path"
        )
    if settings.trust_remote_code:
        _require_cache(model, HF_MODULES_CACHE)
    if settings.base and source.kind != "adapter":
        raise UsageError(f"--base goes with an adapter, and {model} is not one; leave it out")
    if settings.revision and source.revision is None:
        raise UsageError(f"--revision goes with a hub id, and {model} is local; leave it out")
    return source


def _is_there(kind: Callable[[], bool]) -> bool:
    """Whether a path is of a kind; one that is too long for the system, or forbidden, is none."""
    try:
        return kind()
    except (OSError, ValueError):
        return False


def _file(name: str, path: Path) -> Source:
    if path.suffix.lower() != ".gguf":
        raise TargetError(
            f"{name}: is a file; MODEL is a folder, a .gguf file, an adapter folder or a hub id"
        )
    with explained(name), path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise TargetError(f"{name}: does not begin as a GGUF file does; fetch it again")
    return Source("gguf", name, str(path.parent), gguf_file=path.name)


def _folder(name: str, path: Path, settings: TargetSettings) -> Source:
    whole = (path / "config.json").is_file()
    # A folder with both is a model that holds its adapter; transformers loads it as it is.
    if not whole and (path / "adapter_config.json").is_file():
        _require_weights(name, path, settings, "adapter_model")
        return _adapter(name, path, settings)
    if not whole:
        hint = "; name the .gguf file itself" if any(path.glob("*.gguf")) else ""
        raise TargetError(
            f"{name}: this folder has neither config.json nor adapter_config.json, so it is no "
            f"checkpoint{hint or '; check the path'}"
        )
    _require_weights(name, path, settings, "")
    return Source("folder", name, str(path))


def _require_weights(name: str, path: Path, settings: TargetSettings, stem: str) -> None:
    """Refuse a folder without weights, and one with pickled weights unless they are allowed."""
    if any(path.glob(f"{stem}*.safetensors")):
        return
    if not any(found for pattern in PICKLES for found in path.glob(pattern)):
        raise TargetError(f"{name}: this folder holds no {stem}*.safetensors; check the path")
    if not settings.allow_pickle:
        raise TargetError(
            f"{name}: holds only pickled weights (.bin), and opening a pickle can run code; "
            "convert it to safetensors, or trust it with --allow-pickle"
        )


def _adapter(
    name: str, path: Path, settings: TargetSettings, revision: str | None = None
) -> Source:
    with explained(name):
        config = read_json(path / "adapter_config.json")
    base = settings.base or config.get("base_model_name_or_path")
    if not base:
        raise TargetError(f"{name}: the adapter does not say what its base is; name it with --base")
    under = settings.model_copy(
        update={"base": None, "revision": None if settings.base else config.get("revision")}
    )
    try:
        source = find_source(str(base), under)
    except TargetError as error:
        mend = "" if settings.base else " (base named by the adapter; give another with --base)"
        raise TargetError(f"{error}{mend}") from error
    if source.kind == "adapter":
        raise TargetError(f"{name}: its base {base} is an adapter too; merge that one first")
    return Source("adapter", name, str(path), revision=revision, base=source)


def _require_cache(name: str, folder: str) -> None:
    """Refuse a cache of the hub's client that would be made in the working folder, as ``./~``."""
    if folder.startswith("~"):
        raise TargetError(
            f"{name}: there is no home folder to cache its files in; set HF_HOME to a folder"
        )


def _hub(name: str, settings: TargetSettings) -> Source:
    _require_cache(name, HF_HUB_CACHE)
    where: dict[str, Any] = {
        "revision": settings.revision,
        "local_files_only": settings.offline,
    }
    model = Source("hub", name, name, settings.revision or "main", here_only=settings.offline)
    with explained(name), quiet_transformers():
        try:
            hf_hub_download(name, "adapter_config.json", **where)
        except LocalEntryNotFoundError:
            # The hub was not reached; to ask it again for every file would take minutes.
            return replace(model, here_only=True)
        except EntryNotFoundError:
            return model
        patterns = [*READ, *(PICKLES if settings.allow_pickle else ())]
        folder = Path(snapshot_download(name, allow_patterns=patterns, **where))
    if (folder / "config.json").is_file():
        return model
    _require_weights(name, folder, settings, "adapter_model")
    return _adapter(name, folder, settings, revision=folder.name)


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object in a file.

    Raises:
        ValueError: it is not JSON, or not an object; the message names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def local_folder(source: Source) -> Path:
    """Where the files of a source lie here: its folder, or the hub's cache of it.

    Raises:
        OSError: the hub's cache does not hold it.
    """
    if source.kind != "hub":
        return Path(source.location)
    where: dict[str, Any] = {"revision": source.revision, "local_files_only": source.here_only}
    return Path(hf_hub_download(source.location, "config.json", **where)).parent


def read_files(source: Source, folder: Path, pickles: bool) -> Iterator[Path]:
    """Every file that loading this source may have read, sorted by name."""
    if source.gguf_file is not None:
        yield folder / source.gguf_file
        return
    patterns = [*READ, f"{TEMPLATES}/*.jinja", *(PICKLES if pickles else ())]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)
