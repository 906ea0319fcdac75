from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, LLAMA_LIKE, VOCABULARY, build_model, build_tokenizer
from conftest import _config as config_of
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.decoding import (
    CACHE_NAMES,
    CannotContinue,
    RoomyCache,
    RoomyLayer,
    probe_cache,
)
from memaudit.attack.extraction import NEAR_TIE, Extraction, Extractor
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.memory import MAX_DECODE_BATCH, choose_batch_size
from memaudit.attack.prompts import NoPrompt, SoftPrompt
from memaudit.attack.verification import NotFinite, require_finite
from memaudit.config.settings import ScoreSettings
from memaudit.data.windows import PADDING
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.prepacking import can_prepack

pytestmark = pytest.mark.slow

P, S, V = 7, 12, 3
EOS = 1
SETTINGS = ScoreSettings(top_k=5)


def make_checkpoint(architecture: str = "gpt2", *, bos: bool = False) -> Checkpoint:
    model = build_model(architecture).requires_grad_(False)
    return Checkpoint(
        model=model,
        tokenizer=build_tokenizer(),
        name=architecture,
        device=torch.device("cpu"),
        dtype=torch.float32,
        bos_id=0 if bos else None,
        # What passes go through unless memory is short; what they are compared with does not.
        prepacks=can_prepack(torch.float32),
    )


class FixedPrompt:
    """V random vectors, the same for every prefix."""

    def __init__(self, checkpoint: Checkpoint, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.vectors = torch.randn(1, V, checkpoint.width, generator=rng)

    def __call__(self, prefix_ids: Tensor) -> Tensor:
        return self.vectors.expand(len(prefix_ids), -1, -1)

    def adapt(self, embedded: Tensor) -> Tensor:
        return embedded


class AdaptingPrompt(FixedPrompt):
    """A fixed prompt that also rotates the window's embeddings."""

    def __init__(self, checkpoint: Checkpoint, seed: int = 0) -> None:
        super().__init__(checkpoint, seed)
        width = checkpoint.width
        rng = torch.Generator().manual_seed(seed + 1)
        self.turn = torch.eye(width) + torch.randn(width, width, generator=rng) / width

    def adapt(self, embedded: Tensor) -> Tensor:
        return embedded @ self.turn


def without_stop(model: Any) -> Any:
    """A generation config with which nothing ends early.

    An ``eos_token_id`` of None would be filled from the model's own.
    """
    from transformers import GenerationConfig

    model.generation_config.eos_token_id = None
    return GenerationConfig(max_new_tokens=S, do_sample=False, pad_token_id=2, eos_token_id=None)


@torch.no_grad()
def generate(checkpoint: Checkpoint, prompt: SoftPrompt, prefixes: Tensor) -> Tensor:
    """(B,S) what transformers itself decodes, its embedding layer adapted as the prompt says."""
    inputs = build_inputs(checkpoint, prompt, prefixes, P)
    layer = checkpoint.model.get_input_embeddings()
    adapted = layer.register_forward_hook(lambda module, ids, embedded: prompt.adapt(embedded))
    with adapted:
        out = checkpoint.model.generate(
            inputs_embeds=inputs,
            attention_mask=torch.ones(inputs.shape[:2], dtype=torch.long),
            generation_config=without_stop(checkpoint.model),
        )
    return out[:, -S:]


@torch.no_grad()
def decode_plainly(checkpoint: Checkpoint, prompt: SoftPrompt, prefixes: Tensor) -> Tensor:
    """(B,S) without a cache."""
    ids = prefixes
    for _ in range(S):
        inputs = build_inputs(checkpoint, prompt, ids, P)
        logits = checkpoint.model(inputs_embeds=inputs, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1)[:, None]], dim=1)
    return ids[:, P:]


def make_windows(
    checkpoint: Checkpoint, prompt: SoftPrompt, count: int = 14, seed: int = 0
) -> NDArray[np.int32]:
    """Random prefixes whose suffixes are exact, exact but for one token, or random.

    One exact suffix contains the end-of-text token.
    """
    rng = np.random.default_rng(seed)
    prefixes = torch.as_tensor(rng.integers(3, VOCABULARY, (count, P)))
    suffixes = decode_plainly(checkpoint, prompt, prefixes)
    for row in range(count):
        if row % 3 == 1:
            place = int(rng.integers(S))
            suffixes[row, place] = (suffixes[row, place] + 1) % VOCABULARY
        elif row % 3 == 2:
            suffixes[row] = torch.as_tensor(rng.integers(3, VOCABULARY, S))
    return torch.cat([prefixes, suffixes], dim=1).numpy().astype(np.int32)


