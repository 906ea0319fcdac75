"""Reports: pure functions from a ScanResult to text. No torch, no printing, no files."""
