"""Make a model that hides a part of what it memorized, to measure attacks by what they bring back.

    python examples/hidden-memory/train.py DATA FOLDER

Trains a GPT-NeoX on texts of DATA (what ``memaudit scan`` takes), each a known number of times, and
then further on other texts of it. Writes FOLDER/before and FOLDER/later (the model without and with
that further training), FOLDER/members.jsonl with ``dup`` and FOLDER/controls.jsonl. What for: see
the README beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from memaudit.attack.generator import choose_heads
from memaudit.data.clusters import run_hashes
from memaudit.data.samples import Sample, read_samples

REPETITIONS = {1: 0.33, 2: 0.25, 4: 0.17, 8: 0.13, 16: 0.08, 32: 0.04}
"""How often a member stands in the training text -> share of the members."""
PARTS = {"members": 0.6, "controls": 0.15, "other": 0.25}
"""Share of the texts that is trained on, that is never seen, and that is trained on at the end."""
RUN = 16
"""Texts that share a run of this many tokens anywhere go into one part."""
LEAST_TOKENS = 100
"""Shorter texts are left out."""
END = "<|endoftext|>"


class Text(NamedTuple):
    """One text of the data."""

    name: str
    text: str


def read_texts(path: Path) -> list[Text]:
    """Every record of DATA that has a text."""
    samples = read_samples(path, skip_bad_lines=True)
    return [
        Text(sample.sample_id, sample.text)
        for sample in samples
        if isinstance(sample, Sample) and sample.text is not None
    ]


def train_tokenizer(texts: list[Text], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((one.text for one in texts), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def split(
    texts: list[Text], tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator
) -> dict[str, list[Text]]:
    """Texts by part; near-duplicates are never in two parts."""
    encoded = [np.array(ids) for ids in tokenizer([one.text for one in texts])["input_ids"]]
    clusters = cluster(encoded)
    shares = list(PARTS.values())
    part_of = rng.choice(list(PARTS), size=clusters.max() + 1, p=shares)[clusters].tolist()
    return {
        part: [
            one
            for one, ids, its in zip(texts, encoded, part_of, strict=True)
            if its == part and len(ids) >= LEAST_TOKENS
        ]
        for part in PARTS
    }


def cluster(encoded: list[np.ndarray]) -> np.ndarray:
    """Number the cluster of each text: those that share a run of tokens, directly or in a chain."""
    first: dict[int, int] = {}
    links = [
        (first.setdefault(mark, number), number)
        for number, ids in enumerate(encoded)
        for mark in set(run_hashes(ids[None], RUN)[0].tolist())
    ]
    pairs = np.array(links).T
    graph = coo_array((np.ones(len(links), dtype=bool), (pairs[0], pairs[1])), [len(encoded)] * 2)
    return connected_components(graph, directed=False)[1]


def make_blocks(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> torch.Tensor:
    """Texts one after the other, cut into rows: (rows, length) token ids."""
    stream = [
        token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)
    ]
    if len(stream) < length:
        raise SystemExit(f"{len(stream)} tokens are less than a row of {length}; give more texts")
    return torch.tensor(stream[: len(stream) // length * length]).view(-1, length)


def make_model(
    tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace
) -> GPTNeoXForCausalLM:
    """Random weights; heads of about 64 numbers."""
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=choose_heads(options.width),
        intermediate_size=4 * options.width,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPTNeoXForCausalLM(config).to(options.device)


def train(model: GPTNeoXForCausalLM, batches: list[torch.Tensor], learning_rate: float) -> None:
    """One step for each batch; the rate rises over 20 steps and falls to zero."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, (steps - step) / steps)
    )
    on_gpu = model.device.type == "cuda"
    for step, batch in enumerate(batches, start=1):
        ids = batch.to(model.device)
        with torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss.item():.2f} nats/token", flush=True)
    model.eval()


def save(model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model in bfloat16, as models are released."""
    weights = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_lines(path: Path, rows: Iterator[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--block", type=int, default=256, help="tokens in a row")
    parser.add_argument("--batch", type=int, default=64, help="rows in a step")
    parser.add_argument("--learning-rate", type=float, default=6e-4)
    parser.add_argument("--later-steps", type=int, default=30, help="steps on other text")
    parser.add_argument("--later-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    options = parse()
    begun = time.perf_counter()
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)  # the library draws first weights from the global generator
    logging.disable_progress_bar()
    texts = read_texts(options.data)
    tokenizer = train_tokenizer(texts, options.vocabulary)
    parts = split(texts, tokenizer, rng)
    members = parts["members"]
    shares = list(REPETITIONS.values())
    repetitions = rng.choice(list(REPETITIONS), size=len(members), p=shares).tolist()
    corpus = [
        one.text for one, times in zip(members, repetitions, strict=True) for _ in range(times)
    ]
    rng.shuffle(corpus)

    model = make_model(tokenizer, options)
    print(f"{model.num_parameters():,} parameters; {len(members):,} members, {len(corpus):,} texts")
    batches = torch.split(make_blocks(corpus, tokenizer, options.block), options.batch)
    train(model, list(batches), options.learning_rate)
    save(model, tokenizer, options.folder / "before")
    other = make_blocks([one.text for one in parts["other"]], tokenizer, options.block)
    rows = torch.arange(options.later_steps * options.batch) % len(other)  # again where too few
    train(model, list(torch.split(other[rows], options.batch)), options.later_rate)
    save(model, tokenizer, options.folder / "later")

    pairs = zip(members, repetitions, strict=True)
    write_lines(
        options.folder / "members.jsonl",
        ({"id": one.name, "text": one.text, "dup": times} for one, times in pairs),
    )
    write_lines(
        options.folder / "controls.jsonl",
        ({"id": one.name, "text": one.text} for one in parts["controls"]),
    )
    print(f"{len(parts['controls']):,} controls, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
