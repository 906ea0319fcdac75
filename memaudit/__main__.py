"""``python -m memaudit``, for launchers that start modules: ``torchrun -m memaudit scan ...``."""

import os
import sys

# Python puts the working folder first in the module path. A file next to the model or the data,
# such as numpy.py, would then run. The memaudit command does not do that either.
if not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [os.getcwd()]):
    del sys.path[0]

from memaudit.cli.app import main

if __name__ == "__main__":
    main()
