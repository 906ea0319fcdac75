"""``diagnose neurons``: probes of hidden states, and the units that an extraction needs."""