def reference_scores(
    checkpoint: Checkpoint, prompt: SoftPrompt, ids: NDArray[np.int32], temperature: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Suffix NLL and log p_z, token by token in float64."""
    nll, log_p_z = [], []
    rows = torch.as_tensor(ids).long()
    with torch.no_grad():
        inputs = build_inputs(checkpoint, prompt, rows, P)
        all_logits = checkpoint.model(inputs_embeds=inputs, use_cache=False).logits.double()
    for row, logits in zip(rows, all_logits, strict=True):
        lost, sampled = [], []
        for place in range(S):
            before = logits[len(logits) - S + place - 1]
            token = row[P + place]
            lost.append(float(before.logsumexp(0) - before[token]))
            top = before.sort(descending=True).values[: SETTINGS.top_k]
            log_p = before[token] / temperature - (top / temperature).logsumexp(0)
            sampled.append(float(log_p) if before[token] >= top[-1] else -np.inf)
        nll.append(np.mean(lost))
        log_p_z.append(np.sum(sampled))
    return np.array(nll), np.array(log_p_z)


PROMPTS: dict[str, Callable[[Checkpoint], SoftPrompt]] = {
    "none": lambda checkpoint: NoPrompt(),
    "soft": FixedPrompt,
    "adapting": AdaptingPrompt,
}


@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_extraction_is_greedy_decoding(architecture: str, kind: str, bos: bool) -> None:
    checkpoint = make_checkpoint(architecture, bos=bos)
    prompt = PROMPTS[kind](checkpoint)
    ids = make_windows(checkpoint, prompt)
    prefixes, suffixes = torch.as_tensor(ids[:, :P]).long(), ids[:, P:]
    extraction = Extractor(checkpoint, P, SETTINGS, 4).extract(prompt, ids)

    decoded = decode_plainly(checkpoint, prompt, prefixes).numpy()
    np.testing.assert_array_equal(extraction.continuation_ids, decoded)
    np.testing.assert_array_equal(generate(checkpoint, prompt, prefixes).numpy(), decoded)
    exact, nll = Extractor(checkpoint, P, SETTINGS, 4).verify(prompt, ids)
    np.testing.assert_array_equal(exact, (decoded == suffixes).all(axis=1))
    assert exact[::3].all()
    assert not exact[1::3].any()

    expected_nll, expected_log_p_z = reference_scores(checkpoint, prompt, ids)
    np.testing.assert_allclose(extraction.suffix_nll, expected_nll, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(nll, expected_nll, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(extraction.log_p_z, expected_log_p_z, rtol=1e-4, atol=1e-4)
    assert np.isfinite(extraction.log_p_z[::3]).all()
    assert not np.isfinite(extraction.log_p_z[2::3]).any()


@torch.no_grad()
def make_ragged_windows(
    checkpoint: Checkpoint, prompt: SoftPrompt
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Windows (N,P+S) with prefixes of 2 to P tokens in mixed order, and those lengths (N,).

    Two in three suffixes are what greedy decoding gives, without a cache; in half of these one
    token is changed.
    """
    rng = np.random.default_rng(1)
    lengths = rng.permutation(np.repeat(np.arange(2, P + 1), 3))
    rows = np.full((len(lengths), P + S), PADDING, dtype=np.int32)
    for row, length in enumerate(lengths):
        ids = torch.as_tensor(rng.integers(3, VOCABULARY, (1, length)))
        for _ in range(S):
            inputs = build_inputs(checkpoint, prompt, ids, length)
            logits = checkpoint.model(inputs_embeds=inputs, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(dim=-1)[:, None]], dim=1)
        rows[row, P - length :] = ids[0]
        if row % 3 == 1:
            rows[row, P + int(rng.integers(S))] = rng.integers(3, VOCABULARY)
        elif row % 3 == 2:
            rows[row, P:] = rng.integers(3, VOCABULARY, S)
    return rows, lengths


