"""Greedy extraction: verify every suffix in one pass, decode only the windows that fail.

Knows windows of ids, a soft prompt and the target. Knows nothing of folds, training or scores: it
returns the continuation and the likelihood of the suffix.

Greedy decoding returns the suffix exactly when at every suffix position the arg-max of the
teacher-forced logits is the suffix token, so one pass over prefix and suffix decides it. A
window that fails is decoded from its first mismatch: up to there its continuation is the suffix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding import (
    Alignment,
    RoomyCache,
    decode,
    decode_from_prefix,
    decode_without_state,
    with_cache,
)
from memaudit.attack.decoding_check import STEPS, choose_decoding
from memaudit.attack.forward import build_inputs, padding_of, window_logits
from memaudit.attack.journal import Advance
from memaudit.attack.memory import MemoryState, decoding_room, max_decode_batch, release_memory
from memaudit.attack.prompts import SoftPrompt
from memaudit.attack.verification import Verified, require_finite, verify_logits
from memaudit.config.settings import ScoreSettings
from memaudit.data.windows import PADDING
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint

NEAR_TIE = {torch.float32: 2**-13, torch.float16: 2**-8, torch.bfloat16: 2**-5}
"""Logits that differ by less than this share of the largest may change order with the shape of the
batch: in the half types four to eight units in the last place."""


def first_alike(rows: NDArray[np.int64], padding: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first of these rows, at least one, whose windows have equal padding (N,)."""
    differs = np.flatnonzero(padding[rows] != padding[rows[0]])
    return rows[: differs[0]] if len(differs) else rows


@dataclass(frozen=True, eq=False)
class Extraction:
    """Continuations and suffix likelihoods of N windows."""

    continuation_ids: NDArray[np.int32]
    """(N,S) free-running greedy continuation of each prefix; -1 for no token."""
    suffix_nll: NDArray[np.float64]
    """(N,) teacher-forced negative log-likelihood of the suffix, nats/token; NaN if unknown."""
    log_p_z: NDArray[np.float64]
    """(N,) log of the probability that sampling returns the suffix (Hayes et al. 2024)."""

    @classmethod
    def empty(cls, windows: int, suffix_tokens: int) -> Extraction:
        """Return an extraction without tokens and with unknown likelihoods."""
        continuation = np.full((windows, suffix_tokens), -1, dtype=np.int32)
        return cls(continuation, np.full(windows, np.nan), np.full(windows, np.nan))

    def write(self, rows: NDArray[np.int64] | slice, part: Extraction) -> None:
        """Copy the extraction ``part`` into these rows."""
        self.continuation_ids[rows] = part.continuation_ids
        self.suffix_nll[rows] = part.suffix_nll
        self.log_p_z[rows] = part.log_p_z


