"""``diagnose latent``: what is remembered and does not come out."""