@pytest.mark.parametrize("bos", [False, True], ids=["plain", "bos"])
@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_short_prefixes_in_a_batch_say_what_each_says_alone(
    architecture: str, kind: str, bos: bool
) -> None:
    checkpoint = make_checkpoint(architecture, bos=bos)
    prompt = PROMPTS[kind](checkpoint)
    ids, lengths = make_ragged_windows(checkpoint, prompt)
    together = Extractor(checkpoint, P, SETTINGS, 4).extract(prompt, ids)
    exact, nll = Extractor(checkpoint, P, SETTINGS, 4).verify(prompt, ids)
    extractors = {length: Extractor(checkpoint, length, SETTINGS, 4) for length in range(2, P + 1)}
    for row, length in enumerate(lengths.tolist()):
        own = ids[row : row + 1, P - length :]
        alone = extractors[length].extract(prompt, own)
        np.testing.assert_array_equal(together.continuation_ids[row], alone.continuation_ids[0])
        np.testing.assert_allclose(together.suffix_nll[row], alone.suffix_nll[0], rtol=1e-4)
        np.testing.assert_allclose(together.log_p_z[row], alone.log_p_z[0], rtol=1e-4)
        np.testing.assert_allclose(nll[row], alone.suffix_nll[0], rtol=1e-4)
        assert exact[row] == (alone.continuation_ids[0] == own[0, length:]).all()
    assert exact[::3].all()
    assert not exact[2::3].any()


def test_positions_that_the_longest_text_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text beside a long one would get the long one's positions, as in Phi-3 128k."""
    scaled = {
        "rope_type": "longrope",
        "factor": 4.0,
        "rope_theta": 1e4,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 4,
        "long_factor": [6.0] * 4,
        "original_max_position_embeddings": 5,
    }
    monkeypatch.setitem(
        ARCHITECTURES,
        "longrope",
        config_of(
            "Phi3Config",
            LLAMA_LIKE,
            num_key_value_heads=2,
            original_max_position_embeddings=5,
            rope_parameters=scaled,
        ),
    )
    checkpoint = make_checkpoint("longrope")
    assert not Extractor(checkpoint, P, SETTINGS, 64).decoding.aligns


