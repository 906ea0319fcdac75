"""How much fits: windows per pass, windows decoded together, and what to do when it does not.

Knows devices and the sizes of a target's tensors. Knows nothing of prompts or passes.
"""

from __future__ import annotations

from typing import Literal

import psutil
import torch

from memaudit.attack.facts import BatchFacts
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import places_of

DECODED_TOGETHER = {"cpu": 512, "cuda": 4096}
"""Windows at most that are decoded together, from several verification passes: one token each
is little work for a step (7M parameters on a CPU: 256 are 1.3 times as fast as 64), and on CUDA a
step takes as long to start as it takes to run for thousands."""
CACHE_BYTES = 2**31
"""What their keys and values may take on a CPU at most (135M parameters: 192 windows are decoded
1.2 times as fast as 64), and no more than CACHE_SHARE of the machine's memory. Those of one pass
are kept in any case."""
CACHE_SHARE = 1 / 12

FIRST_PATIENCE = 8
"""Passes that have to go through before a size that was halved is doubled again."""


def free_memory(device: torch.device) -> int | None:
    """Bytes free on a CUDA device, those that torch holds in reserve counted; None elsewhere."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_beside(checkpoint: Checkpoint) -> int | None:
    """The same where the target's passes run: on the tightest of the devices it is spread over."""
    places = {where for where in places_of(checkpoint.model).values() if isinstance(where, int)}
    devices = [torch.device("cuda", index) for index in places] or [checkpoint.device]
    found = [free for device in devices if (free := free_memory(device)) is not None]
    return min(found, default=None)


def most_together(checkpoint: Checkpoint) -> int:
    """Windows at most that are decoded together, whatever the memory."""
    return DECODED_TOGETHER.get(checkpoint.device.type, DECODED_TOGETHER["cpu"])


def decoding_room(checkpoint: Checkpoint, held: int) -> int:
    """Windows that there is memory to decode together, of ``held`` bytes of keys and values each.

    On CUDA half of what is free, where a step's logits count too: they are looked at in float32,
    beside what they were computed in.
    """
    free = free_beside(checkpoint)
    if free is None:
        # All there is, not what is free just now: one machine groups windows alike every time.
        return min(CACHE_BYTES, int(CACHE_SHARE * psutil.virtual_memory().total)) // held
    return free // 2 // (held + 2 * 4 * checkpoint.vocabulary)


def choose_batch_size(checkpoint: Checkpoint, suffix_tokens: int) -> tuple[int, str]:
    """Windows per pass, and why.

    On a CPU larger batches only spill its caches: with a 7M-parameter target 4 to 16 windows were
    equally fast and 32 a tenth slower (decoding joins passes, see DECODED_TOGETHER). On CUDA the
    logits, (B,S,X) in float32 and as much again while they are looked at, may take a quarter of
    what is free.
    """
    logits = 4 * suffix_tokens * checkpoint.vocabulary
    free = free_beside(checkpoint)
    if free is not None:
        size = int(max(1, min(256, free // 4 // (3 * logits))))
        return size, f"what a quarter of {free / 2**30:.0f} GiB free memory holds, at most 256"
    size = int(max(1, min(16, 2**31 // (3 * logits))))
    return size, "at most 16 on this device, with logits in 2 GiB"


class Backoff:
    """How often planned sizes are halved at present, because memory ran out.

    They are doubled again after some passes, as whatever took the memory may have let it go; each
    time that this turns out too early, it takes twice as many.
    """

    def __init__(self) -> None:
        self.shortages = 0
        """How often memory ran out."""
        self._most_halvings = 0
        self._halvings = 0
        self._since = 0
        self._doubled = False
        self._patience = FIRST_PATIENCE

    def fits(self, planned: int) -> int:
        """What is left of a planned size: at least 1."""
        return max(1, planned >> self._halvings)

    def smallest(self, planned: int) -> int:
        """The least that was ever left of a planned size."""
        return max(1, planned >> self._most_halvings)

    def shrink(self) -> None:
        """Memory ran out."""
        self.shortages += 1
        self._halvings += 1
        self._most_halvings = max(self._most_halvings, self._halvings)
        self._since = 0
        self._patience *= 1 + self._doubled
        self._doubled = False

    def passed(self) -> bool:
        """A pass went through; whether sizes have been doubled again now."""
        self._since += 1
        if self._since < self._patience:
            return False
        self._doubled = False  # the last doubling held
        if not self._halvings:
            return False
        self._halvings -= 1
        self._since = 0
        self._doubled = True
        return True


class MemoryFound:
    """What was found out about the memory beside a target, for all who run passes of it.

    Whoever comes later starts with the sizes that have held, and runs into nothing again.
    """

    def __init__(self) -> None:
        self.extraction = Backoff()
        self.tuning = Backoff()
        self.recomputes = False
        """Whether tuning has to compute anew what each block gave, on the way back."""
        self._planned: dict[str, int] = {}

    def plan(self, stage: Literal["extraction", "tuning"], size: int) -> None:
        """Note a planned size in windows; of several the largest is told."""
        self._planned[stage] = max(size, self._planned.get(stage, 0))

    def facts(self) -> dict[str, BatchFacts]:
        """Planned, smallest and last sizes, of the stages that were planned."""
        return {
            stage: BatchFacts(
                planned=planned,
                smallest=backoff.smallest(planned),
                final=backoff.fits(planned),
                shortages=backoff.shortages,
                recomputed=stage == "tuning" and self.recomputes,
            )
            for stage, backoff in (("extraction", self.extraction), ("tuning", self.tuning))
            if (planned := self._planned.get(stage))
        }


def let_go(error: BaseException) -> None:
    """Free what a failed pass holds: its traceback would keep the memory."""
    error.__traceback__ = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
