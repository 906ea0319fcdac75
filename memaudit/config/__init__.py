"""Settings: type, default, bounds and help of each, and where its value came from.

Imports only memaudit.system and memaudit.errors.
"""
