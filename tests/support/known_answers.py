"""Checkpoints with known answers: random weights, and records that greedy decoding completes.

Nothing is trained. The tokenizer has one token per invented word, so ids and text are the same
thing. A record is a random prefix followed by the model's own greedy continuation, which makes the
true exact rate of the attack ``none`` 100 %: an audit that reports less has audited something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from memaudit.gate import validity

JUDGE_VALIDITY = validity.judge_validity
"""As it is outside of tests (conftest)."""

P = S = 8
"""Tokens in the prefix and in the suffix of every record."""


def word_tokenizer(
    words: int = 60,
    *,
    bos: str | None = None,
    chat_template: str | None = None,
    special: Sequence[str] = (),
) -> Any:
    """Build a tokenizer of ``words`` invented words: w00 (the unknown token), w01, w02, …

    Args:
        words: entries beside the special tokens.
        bos: token that the tokenizer puts before every text; none where not given.
        chat_template: Jinja source.
        special: further special tokens, as a chat template writes them.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    leading = [bos] if bos else []
    entries = [*leading, *special, *(f"w{number:02d}" for number in range(words))]
    backend = Tokenizer(
        models.WordLevel({entry: number for number, entry in enumerate(entries)}, unk_token="w00")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, 0)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w00", bos_token=bos)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = chat_template
    return tokenizer


def random_llama(vocabulary: int, *, seed: int = 0, std: float = 0.3, **settings: Any) -> Any:
    """Build a random Llama whose logits are far enough apart to be told from each other."""
    from transformers import LlamaConfig, LlamaForCausalLM

    defaults: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    config = LlamaConfig(vocab_size=vocabulary, initializer_range=std, **(defaults | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@torch.no_grad()
def greedy_continuation(model: Any, ids: Sequence[int], count: int = S) -> list[int]:
    """Return ``count`` ids by greedy decoding: whole passes over token ids, without a cache."""
    known = list(ids)
    for _ in range(count):
        logits = model(input_ids=torch.tensor([known]), use_cache=False).logits
        known.append(int(logits[0, -1].argmax()))
    return known[len(ids) :]


def greedy_records(
    model: Any,
    tokenizer: Any,
    count: int = 24,
    *,
    prefix: int = P,
    suffix: int = S,
    leading_ids: Sequence[int] = (),
    seed: int = 1,
) -> list[list[int]]:
    """Return ``count`` records of prefix + suffix ids that ``model`` completes greedily.

    Args:
        model: takes ``input_ids``.
        tokenizer: as ``word_tokenizer`` builds it; records consist of its words alone.
        count: records to make.
        prefix: random tokens of each record.
        suffix: tokens that the model adds to them.
        leading_ids: what stands before each prefix without being part of the record, as BOS does.
        seed: of the random prefixes.
    """
    rng = np.random.default_rng(seed)
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = [id_ for id_, name in enumerate(names) if name.startswith("w") and name != "w00"]
    records: list[list[int]] = []
    while len(records) < count:
        start = [int(id_) for id_ in rng.choice(words, prefix, replace=False)]
        continuation = greedy_continuation(model, [*leading_ids, *start], suffix)
        if len(set(continuation)) > 2 and set(continuation) <= set(words):
            records.append(start + continuation)
    return records


def text_of(tokenizer: Any, ids: Iterable[int]) -> str:
    """Return the words of ``ids``, as the tokenizer reads them back."""
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Audit:
    """What one ``memaudit scan`` came to."""

    exit_code: int
    stderr: str
    """On one line."""
    report: dict[str, Any] | None
    """report.json; None where the run wrote none."""

    @property
    def exact(self) -> tuple[int, int]:
        """Samples that ``none`` extracts, and samples scored; they have one window each."""
        assert self.report is not None, self.stderr
        (none,) = (row for row in self.report["attacks"] if row["attack"] == "none")
        return none["exact"]["k"], none["exact"]["n"]


def audit(model: Path | str, data: Path, out: Path, *options: object) -> Audit:
    """Run ``memaudit scan`` in this process: P+S tokens, the attack ``none``, on the CPU.

    ``options`` come last, so that they overrule these. A run that means nothing is inconclusive.
    """
    from memaudit.cli.app import app

    given: list[object] = ["scan", model, data, "--out", out]
    given += ["--prefix-tokens", P, "--suffix-tokens", S]
    given += ["--attacks", "none", "--device", "cpu", *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validity, "judge_validity", JUDGE_VALIDITY)
        done = CliRunner().invoke(app, [str(word) for word in given])
    report = out / "report.json"
    return Audit(
        done.exit_code,
        " ".join(done.stderr.split()),
        json.loads(report.read_text("utf-8")) if report.is_file() else None,
    )
