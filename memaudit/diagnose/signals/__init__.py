"""``diagnose signals``: what gives an extracted window away, before it is decoded and while."""
