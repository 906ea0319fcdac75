"""Batch sizes that fit the memory: windows per pass, windows decoded at once, and the backoff.

Knows devices and the sizes of a target's tensors. Knows nothing of prompts or passes.
"""

from __future__ import annotations

from typing import Literal

import psutil
import torch

from memaudit.attack.facts import BatchFacts
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import places_of

MAX_DECODE_BATCH = {"cpu": 512, "cuda": 4096}
"""Upper limit of windows decoded at once, from several verification passes. One token each is
little work for a step (7M parameters on a CPU: 256 are 1.3 times as fast as 64), and on CUDA
starting a step takes as long as running it for thousands."""
CACHE_BYTES = 2**31
"""Upper limit of their keys and values on a CPU (135M parameters: 192 windows are decoded 1.2 times
as fast as 64); CACHE_SHARE of the machine's memory is another. One pass always fits."""
CACHE_SHARE = 1 / 12

FIRST_PATIENCE = 8
"""Passes that have to succeed before a halved size is doubled again."""


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, including torch's reserve; None for other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_target_memory(checkpoint: Checkpoint) -> int | None:
    """Free bytes for the target's passes: the minimum over the CUDA devices it is spread over."""
    places = {where for where in places_of(checkpoint.model).values() if isinstance(where, int)}
    devices = [torch.device("cuda", index) for index in places] or [checkpoint.device]
    sizes = [free for device in devices if (free := free_memory(device)) is not None]
    return min(sizes, default=None)


def max_decode_batch(checkpoint: Checkpoint) -> int:
    """Upper limit of windows decoded at once, regardless of memory."""
    return MAX_DECODE_BATCH.get(checkpoint.device.type, MAX_DECODE_BATCH["cpu"])


def decoding_room(checkpoint: Checkpoint, cache_bytes: int) -> int:
    """Windows that memory can decode at once; each has ``cache_bytes`` of keys and values.

    On CUDA half of the free memory is used, and the logits of a step count too: they are held in
    float32 besides their own format.
    """
    free = free_target_memory(checkpoint)
    if free is None:
        # Total memory, not free memory: so a machine groups windows identically in every run.
        return min(CACHE_BYTES, int(CACHE_SHARE * psutil.virtual_memory().total)) // cache_bytes
    return free // 2 // (cache_bytes + 2 * 4 * checkpoint.vocabulary)


def choose_batch_size(checkpoint: Checkpoint, suffix_tokens: int) -> tuple[int, str]:
    """Return the windows per pass and the reason.

    On a CPU larger batches only spill its caches: with a 7M-parameter target 4 to 16 windows were
    equally fast and 32 a tenth slower (decoding joins passes, see MAX_DECODE_BATCH). On CUDA the
    logits, (B,S,X) in float32 and copies of them, may take a quarter of the free memory.
    """
    logits = 4 * suffix_tokens * checkpoint.vocabulary
    free = free_target_memory(checkpoint)
    if free is not None:
        size = int(max(1, min(256, free // 4 // (3 * logits))))
        return size, f"logits in a quarter of {free / 2**30:.0f} GiB free memory, up to 256"
    size = int(max(1, min(16, 2**31 // (3 * logits))))
    return size, "up to 16 on this device, with logits in 2 GiB"


class Backoff:
    """Counts how often planned sizes are halved because memory ran out.

    Sizes are doubled again after some passes, since the memory may have become free. Each time
    that this is too early, the number of passes to wait doubles.
    """

    def __init__(self) -> None:
        self.shortages = 0
        """How often memory ran out."""
        self._max_halvings = 0
        self._halvings = 0
        self._since = 0
        self._doubled = False
        self._patience = FIRST_PATIENCE

    def fits(self, planned: int) -> int:
        """Current size for a planned size, at least 1."""
        return max(1, planned >> self._halvings)

    def smallest(self, planned: int) -> int:
        """Smallest size so far for a planned size, at least 1."""
        return max(1, planned >> self._max_halvings)

    def shrink(self) -> None:
        """Halve sizes after memory ran out."""
        self.shortages += 1
        self._halvings += 1
        self._max_halvings = max(self._max_halvings, self._halvings)
        self._since = 0
        self._patience *= 1 + self._doubled
        self._doubled = False

    def passed(self) -> bool:
        """Count a successful pass; return True if it doubled the sizes again."""
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


class MemoryState:
    """Memory limits met so far with one target, shared by all its passes.

    Later stages start with sizes that have worked.
    """

    def __init__(self) -> None:
        self.extraction = Backoff()
        self.tuning = Backoff()
        self.recomputes = False
        """True if tuning recomputes the activations of each block in the backward pass."""
        self._planned: dict[str, int] = {}

    def plan(self, stage: Literal["extraction", "tuning"], size: int) -> None:
        """Record a planned size in windows; the largest is reported."""
        self._planned[stage] = max(size, self._planned.get(stage, 0))

    def facts(self) -> dict[str, BatchFacts]:
        """Planned, smallest and final sizes of the planned stages."""
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


def release_memory(error: BaseException) -> None:
    """Free the memory of a failed pass, which its traceback would hold."""
    error.__traceback__ = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
