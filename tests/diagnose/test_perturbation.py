"""Perturbed weights: noise of the size requested, removed to the last bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from architectures import MATRIX, Architecture, make_model
from conftest import build_model
from subjects_latent import P, S, checkpoint_of, part_of, random_ids, subject_of

from memaudit.diagnose.latent.perturbation import Noise, Perturbation, perturb
from memaudit.errors import TargetError, UsageError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import quiet_transformers
from memaudit.target.quantization import Quantization


def state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}


def assert_same(checkpoint: Checkpoint, before: dict[str, torch.Tensor]) -> None:
    after = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def moved(after: torch.Tensor, before: torch.Tensor) -> float:
    """Root mean square of a change, as a share of that of the original."""
    return float(
        (after.double() - before.double()).pow(2).mean().sqrt() / before.double().norm()
    ) * (before.numel() ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_noise_goes_by_the_size_of_each_matrix_and_comes_off_to_the_bit(dtype: torch.dtype) -> None:
    checkpoint = checkpoint_of(build_model("llama").to(dtype))
    before = state(checkpoint)
    perturbation = Perturbation(checkpoint, 0.1, [0])
    with perturbation.apply(3):
        within = state(checkpoint)
    assert_same(checkpoint, before)
    for name, tensor in before.items():
        size = moved(within[name], tensor)
        if tensor.dim() < 2:
            assert size == 0, name
        else:
            assert size == pytest.approx(0.1, rel=0.1), name


def test_a_number_names_its_noise() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    weights: dict[tuple[int, int], torch.Tensor] = {}
    for seed, number in ((0, 0), (0, 1), (1, 0)):
        for _ in range(2):
            with Perturbation(checkpoint, 0.1, [seed]).apply(number):
                weight = checkpoint.model.transformer.wpe.weight.clone()
            assert torch.equal(weights.setdefault((seed, number), weight), weight)
    first, *rest = weights.values()
    assert all((weight - first).abs().mean() > 0.01 for weight in rest)


def test_an_interruption_leaves_the_weights_as_they_were() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    before, states = state(checkpoint), torch.get_rng_state()

    def stopped() -> None:
        with Perturbation(checkpoint, 0.1, [0]).apply(0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert_same(checkpoint, before)
    assert torch.equal(torch.get_rng_state(), states)


@pytest.mark.parametrize(
    "architecture",
    [architecture for architecture in MATRIX if architecture.refused is None],
    ids=lambda architecture: architecture.name,
)
def test_every_audited_architecture_is_perturbed(architecture: Architecture) -> None:
    model = make_model(architecture)
    if model is None:
        pytest.skip(f"this transformers has no {architecture.config}")
    checkpoint = checkpoint_of(model, bos_id=0 if architecture.adds_bos else None)
    ids = random_ids(4, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of architectures, on a CPU
        subject = subject_of(checkpoint, part_of(checkpoint, ids), None)
        before = state(checkpoint)
        perturbed = perturb(subject, ids, Noise(0.1, 1, 0), lambda done: None)
        still = perturb(subject, ids, Noise(0.0, 1, 0), lambda done: None)
    assert_same(checkpoint, before)
    assert (np.abs(perturbed.nll[0] - perturbed.before) > 1e-4).all()
    assert (still.nll[0] == still.before).all()
    assert (still.before == perturbed.before).all()


def test_an_adapter_is_perturbed_with_its_base() -> None:
    settings = peft.LoraConfig(r=2, init_lora_weights=False, fan_in_fan_out=True)
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        checkpoint = checkpoint_of(peft.get_peft_model(build_model("gpt2"), settings))
    before = state(checkpoint)
    with Perturbation(checkpoint, 0.1, [0]).apply(0):
        within = state(checkpoint)
    assert_same(checkpoint, before)
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, within[name])}
    assert any("lora_A" in name for name in changed)
    assert any("base_layer.weight" in name for name in changed)


def _packed(model: Any) -> Checkpoint:
    return replace(checkpoint_of(model), quantization=Quantization("int8", "for a test"))


def _offloaded(model: Any) -> Checkpoint:
    checkpoint = checkpoint_of(model)
    model.transformer.wpe.to("meta")
    return checkpoint


def _whole(model: Any) -> Checkpoint:
    checkpoint = checkpoint_of(model)
    weight = model.transformer.wpe.weight
    model.transformer.wpe.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    return checkpoint


@pytest.mark.parametrize("spoil", [_packed, _offloaded, _whole])
def test_weights_that_are_no_plain_numbers_are_refused_by_name(
    spoil: Callable[[Any], Checkpoint],
) -> None:
    with pytest.raises(TargetError, match=r"GPT2LMHeadModel .* \(--set draws=0\)"):
        Perturbation(spoil(build_model("gpt2")), 0.1, [0])


def test_noise_beyond_all_measure_is_an_error_that_says_so() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    ids = random_ids(2, seed=0, tokens=P + S)
    subject = subject_of(checkpoint, part_of(checkpoint, ids), None)
    before = state(checkpoint)
    with pytest.raises(UsageError, match="--set strength=1e\\+30: the perturbed weights give"):
        perturb(subject, ids, Noise(1e30, 1, 0), lambda done: None)
    assert_same(checkpoint, before)
