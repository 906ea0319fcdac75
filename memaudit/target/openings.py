"""Files of a checkpoint while it is loaded: those opened as weights, and the hash of each.

Knows how weights are opened: by safetensors, through native code, by torch.load, and by Python's
open, which an audit hook sees. Knows nothing about which files a checkpoint should have.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch

from memaudit.errors import TargetError
from memaudit.system.files import file_sha256
from memaudit.target.refusals import refusal

ENDINGS = (
    *(".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy"),
    *(".h5", ".msgpack"),
)
"""Name endings of weights files; any other file that Python opens is ignored."""
_LIBRARIES = tuple({f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("purelib", "platlib")})
"""Folders of installed packages, which may read their own files."""


class State(NamedTuple):
    """State of a file, which differs if the file was replaced or written to."""

    device: int
    inode: int
    size: int
    """Bytes."""
    changed: int
    """Nanoseconds since the epoch."""


class Openings:
    """Record of the weights that were opened in a watched context."""

    def __init__(self, name: str, *, allow_pickle: bool) -> None:
        self.name = name
        """Name that the user gave the model."""
        self.allow_pickle = allow_pickle
        self._states: dict[str, State] = {}
        """Real path -> its state when it was first opened."""
        self._changed: set[str] = set()
        self.hashes: dict[str, tuple[str, State]] = {}
        """Real path -> SHA-256 and state, for every file that was hashed."""

    def add(self, path: str) -> None:
        """Record a file; a link is recorded as its target, as in the hub's cache."""
        try:
            real = os.path.realpath(path)
            state = _state(real)
        except (OSError, ValueError):  # the file does not exist, so nothing is opened
            return
        if self._states.setdefault(real, state) != state:
            self._changed.add(real)

    def add_hash(self, path: str, digest: str, state: State) -> None:
        """Record the hash of a file. Raises TargetError if it differs from an earlier hash."""
        before, _ = self.hashes.get(path, (digest, state))
        if before != digest:
            raise self._error(path)
        self.hashes[path] = digest, state

    def require_same(self) -> None:
        """Compare every hashed file with its state now, and its bytes only if that differs.

        Raises:
            TargetError: a file has changed, or cannot be read.
        """
        for path, (digest, before) in self.hashes.items():
            try:
                if _state(path) == before or file_sha256(Path(path)) == digest:
                    continue
            except OSError as error:
                raise self._error(path) from error
            raise self._error(path)

    def _error(self, path: str) -> TargetError:
        return refusal(
            self.name,
            f"{os.path.basename(path)} changed while it was in use; let nothing write "
            "to it, and start again",
        )

    def require_exactly(self, files: Collection[Path]) -> None:
        """Compare the opened files with those that a report names.

        Raises:
            TargetError: another file was opened, or one of them was not.
        """
        wanted = {os.path.realpath(path): path.name for path in files}
        foreign = [
            path for path in self._states if path not in wanted and not path.startswith(_LIBRARIES)
        ]
        if foreign:
            raise refusal(
                self.name,
                f"loading it opened {os.path.basename(min(foreign))}, which is not "
                "one of its own weights files, so the audited weights would not be those that the "
                "report names; remove the reference to it from its config",
            )
        if unopened := [name for path, name in wanted.items() if path not in self._states]:
            raise refusal(
                self.name,
                f"loading it did not open {min(unopened)}, so the report would name "
                "weights that are not audited; move that file away",
            )

    def require_unchanged(self) -> None:
        """Compare the files with their state when they were opened.

        Raises:
            TargetError: a file was written to or replaced since.
        """
        for path, before in self._states.items():
            try:
                same = path not in self._changed and _state(path) == before
            except OSError:
                same = False
            if not same:
                raise refusal(
                    self.name,
                    f"{os.path.basename(path)} changed while it was loaded; let "
                    "nothing write to it, and start again",
                )


_watching: list[Openings] = []
"""Active watches, innermost last."""


def _state(path: str) -> State:
    status = os.stat(path)
    return State(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextmanager
def watched(name: str, *, allow_pickle: bool) -> Iterator[Openings]:
    """Watch which weights are opened, and refuse pickles unless they are allowed.

    Args:
        name: name that the user gave the model.
        allow_pickle: whether a pickle may be opened; every one of nested contexts must allow it.

    Raises:
        TargetError: at any attempt to open a pickle that is not allowed.
    """
    _install_hook()
    openings = Openings(name, allow_pickle=allow_pickle)
    with ExitStack() as stack:
        if not _watching:
            stack.enter_context(_replaced("safe_open", safetensors.safe_open, _noting_safe_open))
            stack.enter_context(_replaced("load", torch.load, _pickle_guard(torch.load)))
            stack.enter_context(_replaced("load", torch.jit.load, _pickle_guard(torch.jit.load)))
        _watching.append(openings)
        stack.callback(_watching.remove, openings)
        yield openings


def note_hash(path: Path, digest: str) -> None:
    """Tell every watch the hash of a file. Raises TargetError if it differs from an earlier hash.

    Raises OSError if the file no longer exists.
    """
    real = os.path.realpath(path)
    for openings in _watching:
        openings.add_hash(real, digest, _state(real))


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, and tell every watch. Raises as `note_hash` does."""
    digest = file_sha256(path)
    note_hash(path, digest)
    return digest


def _note(path: Any) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        for openings in _watching:
            openings.add(os.fsdecode(path))


_safe_open = safetensors.safe_open


def _noting_safe_open(filename: Any, *args: Any, **more: Any) -> Any:
    _note(filename)
    return _safe_open(filename, *args, **more)


def _pickle_guard(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of torch that opens pickles, to refuse those that are not allowed."""

    def guarded(f: Any, *args: Any, **more: Any) -> Any:
        refusing = next((openings for openings in _watching if not openings.allow_pickle), None)
        if refusing is not None:
            named = isinstance(f, str | bytes | os.PathLike)
            file = os.path.basename(os.fsdecode(f)) if named else "a file"
            raise refusal(
                refusing.name,
                f"loading it would open {file} as a pickle, which can run code; "
                "convert it to safetensors, or trust it with --allow-pickle",
            )
        _note(f)
        return load(f, *args, **more)

    return guarded


@contextmanager
def _replaced(name: str, before: Any, after: Any) -> Iterator[None]:
    """Replace an object of this name in every module while the context lasts.

    Libraries copy it into their own modules when they are imported, and some do so later.
    """
    _swap(name, before, after)
    try:
        yield
    finally:
        _swap(name, after, before)


def _swap(name: str, before: Any, after: Any) -> None:
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})  # plain access would import lazy ones
        if names.get(name) is before:
            names[name] = after


def _install_hook() -> None:
    """Install an audit hook for files that Python opens: a single hook, as none can be removed."""
    global _has_hook
    if not _has_hook:
        sys.addaudithook(_on_event)
        _has_hook = True


_has_hook = False


def _on_event(event: str, values: tuple[Any, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, mode = values[0], values[1]
    if isinstance(mode, str) and not mode.startswith("r"):
        return  # opened for writing
    if isinstance(path, str | bytes) and os.fsdecode(path).lower().endswith(ENDINGS):
        _note(path)