class Extractor:
    """Extracts windows of one shape from one target.

    prefix_tokens: P of the (N,P+S) ids passed to :meth:`extract`.
    batch_size: planned windows per pass. Out of memory halves it, together with the number decoded
        at once; it is doubled again later.
    """

    def __init__(
        self, checkpoint: Checkpoint, prefix_tokens: int, settings: ScoreSettings, batch_size: int
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix_tokens = prefix_tokens
        self.settings = settings
        self.planned = batch_size
        """Planned windows per pass."""
        self.memory = MemoryState()
        self.memory.plan("extraction", batch_size)
        self._backoff = self.memory.extraction
        positions = checkpoint.max_tokens or prefix_tokens + STEPS
        self.decoding = choose_decoding(checkpoint, min(prefix_tokens, positions - STEPS))

    @property
    def batch_size(self) -> int:
        """Current windows per pass."""
        return self._backoff.fits(self.planned)

    @property
    def _max_decode_batch(self) -> int:
        return self._backoff.fits(max_decode_batch(self.checkpoint))

    @torch.inference_mode()
    def extract(
        self, prompt: SoftPrompt, ids: NDArray[np.int32], advance: Advance = lambda done: None
    ) -> Extraction:
        """Extract every window of ids (N,P+S). Raises RunError if one window does not fit."""
        return next(self.extract_each(prompt, [ids], advance))

    @torch.inference_mode()
    def extract_each(
        self,
        prompt: SoftPrompt,
        parts: Sequence[NDArray[np.int32]],
        advance: Advance = lambda done: None,
    ) -> Iterator[Extraction]:
        """Extract each part (N,P+S) lazily, in order; shorter prefixes have PADDING before them.

        The result of a part does not depend on the other parts, to the last bit, unless memory
        runs out. Raises as :meth:`extract`.
        """
        cache: RoomyCache | None = None
        limit = max((len(part) for part in parts), default=0)
        for ids in parts:
            result = Extraction.empty(len(ids), ids.shape[1] - self.prefix_tokens)
            # Windows of like length share a batch, so that few inputs are padding.
            padding = self._padding(ids)
            order, start = np.argsort(padding, kind="stable"), 0
            while start < len(ids):
                try:
                    if cache is None:
                        cache = self._make_cache(prompt, parts, limit)
                    size = cache.rows if cache is not None else self.batch_size
                    rows = self._alike(order[start : start + size], padding)
                    result.write(
                        rows, self._extract_part(prompt, self._on_device(ids[rows]), cache)
                    )
                except FAILED_ALLOCATION as error:
                    self._back_off(error, max(self.batch_size, self._max_decode_batch))
                    cache = None
                else:
                    if self._backoff.passed():
                        cache = None
                    advance(len(rows))
                    start += len(rows)
            yield result

    @torch.inference_mode()
    def verify(
        self, prompt: SoftPrompt, ids: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which windows of ids (N,P+S) are exact, and their suffix NLL; decode nothing."""
        exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
        suffix = ids.shape[1] - self.prefix_tokens
        start, padding = 0, self._padding(ids)
        while start < len(ids):
            rows = self._alike(np.arange(start, min(len(ids), start + self.batch_size)), padding)
            try:
                verified = self._verify_stably(prompt, self._on_device(ids[rows]))
            except FAILED_ALLOCATION as error:
                self._back_off(error, self.batch_size)
            else:
                exact[rows] = (verified.matched == suffix).cpu().numpy()
                nll[rows] = verified.nll.cpu().numpy()
                self._backoff.passed()
                start += len(rows)
        return exact, nll

    def _padding(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.asarray((ids[:, : self.prefix_tokens] == PADDING).sum(axis=1))

    def _alike(self, rows: NDArray[np.int64], padding: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first of these rows that may share a batch: all, or those of one length."""
        return rows if self.decoding.aligns else first_alike(rows, padding)

    def _on_device(self, ids: NDArray[np.int32]) -> Tensor:
        return torch.as_tensor(ids, dtype=torch.long, device=self.checkpoint.device)

    def _back_off(self, error: Exception, size: int) -> None:
        """Halve the size after a memory error; raise any other error again."""
        if not is_out_of_memory(error):
            raise error
        if size == 1:
            raise RunError(
                "out of memory with a single window; use a smaller model, a smaller window "
                "(--prefix-tokens, --suffix-tokens) or another --device"
            ) from error
        self._backoff.shrink()
        release_memory(error)

    def _make_cache(
        self, prompt: SoftPrompt, parts: Sequence[NDArray[np.int32]], limit: int
    ) -> RoomyCache | None:
        """Make a cache for up to ``limit`` windows; None if the target's cannot be cut back."""
        shape = self.decoding.shape
        if shape is None:
            return None
        longest = [ids[[self._padding(ids).argmin()]] for ids in parts if len(ids)]
        tokens = max(self._input_tokens(prompt, self._on_device(ids)) for ids in longest)
        return RoomyCache(shape.layers, min(self.decode_batch_size(tokens), limit), tokens)

    def _input_tokens(self, prompt: SoftPrompt, ids: Tensor) -> int:
        """Input tokens of one window (1,P+S); its last token is never an input."""
        return build_inputs(self.checkpoint, prompt, ids[:, :-1], self.prefix_tokens).shape[1]

    def _contexts(self, prompt: SoftPrompt, ids: Tensor) -> Alignment:
        """Align what comes before the suffix of windows (B,P+S)."""
        padding = padding_of(ids)
        longest = int(padding.argmin())
        tokens = self._input_tokens(prompt, ids[longest : longest + 1])
        after = ids.shape[1] - self.prefix_tokens - 1
        return Alignment(tokens - after, padding - padding[longest])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token; 0 if the target keeps another state."""
        shape = self.decoding.shape
        return shape.bytes_per_token if shape is not None else 0

    def decode_batch_size(self, tokens: int) -> int:
        """Windows of ``tokens`` input tokens decoded at once, in whole passes."""
        if self.decoding.shape is None:
            return self.batch_size
        cache_bytes = tokens * self.bytes_per_token
        rows = min(self._max_decode_batch, decoding_room(self.checkpoint, cache_bytes))
        return max(1, rows // self.batch_size) * self.batch_size

    def _extract_part(
        self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None
    ) -> Extraction:
        """Verify pass by pass, then decode all windows (B,P+S) at once."""
        passes = []
        for start in range(0, len(ids), self.batch_size):
            rows = slice(start, min(len(ids), start + self.batch_size))
            if cache is not None:
                cache.focus(rows, 0)
            passes.append(self._verify_stably(prompt, ids[rows], cache))
        verified = Verified(*(torch.cat(field) for field in zip(*passes, strict=True)))
        order = verified.matched.argsort(stable=True)
        continuation, matched = verified.continuation_ids[order], verified.matched[order]
        target = self.checkpoint.prepacked
        if cache is not None:
            contexts = self._contexts(prompt, ids[order])
            cache.reorder(order, contexts.shift)
            decode(target, prompt, cache, continuation, matched, contexts)
        else:
            way = decode_from_prefix if self.decoding.reuses_state else decode_without_state
            way(target, prompt, ids[order], continuation, matched, self.batch_size)
        restored = torch.empty_like(continuation).index_copy_(0, order, continuation)
        return Extraction(
            restored.int().cpu().numpy(),
            verified.nll.cpu().numpy(),
            verified.log_p_z.cpu().numpy(),
        )

    def _verify_stably(
        self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None = None
    ) -> Verified:
        """Verify; decide a near-tie by a pass of that window alone.

        So a verdict does not depend on the windows that share its batch.
        """
        verified = self._verify(prompt, ids, cache)
        for row in torch.nonzero(verified.undecided).flatten().tolist():
            alone = self._verify(prompt, ids[row : row + 1])
            for field, value in zip(verified, alone, strict=True):
                field[row] = value[0]
        return verified

    def _verify(self, prompt: SoftPrompt, ids: Tensor, cache: RoomyCache | None = None) -> Verified:
        """Verify in one pass; then ``cache`` holds all tokens before the last suffix token."""
        suffix = ids[:, self.prefix_tokens :]
        target = self.checkpoint.prepacked
        state = {"use_cache": False} if cache is None else with_cache(target, cache)
        logits, _ = window_logits(target, prompt, ids, self.prefix_tokens, suffix.shape[1], **state)
        verified = verify_logits(
            logits.float(), suffix, self.settings, NEAR_TIE[self.checkpoint.precision]
        )
        require_finite(self.checkpoint, ~verified.nll.isnan(), ids)
        return verified
