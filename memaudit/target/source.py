"""Source of MODEL: a folder, a ``.gguf`` file, an adapter folder, or a model on the hub.

Knows paths and the hub's client. A model on the hub is loaded from its folder in the local cache,
so that the same files give the same model whatever its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi, is_offline_mode, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from transformers.utils import HF_MODULES_CACHE

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError, UsageError
from memaudit.system.home import expand_home
from memaudit.target.failures import explained, quiet_transformers
from memaudit.target.folders import (
    ADAPTER_CONFIG,
    OF_OWN_CODE,
    SETTINGS,
    TOKENIZER,
    Folder,
    Weights,
    find_adapter_weights,
    find_weights,
    is_adapter,
    list_folder,
    matching_files,
    read_json,
)
from memaudit.target.refusals import refusal
from memaudit.target.weight_files import refuse_unusable, wrapper_prefix

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")  # the hub allows 96 characters
REVISION = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*")
"""Name of a branch, tag or commit that cannot lead out of the folder of the hub's cache."""
SMALL = ["*.json", "*.jinja", "*.model", "*.spm", "*.txt", "*.tiktoken", "*.py", "*.codes"]
"""Files of a repository that are fetched before the weights to read are known."""
NOT_AT_THE_TOP = [f"*/{pattern}" for pattern in SMALL if pattern not in ("*.jinja", "*.py")]
HUB_SECONDS = 10
"""Seconds that the hub may take to list a repository; after that its cache is used."""
OWN_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
"""Files that show that an adapter brings a tokenizer."""
MEGATRON = ("megatron_core", "megatron.core")
"""Key and value in the config of every LoRA that PEFT writes, imported only with another key."""
SPLIT_GGUF = re.compile(r".*-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Location and parts of a target."""

    kind: Literal["folder", "gguf", "adapter", "hub"]
    name: str
    """Name that the user gave."""
    location: str
    """Local folder: the cache folder of a model on the hub, the parent folder of a ``gguf``."""
    revision: str | None = None
    """Commit on the hub; None for a local source."""
    gguf_file: str | None = None
    here_only: bool = True
    """True if only local files are used, the hub's cache included."""
    base: Source | None = None
    """For ``adapter``: the model under it."""
    stored: Weights = field(default_factory=lambda: Weights(()))
    """Its weights files, without those of the base."""
    repository: str | None = None
    """Id on the hub, for a folder of its cache."""
    prefix: str = ""
    """Prefix of every name in the weights, which is removed."""

    @property
    def weights(self) -> Source:
        """Source of the main weights: an adapter's base, or this source itself."""
        return self.base or self

    @property
    def weights_files(self) -> list[Path]:
        """Paths of its weights files, without those of the base."""
        return [Path(self.location) / name for name in self.stored.files]

    @property
    def brings_tokenizer(self) -> bool:
        """True for an adapter with its own tokenizer."""
        folder = Path(self.location)
        return self.base is not None and any((folder / name).is_file() for name in OWN_TOKENIZER)


def find_source(model: str, settings: TargetSettings, *, as_base: bool = False) -> Source:
    """Find the source that ``model`` names, and refuse early any that cannot be loaded.

    Args:
        model: name given by the user or an adapter's config.
        settings: permissions, revision and base.
        as_base: whether an adapter goes over it, so that it must be a whole model.

    Raises:
        UsageError: a setting does not fit this kind of model.
        TargetError: it does not exist, is not a checkpoint, or has only pickled weights.
    """
    try:
        path = Path(os.path.expanduser(expand_home(model)))
    except ValueError as error:
        raise UsageError(f"{model}: {error}") from None
    if not model.strip():
        raise UsageError("MODEL is empty; give a folder, a .gguf file or a hub id")
    if _is_there(path.is_dir):
        source = _folder(list_folder(model, path), settings, as_base)
    elif _is_there(path.is_file):
        source = _file(model, path)
    elif HUB_ID.fullmatch(model) and path.suffix != ".gguf":
        source = _hub(model, settings, as_base)
    else:
        raise refusal(model, "no such folder or file, and not a valid hub id; check the path")
    if settings.trust_remote_code:
        _require_cache(model, HF_MODULES_CACHE)
    if settings.base and source.kind != "adapter":
        raise UsageError(f"--base goes with an adapter, and {model} is not one; leave it out")
    if settings.revision and source.repository is None:
        raise UsageError(f"--revision goes with a hub id, and {model} is local; leave it out")
    return source


def _is_there(kind: Callable[[], bool]) -> bool:
    """Return the result of a test on a path; False for a path too long or forbidden."""
    try:
        return kind()
    except (OSError, ValueError):
        return False


def _file(name: str, path: Path) -> Source:
    if path.suffix.lower() != ".gguf":
        raise refusal(
            name, "is a file; MODEL is a folder, a .gguf file, an adapter folder or a hub id"
        )
    refuse_unusable(name, path)
    with explained(name), path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise refusal(name, "does not begin as a GGUF file does; fetch it again")
    split = SPLIT_GGUF.fullmatch(path.name)
    if split and int(split[1]) > 1:
        raise refusal(
            name,
            f"is one of {int(split[1])} parts of a GGUF file; put them together with "
            "`llama-gguf-split --merge` and name the whole",
        )
    return Source("gguf", name, str(path.parent), gguf_file=path.name, stored=Weights((path.name,)))


def _folder(
    folder: Folder, settings: TargetSettings, as_base: bool, commit: str | None = None
) -> Source:
    """Return the source of a folder; ``commit`` is that of a repository on the hub."""
    repository = folder.name if folder.on_hub else None
    if not is_adapter(folder):
        stored = find_weights(folder, settings.allow_pickle)
        return Source(
            "hub" if folder.on_hub else "folder",
            folder.name,
            str(folder.path),
            revision=commit,
            stored=stored,
            repository=repository,
        )
    if as_base:
        raise refusal(folder.name, "is an adapter too; merge it into its own base first")
    stored = find_adapter_weights(folder, settings.allow_pickle)
    return Source(
        "adapter",
        folder.name,
        str(folder.path),
        revision=commit,
        base=_base(folder, settings),
        stored=stored,
        repository=repository,
    )


def _base(folder: Folder, settings: TargetSettings) -> Source:
    """Return the model under an adapter, named by the settings or by the adapter's config."""
    with explained(folder.name):
        config = read_json(folder.path / ADAPTER_CONFIG)
    _refuse_what_leads_elsewhere(folder.name, config)
    base = settings.base or config.get("base_model_name_or_path")
    if not base:
        raise refusal(folder.name, "the adapter does not say what its base is; name it with --base")
    local = _is_there(Path(os.path.expanduser(str(base))).exists)
    revision = None if settings.base or local else config.get("revision") or None
    if revision is not None and not (
        isinstance(revision, str) and REVISION.fullmatch(revision) and ".." not in revision
    ):
        raise refusal(
            folder.name,
            f"revision in {ADAPTER_CONFIG} is not the name of a branch, a tag or a "
            "commit; correct it, or name the base with --base",
        )
    under = settings.model_copy(update={"base": None, "revision": revision})
    try:
        return find_source(str(base), under, as_base=True)
    except TargetError as error:
        if settings.base:
            raise
        raise refusal(
            folder.name,
            f"the base that the adapter names cannot be used ({error}); name it with --base",
        ) from error


def _refuse_what_leads_elsewhere(name: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose config names code, or weights that are not beside it."""
    if config.get("adapters"):  # X-LoRA itself stores only their gates
        raise refusal(
            name,
            "names further adapters that lie elsewhere (X-LoRA), and memaudit reads none "
            "but its own; merge them into the base",
        )
    for key, value in sorted(config.items()):
        if key.startswith("megatron_") and value is not None and (key, value) != MEGATRON:
            raise refusal(
                name,
                f"{key} in {ADAPTER_CONFIG} names code that PEFT would import for layers "
                "of Megatron, which memaudit does not audit; remove that line",
            )
    if config.get("shadow_model") not in (None, "mirror"):  # mirror: built from the base
        raise refusal(
            name,
            f"shadow_model in {ADAPTER_CONFIG} names a further model that lies elsewhere, "
            "and memaudit reads none but the adapter and its base; save it without one",
        )


def _require_cache(name: str, folder: str) -> None:
    """Refuse a cache of the hub's client that would be made in the working folder, as ``./~``."""
    if folder.startswith("~"):
        raise refusal(
            name, "there is no home folder to cache its files in; set HF_HOME to a folder"
        )


def _hub(name: str, settings: TargetSettings, as_base: bool) -> Source:
    """Return the source of a model on the hub; fetch its small files, not yet its weights."""
    _require_cache(name, HF_HUB_CACHE)
    # With HF_HUB_OFFLINE alone, some versions of the client still ask for a list of the files.
    offline = settings.offline or is_offline_mode()
    with explained(name), quiet_transformers():
        snapshot = snapshot_download(
            name,
            revision=settings.revision,
            local_files_only=offline,
            allow_patterns=SMALL,
            ignore_patterns=NOT_AT_THE_TOP,
        )
    path = Path(snapshot)
    names = list_folder(name, path).names
    if not offline:
        names = _names_on_hub(name, path.name) or names
    folder = Folder(name, path, names, on_hub=True)
    source = _folder(folder, settings, as_base, commit=path.name)
    return replace(source, here_only=offline)


def _names_on_hub(name: str, commit: str) -> frozenset[str]:
    """Return the file names in a repository; none if the hub cannot be reached."""
    try:
        with explained(name), quiet_transformers():
            listing = HfApi().model_info(name, revision=commit, timeout=HUB_SECONDS)
            names = (file.rfilename for file in listing.siblings or ())
            return frozenset(filter(str.isprintable, names))
    except TargetError:
        return frozenset()


def ready_source(source: Source) -> Source:
    """Fetch missing weights, and check all weights before a library opens them.

    Raises:
        TargetError: a file is not available, cannot be read, or is damaged or cut short.
    """
    if source.repository is not None:
        _fetch(source)
    if source.kind == "gguf":
        return source
    prefix = wrapper_prefix(source.name, source.weights_files)
    if source.base is None:
        return replace(source, prefix=prefix)
    return replace(source, base=ready_source(source.base))


def _fetch(source: Source) -> None:
    """Fetch weights into the cache of the hub's client."""
    if all(path.is_file() for path in source.weights_files):
        return
    with explained(source.name), quiet_transformers():
        snapshot_download(
            source.repository or "",
            revision=source.revision,
            allow_patterns=[*source.stored.files],
            local_files_only=source.here_only,
        )
    if missing := [path.name for path in source.weights_files if not path.is_file()]:
        raise refusal(
            source.name,
            f"{missing[0]} is not in the hub's local cache, and the hub was not "
            "reached; check the network, --offline and HF_HUB_OFFLINE",
        )


def local_folder(source: Source) -> Path:
    """Return the local folder of a source: its own, or that in the hub's cache."""
    return Path(source.location)


def read_files(source: Source, *, own_code: bool, tokenizer: bool = True) -> Iterator[Path]:
    """Yield every file that loading this source reads, without those of a base, sorted by name.

    Args:
        source: source of the target.
        own_code: whether the checkpoint's own code may run, which can read any of its files.
        tokenizer: whether its tokenizer is used.
    """
    folder = Path(source.location)
    if source.gguf_file is not None:
        yield folder / source.gguf_file
        return
    weights = [*source.weights_files, folder / (source.stored.index or "")]
    patterns: list[str] = []
    if source.base is None:
        patterns += SETTINGS
    else:
        patterns += [ADAPTER_CONFIG]
        if not source.brings_tokenizer:
            patterns += ["chat_template.jinja"]
            tokenizer = False
    if tokenizer:
        patterns += TOKENIZER
    if own_code:
        patterns += OF_OWN_CODE
    yield from sorted({*filter(Path.is_file, weights), *matching_files(folder, patterns)})
