"""The machine and this process: files, folders, memory, time limits, threads and the network.

Knows nothing of language models.
"""
