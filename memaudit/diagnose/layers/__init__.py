"""``diagnose layers``: what each block costs memory, and what it costs skill."""
