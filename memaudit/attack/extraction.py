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
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding_cache import RoomyCache, count_attention_layers, grow_model_cache
from memaudit.attack.forward import accepted_arguments, build_inputs, last_logits
from memaudit.attack.prompts import SoftPrompt
from memaudit.config import ScoreSettings
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint

NEAR_TIE = {torch.float32: 1e-3, torch.float16: 0.03, torch.bfloat16: 0.25}
"""Logits closer than this may change places when the batch has another shape. About ten
times the largest difference seen between batched and single passes in each type."""

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

    def put(self, rows: NDArray[np.int64], part: Extraction) -> None:
        """Write another extraction of these windows into this one."""
        self.continuation_ids[rows] = part.continuation_ids
        self.suffix_nll[rows] = part.suffix_nll
        self.log_p_z[rows] = part.log_p_z


class _Verified(NamedTuple):
    """One teacher-forced pass over B windows."""

    said: Tensor
    """(B,S) arg-max at every suffix position."""
    matched: Tensor
    """(B,) tokens before the first mismatch."""
    nll: Tensor
    """(B,) nats/token."""
    log_p_z: Tensor
    """(B,)."""
    undecided: Tensor
    """(B,) bool: exactness hangs on a near-tie."""
    cache: RoomyCache | None
    """Keys and values of everything but the last suffix token; None where it cannot be cut."""


