"""``python -m memaudit``, for launchers that start modules: ``torchrun -m memaudit scan ...``."""

from memaudit.cli.app import main

if __name__ == "__main__":
    main()
