"""``diagnose neurons``: probes of hidden states, and units whose silencing stops an extraction."""
