"""Settings: type, default, bounds, help and flag of each, and where its value came from.

Imports only memaudit.system and memaudit.errors.
"""
