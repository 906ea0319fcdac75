"""``python -m tests.fuzz --minutes 10``: every target in turn, for as long as that takes.

Run from the root of the checkout, in the environment that the tests run in.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]


def main() -> int:
    """0 where nothing was found, else 1."""
    given = _arguments()
    sys.path[:0] = [str(TESTS), str(TESTS / "support")]
    import conftest  # noqa: F401  # what tests set before torch is imported

    os.chdir(tempfile.mkdtemp(prefix="memaudit-fuzz-"))
    if given.engine == "atheris":
        from . import guided

        return guided.main(given.target[0], given.minutes, given.finds)

    from . import engine, limits
    from .targets import all_targets

    targets = all_targets()
    for name in given.target or targets:
        if name not in targets:
            sys.exit(f"no target {name}; there are {', '.join(targets)}")
    chosen = [targets[name] for name in given.target or targets]
    for target in chosen:
        target.seeds()  # builds what all inputs share, before memory is limited
    limits.limit_memory()
    found = total = 0
    for number, target in enumerate(chosen):
        seconds = 60 * given.minutes / len(chosen)
        tried = engine.run(target, given.corpus, seconds, given.seed + number)
        total += tried.inputs
        found += len(tried.finds)
        _say(
            f"{target.name}: {tried.inputs:,} inputs, {len(tried.outcomes)} outcomes, slowest "
            f"{tried.slowest:.1f} s, {len(tried.finds)} found"
        )
        for number, find in enumerate(tried.finds.values()):
            _say(f"  {find.what}")
            if given.finds is not None:
                given.finds.mkdir(parents=True, exist_ok=True)
                (given.finds / f"{target.name}-{number}").write_bytes(find.content)
    _say(f"{total:,} inputs in {given.minutes:g} minutes, {found} found")
    return int(found > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--target", action="append", default=[], help="as often as wanted; all")
    parser.add_argument("--corpus", type=Path, help="folder that inputs are kept in for next time")
    parser.add_argument("--finds", type=Path, help="folder that finds are written to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    given = parser.parse_args()
    for name in ("corpus", "finds"):
        if getattr(given, name) is not None:
            setattr(given, name, getattr(given, name).absolute())
    if given.engine == "atheris" and len(given.target) != 1:
        parser.error("--engine atheris takes one --target")
    return given


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
