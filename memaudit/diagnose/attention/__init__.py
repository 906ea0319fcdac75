"""``diagnose attention``: concentration of attention in extracted windows."""
