"""``diagnose sweep``: extraction against everything that drives it."""
