"""A model taken apart: its blocks, their attention and their feed-forward parts, found by trying.

Knows modules and what they do. Knows nothing of memory.
"""
