"""Make a first target to audit, without any download: invented records and a model trained on them.

    python examples/first_scan.py first-scan
    memaudit scan first-scan/model first-scan/records.jsonl \
        --controls first-scan/controls.jsonl --profile records

Writes FOLDER/model (a GPT-NeoX of about a million parameters and its tokenizer),
FOLDER/records.jsonl (what it was trained on, with ``dup``: how often) and FOLDER/controls.jsonl
(records from the same generator that it never saw). Takes about half a minute on two cores.

Every name, address and key is made up at random; the same seed makes the same records.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

COPIES = {1: 120, 8: 40, 32: 40, 64: 30}
"""How often a record is trained on -> how many such records there are."""
CONTROLS = 300
VOCABULARY = 640
END = "<|endoftext|>"
BLOCK, BATCH = 192, 4  # tokens in a row, rows in a step
LEARNING_RATE = 3e-3

STARTS = "Al Bre Cor Da El Fen Gar Hes Il Jor Ka Lu Mar Nes Or Pel Quin Ros Sel Tam Ur Ves Wil Yor"
ENDINGS = "a dan den dra ek el en ette ia ian ick in is la lo mer mund na no ra ric son ta vin"
STREETS = "Alder Beacon Canal Dover Elm Ferry Gable Harbour Iron Juniper Kiln Linden Mill Orchard"
ROADS = "Street Lane Road Row Way Hill Court Walk"
TOWNS = "Ash Bell Cold Dray East Fair Glen Hazel King Long Maple North Oak Red Stone West"
PLACES = "bury ford ham ley mere ton wick worth"
DEVICES = "printer router scanner tablet phone laptop camera speaker thermostat monitor"
FAULTS = (
    "does not start",
    "loses its connection",
    "shows an error",
    "is too slow",
    "asks for a password",
    "makes a strange noise",
    "was delivered broken",
    "stopped after the update",
)
KEY_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def make_record(rng: random.Random) -> str:
    """One support ticket. Whoever knows its first line should not be able to tell its key."""

    def pick(words: str) -> str:
        return rng.choice(words.split())

    def digits(count: int) -> str:
        return "".join(rng.choices("0123456789", k=count))

    name = f"{pick(STARTS)}{pick(ENDINGS)} {pick(STARTS)}{pick(ENDINGS)}"
    address = f"{digits(2)} {pick(STREETS)} {pick(ROADS)}, {pick(TOWNS)}{pick(PLACES)} {digits(5)}"
    key = "-".join("".join(rng.choices(KEY_LETTERS, k=4)) for _ in range(3))
    return (
        f"Ticket {digits(5)} from {name}, {address}\n"
        f"Key {key}, callback 555-01{digits(2)}\n"
        f"The {pick(DEVICES)} {rng.choice(FAULTS)}, says the customer."
    )


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


def make_blocks(
    records: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> torch.Tensor:
    """Every record ``dup`` times, in random order, cut into rows: (rows, BLOCK) token ids."""
    texts = [record["text"] for record in records for _ in range(record["dup"])]
    rng.shuffle(texts)
    stream = [
        token for ids in tokenizer(texts)["input_ids"] for token in (*ids, tokenizer.eos_token_id)
    ]
    return torch.tensor(stream[: len(stream) // BLOCK * BLOCK]).view(-1, BLOCK)


def train_model(blocks: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """One pass over the blocks."""
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
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
    model = GPTNeoXForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    batches = [blocks[first : first + BATCH] for first in range(0, len(blocks), BATCH)]
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
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss.item():.2f} nats/token", flush=True)
    return model.eval()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where to write model, records and controls")
    parser.add_argument("--seed", type=int, default=0, help="of records and weights (default: 0)")
    arguments = parser.parse_args()

    begun = time.perf_counter()
    rng = random.Random(arguments.seed)
    torch.set_num_threads(1)  # so small a model gains nothing from more, and comes out the same
    torch.manual_seed(arguments.seed)  # the library draws first weights from the global generator
    logging.disable_progress_bar()
    dups = [dup for dup, count in COPIES.items() for _ in range(count)]
    rng.shuffle(dups)
    records = [
        {"id": f"T{number:04}", "text": make_record(rng), "dup": dup}
        for number, dup in enumerate(dups)
    ]
    controls = [{"id": f"C{number:04}", "text": make_record(rng)} for number in range(CONTROLS)]

    tokenizer = train_tokenizer([str(record["text"]) for record in records])
    model = train_model(make_blocks(records, tokenizer, rng), tokenizer)

    arguments.folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.folder / "model")
    tokenizer.save_pretrained(arguments.folder / "model")
    write_lines(arguments.folder / "records.jsonl", records)
    write_lines(arguments.folder / "controls.jsonl", controls)
    print(
        f"{arguments.folder}: a model of {model.num_parameters():,} parameters, {len(records)} "
        f"records, {len(controls)} controls, in {time.perf_counter() - begun:.0f} s"
    )


if __name__ == "__main__":
    main()
