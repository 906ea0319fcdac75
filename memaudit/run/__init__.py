"""A run folder: written, kept while unfinished, loaded, verified and merged; baselines.

Knows the files of a run and what their figures must satisfy. Trains and decodes nothing.
"""