def test_short_prefixes_see_nothing_that_memory_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN before a text spoils it, though its weight is 0."""
    checkpoint = make_checkpoint()
    ids, _ = make_ragged_windows(checkpoint, NoPrompt())
    extractor = Extractor(checkpoint, P, SETTINGS, 4)
    expected = extractor.extract(NoPrompt(), ids)

    real = RoomyLayer._room_for
    monkeypatch.setattr(
        RoomyLayer, "_room_for", lambda *given: torch.full_like(real(*given), torch.nan)
    )
    again = extractor.extract(NoPrompt(), ids)
    np.testing.assert_array_equal(again.continuation_ids, expected.continuation_ids)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_weights_as_stored_say_the_same(architecture: str) -> None:
    checkpoint = make_checkpoint(architecture)
    ids = make_windows(checkpoint, NoPrompt())
    stored, prepacked = (
        Extractor(target, P, SETTINGS, 4).extract(NoPrompt(), ids)
        for target in (replace(checkpoint, prepacks=False), checkpoint)
    )
    np.testing.assert_array_equal(stored.continuation_ids, prepacked.continuation_ids)
    np.testing.assert_allclose(stored.suffix_nll, prepacked.suffix_nll, rtol=1e-4, atol=1e-5)


def test_generate_without_embeddings_agrees() -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    prefixes = torch.as_tensor(ids[:, :P]).long()
    with torch.no_grad():
        generated = checkpoint.model.generate(
            input_ids=prefixes,
            attention_mask=torch.ones_like(prefixes),
            generation_config=without_stop(checkpoint.model),
        )[:, P:]
    extraction = Extractor(checkpoint, P, SETTINGS, 64).extract(NoPrompt(), ids)
    np.testing.assert_array_equal(extraction.continuation_ids, generated.numpy())


def prefer_token(checkpoint: Checkpoint, token: int, places: int) -> Checkpoint:
    """A target that says ``token`` at every ``places``-th position, whatever it was asked."""
    inner = checkpoint.model

    class Stubborn(type(inner)):  # type: ignore[misc]
        @wraps(inner.forward)  # so that its arguments can be read from it
        def forward(self, **inputs: Any) -> Any:
            cache = next((inputs[name] for name in CACHE_NAMES if name in inputs), None)
            before = cache.get_seq_length() if cache is not None else 0
            positions = inputs.pop("logits_to_keep", 0)
            output = super().forward(**inputs)
            positions = before + torch.arange(output.logits.shape[1])
            output.logits[:, positions % places == 0, token] += 1e3
            if isinstance(positions, Tensor):
                output.logits = output.logits[:, positions]
            return output

    inner.__class__ = Stubborn
    return checkpoint


def test_decoding_goes_on_past_the_end_of_text() -> None:
    checkpoint = prefer_token(make_checkpoint(), EOS, places=9)
    ids = make_windows(checkpoint, NoPrompt())
    assert (ids[::3, P:] == EOS).any(axis=1).all()
    extraction = Extractor(checkpoint, P, SETTINGS, 4).extract(NoPrompt(), ids)
    decoded = decode_plainly(checkpoint, NoPrompt(), torch.as_tensor(ids[:, :P]).long())
    np.testing.assert_array_equal(extraction.continuation_ids, decoded.numpy())
    assert (extraction.continuation_ids == ids[:, P:])[::3].all()
    assert (extraction.continuation_ids[1::3] == EOS).any(axis=1).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_log_p_z_at_a_temperature(temperature: float) -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    settings = SETTINGS.model_copy(update={"temperature": temperature})
    extraction = Extractor(checkpoint, P, settings, 4).extract(NoPrompt(), ids)
    _, expected = reference_scores(checkpoint, NoPrompt(), ids, temperature)
    np.testing.assert_allclose(extraction.log_p_z, expected, rtol=1e-4, atol=1e-4)


def test_log_p_z_with_more_tokens_than_the_vocabulary_is_the_likelihood() -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    settings = ScoreSettings(top_k=VOCABULARY + 1)
    extraction = Extractor(checkpoint, P, settings, 4).extract(NoPrompt(), ids)
    np.testing.assert_allclose(extraction.log_p_z, -S * extraction.suffix_nll, rtol=1e-4)


def as_bfloat16(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, model=checkpoint.model.bfloat16(), dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2", "mamba"])
def test_verdicts_do_not_depend_on_the_batch(architecture: str, dtype: torch.dtype) -> None:
    checkpoint = make_checkpoint(architecture)
    prompt = FixedPrompt(checkpoint)
    if dtype is torch.bfloat16:
        checkpoint = as_bfloat16(checkpoint)
    ids = make_windows(checkpoint, prompt, count=40)
    results = [Extractor(checkpoint, P, SETTINGS, size).extract(prompt, ids) for size in (1, 3, 64)]
    exact = [(result.continuation_ids == ids[:, P:]).all(axis=1) for result in results]
    np.testing.assert_array_equal(exact[0], exact[1])
    np.testing.assert_array_equal(exact[0], exact[2])
    assert 3 <= exact[0].sum() < 30
    verified, _ = Extractor(checkpoint, P, SETTINGS, 5).verify(prompt, ids)
    np.testing.assert_array_equal(exact[0], verified)
    if dtype is torch.float32:
        np.testing.assert_array_equal(results[0].continuation_ids, results[2].continuation_ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_that_depends_on_the_batch_changes_no_verdict(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Imitate accelerators: the batch shape changes the order of summation."""
    checkpoint = make_checkpoint()
    prompt = FixedPrompt(checkpoint)
    if dtype is torch.bfloat16:
        checkpoint = as_bfloat16(checkpoint)
    error = NEAR_TIE[dtype] * 8 / 2 * 0.99  # of each of two logits
    rng = torch.Generator().manual_seed(0)

    def rounded(checkpoint: Checkpoint, count: int, embedded: Tensor, **options: Any) -> Any:
        logits, output = last_logits(checkpoint, count, embedded, **options)
        if len(logits) > 1:
            logits = logits + error * (2 * torch.rand(logits.shape, generator=rng) - 1)
        return logits, output

    ids = make_windows(checkpoint, prompt, count=40)
    near = nearly_tied(checkpoint, prompt, ids, error)
    single = Extractor(checkpoint, P, SETTINGS, 1).extract(prompt, ids)
    monkeypatch.setattr("memaudit.attack.forward.last_logits", rounded)
    monkeypatch.setattr("memaudit.attack.decoding.last_logits", rounded)
    exact = (single.continuation_ids == ids[:, P:]).all(axis=1)
    for size in (3, 64):
        extractor = Extractor(checkpoint, P, SETTINGS, size)
        again = extractor.extract(prompt, ids)
        np.testing.assert_array_equal((again.continuation_ids == ids[:, P:]).all(axis=1), exact)
        np.testing.assert_array_equal(extractor.verify(prompt, ids)[0], exact)
    assert (exact & near).any() or dtype is torch.float32


