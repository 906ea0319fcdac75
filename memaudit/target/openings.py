"""Files of a checkpoint while it is loaded: those opened as weights, and what each hashes to.

Knows how weights are opened: by safetensors, whose own code is not Python's, by torch.load, and by
Python's open, which an audit hook sees. Knows nothing of which files a checkpoint should have.
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

ENDINGS = (
    *(".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy"),
    *(".h5", ".msgpack"),
)
"""Of files that hold weights; whatever else Python opens is none of them."""
_LIBRARIES = tuple({f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("purelib", "platlib")})
"""Folders of installed packages, which read files of their own."""


class State(NamedTuple):
    """What tells a file from another one that was put in its place."""

    device: int
    inode: int
    size: int
    """Bytes."""
    changed: int
    """Nanoseconds since the epoch."""


class Openings:
    """The weights that were opened while something was watched."""

    def __init__(self, name: str, *, allow_pickle: bool) -> None:
        self.name = name
        """What the user calls the model."""
        self.allow_pickle = allow_pickle
        self._states: dict[str, State] = {}
        """Real path -> its state when it was opened first."""
        self._changed: set[str] = set()
        self.hashes: dict[str, tuple[str, State]] = {}
        """Real path -> SHA-256 and state, of every file that was hashed."""

    def add(self, path: str) -> None:
        """Remember a file; a link is the file that it leads to, as in the hub's cache."""
        try:
            real = os.path.realpath(path)
            state = _state(real)
        except (OSError, ValueError):  # nothing was there, so nothing is opened
            return
        if self._states.setdefault(real, state) != state:
            self._changed.add(real)

    def add_hash(self, path: str, digest: str, state: State) -> None:
        """Remember what a file hashes to. Raises TargetError if it was something else before."""
        before, _ = self.hashes.get(path, (digest, state))
        if before != digest:
            raise self._error(path)
        self.hashes[path] = digest, state

    def require_same(self) -> None:
        """Compare every file that was hashed with what it is now, its bytes only if touched.

        Raises:
            TargetError: one is another file, or cannot be read.
        """
        for path, (digest, before) in self.hashes.items():
            try:
                if _state(path) == before or file_sha256(Path(path)) == digest:
                    continue
            except OSError as error:
                raise self._error(path) from error
            raise self._error(path)

    def _error(self, path: str) -> TargetError:
        return TargetError(
            f"{self.name}: {os.path.basename(path)} changed while it was in use; let nothing write "
            "to it, and start again"
        )

    def require_exactly(self, files: Collection[Path]) -> None:
        """Hold what was opened against the files that a report names.

        Raises:
            TargetError: another file was opened, or one of them was not.
        """
        wanted = {os.path.realpath(path): path.name for path in files}
        others = [path for path in self._states if path not in wanted]
        others = [path for path in others if not path.startswith(_LIBRARIES)]
        if others:
            raise TargetError(
                f"{self.name}: loading it opened {os.path.basename(min(others))}, which is none of "
                "its own weights, so what is audited would not be what the report names; take out "
                "of its config what leads there"
            )
        if unopened := [name for path, name in wanted.items() if path not in self._states]:
            raise TargetError(
                f"{self.name}: loading it did not open {min(unopened)}, so the report would name "
                "weights that are not audited; move that file away"
            )

    def require_unchanged(self) -> None:
        """Hold the files against what they were when they were opened.

        Raises:
            TargetError: one was written to or replaced since.
        """
        for path, before in self._states.items():
            try:
                same = path not in self._changed and _state(path) == before
            except OSError:
                same = False
            if not same:
                raise TargetError(
                    f"{self.name}: {os.path.basename(path)} changed while it was loaded; let "
                    "nothing write to it, and start again"
                )


_watching: list[Openings] = []
"""Innermost last."""


def _state(path: str) -> State:
    status = os.stat(path)
    return State(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@contextmanager
def watched(name: str, *, allow_pickle: bool) -> Iterator[Openings]:
    """Watch which weights are opened, and let no pickle be, unless that was allowed.

    Args:
        name: what the user calls the model.
        allow_pickle: whether a pickle may be opened; where contexts lie in each other, all have to
            allow it.

    Raises:
        TargetError: from whatever tries to open a pickle that must not be.
    """
    _listen()
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
    """Tell every watch what a file hashes to. Raises TargetError if it was something else before.

    Raises OSError if the file is gone.
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
    """A function of torch that opens pickles, refused where that was not allowed."""

    def guarded(f: Any, *args: Any, **more: Any) -> Any:
        refusing = next((openings for openings in _watching if not openings.allow_pickle), None)
        if refusing is not None:
            named = isinstance(f, str | bytes | os.PathLike)
            file = os.path.basename(os.fsdecode(f)) if named else "a file"
            raise TargetError(
                f"{refusing.name}: loading it would open {file} as a pickle, which can run code; "
                "convert it to safetensors, or trust it with --allow-pickle"
            )
        _note(f)
        return load(f, *args, **more)

    return guarded


@contextmanager
def _replaced(name: str, before: Any, after: Any) -> Iterator[None]:
    """Let every module that has an object under its name have another for as long as this lasts.

    Libraries have copied it into their own modules as they were imported, and some do so later.
    """
    _swap(name, before, after)
    try:
        yield
    finally:
        _swap(name, after, before)


def _swap(name: str, before: Any, after: Any) -> None:
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})  # asking for the attribute would import lazy ones
        if names.get(name) is before:
            names[name] = after


def _listen() -> None:
    """Hear of every file that Python opens. A hook cannot be taken off, so there is one for all."""
    global _listens
    if not _listens:
        sys.addaudithook(_heard)
        _listens = True


_listens = False


def _heard(event: str, values: tuple[Any, ...]) -> None:
    if event != "open" or not _watching:
        return
    path, mode = values[0], values[1]
    if isinstance(mode, str) and not mode.startswith("r"):
        return  # written
    if isinstance(path, str | bytes) and os.fsdecode(path).lower().endswith(ENDINGS):
        _note(path)
