"""Why a finished run found what it found: what is hidden, where it sits, what drives it.

Knows a finished run, its files and its model, and gives each answer as a `Diagnosis`. Knows
nothing of formats.
"""