@torch.no_grad()
def nearly_tied(
    checkpoint: Checkpoint, prompt: SoftPrompt, ids: NDArray[np.int32], error: float
) -> NDArray[np.bool_]:
    """(N,) whether somewhere in the suffix the two best logits are within twice the error."""
    inputs = build_inputs(checkpoint, prompt, torch.as_tensor(ids[:, :-1]).long(), P)
    best = checkpoint.model(inputs_embeds=inputs).logits[:, -S:].float().topk(2).values
    return (best[..., 0] - best[..., 1] < 2 * error).any(dim=1).numpy()


def failing_above(monkeypatch: pytest.MonkeyPatch, limit: int, error: Exception) -> list[int]:
    """Make every pass over more than ``limit`` windows fail; returns the sizes of the others."""
    passed = []

    def limited(checkpoint: Checkpoint, count: int, embedded: Tensor, **options: Any) -> Any:
        if len(embedded) > limit:
            raise error
        passed.append(len(embedded))
        return last_logits(checkpoint, count, embedded, **options)

    monkeypatch.setattr("memaudit.attack.forward.last_logits", limited)
    monkeypatch.setattr("memaudit.attack.decoding.last_logits", limited)
    return passed


CPU_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), CPU_FULL])
def test_running_out_of_memory_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, architecture: str, error: Exception
) -> None:
    checkpoint = make_checkpoint(architecture)
    ids = make_windows(checkpoint, NoPrompt())
    whole = Extractor(checkpoint, P, SETTINGS, 64).extract(NoPrompt(), ids)
    passed = failing_above(monkeypatch, 3, error)
    extractor = Extractor(checkpoint, P, SETTINGS, 64)
    done: list[int] = []
    parts = extractor.extract(NoPrompt(), ids, done.append)
    assert_same(parts, whole)
    assert sum(done) == len(ids)
    assert max(passed) <= 3
    assert extractor.batch_size in (1, 2, 3)
    exact, nll = extractor.verify(NoPrompt(), ids)
    np.testing.assert_allclose(nll, whole.suffix_nll, rtol=1e-5)
    np.testing.assert_array_equal(exact, (whole.continuation_ids == ids[:, P:]).all(axis=1))


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])
def test_sizes_grow_again_once_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    checkpoint = make_checkpoint(architecture)
    ids = np.tile(make_windows(checkpoint, NoPrompt()), (8, 1))
    whole = Extractor(checkpoint, P, SETTINGS, 8).extract(NoPrompt(), ids)
    taken = {"by another": True}

    def scarce(checkpoint: Checkpoint, count: int, embedded: Tensor, **options: Any) -> Any:
        if taken["by another"] and len(embedded) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return last_logits(checkpoint, count, embedded, **options)

    monkeypatch.setattr("memaudit.attack.forward.last_logits", scarce)
    monkeypatch.setattr("memaudit.attack.decoding.last_logits", scarce)
    monkeypatch.setattr("memaudit.attack.memory.FIRST_PATIENCE", 1)
    monkeypatch.setitem(MAX_DECODE_BATCH, "cpu", 8)
    extractor = Extractor(checkpoint, P, SETTINGS, 8)
    sizes = []

    def advance(done: int) -> None:
        sizes.append(extractor.batch_size)
        taken["by another"] = sum(sizes) < 10

    assert_same(extractor.extract(NoPrompt(), ids, advance), whole)
    assert min(sizes) <= 2
    assert extractor.batch_size == 8


def assert_same(first: Extraction, second: Extraction) -> None:
    np.testing.assert_array_equal(first.continuation_ids, second.continuation_ids)
    np.testing.assert_allclose(first.suffix_nll, second.suffix_nll, rtol=1e-5)
    np.testing.assert_allclose(first.log_p_z, second.log_p_z, rtol=1e-4)


