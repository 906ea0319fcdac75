"""Prompts and what they extract: the only room that trains or decodes."""