class Extractor:
    """Extracts windows of one shape from one target.

    prefix_tokens: P, of the (N,P+S) ids that :meth:`extract` is given.
    batch_size: windows per pass; halved, for good, whenever memory runs out.
    """

    def __init__(
        self, checkpoint: Checkpoint, prefix_tokens: int, settings: ScoreSettings, batch_size: int
    ) -> None:
        self.checkpoint = checkpoint
        self.prefix_tokens = prefix_tokens
        self.settings = settings
        self.batch_size = batch_size
        cached = "past_key_values" in accepted_arguments(checkpoint)
        self._layers = count_attention_layers(checkpoint.model.config) if cached else None

    @torch.inference_mode()
    def extract(
        self, prompt: SoftPrompt, ids: NDArray[np.int32], advance: Advance = lambda done: None
    ) -> Extraction:
        """Extract every window of ids (N,P+S).

        Raises RunError where not even one window fits the memory.
        """
        result = Extraction.empty(len(ids), ids.shape[1] - self.prefix_tokens)

        def one_pass(part: slice, batch: Tensor) -> None:
            verified = self._verify_stably(prompt, batch, keep_cache=True)
            result.continuation_ids[part] = self._complete(prompt, batch, verified).cpu().numpy()
            result.suffix_nll[part] = verified.nll.cpu().numpy()
            result.log_p_z[part] = verified.log_p_z.cpu().numpy()
            advance(part.stop - part.start)

        self._in_passes(ids, one_pass)
        return result

    @torch.inference_mode()
    def verify(
        self, prompt: SoftPrompt, ids: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which windows of ids (N,P+S) are exact, and their suffix NLL; nothing is decoded."""
        exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
        suffix = ids.shape[1] - self.prefix_tokens

        def one_pass(part: slice, batch: Tensor) -> None:
            verified = self._verify_stably(prompt, batch, keep_cache=False)
            exact[part] = (verified.matched == suffix).cpu().numpy()
            nll[part] = verified.nll.cpu().numpy()

        self._in_passes(ids, one_pass)
        return exact, nll

    def _in_passes(self, ids: NDArray[np.int32], one_pass: Callable[[slice, Tensor], None]) -> None:
        """Call ``one_pass`` on batches of ids; a batch that does not fit is halved and redone."""
        start = 0
        while start < len(ids):
            part = slice(start, min(len(ids), start + self.batch_size))
            try:
                batch = torch.as_tensor(ids[part], dtype=torch.long, device=self.checkpoint.device)
                one_pass(part, batch)
            except torch.OutOfMemoryError as error:
                self._back_off(error)
            else:
                start = part.stop

    def _back_off(self, error: torch.OutOfMemoryError) -> None:
        if self.batch_size == 1:
            raise RunError(
                "out of memory with a single window; use a smaller model, a smaller window "
                "(--prefix-tokens, --suffix-tokens) or another --device"
            ) from error
        self.batch_size = self.batch_size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _verify_stably(self, prompt: SoftPrompt, ids: Tensor, *, keep_cache: bool) -> _Verified:
        """Verify; where a verdict hangs on a near-tie, a pass of that window alone decides it.

        So a verdict does not depend on the windows that happened to share its batch.
        """
        verified = self._verify(prompt, ids, keep_cache=keep_cache)
        for row in torch.nonzero(verified.undecided).flatten().tolist():
            alone = self._verify(prompt, ids[row : row + 1], keep_cache=False)
            for mine, its in zip(verified[:4], alone[:4], strict=True):
                mine[row] = its[0]
        return verified

    def _verify(self, prompt: SoftPrompt, ids: Tensor, *, keep_cache: bool) -> _Verified:
        suffix = ids[:, self.prefix_tokens :]
        count = suffix.shape[1]
        inputs = build_inputs(self.checkpoint, prompt, ids[:, :-1], self.prefix_tokens)
        cache = None
        extra: dict[str, object] = {"use_cache": False}
        if keep_cache and self._layers is not None:
            cache = RoomyCache(self._layers, inputs.shape[1])
            extra = {"use_cache": True, "past_key_values": cache}
        logits, _ = last_logits(self.checkpoint, count, inputs_embeds=inputs, **extra)
        top = logits.topk(min(max(2, self.settings.top_k), logits.shape[-1]), dim=-1)
        target = logits.gather(-1, suffix[..., None])[..., 0]
        nll = (logits.logsumexp(dim=-1) - target).double().mean(dim=1)
        log_p_z = _log_p_z(target, top.values[..., : self.settings.top_k], self.settings)
        said = top.indices[..., 0]
        agrees = said == suffix
        tie = NEAR_TIE[self.checkpoint.dtype]
        close = (top.values[..., 0] - target) < tie
        shaky = close & ((top.values[..., 0] - top.values[..., 1]) < tie)
        undecided = (agrees | close).all(dim=1) & shaky.any(dim=1)
        matched = agrees.long().cumprod(dim=1).sum(dim=1)
        return _Verified(said, matched, nll, log_p_z, undecided, cache)

    def _complete(self, prompt: SoftPrompt, ids: Tensor, verified: _Verified) -> Tensor:
        """(B,S) greedy continuations: the suffix where it is exact, decoded elsewhere."""
        suffix = ids[:, self.prefix_tokens :].clone()
        count = suffix.shape[1]
        rows = torch.nonzero(verified.matched < count).flatten()
        if len(rows) == 0:
            return suffix
        matched = verified.matched[rows]
        # Up to the first mismatch the suffix stands, there what the target said instead.
        draft = suffix[rows].scatter(
            1, matched[:, None], verified.said[rows].gather(1, matched[:, None])
        )
        kept = int(matched.min())
        if verified.cache is not None:
            length = self._context_length(verified.cache, count) + kept
            verified.cache.keep(rows, length)
            state: dict[str, object] = {"past_key_values": verified.cache}
        else:
            state = self._prefill(prompt, ids[rows], kept)
        suffix[rows] = self._decode(state, draft, matched, kept)
        return suffix

    @staticmethod
    def _context_length(cache: RoomyCache, count: int) -> int:
        """Positions before the first suffix token: [BOS], V and P."""
        return int(cache.get_seq_length()) - (count - 1)

    def _prefill(self, prompt: SoftPrompt, ids: Tensor, kept: int) -> dict[str, object]:
        """State of a target that cannot be cut back, after the prefix and ``kept`` tokens."""
        context = ids[:, : self.prefix_tokens + kept]
        inputs = build_inputs(self.checkpoint, prompt, context, self.prefix_tokens)
        _, output = last_logits(self.checkpoint, 1, inputs_embeds=inputs, use_cache=True)
        return grow_model_cache(output)

    def _decode(
        self, state: dict[str, object], draft: Tensor, matched: Tensor, kept: int
    ) -> Tensor:
        """Go on token by token; ``draft`` (B,S) holds up to and including each first mismatch."""
        said = draft.clone()
        for position in range(kept + 1, draft.shape[1]):
            token = said[:, position - 1 : position]
            logits, output = last_logits(
                self.checkpoint, 1, input_ids=token, use_cache=True, **state
            )
            if "past_key_values" not in state:
                state = grow_model_cache(output)
            free = matched < position
            said[:, position] = torch.where(free, logits[:, 0].argmax(dim=-1), said[:, position])
        return said


def _log_p_z(target: Tensor, top: Tensor, settings: ScoreSettings) -> Tensor:
    """(B,) log p_z of suffixes under top-k sampling at a temperature.

    target: (B,S) logits of the suffix tokens; top: (B,S,k), largest first.
    log p_t = l_t/T - logsumexp(top-k of l/T), -inf outside the top k (arXiv 2410.19482).
    """
    best = top[..., :1]
    log_p = (target - best[..., 0]) / settings.temperature
    log_p = log_p - ((top - best) / settings.temperature).logsumexp(dim=-1)
    return torch.where(target >= top[..., -1], log_p, -torch.inf).double().sum(dim=1)


def choose_batch_size(checkpoint: Checkpoint, suffix_tokens: int) -> tuple[int, str]:
    """Windows per pass, and why.

    On a CPU larger batches only spill its caches: with a 7M-parameter target 32 windows were
    the fastest of 16 to 256. On an accelerator the logits, (B,S,X) in float32 and as much again
    while they are looked at, may take a quarter of what is free.
    """
    logits = 4 * suffix_tokens * checkpoint.vocabulary
    if checkpoint.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(checkpoint.device)
        size = int(max(1, min(256, free // 4 // (3 * logits))))
        return size, f"what a quarter of {free / 2**30:.0f} GiB free memory holds, at most 256"
    size = int(max(1, min(32, 2**31 // (3 * logits))))
    return size, "at most 32 on this device, with logits in 2 GiB"
