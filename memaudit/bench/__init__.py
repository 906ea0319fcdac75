"""How fast memaudit is here, beside other ways to the same figures and beside the hardware's rate.

Knows the target, the extractor and the tuner. Nothing in a scan depends on this room.
"""
