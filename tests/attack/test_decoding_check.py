from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model, build_tokenizer
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack import decoding_check
from memaudit.attack.decoding import CACHE_NAMES, cache_argument, cache_of
from memaudit.attack.decoding_check import (
    CUT,
    FULL_PASSES,
    OWN,
    agree,
    check_causal,
    choose_decoding,
    tolerance,
)
from memaudit.attack.extraction import Extractor
from memaudit.attack.prompts import NoPrompt
from memaudit.config.settings import ScoreSettings
from memaudit.errors import RunError, TargetError
from memaudit.target.checkpoint import Checkpoint

P, S = 7, 6
Spoil = Callable[[Any, dict[str, Any], Any], None]


def spoilt(architecture: str, spoil: Spoil | None = None) -> Checkpoint:
    """A target whose output goes through ``spoil`` (model, inputs, output) first."""
    model = build_model(architecture).requires_grad_(False)
    if spoil is not None:
        inner, change = type(model), spoil

        class Spoilt(inner):  # type: ignore[misc, valid-type]
            @wraps(inner.forward)  # so that its arguments can be read from it
            def forward(self, *given: Any, **named: Any) -> Any:
                positions = named.pop("logits_to_keep", None)
                output = inner.forward(self, *given, **named)
                change(self, named, output)
                if isinstance(positions, Tensor):
                    output.logits = output.logits[:, positions]
                return output

        model.__class__ = Spoilt
    return Checkpoint(model, build_tokenizer(), "tiny", torch.device("cpu"), torch.float32)


def cache_in(inputs: dict[str, Any]) -> Any:
    """The cache that a pass was handed, by whatever name."""
    return next((inputs[name] for name in CACHE_NAMES if inputs.get(name) is not None), None)


def refuses_other_caches(model: Any, inputs: dict[str, Any], output: Any) -> None:
    if "Roomy" in type(cache_in(inputs)).__name__:
        raise ValueError("this model uses a cache of its own")


def forgets(model: Any, inputs: dict[str, Any], output: Any) -> None:
    """Give wrong logits with any cache, like a model that restarts its positions."""
    if cache_in(inputs) is not None:
        output.logits = output.logits.flip(-1)


def keeps_nothing(model: Any, inputs: dict[str, Any], output: Any) -> None:
    for name in set(output.keys()) & set(CACHE_NAMES):  # transformers' own deletion is forbidden
        OrderedDict.__delitem__(output, name)


def mixes_texts(model: Any, inputs: dict[str, Any], output: Any) -> None:
    output.logits = output.logits + output.logits.mean(dim=0, keepdim=True)


def looks_ahead(model: Any, inputs: dict[str, Any], output: Any) -> None:
    """Only in texts that are longer than the prefix."""
    if output.logits.shape[1] > P:
        output.logits = output.logits + output.logits[:, -1:].flip(-1)


def refuses_vectors(model: Any, inputs: dict[str, Any], output: Any) -> None:
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("no vectors,\nplease")


@pytest.mark.parametrize(
    ("architecture", "spoil", "path", "reason"),
    [
        ("gpt2", None, CUT, "keys and values, cut back to the first mismatch"),
        ("mistral", None, CUT, "keys and values, cut back to the first mismatch"),
        (
            "mamba",
            None,
            OWN,
            "its cache holds more than keys and values \\(LinearAttentionLayer\\)",
        ),
        ("gpt2", refuses_other_caches, OWN, "it fails with a cache that was cut back: .* its own"),
        ("gpt2", forgets, FULL_PASSES, "one for each token: its own cache gives other logits"),
        ("gpt2", keeps_nothing, FULL_PASSES, "one for each token: it returns no cache"),
    ],
)
def test_the_fastest_way_that_is_right_is_chosen(
    architecture: str, spoil: Spoil | None, path: str, reason: str
) -> None:
    checkpoint = spoilt(architecture, spoil)
    decoding = choose_decoding(checkpoint, P)
    assert decoding.path == path
    assert re.search(reason, decoding.reason)

    # And whichever it is, the same comes out.
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 300, (9, P + S)).astype(np.int32)
    plain = Extractor(spoilt(architecture), P, ScoreSettings(), 4).extract(NoPrompt(), ids)
    other = Extractor(checkpoint, P, ScoreSettings(), 4).extract(NoPrompt(), ids)
    np.testing.assert_array_equal(other.continuation_ids, plain.continuation_ids)
    np.testing.assert_allclose(other.suffix_nll, plain.suffix_nll, rtol=1e-5)


