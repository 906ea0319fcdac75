"""Sensitive content in texts: counts by category, never the values. Numpy only, no torch."""
