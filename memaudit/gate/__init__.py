"""Verdicts on a result: pass, fail, or inconclusive for want of data.

Knows summaries and thresholds. Knows nothing of how a summary was made, and decides only what the
user asked for: without a threshold there is no gate.
"""
