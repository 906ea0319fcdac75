from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model, build_tokenizer
from torch import Tensor

from memaudit.attack import decoding_check
from memaudit.attack.decoding_check import agree, check_causal, choose_decoding, tolerance
from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt
from memaudit.config import ScoreSettings
from memaudit.errors import RunError, TargetError
from memaudit.target.checkpoint import Checkpoint

P, S = 7, 6
Spoil = Callable[[Any, dict[str, Any], Any], None]


def spoilt(architecture: str, spoil: Spoil | None = None) -> Checkpoint:
    """A target whose output goes through ``spoil`` (model, inputs, output) first."""
    model = build_model(architecture).requires_grad_(False)
    if spoil is not None:
        inner = type(model)

        class Spoilt(inner):  # type: ignore[misc, valid-type]
            def forward(
                self,
                input_ids: Tensor | None = None,
                inputs_embeds: Tensor | None = None,
                past_key_values: Any = None,
                use_cache: bool | None = None,
            ) -> Any:
                given = {"inputs_embeds": inputs_embeds, "past_key_values": past_key_values}
                given |= {"use_cache": use_cache}
                output = inner.forward(self, input_ids=input_ids, **given)
                spoil(self, given, output)
                return output

        model.__class__ = Spoilt
    return Checkpoint(model, build_tokenizer(), "tiny", torch.device("cpu"), torch.float32)


def refuses_other_caches(model: Any, inputs: dict[str, Any], output: Any) -> None:
    if "Roomy" in type(inputs["past_key_values"]).__name__:
        raise ValueError("this model uses a cache of its own")


def forgets(model: Any, inputs: dict[str, Any], output: Any) -> None:
    """As where places are counted anew: whatever stands in the cache, other logits."""
    if inputs["past_key_values"] is not None:
        output.logits = output.logits.flip(-1)


def keeps_nothing(model: Any, inputs: dict[str, Any], output: Any) -> None:
    if "past_key_values" in output:  # transformers' own deletion is forbidden
        OrderedDict.__delitem__(output, "past_key_values")


def mixes_texts(model: Any, inputs: dict[str, Any], output: Any) -> None:
    output.logits = output.logits + output.logits.mean(dim=0, keepdim=True)


def looks_ahead(model: Any, inputs: dict[str, Any], output: Any) -> None:
    """Only in texts that are longer than the prefix."""
    if output.logits.shape[1] > P:
        output.logits = output.logits + output.logits[:, -1:].flip(-1)


def refuses_vectors(model: Any, inputs: dict[str, Any], output: Any) -> None:
    if inputs["inputs_embeds"] is not None:
        raise ValueError("no vectors,\nplease")


@pytest.mark.parametrize(
    ("architecture", "spoil", "cuts", "carries"),
    [
        ("gpt2", None, True, True),
        ("mistral", None, True, True),
        ("mamba", None, False, True),
        ("gpt2", refuses_other_caches, False, True),
        ("gpt2", forgets, False, False),
        ("gpt2", keeps_nothing, False, False),
    ],
)
def test_the_fastest_way_that_is_right_is_chosen(
    architecture: str, spoil: Spoil | None, cuts: bool, carries: bool
) -> None:
    checkpoint = spoilt(architecture, spoil)
    found = choose_decoding(checkpoint, P)
    assert (found.shape is not None, found.carries) == (cuts, carries)

    # And whichever it is, the same comes out.
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 300, (9, P + S)).astype(np.int32)
    plain = Extractor(spoilt(architecture), P, ScoreSettings(), 4).extract(NoPrompt(), ids)
    other = Extractor(checkpoint, P, ScoreSettings(), 4).extract(NoPrompt(), ids)
    np.testing.assert_array_equal(other.continuation_ids, plain.continuation_ids)
    np.testing.assert_allclose(other.suffix_nll, plain.suffix_nll, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("architecture", "cuts"), [("gpt2", True), ("gemma2", True)])
def test_rounding_alone_changes_no_choice(
    architecture: str, cuts: bool, dtype: torch.dtype
) -> None:
    model = build_model(architecture).to(dtype).requires_grad_(False)
    checkpoint = Checkpoint(model, build_tokenizer(), "tiny", torch.device("cpu"), dtype)
    assert (choose_decoding(checkpoint, P).shape is not None) == cuts
    check_causal(checkpoint, P, S)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (mixes_texts, "changes with the texts beside it"),
        (looks_ahead, f"in a text of {P + S - 1} tokens, what it says of a token changes"),
        (refuses_vectors, r"refuses inputs_embeds \(no vectors, please\)"),
    ],
)
def test_what_would_be_judged_wrongly_is_refused(spoil: Spoil, said: str) -> None:
    with pytest.raises(TargetError, match=f"tiny: Spoilt cannot be audited: .*{said}") as caught:
        check_causal(spoilt("gpt2", spoil), P, S)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [1, 2, S])
def test_others_pass_whatever_the_suffix(suffix: int) -> None:
    check_causal(spoilt("gpt2"), P, suffix)
    check_causal(spoilt("gpt2", looks_ahead), 1, min(suffix, P))


def test_a_lack_of_memory_is_no_fault_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = spoilt("gpt2")

    def full(*given: Any, **options: Any) -> Any:
        if options.get("past_key_values") is not None or not options.get("use_cache"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        raise AssertionError

    monkeypatch.setattr(decoding_check, "last_logits", full)
    with pytest.raises(RunError, match="no memory left on cpu"):
        choose_decoding(checkpoint, P)
    with pytest.raises(RunError, match="no memory left on cpu"):
        check_causal(checkpoint, P, S)


def test_where_two_texts_find_no_memory_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    real = decoding_check.last_logits
    rows = []

    def limited(checkpoint: Checkpoint, count: int, vectors: Tensor, **options: Any) -> Any:
        if len(vectors) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows.append(len(vectors))
        return real(checkpoint, count, vectors, **options)

    monkeypatch.setattr(decoding_check, "last_logits", limited)
    assert choose_decoding(spoilt("gpt2"), P).shape is not None
    assert choose_decoding(spoilt("gpt2", forgets), P) == (None, False)
    check_causal(spoilt("gpt2"), P, S)
    with pytest.raises(TargetError, match="changes with those that follow"):
        check_causal(spoilt("gpt2", looks_ahead), P, S)
    assert set(rows) == {1}


def test_logits_that_are_masked_off_do_not_hide_a_difference() -> None:
    rng = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 3, 50, generator=rng)
    whole[..., 40:] = torch.finfo(torch.float32).min
    near = tolerance(whole, torch.float32)
    assert agree(whole, whole.clone(), near)
    assert agree(whole, whole + 1e-4 * torch.randn(whole.shape, generator=rng), near)
    assert not agree(whole, whole.flip(0), near)
    assert not agree(whole, whole[:, :2], near)
    assert not agree(whole, whole * torch.nan, near)
