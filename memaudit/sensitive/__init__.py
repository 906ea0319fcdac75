"""What kind of thing a text holds: counts by category, never the value. Numpy only, no torch."""
