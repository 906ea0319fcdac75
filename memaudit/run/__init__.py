"""Run folders on disk: record, resume, load, verify, merge; baselines.

Knows the files of a run and what their figures must satisfy. Trains and decodes nothing.
"""
