"""``diagnose attention``: how concentrated it is where text is extracted."""
