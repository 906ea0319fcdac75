"""Reports: pure functions from a ScanResult to text. No torch, no printing, no files.

A format is a module here; `memaudit.cli.showing` lists the formats and calls them.
"""