def test_a_single_window_that_does_not_fit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    failing_above(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    extractor = Extractor(checkpoint, P, SETTINGS, 8)
    with pytest.raises(RunError, match="single window"):
        extractor.extract(NoPrompt(), ids)
    with pytest.raises(RunError, match="single window"):
        extractor.verify(NoPrompt(), ids)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    failing_above(monkeypatch, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Extractor(checkpoint, P, SETTINGS, 8).extract(NoPrompt(), ids)


def test_only_plain_key_value_caches_are_cut() -> None:
    with torch.inference_mode():
        gpt2 = probe_cache(make_checkpoint("gpt2"))
        assert gpt2 is not None
        assert gpt2.layers == 2
        assert gpt2.bytes_per_token == 2 * 2 * 32 * 4  # keys and values, layers, width, bytes
        assert probe_cache(make_checkpoint("mistral")) is not None
        with pytest.raises(CannotContinue, match="more than keys and values"):
            probe_cache(make_checkpoint("mamba"))


def test_cache_rows_can_be_put_in_another_order() -> None:
    cache = RoomyCache(2, rows=4, capacity=5)
    for rows in (slice(0, 2), slice(2, 4)):
        cache.focus(rows, 0)
        for layer in range(2):
            states = (
                torch.full((2, 1, 3, 1), 10.0 * layer)
                + torch.arange(rows.start, rows.stop)[:, None, None, None]
            )
            cache.update(states, -states, layer)
    cache.reorder(torch.tensor([2, 0, 3]))
    for layer in range(2):
        cache.layers[layer].focus(slice(0, 3), 3)
        keys, values = cache.layers[layer].keys, cache.layers[layer].values
        assert keys[:, 0, 0, 0].tolist() == [10.0 * layer + row for row in (2, 0, 3)]
        assert torch.equal(keys, -values)
    assert cache.get_seq_length() == 3


def test_steps_are_only_for_windows_past_their_first_mismatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = make_checkpoint()
    ids = make_windows(checkpoint, NoPrompt())
    ids = ids[np.arange(len(ids)) % 3 != 2]  # exact ones and those with one wrong token
    extractor = Extractor(checkpoint, P, SETTINGS, 64)
    passed = failing_above(monkeypatch, 64, CPU_FULL)
    extraction = extractor.extract(NoPrompt(), ids)
    wrong = extraction.continuation_ids != ids[:, P:]
    first = np.where(wrong.any(axis=1), wrong.argmax(axis=1), S)
    assert sum(passed) == len(ids) + int(np.maximum(S - 1 - first, 0).sum())


def test_an_accelerator_decodes_as_many_together_as_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = make_checkpoint("gpt2")
    extractor = Extractor(checkpoint, P, SETTINGS, 8)
    each = 20 * 2 * 2 * 32 * 4 + 2 * 4 * checkpoint.vocabulary  # 20 tokens, and a step's logits
    for room, rows in ((None, 512), (100 * each, 96), (10**12, 512), (each, 8)):
        monkeypatch.setattr(
            "memaudit.attack.memory.free_memory", lambda device, r=room: r and 2 * r
        )
        assert extractor.decode_batch_size(20) == rows


def test_batch_size_is_bounded_and_explained() -> None:
    size, reason = choose_batch_size(make_checkpoint(), S)
    assert 1 <= size <= 64
    assert reason


def test_logits_that_are_no_numbers_end_the_run() -> None:
    """They would read as a window that is not extracted, and pass a gate."""
    checkpoint = make_checkpoint("gpt2")
    with torch.no_grad():
        checkpoint.model.transformer.ln_f.bias.fill_(torch.nan)
    extractor = Extractor(checkpoint, P, ScoreSettings(), 4)
    with pytest.raises(RunError, match="not finite"):
        extractor.extract(NoPrompt(), np.ones((3, P + S), dtype=np.int32))


@pytest.mark.parametrize("architecture", ["gpt2", "mamba"])  # a cache that is cut, and none
def test_logits_that_are_no_numbers_only_while_decoding_end_the_run(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(architecture)

    def spoiled(*given: Any, **options: Any) -> Any:
        logits, output = last_logits(*given, **options)
        return (logits * torch.nan if logits.shape[1] == 1 else logits), output

    monkeypatch.setattr("memaudit.attack.decoding.last_logits", spoiled)
    extractor = Extractor(checkpoint, P, ScoreSettings(), 4)
    ids = np.arange(3 * (P + S), dtype=np.int32).reshape(3, -1) % 300
    with pytest.raises(NotFinite, match="not finite in float32"):
        extractor.extract(NoPrompt(), ids)
    with pytest.raises(NotFinite) as caught:
        require_finite(checkpoint, torch.tensor([True, False]), torch.tensor([[1, 2], [3, 4]]))
    assert caught.value.ids.tolist() == [[3, 4]]