def fed_positions(checkpoint: Checkpoint, ids: NDArray[np.int32], size: int) -> int:
    """Token positions that the target is given while windows are extracted, ``size`` a pass."""
    extractor = Extractor(checkpoint, P, ScoreSettings(), size)
    fed = 0

    def count(model: Any, given: Any, inputs: dict[str, Any]) -> None:
        nonlocal fed
        fed += inputs["inputs_embeds"].shape[:2].numel()

    with checkpoint.model.register_forward_pre_hook(count, with_kwargs=True):
        extractor.extract(NoPrompt(), ids)
    return fed


@pytest.mark.parametrize(
    ("architecture", "spoil", "path"),
    [(name, None, CUT) for name in ("gpt2", "gpt_neox", "llama", "mistral", "gemma2", "bloom")]
    + [("mamba", None, OWN), ("gpt2", refuses_other_caches, OWN), ("gpt2", forgets, FULL_PASSES)],
)
def test_a_target_is_given_no_more_than_its_path_needs(
    architecture: str, spoil: Spoil | None, path: str
) -> None:
    checkpoint = spoilt(architecture, spoil)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 300, (9, P + S)).astype(np.int32)
    extraction = Extractor(spoilt(architecture), P, ScoreSettings(), 4).extract(NoPrompt(), ids)
    ids[:, P:] = extraction.continuation_ids
    wrong = np.array([0, 0, 1, 2, 3, 4, S - 2, S - 1])  # the first mismatch; the last has none
    ids[np.arange(8), P + wrong] = (ids[np.arange(8), P + wrong] + 1) % 300

    verified = len(ids) * (P + S - 1)
    decoded = {
        CUT: int((S - 1 - wrong).sum()),
        # Filled anew up to the first mismatch of each batch, then on from there.
        OWN: sum(len(batch) * (P + S - 1) for batch in (wrong[:4], wrong[4:])),
        FULL_PASSES: sum(P + position for first in wrong for position in range(first + 1, S)),
    }
    assert fed_positions(checkpoint, ids, 4) == verified + decoded[path]


@pytest.mark.parametrize("argument", CACHE_NAMES)
@pytest.mark.parametrize("field", CACHE_NAMES)
def test_a_cache_is_known_by_any_of_its_names(argument: str, field: str) -> None:
    """Code that comes with a model may keep the old name while transformers has the new one."""
    checkpoint = spoilt("gpt2")
    inner = type(checkpoint.model)
    name = cache_argument(checkpoint)
    assert name is not None
    usual: str = name

    class Renamed(inner):  # type: ignore[misc, valid-type]
        def forward(self, inputs_embeds: Tensor, use_cache: bool, **named: Any) -> Any:
            assert not (set(named) & set(CACHE_NAMES)) - {argument}
            output = inner.forward(
                self,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **{usual: named.get(argument)},
            )
            held = {"logits": output.logits, field: cache_of(output)}
            return Renamed.Output(held)

        class Output(dict[str, Any]):
            @property
            def logits(self) -> Tensor:
                return self["logits"]  # type: ignore[no-any-return]

    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD)
        for name in ("self", "inputs_embeds", "use_cache", argument)
    ]
    Renamed.forward.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    checkpoint.model.__class__ = Renamed
    assert cache_argument(checkpoint) == argument
    assert choose_decoding(checkpoint, P).path == CUT


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
    ("spoil", "message"),
    [
        (mixes_texts, "change with the other texts in the batch"),
        (looks_ahead, f"in a text of {P + S - 1} tokens, its logits at a token change with"),
        (refuses_vectors, r"refuses inputs_embeds \(no vectors, please\)"),
    ],
)
def test_what_would_be_judged_wrongly_is_refused(spoil: Spoil, message: str) -> None:
    with pytest.raises(TargetError, match=f"tiny: Spoilt cannot be audited: .*{message}") as caught:
        check_causal(spoilt("gpt2", spoil), P, S)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [1, 2, S])
def test_others_pass_whatever_the_suffix(suffix: int) -> None:
    check_causal(spoilt("gpt2"), P, suffix)
    check_causal(spoilt("gpt2", looks_ahead), 1, min(suffix, P))


def test_a_lack_of_memory_is_no_fault_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = spoilt("gpt2")

    def full(*given: Any, **options: Any) -> Any:
        if cache_in(options) is not None or not options.get("use_cache"):
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
    assert choose_decoding(spoilt("gpt2"), P).path == CUT
    assert choose_decoding(spoilt("gpt2", forgets), P).path == FULL_PASSES
    check_causal(spoilt("gpt2"), P, S)
    with pytest.raises(TargetError, match="change with the tokens that follow"):
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
