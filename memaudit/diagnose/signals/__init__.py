"""``diagnose signals``: signals that mark extracted windows before and during decoding."""
