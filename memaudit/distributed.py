"""The processes of one run: those that ``torchrun`` or ``accelerate launch`` started, or this one.

Knows ranks, and how results pass between them (accelerate, torch.distributed). Knows nothing of
what is passed. Every process makes the same calls in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather, gather_object
from torch import Tensor

from memaudit.errors import RunError, UsageError

LONGEST_WAIT = timedelta(hours=6)
"""That one process waits for the others: they may be writing, or decoding a large part."""

Item = TypeVar("Item")


class Team:
    """A run of one process: there is nobody to wait for."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Leave the team at the end."""
        yield

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of a sequence that all know: every ``size``-th."""
        return items[self.rank :: self.size]

    def gather(self, item: Item) -> list[Item]:
        """What every process has to say, by rank."""
        return [item]

    def same(self, item: Item) -> Item:
        """What the first process has to say."""
        return item

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors the first process's values, in place."""

    def add_in_order(self, mine: Iterator[Tensor], zero: Tensor, count: int) -> Tensor:
        """The sum of ``count`` tensors, of which this process makes those dealt to it.

        Added one by one in the order of the whole, so that the sum is the same to the last bit
        whoever makes them. zero: what to begin with, of their shape; it is overwritten.
        """
        for tensor in mine:
            zero += tensor
        return zero


class Together(Team):
    """One of several processes."""

    def __init__(self, state: PartialState) -> None:
        self.rank = state.process_index
        self.size = state.num_processes
        self._state = state

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Leave the team in order at the end, if it comes to an end in order."""
        yield
        self._state.destroy_process_group()

    def gather(self, item: Item) -> list[Item]:
        """What every process has to say, by rank. Raises RunError where one has ended."""
        with _others_there():
            gathered: list[Item] = gather_object([item])
        return gathered

    def same(self, item: Item) -> Item:
        """What the first process has to say. Raises RunError where one has ended."""
        held: list[Any] = [item]
        with _others_there():
            broadcast_object_list(held)
        told: Item = held[0]
        return told

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Give these tensors the first process's values. Raises RunError where one has ended."""
        with _others_there(), torch.no_grad():
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach()))

    def add_in_order(self, mine: Iterator[Tensor], zero: Tensor, count: int) -> Tensor:
        """See Team. Raises RunError where a process has ended."""
        for start in range(0, count, self.size):
            tensor = next(mine, None)
            with _others_there():
                everyone: Tensor = gather(
                    (torch.zeros_like(zero) if tensor is None else tensor)[None]
                )
            for made in everyone[: count - start]:
                zero += made
        return zero


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"another process of this run has ended ({type(error).__name__}); what it printed says "
            "why"
        ) from error


def require_one_process(command: str) -> None:
    """Raise UsageError where a launcher has started several."""
    if _world_size() > 1:
        raise UsageError(f"{command} is the work of one process; start it without a launcher")


def _world_size() -> int:
    told = os.environ.get("WORLD_SIZE") or "1"
    if not told.isdecimal():
        raise UsageError("WORLD_SIZE is set, and is no number; unset it, or use torchrun")
    return int(told)


def join_team(device: str) -> Team:
    """The team that this process was started in.

    device: the setting; several processes take the devices of their machine in turn, so it must
    not name one of them. Raises UsageError where it does, RunError where they do not meet.
    """
    if _world_size() <= 1:
        return Team()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {device} with several processes: each takes a device of its own; use "
            "--device auto, cuda or cpu"
        )
    try:
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {os.environ['WORLD_SIZE']} processes of this run do not meet "
            f"({type(error).__name__}); see MASTER_ADDR and MASTER_PORT, or start them with "
            "torchrun"
        ) from error
    return Together(state)
