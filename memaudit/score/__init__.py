"""Extraction scores: per window first, rates second.

Knows token ids and clusters as numpy arrays. Knows nothing of models, prompts or files, and
imports no torch, so that a finished run can be scored again anywhere.
"""
