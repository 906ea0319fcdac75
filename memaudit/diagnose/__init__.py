"""Diagnoses of a finished run: what is hidden, where in the model it is, what drives extraction.

Knows a finished run, its files and its model. Each diagnosis has a folder and follows one
`protocol`; none knows output formats.
"""
