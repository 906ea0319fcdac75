"""memaudit: audit a causal language model for memorized training data before it is released."""

__version__ = "0.1.0"
