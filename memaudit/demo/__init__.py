"""A scan whose answers are known: what is shipped for it, and how the instrument is judged."""
