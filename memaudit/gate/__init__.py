"""A result, judged: what passes, what fails, and what too little data leaves open.

Knows summaries and thresholds. Knows nothing of how a summary came about, and decides nothing
that the user did not ask for: without a threshold there is no gate.
"""
