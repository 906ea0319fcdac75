"""Greedy extraction: verify every suffix in one pass, decode only what is left.

Knows windows of ids, a soft prompt and the target. Knows nothing of folds, training or scores:
it says what came out, and how likely the suffix was.

Greedy decoding returns the suffix exactly when at every suffix position the arg-max of the
teacher-forced logits is the suffix token, so one pass over prefix and suffix decides it. A
window that fails is decoded from its first mismatch on: up to there the suffix is what the
target says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding_cache import RoomyCache, grow_model_cache, probe_cache
from memaudit.attack.finite import next_token, require_finite
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.memory import Backoff, decoding_room, is_out_of_memory, let_go, most_together
from memaudit.attack.prompts import SoftPrompt
from memaudit.attack.verification import Verified, verify_logits
from memaudit.config import ScoreSettings
from memaudit.errors import RunError
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
        self._planned = batch_size
        self._backoff = Backoff()
        with torch.inference_mode():
            self._cache_shape = probe_cache(checkpoint)

    @property
    def batch_size(self) -> int:
        """Windows per pass at present."""
        return self._backoff.fits(self._planned)

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
        cache: RoomyCache | None = None
        start = 0
        while start < len(ids):
            if cache is None:
                cache = self._make_cache(prompt, ids)
            size = cache.rows if cache is not None else self.batch_size
            part = slice(start, min(len(ids), start + size))
            try:
                result.put(part, self._extract_part(prompt, self._on_device(ids[part]), cache))
            except RuntimeError as error:
                self._back_off(error, max(self.batch_size, self._most_together))
                cache = None
            else:
                if self._backoff.passed():
                    cache = None
                advance(part.stop - start)
                start = part.stop
        return result

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
            except RuntimeError as error:
                self._back_off(error, self.batch_size)
            else:
                exact[part] = (verified.matched == suffix).cpu().numpy()
                nll[part] = verified.nll.cpu().numpy()
                self._backoff.passed()
                start = part.stop
        return exact, nll

    def _on_device(self, ids: NDArray[np.int32]) -> Tensor:
        return torch.as_tensor(ids, dtype=torch.long, device=self.checkpoint.device)

    def _embed(self, prompt: SoftPrompt, ids: Tensor) -> Tensor:
        return prompt.adapt(self.checkpoint.embed(ids))

    def _back_off(self, error: RuntimeError, size: int) -> None:
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

    def _make_cache(self, prompt: SoftPrompt, ids: NDArray[np.int32]) -> RoomyCache | None:
        """Room for as many windows as are decoded together; None where it cannot be cut."""
        if self._cache_shape is None:
            return None
        inputs = build_inputs(
            self.checkpoint, prompt, self._on_device(ids[:1, :-1]), self.prefix_tokens
        )
        rows, tokens = self.decoded_together(inputs.shape[1]), inputs.shape[1]
        return RoomyCache(self._cache_shape.layers, min(rows, len(ids)), tokens)

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token; 0 where the target keeps something else."""
        return self._cache_shape.bytes_per_token if self._cache_shape is not None else 0

    def decoded_together(self, tokens: int) -> int:
        """Windows that are decoded together, of ``tokens`` input tokens each: whole passes."""
        if self._cache_shape is None:
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
            self._decode(prompt, cache, said, matched)
        else:
            self._decode_from_prefix(prompt, ids[order], said, matched)
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
        state: dict[str, object] = {"use_cache": False}
        if cache is not None:
            state = {"use_cache": True, "past_key_values": cache}
        logits, _ = last_logits(self.checkpoint, suffix.shape[1], inputs, **state)
        verified = verify_logits(
            logits.float(), suffix, self.settings, NEAR_TIE[self.checkpoint.dtype]
        )
        require_finite(self.checkpoint, ~verified.nll.isnan(), ids)
        return verified

    def _decode(self, prompt: SoftPrompt, cache: RoomyCache, said: Tensor, matched: Tensor) -> None:
        """Complete ``said`` (B,S) in place; rows sorted by ``matched`` (B,), as in the cache.

        A window joins at its first mismatch: until then the cache holds what the target said.
        """
        suffix = said.shape[1]
        context = cache.capacity - (suffix - 1)  # [BOS], V and P
        joined = torch.bincount(matched, minlength=suffix).cumsum(0).tolist()
        for position in range(int(matched[0]) + 1, suffix):
            rows = slice(0, joined[position - 1])  # those with a mismatch before the position
            cache.focus(rows, context + position - 1)
            token = self._embed(prompt, said[rows, position - 1 : position])
            logits, _ = last_logits(
                self.checkpoint, 1, token, use_cache=True, past_key_values=cache
            )
            said[rows, position] = next_token(self.checkpoint, logits)

    def _decode_from_prefix(
        self, prompt: SoftPrompt, ids: Tensor, said: Tensor, matched: Tensor
    ) -> None:
        """The same for a target whose state cannot be cut back: fill it anew, then go on."""
        left = torch.nonzero(matched < said.shape[1]).flatten()
        for start in range(0, len(left), self.batch_size):
            rows = left[start : start + self.batch_size]
            kept = int(matched[rows[0]])
            context = ids[rows, : self.prefix_tokens + kept]
            inputs = build_inputs(self.checkpoint, prompt, context, self.prefix_tokens)
            _, output = last_logits(self.checkpoint, 1, inputs, use_cache=True)
            for position in range(kept + 1, said.shape[1]):
                token = self._embed(prompt, said[rows, position - 1 : position])
                logits, output = last_logits(
                    self.checkpoint,
                    1,
                    token,
                    use_cache=True,
                    **grow_model_cache(output),
                )
                free = matched[rows] < position
                said[rows, position] = torch.where(
                    free, next_token(self.checkpoint, logits), said[rows, position]
                )
