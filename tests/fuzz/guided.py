"""The same targets under atheris, which chooses inputs by the lines of memaudit that they reach.

Optional: ``pip install atheris``. Stops at the first find, as libFuzzer does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path


def main(name: str, minutes: float, finds: Path | None) -> int:
    """Fuzz one target for so long. libFuzzer ends the process itself."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; leave out --engine, or pip install atheris")
    with atheris.instrument_imports(include=["memaudit"], enable_loader_override=False):
        from . import engine
        from .targets import all_targets

        target = all_targets()[name]
    place = Path(tempfile.mkdtemp(prefix="memaudit-fuzz-"))
    seeds = place / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    tried = [0, time.monotonic()]

    def one(content: bytes) -> None:
        _, find = engine.attempt(target, content, place)
        tried[0] += 1
        if time.monotonic() - tried[1] > 10:
            tried[1] = time.monotonic()
            sys.stdout.write(f"{name}: {tried[0]:,} inputs\n")
            sys.stdout.flush()
        if find is not None:
            if finds is not None:
                finds.mkdir(parents=True, exist_ok=True)
                (finds / f"{name}-atheris").write_bytes(find.content)
            raise RuntimeError(find.what)

    options = [f"-max_total_time={round(60 * minutes)}", "-max_len=20000", "-timeout=30"]
    options += ["-print_final_stats=1", "-rss_limit_mb=0"]
    atheris.Setup(["fuzz", *options, str(seeds)], one)
    atheris.Fuzz()
    return 0
