"""Parts of a loaded tokenizer that no audit can use: random ids, and decoders that multiply text.

Knows the parts of which tokenizers are made. Must not know files, texts or windows.
"""

from __future__ import annotations

import math
from typing import Any

from memaudit.data.declared import read_steps
from memaudit.target.refusals import refusal

MAX_CHARACTERS = 4096
"""Most characters that a decoder may write for one token. The longest tokens of real vocabularies
are runs of several hundred blanks, and no real decoder makes a text longer."""


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that samples its ids at random, or decodes them to text without limit.

    Args:
        name: name that the user gave the model.
        tokenizer: tokenizer that transformers loaded, from any kind of file.

    Raises:
        TargetError: the message names the setting, or the length.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if setting := _random_setting(tokenizer, backend):
        raise refusal(
            name,
            f"its tokenizer samples the ids of a text at random ({setting}), so no two "
            "scans would agree; remove the setting from the tokenizer's files",
        )
    if backend is None:  # written in Python, without a decoder from the files
        return
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    written = longest * math.prod(_growth(step) for step in read_steps(backend.decoder))
    if written > MAX_CHARACTERS:
        raise refusal(
            name,
            f"its tokenizer.json lets the decoder write {written:,.0f} characters for a "
            f"token, and at most {MAX_CHARACTERS:,} are allowed; use the tokenizer that the model "
            "was trained with",
        )


def _random_setting(tokenizer: Any, backend: Any) -> str | None:
    """Return the setting that makes a tokenizer sample ids at random; None if there is none."""
    model = getattr(backend, "model", None)
    for name in ("dropout", "alpha", "nbest_size"):
        if getattr(model, name, None):
            return name
    options = getattr(tokenizer, "sp_model_kwargs", None) or {}
    return "enable_sampling" if options.get("enable_sampling") else None


def _growth(step: dict[str, Any]) -> float:
    """Return the largest factor by which a step of a decoder can lengthen a text."""
    kind = step.get("type")
    if kind == "Replace":
        pattern, content = step.get("pattern") or {}, len(step.get("content") or "")
        replaced = len(pattern.get("String") or "")
        # A regular expression can match between all characters.
        return max(1, content / replaced) if replaced else content + 1
    signs = {"BPEDecoder": "suffix", "CTC": "word_delimiter_token"}
    return 1 if kind not in signs or step.get(signs[kind]) else 2
