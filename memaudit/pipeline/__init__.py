"""A whole scan: prepare, attack, score, judge, write. ``scan.scan()`` reads as the pipeline.

Joins the rooms below it. Has no user interface: progress is passed in.
"""
