"""Greedy extraction: verify every suffix in one pass, decode only what is left.

Knows windows of ids, a soft prompt and the target. Knows nothing of folds, training or scores:
it says what came out, and how likely the suffix was.

Greedy decoding returns the suffix exactly when at every suffix position the arg-max of the
teacher-forced logits is the suffix token, so one pass over prefix and suffix decides it. A
window that fails is decoded from its first mismatch on: up to there the suffix is what the
target says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding import RoomyCache, decode, decode_anew, decode_from_prefix, with_cache
from memaudit.attack.decoding_check import choose_decoding
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.memory import MemoryFound, decoding_room, let_go, most_together
from memaudit.attack.prompts import SoftPrompt
from memaudit.attack.verification import Verified, require_finite, verify_logits
from memaudit.config.settings import ScoreSettings
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint

NEAR_TIE = {torch.float32: 2**-13, torch.float16: 2**-8, torch.bfloat16: 2**-5}
"""Logits that differ by less than this share of the largest may change places when the batch has
another shape: in the half types four to eight units in the last place."""

Advance = Callable[[int], None]
"""Called with the number of windows that have just been done."""


@dataclass(frozen=True, eq=False)
class Extraction:
    """What the target said to N windows."""

    continuation_ids: NDArray[np.int32]
    """(N,S) free-running greedy continuation of each prefix; -1 where nothing came."""
    suffix_nll: NDArray[np.float64]
    """(N,) teacher-forced negative log-likelihood of the suffix, nats/token; NaN without one."""
    log_p_z: NDArray[np.float64]
    """(N,) log of the probability that sampling returns the suffix (Hayes et al. 2024)."""

    @classmethod
    def empty(cls, windows: int, suffix_tokens: int) -> Extraction:
        """Nothing came out, and nothing is known of the likelihoods."""
        continuation = np.full((windows, suffix_tokens), -1, dtype=np.int32)
        return cls(continuation, np.full(windows, np.nan), np.full(windows, np.nan))

    def put(self, rows: NDArray[np.int64] | slice, part: Extraction) -> None:
        """Write another extraction of these windows into this one."""
        self.continuation_ids[rows] = part.continuation_ids
        self.suffix_nll[rows] = part.suffix_nll
        self.log_p_z[rows] = part.log_p_z


class Extractor:
    """Extracts windows of one shape from one target.

    prefix_tokens: P, of the (N,P+S) ids that :meth:`extract` is given.
    batch_size: windows per pass, as planned. It is halved whenever memory runs out, and with it
        how many are decoded together, and doubled again later.
    """

    def __init__(
        self, checkpoint: Checkpoint, prefix_tokens: int, settings: ScoreSettings, batch_size: int
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix_tokens = prefix_tokens
        self.settings = settings
        self.planned = batch_size
        """Windows per pass while memory lasts."""
        self.memory = MemoryFound()
        self.memory.plan("extraction", batch_size)
        self._backoff = self.memory.extraction
        self.decoding = choose_decoding(checkpoint, prefix_tokens)

    @property
    def batch_size(self) -> int:
        """Windows per pass at present."""
        return self._backoff.fits(self.planned)

    @property
    def _most_together(self) -> int:
        return self._backoff.fits(most_together(self.checkpoint))

    @torch.inference_mode()
    def extract(
        self, prompt: SoftPrompt, ids: NDArray[np.int32], advance: Advance = lambda done: None
    ) -> Extraction:
        """Extract every window of ids (N,P+S).

        Raises RunError where not even one window fits the memory.
        """
        result = Extraction.empty(len(ids), ids.shape[1] - self.prefix_tokens)
        for found in self.extract_each(prompt, [ids], advance):
            result.put(slice(None), found)
        return result

    @torch.inference_mode()
    def extract_each(
        self,
        prompt: SoftPrompt,
        parts: Sequence[NDArray[np.int32]],
        advance: Advance = lambda done: None,
    ) -> Iterator[Extraction]:
        """Extract windows part by part, each (N,P+S), as each is asked for.

        A part gives the same to the last bit whichever others there are, as long as memory does
        not run out. Raises as :meth:`extract`.
        """
        cache: RoomyCache | None = None
        most = max((len(part) for part in parts), default=0)
        for ids in parts:
            result = Extraction.empty(len(ids), ids.shape[1] - self.prefix_tokens)
            start = 0
            while start < len(ids):
                try:
                    if cache is None:
                        cache = self._make_cache(prompt, ids, most)
                    size = cache.rows if cache is not None else self.batch_size
                    part = slice(start, min(len(ids), start + size))
                    result.put(part, self._extract_part(prompt, self._on_device(ids[part]), cache))
                except FAILED_ALLOCATION as error:
                    self._back_off(error, max(self.batch_size, self._most_together))
                    cache = None
                else:
                    if self._backoff.passed():
                        cache = None
                    advance(part.stop - start)
                    start = part.stop
            yield result

    @torch.inference_mode()
    def verify(
        self, prompt: SoftPrompt, ids: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which windows of ids (N,P+S) are exact, and their suffix NLL; nothing is decoded."""
        exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
        suffix = ids.shape[1] - self.prefix_tokens
        start = 0
        while start < len(ids):
            part = slice(start, min(len(ids), start + self.batch_size))
            try:
                verified = self._verify_stably(prompt, self._on_device(ids[part]))
            except FAILED_ALLOCATION as error:
                self._back_off(error, self.batch_size)
            else:
                exact[part] = (verified.matched == suffix).cpu().numpy()
                nll[part] = verified.nll.cpu().numpy()
                self._backoff.passed()
                start = part.stop
        return exact, nll

    def _on_device(self, ids: NDArray[np.int32]) -> Tensor:
        return torch.as_tensor(ids, dtype=torch.long, device=self.checkpoint.device)

    def _back_off(self, error: Exception, size: int) -> None:
        """Halve a size for another try; any other error than one of memory is raised again."""
        if not is_out_of_memory(error):
            raise error
        if size == 1:
            raise RunError(
                "out of memory with a single window; use a smaller model, a smaller window "
                "(--prefix-tokens, --suffix-tokens) or another --device"
            ) from error
        self._backoff.shrink()
        let_go(error)

    def _make_cache(
        self, prompt: SoftPrompt, ids: NDArray[np.int32], most: int
    ) -> RoomyCache | None:
        """Room for as many windows as are decoded together, ``most`` at most; None where it
        cannot be cut.
        """
        shape = self.decoding.shape
        if shape is None:
            return None
        tokens = self._input_tokens(prompt, ids)
        return RoomyCache(shape.layers, min(self.decoded_together(tokens), most), tokens)

    def _input_tokens(self, prompt: SoftPrompt, ids: NDArray[np.int32]) -> int:
        """What the target is given of one window, in tokens: its last one only ends it."""
        one = self._on_device(ids[:1, :-1])
        return build_inputs(self.checkpoint, prompt, one, self.prefix_tokens).shape[1]

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token; 0 where the target keeps something else."""
        shape = self.decoding.shape
        return shape.bytes_per_token if shape is not None else 0

    def decoded_together(self, tokens: int) -> int:
        """Windows that are decoded together, of ``tokens`` input tokens each: whole passes."""
        if self.decoding.shape is None:
            return self.batch_size
        held = tokens * self.bytes_per_token
        rows = min(self._most_together, decoding_room(self.checkpoint, held))
        return max(1, rows // self.batch_size) * self.batch_size

    def _extract_part(
        self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None
    ) -> Extraction:
        """Verify pass by pass, then decode all windows (B,P+S) together."""
        passes = []
        for start in range(0, len(ids), self.batch_size):
            rows = slice(start, min(len(ids), start + self.batch_size))
            if cache is not None:
                cache.focus(rows, 0)
            passes.append(self._verify_stably(prompt, ids[rows], cache))
        verified = Verified(*(torch.cat(field) for field in zip(*passes, strict=True)))
        order = verified.matched.argsort(stable=True)
        said, matched = verified.said[order], verified.matched[order]
        if cache is not None:
            cache.reorder(order)
            decode(self.checkpoint.prepacked, prompt, cache, said, matched)
        else:
            go_on = decode_from_prefix if self.decoding.carries else decode_anew
            go_on(self.checkpoint.prepacked, prompt, ids[order], said, matched, self.batch_size)
        continuation = torch.empty_like(said).index_copy_(0, order, said)
        return Extraction(
            continuation.int().cpu().numpy(),
            verified.nll.cpu().numpy(),
            verified.log_p_z.cpu().numpy(),
        )

    def _verify_stably(
        self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None = None
    ) -> Verified:
        """Verify; where a verdict hangs on a near-tie, a pass of that window alone decides it.

        So a verdict does not depend on the windows that happened to share its batch.
        """
        verified = self._verify(prompt, ids, cache)
        for row in torch.nonzero(verified.undecided).flatten().tolist():
            alone = self._verify(prompt, ids[row : row + 1])
            for mine, its in zip(verified, alone, strict=True):
                mine[row] = its[0]
        return verified

    def _verify(self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None = None) -> Verified:
        """One pass; ``cache`` then holds all that came before the last suffix token."""
        suffix = ids[:, self.prefix_tokens :]
        inputs = build_inputs(self.checkpoint, prompt, ids[:, :-1], self.prefix_tokens)
        target = self.checkpoint.prepacked
        state = {"use_cache": False} if cache is None else with_cache(target, cache)
        logits, _ = last_logits(target, suffix.shape[1], inputs, **state)
        verified = verify_logits(
            logits.float(), suffix, self.settings, NEAR_TIE[self.checkpoint.precision]
        )
        require_finite(self.checkpoint, ~verified.nll.isnan(), ids)
        return verified
