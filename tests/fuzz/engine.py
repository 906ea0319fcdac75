"""The loop: take an input, change it, try it, and keep it where it leads somewhere new."""

from __future__ import annotations

import hashlib
import random
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memaudit.errors import MemauditError

from .limits import TooSlow, time_limit
from .mutation import mutate
from .targets import Target

SECONDS = 10.0
"""That one input may take. What takes longer is a find."""


@dataclass(frozen=True)
class Find:
    """An input that did what none may do."""

    what: str
    """The error and where it was raised."""
    content: bytes


@dataclass
class Tried:
    """What became of one target."""

    inputs: int = 0
    outcomes: set[str] = field(default_factory=set)
    finds: dict[str, Find] = field(default_factory=dict)
    """By what they are: the first input of each kind."""
    slowest: float = 0.0
    """Seconds of the input that took longest."""


def attempt(target: Target, content: bytes, folder: Path) -> tuple[str, Find | None]:
    """What came of one input, in a few words; and a find, if it is one."""
    try:
        with time_limit(SECONDS):
            return f"ok {target.run(content, folder)}", None
    except MemauditError as error:
        try:
            target.check_message(str(error))
        except AssertionError as broken:
            return str(broken), Find(str(broken), content)
        return f"{type(error).__name__} {_skeleton(str(error), folder)}", None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{type(error).__name__}{_place(error)}"
        if isinstance(error, (AssertionError, TooSlow)):
            what = f"{what}: {error}"
        return what, Find(what, content)


def run(target: Target, corpus: Path | None, seconds: float, seed: int) -> Tried:
    """Try inputs for so long. What leads to an outcome not seen before is kept in ``corpus``."""
    rng = random.Random(seed)
    tried = Tried()
    pool = [*target.seeds(), *_kept(corpus, target.name)]
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        for content in _inputs(rng, pool):
            begun = time.monotonic()
            outcome, find = attempt(target, content, Path(place))
            now = time.monotonic()
            tried.inputs += 1
            tried.slowest = max(tried.slowest, now - begun)
            if find is not None:
                tried.finds.setdefault(find.what, find)
            if outcome not in tried.outcomes:
                tried.outcomes.add(outcome)
                if len(content) < 100_000 and content not in pool:
                    pool.append(content)
                    _keep(corpus, target.name, content)
            if now > end:
                break
    return tried


def _inputs(rng: random.Random, pool: list[bytes]) -> Iterator[bytes]:
    """What is in the pool, then changed copies without end."""
    yield from list(pool)
    while True:
        # What came in last is most likely to lead on.
        recent = pool[-20:] if rng.random() < 0.3 else pool
        yield mutate(rng, rng.choice(recent), pool)


def _kept(corpus: Path | None, name: str) -> Sequence[bytes]:
    if corpus is None or not (corpus / name).is_dir():
        return ()
    return [path.read_bytes() for path in sorted((corpus / name).iterdir())]


def _keep(corpus: Path | None, name: str, content: bytes) -> None:
    if corpus is not None:
        (corpus / name).mkdir(parents=True, exist_ok=True)
        (corpus / name / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


def _skeleton(message: str, folder: Path) -> str:
    """The end of a message, where the advice is, without what differs from input to input."""
    return re.sub(r"\d+|'[^']*'", "*", message.replace(str(folder), ""))[-30:]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "/memaudit/" in one.filename] or frames[-1:]
    return "".join(f" at {Path(one.filename).name}:{one.lineno}" for one in own[-1:])
