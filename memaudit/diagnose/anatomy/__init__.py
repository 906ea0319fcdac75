"""Blocks of a loaded model, their attention and feed-forward parts, identified by trial passes.

Knows modules and their effects. Knows nothing of memorization.
"""
