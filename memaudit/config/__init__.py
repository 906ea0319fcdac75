"""Settings: type, default, bounds and help of each, and where its value came from.

Imports no other room but the system's.
"""
