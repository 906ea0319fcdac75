"""The command line: flags to settings, results to stdout, errors to stderr and an exit code.

The only room that prints or exits. Heavy packages are imported inside the commands, so that
``--help`` and usage errors answer at once.
"""
