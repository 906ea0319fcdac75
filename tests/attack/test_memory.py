from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from conftest import build_model, build_tokenizer

from memaudit.attack.memory import FIRST_PATIENCE, Backoff, decoding_room, max_decode_batch
from memaudit.target.checkpoint import Checkpoint


def passes_until_doubled(backoff: Backoff) -> int:
    return next(number for number in range(1, 1000) if backoff.passed())


def test_sizes_are_halved_and_doubled_again() -> None:
    backoff = Backoff()
    assert backoff.fits(12) == 12
    assert not any(backoff.passed() for _ in range(100))
    for expected in (6, 3, 1, 1):
        backoff.shrink()
        assert backoff.fits(12) == expected
    for expected in (1, 3, 6, 12):
        passes_until_doubled(backoff)
        assert backoff.fits(12) == expected


def test_doubling_too_early_makes_it_wait_longer() -> None:
    backoff = Backoff()
    waited = []
    for _ in range(3):
        backoff.shrink()
        waited.append(passes_until_doubled(backoff))
    assert waited == [FIRST_PATIENCE, 2 * FIRST_PATIENCE, 4 * FIRST_PATIENCE]
    backoff.shrink()
    backoff.shrink()  # at once, so the first was not doubled too early but halved too little
    assert passes_until_doubled(backoff) == 8 * FIRST_PATIENCE
    assert not any(backoff.passed() for _ in range(8 * FIRST_PATIENCE - 1))
    passes_until_doubled(backoff)
    assert not any(backoff.passed() for _ in range(8 * FIRST_PATIENCE))
    backoff.shrink()  # long after: the doubling had held
    assert passes_until_doubled(backoff) == 8 * FIRST_PATIENCE


def test_a_processor_takes_a_twelfth_of_its_memory_and_no_more_than_two_gibibytes() -> None:
    on_cpu = Checkpoint(
        build_model("gpt2"), build_tokenizer(), "gpt2", torch.device("cpu"), torch.float32
    )
    for gibibytes, rooms in ((12, 1024), (240, 2048)):
        with mock.patch("memaudit.attack.memory.psutil.virtual_memory") as memory:
            memory.return_value.total = gibibytes * 2**30
            assert decoding_room(on_cpu, 2**20) == rooms


def test_cuda_takes_what_half_of_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cpu = build_model("gpt2"), torch.device("cpu")
    on_cpu = Checkpoint(model, build_tokenizer(), "gpt2", cpu, torch.float32)
    on_cuda = replace(on_cpu, device=torch.device("cuda"))
    assert (max_decode_batch(on_cpu), max_decode_batch(on_cuda)) == (512, 4096)
    held = 1000
    each = held + 8 * on_cuda.vocabulary  # keys, values and a step's logits
    monkeypatch.setattr("memaudit.attack.memory.free_memory", lambda device: 2 * 70 * each)
    assert decoding_room(on_cuda, held) == 70
