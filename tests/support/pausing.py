"""``python pausing.py FIFO scan ...``: memaudit, which waits once it has kept a fit.

It writes a byte to the FIFO, and goes on when nobody reads from there any more.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Any

from memaudit.cli.app import main
from memaudit.run.unfinished import Unfinished

FIFO = sys.argv.pop(1)
keep = Unfinished.keep


def keep_and_wait(self: Unfinished, name: str, entry: Any) -> None:
    """Keep an entry; at the first fit, wait."""
    keep(self, name, entry)
    if name.startswith("fit-"):
        Unfinished.keep = keep  # type: ignore[method-assign]
        writer = os.open(FIFO, os.O_WRONLY)
        os.write(writer, b"1")
        waiting = select.poll()
        waiting.register(writer, 0)  # POLLERR alone: the reader has closed it
        waiting.poll()
        os.close(writer)


if __name__ == "__main__":
    Unfinished.keep = keep_and_wait  # type: ignore[method-assign]
    main()
