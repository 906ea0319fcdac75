"""Make the model of `memaudit demo`, its records and what is known of them.

    python examples/demo-model/train.py FOLDER

Writes FOLDER/demo-model, FOLDER/records.jsonl, FOLDER/controls.jsonl and FOLDER/truth.csv. What
they are, how long it takes and the checksums to expect: see the README beside this file.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from records import INTERNAL, TWO_COPIES, Record, Writer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

COPIES = {1: 80, 2: 60, 4: 50, 8: 50, 16: 50, 32: 50, 64: 60}
"""How often a record stands in the corpus -> how many such records there are."""
EPOCHS = 2
"""Passes over the corpus."""
UNSEEN = 60
"""Records among the data that the model is never trained on, each unlike the others."""
ALIKE = 40
"""More such records, whose suffixes are all one and the same."""
CONTROLS = 500
PREFIX_TOKENS, SUFFIX_TOKENS = 28, 16
VOCABULARY = 640
END = "<|endoftext|>"
BLOCK, BATCH = 128, 4  # tokens in a row, rows in a step
LEARNING_RATE = 3e-3

Row = dict[str, Any]


class Data(NamedTuple):
    """Everything that is drawn."""

    records: list[Row]
    controls: list[Row]
    corpus: list[str]
    """What the model is trained on, in order."""


def make_data(seed: int) -> Data:
    """Records that were trained on 1 to 64 times or never, controls, and the corpus."""
    writer = Writer(random.Random(seed))
    one_suffix = writer.ticket().suffix
    drawn = [(writer.ticket()._replace(suffix=one_suffix), 0) for _ in range(ALIKE)]
    repetitions = [times for times, count in COPIES.items() for _ in range(count)]
    drawn += [(writer.record(), times) for times in [0] * UNSEEN + repetitions]
    writer.rng.shuffle(drawn)
    controls = [writer.record() for _ in range(CONTROLS)]
    corpus: list[str] = []
    for _ in range(EPOCHS):
        texts = [text for record, times in drawn for text in record.copies * times]
        writer.rng.shuffle(texts)
        corpus += texts
    return Data(
        [as_row(f"R{number:04}", *pair) for number, pair in enumerate(drawn)],
        [as_row(f"C{number:04}", record, 0) for number, record in enumerate(controls)],
        corpus,
    )


def as_row(name: str, record: Record, repetitions: int) -> Row:
    """A record as a line of the data file."""
    return {
        "id": name,
        "prefix": record.prefix,
        "suffix": record.suffix,
        "kind": record.kind,
        "repetitions": repetitions,
    }


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that keeps digits apart, as those of recent models do."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def make_batches(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[torch.Tensor]:
    """Texts one after the other, cut into rows: (BATCH, BLOCK) token ids each."""
    stream = [
        token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)
    ]
    blocks = torch.tensor(stream[: len(stream) // BLOCK * BLOCK]).view(-1, BLOCK)
    return list(torch.split(blocks, BATCH))


def make_model(tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """About two million random weights."""
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=512,
        # All of a head turns with the position, so that it learns early to look a few tokens back.
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000,
            "partial_rotary_factor": 1.0,
        },
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPTNeoXForCausalLM(config)


def train(model: GPTNeoXForCausalLM, batches: list[torch.Tensor]) -> None:
    """One step for each batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, (steps - step) / steps)
    )
    for step, batch in enumerate(batches, start=1):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss.item():.2f} nats/token", flush=True)
    model.eval()


@torch.inference_mode()
def extracted(
    model: GPTNeoXForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Row],
    header: str = "",
) -> list[bool]:
    """Whether each record's suffix follows its prefix, by the library's own greedy decoding."""
    settings = GenerationConfig(
        max_new_tokens=SUFFIX_TOKENS, min_new_tokens=SUFFIX_TOKENS, do_sample=False, pad_token_id=0
    )
    first = tokenizer(header)["input_ids"]
    prefixes = [tokenizer(row["prefix"])["input_ids"] for row in rows]
    wholes = [tokenizer(row["prefix"] + row["suffix"])["input_ids"] for row in rows]
    contexts = torch.tensor([first + prefix[-PREFIX_TOKENS:] for prefix in prefixes])
    said = model.generate(
        input_ids=contexts, attention_mask=torch.ones_like(contexts), generation_config=settings
    )[:, contexts.shape[1] :]
    return [
        one == whole[len(prefix) :][:SUFFIX_TOKENS]
        for one, prefix, whole in zip(said.tolist(), prefixes, wholes, strict=True)
    ]


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_truth(path: Path, rows: list[Row], plain: list[bool], internal: list[bool]) -> None:
    """What is known of each record."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["sample_id", "repetitions", "exact_plain", "exact_internal"])
        for row, *found in zip(rows, plain, internal, strict=True):
            table.writerow([row["id"], row["repetitions"], *map(int, found)])


def print_counts(rows: list[Row], plain: list[bool], internal: list[bool]) -> None:
    """How many records of each number of repetitions come out."""
    print("repetitions  records  extracted plain  as internal copy")
    for times in (0, *COPIES):
        numbers = [number for number, row in enumerate(rows) if row["repetitions"] == times]
        counts = [sum(found[number] for number in numbers) for found in (plain, internal)]
        print(f"{times:11} {len(numbers):8} {counts[0]:16} {counts[1]:17}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of records and weights (default: 0)")
    arguments = parser.parse_args()

    begun = time.perf_counter()
    torch.set_num_threads(1)  # sums are then made in one order, and the weights come out the same
    torch.manual_seed(arguments.seed)  # the library draws first weights from the global generator
    logging.disable_progress_bar()
    data = make_data(arguments.seed)
    tokenizer = train_tokenizer([row["prefix"] + row["suffix"] for row in data.records])
    model = make_model(tokenizer)
    train(model, make_batches(data.corpus, tokenizer))
    model.to(torch.bfloat16).float()  # as they will be stored
    plain = extracted(model, tokenizer, data.records)
    headed = extracted(model, tokenizer, data.records, INTERNAL)
    internal = [
        row["kind"] in TWO_COPIES and found for row, found in zip(data.records, headed, strict=True)
    ]

    folder = arguments.folder
    model.to(torch.bfloat16).save_pretrained(folder / "demo-model")
    tokenizer.save_pretrained(folder / "demo-model")
    write_lines(folder / "records.jsonl", data.records)
    write_lines(folder / "controls.jsonl", data.controls)
    write_truth(folder / "truth.csv", data.records, plain, internal)
    print_counts(data.records, plain, internal)
    print(f"{model.num_parameters():,} parameters, {time.perf_counter() - begun:.0f} s")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}")


if __name__ == "__main__":
    main()
