"""Units are silenced row by row, rank by the right gradient, and are found where they were put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model
from numpy.typing import NDArray
from silenced_units import silenced
from subjects_neurons import P, S, as_found, checkpoint_of, subject_of

from memaudit.diagnose.anatomy.blocks import Block, find_blocks, unit_inputs
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.silencing import silence_run
from memaudit.diagnose.neurons.unit_effects import attribute
from memaudit.diagnose.neurons.units import (
    Silencer,
    Units,
    find_units,
    mean_levels,
    score_suffix,
)
from memaudit.diagnose.passes import Pass, Passes
from memaudit.errors import TargetError
from memaudit.progress import Silent
from memaudit.target.checkpoint import Checkpoint

WIDTH = 128
"""M of the tiny GPT-2's two blocks."""


def windows(count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, 300, (count, P + S)).astype(np.int32)


@pytest.fixture(scope="module", params=["gpt2", "llama", "opt"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return checkpoint_of(build_model(request.param), bos_id=0 if request.param == "llama" else None)


def test_every_row_has_units_of_its_own(checkpoint: Checkpoint) -> None:
    """Return the scores of hooks that silence the same units in all rows, set by set."""
    blocks = find_blocks(checkpoint)
    units, passes = find_units(checkpoint, blocks), Passes(checkpoint, P, 2)
    ids = windows(5)
    total, width = int(units.widths.sum()), int(units.widths[0])
    rng = np.random.default_rng(0)
    level = rng.standard_normal(total).astype(np.float32)
    sets = [rng.choice(total, size, replace=False) for size in (0, 1, 5, total // 2, total)]
    result = Silencer(passes, units, level).score(ids, sets)
    for row, some in enumerate(sets):
        chosen = {at: some[some // width == at] % width for at in range(2)}
        values = {at: level[some[some // width == at]] for at in range(2)}
        with silenced(blocks, chosen, values):
            alone = passes.read(ids[row : row + 1], score_suffix)
        assert result["nll"][row] == pytest.approx(alone["nll"][0], rel=1e-5)
        assert result["wrong"][row] == alone["wrong"][0]


def test_an_effect_is_what_a_small_step_towards_the_level_costs(checkpoint: Checkpoint) -> None:
    blocks = find_blocks(checkpoint)
    units, passes = find_units(checkpoint, blocks), Passes(checkpoint, P, 8)
    ids = windows(3)
    level = mean_levels(passes, units, windows(20, seed=1))
    result = attribute(passes, units, level, ids)
    with unit_inputs(blocks) as heard:
        passes.read(ids, score_suffix)
        off = [
            heard[at] - torch.as_tensor(level[start : start + width])
            for at, (start, width) in enumerate(zip(units.starts, units.widths, strict=True))
        ]
    for share, effect, gain in (
        (1.0, result.weakest, lambda odds: -np.log(np.exp(-odds).sum(axis=1))),
        (0.5, result.every, lambda odds: odds.sum(axis=1)),
    ):
        with nearer(blocks, level, share):
            plain = odds_of(passes, ids)
        # Units of one block alone: of two, what the first does changes what enters the second.
        step = 1e-2
        for at, start in enumerate(units.starts):
            with nearer(blocks, level, share, {at: step * off[at]}):
                after = odds_of(passes, ids)
            reported = step * effect[:, start : start + units.widths[at]].sum(axis=1)
            lost = gain(plain) - gain(after)
            assert np.linalg.norm(reported - lost) < 0.1 * np.linalg.norm(lost)
    assert (result.size >= 0).all()
    assert result.size.any()


@contextmanager
def nearer(
    blocks: Sequence[Block],
    level: NDArray[np.float32],
    share: float,
    less: Mapping[int, torch.Tensor] | None = None,
) -> Iterator[None]:
    """Units at a share of their distance from their level, and less by so much in some blocks."""
    with ExitStack() as hooks:
        start = 0
        for block in blocks:
            own = torch.as_tensor(level[start : start + block.units])
            minus = (less or {}).get(block.number, torch.zeros(1))
            start += block.units

            def change(
                module: Any, args: Any, own: torch.Tensor = own, minus: torch.Tensor = minus
            ) -> Any:
                moved = own + share * (args[0] - own)
                return ((moved.reshape(3, -1, len(own)) - minus).view_as(moved), *args[1:])

            handle = block.down[0].register_forward_pre_hook(change)
            hooks.callback(handle.remove)
        yield


def odds_of(passes: Passes, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """(N,S) log-odds of the suffix tokens."""

    def read(passed: Pass) -> dict[str, torch.Tensor]:
        p = passed.logits.double().softmax(dim=-1).gather(-1, passed.tokens[..., None])[..., 0]
        return {"odds": (p / (1 - p)).log()}

    return passes.read(ids, read)["odds"]


def test_means_are_those_over_the_suffix() -> None:
    model = build_model("gpt2")
    checkpoint = checkpoint_of(model)
    units = find_units(checkpoint, find_blocks(checkpoint))
    ids, heard = windows(4), []
    down = model.transformer.h[1].mlp.c_proj
    handle = down.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
    with torch.no_grad():
        model(torch.as_tensor(ids[:, :-1], dtype=torch.long))
    handle.remove()
    mean = heard[0][:, -S:].mean(dim=(0, 1)).numpy()
    np.testing.assert_allclose(
        mean_levels(Passes(checkpoint, P, 3), units, ids)[WIDTH:], mean, rtol=1e-4, atol=1e-6
    )


def test_random_units_are_drawn_from_the_same_blocks() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    units = find_units(checkpoint, find_blocks(checkpoint))
    sampled = units.sample_alike(np.array([0, 1, 2, WIDTH]), np.random.default_rng(0))
    assert units.counts(sampled).tolist() == [3, 1]
    assert len(set(sampled.tolist())) == 4


def test_a_model_without_units_is_refused_by_name() -> None:
    checkpoint = checkpoint_of(build_model("mamba"))
    with pytest.raises(TargetError, match="MambaForCausalLM has no feed-forward units"):
        find_units(checkpoint, find_blocks(checkpoint))


def test_a_model_without_a_gradient_is_refused_by_name() -> None:
    model = build_model("gpt2")
    checkpoint = checkpoint_of(model)
    units = find_units(checkpoint, find_blocks(checkpoint))
    block = model.transformer.h[1].register_forward_hook(
        lambda module, args, output: output.detach()
    )
    level = np.zeros(2 * WIDTH, dtype=np.float32)
    with pytest.raises(TargetError, match="GPT2LMHeadModel: no gradient flows"):
        attribute(Passes(checkpoint, P, 8), units, level, windows(2))
    block.remove()
    assert not any(item._forward_pre_hooks for item in model.modules())


FROM, TO = 50, 60
"""Token that the unit below answers, and the one that it writes."""
THE_UNIT = WIDTH + 17


def one_unit_writes() -> Any:
    """A GPT-2 that repeats its last token, but that one unit of its second block writes TO where
    the token is FROM.
    """
    model = build_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(0.01)
        for block in model.transformer.h:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
        mlp, embedding = model.transformer.h[1].mlp, model.transformer.wte.weight
        known = torch.nn.functional.layer_norm(embedding[FROM], embedding[FROM].shape)
        unit = THE_UNIT - WIDTH
        mlp.c_fc.weight[:, unit] = known
        mlp.c_fc.bias[unit] = -20.0  # what is known gives 32, the width; another token about 0
        # Three quarters of the way to TO: much further, and the last norm hides what it does.
        mlp.c_proj.weight[unit] = 0.75 / 12 * (embedding[TO] - embedding[FROM])
    return model


def test_the_one_unit_that_writes_a_token_is_what_is_found() -> None:
    checkpoint = checkpoint_of(one_unit_writes())
    rng = np.random.default_rng(0)
    needed = np.array([[FROM] * P + [TO] * S])
    repeated = np.array([[token] * (P + S) for token in (70, 80, 90)])
    other = rng.integers(100, 300, (40, P + S)).astype(np.int32)
    ids = np.concatenate([needed, repeated, other]).astype(np.int32)
    data = as_found(checkpoint, ids)
    assert data.extracted.tolist() == [True] * 4 + [False] * 40
    subject = subject_of(checkpoint, data, as_found(checkpoint, other + 1))
    settings = NeuronsSettings(run="run", random_sets=20)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    units = find_units(checkpoint, find_blocks(checkpoint))
    result = silence_run(subject, settings, units, Silent())
    assert result is not None
    stopped, erased = result.outcomes
    at = result.clusters.tolist().index(0)
    assert stopped.sets[at].units.tolist() == [THE_UNIT]
    assert stopped.sets[at].minimal
    assert stopped.wrong[at] == 1
    assert not erased.sets[at].stopped, "what repeats itself after it needs no unit"
    place = stopped.with_set.tolist().index(at)
    assert stopped.random[place] <= 0.1
    assert not stopped.largest[place], "others are further from their mean"
    controls = stopped.costs["controls", "found"]
    assert abs(controls.rise[place]).max() < 1e-3
    assert not np.nansum(stopped.costs["extracted", "found"].lost[place])
    after = checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(item._forward_pre_hooks for item in checkpoint.model.modules())


def test_all_units_are_numbered_through() -> None:
    checkpoint = checkpoint_of(build_model("gpt2"))
    units = find_units(checkpoint, find_blocks(checkpoint))
    assert isinstance(units, Units)
    assert units.widths.tolist() == [WIDTH, WIDTH]
    assert units.starts.tolist() == [0, WIDTH]
    separate = units.by_block(np.array([3, WIDTH + 2, WIDTH]))
    assert [some.tolist() for some in separate] == [[3], [2, 0]]
