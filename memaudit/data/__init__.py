"""Text in, token windows out. Knows nothing of prompts or of models' weights."""
