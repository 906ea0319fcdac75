"""The processes of one run: started by ``torchrun`` or ``accelerate launch``, or just this one.

Knows ranks and how results pass between them (accelerate, torch.distributed). Knows nothing of
what is passed. Every process must make the same calls in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState, utils
from torch import Tensor

from memaudit.errors import RunError, UsageError
from memaudit.system.launcher import world_size

TIMEOUT = timedelta(hours=6)
"""How long a process waits for the rest, which may be writing or decoding a large part."""

Item = TypeVar("Item")


class Processes:
    """The processes of a run. This class is a run of a single process, which waits for nobody."""

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """True if this is the main process, which writes files and prints."""
        return self.rank == 0

    @contextmanager
    def session(self) -> Iterator[None]:
        """Leave the process group when the block ends without an error."""
        yield

    def shard(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share of a sequence that every process has: every ``size``-th."""
        return items[self.rank :: self.size]

    def gather(self, item: Item) -> list[Item]:
        """Return the items of all processes, by rank."""
        return [item]

    def broadcast(self, item: Item) -> Item:
        """Return the main process's item."""
        return item

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to the main process's values, in place."""

    def sum_in_order(self, tensors: Iterator[Tensor], total: Tensor, count: int) -> Tensor:
        """Return the sum of ``count`` tensors that the processes have shared out with `shard`.

        They are added one by one in their original order, so that the sum is the same to the last
        bit for any number of processes.

        Args:
            tensors: this process's share.
            total: zeros of their shape; overwritten.
            count: tensors of all processes together.
        """
        for tensor in tensors:
            total += tensor
        return total


class _LaunchedProcesses(Processes):
    """The processes of a run that a launcher started."""

    def __init__(self, state: PartialState) -> None:
        self.rank = state.process_index
        self.size = state.num_processes
        self._state = state

    @contextmanager
    def session(self) -> Iterator[None]:
        """Leave the process group when the block ends without an error."""
        yield
        self._state.destroy_process_group()

    def gather(self, item: Item) -> list[Item]:
        """Return the items of all processes, by rank. Raises RunError if a process has ended."""
        with _process_errors():
            gathered: list[Item] = utils.gather_object([item])
        return gathered

    def broadcast(self, item: Item) -> Item:
        """Return the main process's item. Raises RunError if a process has ended."""
        items: list[Any] = [item]
        with _process_errors():
            utils.broadcast_object_list(items)
        main_item: Item = items[0]
        return main_item

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to the main process's values. Raises RunError if a process has ended."""
        with _process_errors(), torch.no_grad():
            for tensor in tensors:
                tensor.copy_(utils.broadcast(tensor.detach()))

    def sum_in_order(self, tensors: Iterator[Tensor], total: Tensor, count: int) -> Tensor:
        """See Processes. Raises RunError if a process has ended."""
        for start in range(0, count, self.size):
            tensor = next(tensors, None)
            with _process_errors():
                round_: Tensor = utils.gather(
                    (torch.zeros_like(total) if tensor is None else tensor)[None]
                )
            for summand in round_[: count - start]:
                total += summand
        return total


@contextmanager
def _process_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"another process of this run has ended ({type(error).__name__}); its output says why"
        ) from error


def join_processes(device: str) -> Processes:
    """Join the processes that this one was started with.

    device: the setting. Several processes take the devices of their machine in turn, so it must
    not name a single device.

    Raises UsageError if it does, and RunError if the processes cannot connect.
    """
    if world_size() <= 1:
        return Processes()
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {device} with several processes: each takes its own device; use "
            "--device auto, cuda or cpu"
        )
    try:
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {os.environ['WORLD_SIZE']} processes of this run cannot connect "
            f"({type(error).__name__}); check MASTER_ADDR and MASTER_PORT, or start them with "
            "torchrun"
        ) from error
    return _LaunchedProcesses(state)
