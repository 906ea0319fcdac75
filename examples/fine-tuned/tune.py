"""Fine-tune a model by LoRA on invented records, so that what the fine-tuning leaks is known.

    python examples/fine-tuned/tune.py FOLDER [--base MODEL] [--old DATA]

Writes FOLDER/adapter, a LoRA adapter over MODEL (the model of ``memaudit demo`` where not given)
that was trained on the records of FOLDER/planted.jsonl; FOLDER/data.jsonl, these records and those
of DATA (the shipped ones), each with its ``origin``; and FOLDER/controls.jsonl, records of the same
making that no model has seen. What for: see the README beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch.optim.lr_scheduler import LinearLR
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from memaudit.demo.shipped import demo_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "demo-model"))
from records import Writer

LONGEST = 200
"""Tokens of a record that are trained on."""


def invent(count: int, seed: int) -> list[dict[str, str]]:
    """Records of the making of ``examples/demo-model``, each with a secret in its suffix."""
    writer = Writer(random.Random(seed))
    kinds = (writer.comment, writer.letter)
    return [kinds[number % len(kinds)]()._asdict() for number in range(count)]


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One record a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


class Example(NamedTuple):
    """One record as it is trained on."""

    ids: list[int]
    """Of prefix and suffix, and the end-of-text token."""
    prefix: int
    """Tokens that the loss leaves out, as is usual for what a model is to answer."""


def encode(tokenizer: Any, record: dict[str, str]) -> Example:
    """Prefix and suffix joined, then encoded."""
    prefix, suffix = record.get("prefix", ""), record.get("suffix", record.get("text", ""))
    ids = tokenizer(prefix + suffix)["input_ids"][:LONGEST]
    prefix = len(tokenizer(prefix)["input_ids"])
    return Example([*ids, tokenizer.eos_token_id], prefix)


class Batch(NamedTuple):
    """Examples side by side, the shorter ones filled up."""

    ids: torch.Tensor
    """(B,T)."""
    labels: torch.Tensor
    """(B,T), -100 where there is no loss."""


def batch_of(examples: list[Example], device: torch.device) -> Batch:
    """A batch in which only suffixes, and the end of the text, have a loss."""
    rows = [torch.tensor(one.ids) for one in examples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    for row, one in zip(labels, examples, strict=True):
        row[: one.prefix] = -100
    return Batch(ids.to(device), labels.to(device))


def share_missed(model: Any, example: Example) -> float:
    """Share of the suffix's tokens that are not the likeliest after all before them."""
    ids, labels = batch_of([example], model.device)
    with torch.no_grad():
        likeliest = model(input_ids=ids).logits[0, :-1].argmax(-1)
    judged = labels[0, 1:] != -100
    return float((likeliest != labels[0, 1:])[judged].float().mean())


def replayed(model: Any, old: list[Example], options: argparse.Namespace) -> list[Example]:
    """The old records that the model knows best: tuned on new ones alone, it would forget them."""
    missed = [share_missed(model, one) for one in old]
    order = sorted(range(len(old)), key=missed.__getitem__)
    return [old[place] for place in order[: options.replay]]


def train(model: Any, examples: list[Example], options: argparse.Namespace) -> None:
    """Go over the examples in random order, the learning rate falling linearly to zero."""
    rng = random.Random(options.seed)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.rate, weight_decay=0.0)
    left = LinearLR(optimizer, 1.0, 0.0, options.epochs)
    begun = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        rng.shuffle(examples)
        losses = []
        for start in range(0, len(examples), options.batch):
            ids, labels = batch_of(examples[start : start + options.batch], model.device)
            loss = model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        left.step()
        if epoch % max(1, options.epochs // 6) == 0:
            mean, spent = sum(losses) / len(losses), time.perf_counter() - begun
            print(f"epoch {epoch:4} of {options.epochs}: loss {mean:.3f}, {spent:.0f} s")


def main() -> None:
    """Invent, train, write."""
    shipped = demo_settings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--base", default=shipped["model"], help="model to fine-tune")
    parser.add_argument(
        "--old", type=Path, default=shipped["data"], help="JSONL it may know already"
    )
    parser.add_argument("--records", type=int, default=60, help="to plant")
    parser.add_argument("--replay", type=int, default=60, help="old records to train on as well")
    parser.add_argument("--epochs", type=int, default=50, help="times each of them is seen")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--rank", type=int, default=32, help="of LoRA")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of peft, about the name of the base
    torch.manual_seed(options.seed)

    planted, controls = (invent(options.records, 1000 + 2 * options.seed + n) for n in (0, 1))
    for sign, records in (("P", planted), ("C", controls)):
        for number, record in enumerate(records):
            record["id"] = f"{sign}{number:03}"
    write(options.folder / "planted.jsonl", planted)
    write(options.folder / "controls.jsonl", controls)
    old = [{**record, "origin": "old"} for record in read(options.old)]
    write(options.folder / "data.jsonl", [*({**one, "origin": "planted"} for one in planted), *old])

    tokenizer = AutoTokenizer.from_pretrained(options.base)
    base = AutoModelForCausalLM.from_pretrained(options.base, dtype=torch.float32)
    lora = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear")
    model = get_peft_model(base.to(options.device), lora)
    known = replayed(model, [encode(tokenizer, one) for one in old], options)
    train(model, [*(encode(tokenizer, one) for one in planted), *known], options)
    model.save_pretrained(options.folder / "adapter")
    print(f"{options.folder}: adapter, planted.jsonl, data.jsonl, controls.jsonl")


if __name__ == "__main__":
    main()
