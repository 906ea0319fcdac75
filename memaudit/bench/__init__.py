"""Speed of memaudit, compared with plain implementations and with the hardware's rate.

Knows the target, the extractor and the tuner. Nothing in a scan depends on this room.
"""
