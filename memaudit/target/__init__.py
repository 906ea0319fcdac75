"""The frozen model under audit: the only room that loads weights.

Files, in the order in which they may import one another: ``failures`` (quiet, and errors in one
line), ``source`` (what MODEL names), ``loading`` (config, tokenizer, weights), ``checkpoint``
(the loaded target and every choice made for it), ``softprompt_check`` (whether it can be audited).
Knows nothing of data, prompts or scores.
"""
