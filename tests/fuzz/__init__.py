"""Hostile input: what may be thrown at everything that memaudit reads, and what must not happen.

``test_*.py`` are short and part of the suite. ``python -m tests.fuzz`` runs for as long as it is
told to, and says how many inputs were tried and what was found.
"""
