from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memaudit.attack.generator import (
    Generator,
    GeneratorBlock,
    TrainedRows,
    choose_heads,
    map_prefix,
)
from memaudit.attack.prompts import DynamicPrompt, HardPrompt, NoPrompt, trained_rows
from memaudit.config.settings import DynamicSettings
from memaudit.data.windows import PADDING

X, D, P, V = 40, 8, 5, 3
TABLE = torch.randn(X, D, generator=torch.Generator().manual_seed(0))
PREFIXES = torch.randint(0, X, (4, P), generator=torch.Generator().manual_seed(1))


def embed(ids: Tensor) -> Tensor:
    return TABLE[ids]


def make_generator(rows: TrainedRows | None = None, **changes: Any) -> Generator:
    settings = DynamicSettings(**({"num_virtual_tokens": V} | changes))
    return Generator(
        embed,
        settings,
        prefix_tokens=P,
        first_vectors=TABLE[:V] * 2,
        scale=0.37,
        rows=rows,
        rng=torch.Generator().manual_seed(2),
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [(2, [4, 5]), (5, [1, 2, 3, 4, 5]), (8, [3, 4, 5, 1, 2, 3, 4, 5]), (1, [5])],
)
def test_the_naive_mapping_keeps_the_last_tokens(count: int, expected: list[int]) -> None:
    assert map_prefix(torch.tensor([[1, 2, 3, 4, 5]]), count).tolist() == [expected]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("count", [1, V, P, 2 * P + 1])
def test_an_untrained_naive_generator_returns_its_input_embeddings(count: int, depth: int) -> None:
    generator = make_generator(mapping="naive", num_virtual_tokens=count, depth=depth)
    vectors = generator(PREFIXES)
    assert torch.equal(vectors, embed(map_prefix(PREFIXES, count)))
    assert torch.equal(vectors, HardPrompt(embed, count)(PREFIXES))


@pytest.mark.parametrize("depth", [1, 3])
def test_an_untrained_queries_generator_returns_its_queries(depth: int) -> None:
    vectors = make_generator(mapping="queries", depth=depth)(PREFIXES)
    assert torch.equal(vectors, (TABLE[:V] * 2).expand(len(PREFIXES), -1, -1))


def test_a_random_generator_moves_its_input() -> None:
    generator = make_generator(mapping="naive", initialisation="random")
    assert not torch.allclose(generator(PREFIXES), embed(map_prefix(PREFIXES, V)))


def test_the_prefix_changes_the_vectors_once_blocks_are_trained() -> None:
    generator = make_generator(mapping="queries", initialisation="random")
    vectors = generator(PREFIXES)
    assert vectors.shape == (4, V, D)
    assert not torch.allclose(vectors[0], vectors[1])
    assert torch.allclose(vectors[:1], generator(PREFIXES[:1]), atol=1e-6)


def test_identity_blocks_get_a_gradient() -> None:
    generator = make_generator(mapping="queries")
    generator(PREFIXES).square().sum().backward()
    block = generator.blocks[0]
    assert isinstance(block, GeneratorBlock)
    for weight in (block.attention_out.weight, block.down.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("width", "heads"), [(8, 1), (256, 4), (768, 12), (200, 2), (130, 2)])
def test_heads_divide_the_width(width: int, heads: int) -> None:
    assert choose_heads(width) == heads


def test_trained_rows_are_the_rows_that_occur() -> None:
    rows = trained_rows(embed, PREFIXES, X)
    assert len(rows.rows) == len(torch.unique(PREFIXES))
    everything = torch.arange(X)[None]
    assert torch.equal(rows(everything), embed(everything))
    with torch.no_grad():
        rows.rows.add_(1)
    occurs = torch.isin(everything[0], PREFIXES)
    assert torch.equal(rows(everything)[0, occurs], TABLE[occurs] + 1)
    assert torch.equal(rows(everything)[0, ~occurs], TABLE[~occurs])


def test_trained_rows_train_as_the_whole_table_would() -> None:
    rows = trained_rows(embed, PREFIXES, X)
    whole = nn.Embedding.from_pretrained(TABLE.clone(), freeze=False)
    goal = torch.randn(P, D, generator=torch.Generator().manual_seed(3))
    for module in (rows, whole):
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.05, weight_decay=0.0)
        for step in range(20):
            optimizer.zero_grad()
            batch = PREFIXES[step % 2 :: 2]
            (module(batch) - goal).square().sum().backward()
            optimizer.step()
    everything = torch.arange(X)[None]
    assert torch.allclose(rows(everything), whole(everything), atol=1e-6)
    assert not torch.allclose(rows(PREFIXES), embed(PREFIXES), atol=0.1)


def test_only_rows_that_occur_have_optimizer_state() -> None:
    generator = make_generator(trained_rows(embed, PREFIXES, X), mapping="naive")
    prompt = DynamicPrompt(generator.settings, generator, torch.Generator())
    optimizer = torch.optim.AdamW(prompt.parameter_groups(), weight_decay=0.0)
    prompt(PREFIXES).square().sum().backward()
    optimizer.step()
    assert generator.rows is not None
    state = optimizer.state[generator.rows.rows]
    assert state["exp_avg"].shape == (len(torch.unique(PREFIXES)), D)
    assert not any(
        tensor.shape == (X, D) for state in optimizer.state.values() for tensor in state.values()
    )


@pytest.mark.parametrize("mapping", ["naive", "queries"])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("low_rank", [0, 2])
def test_every_parameter_is_in_one_group(mapping: str, trained: bool, low_rank: int) -> None:
    rows = trained_rows(embed, PREFIXES, X) if trained else None
    generator = make_generator(rows, mapping=mapping, low_rank=low_rank)
    prompt = DynamicPrompt(generator.settings, generator, torch.Generator())
    grouped = [parameter for group in prompt.parameter_groups() for parameter in group["params"]]  # type: ignore[attr-defined]
    assert {id(parameter) for parameter in grouped} == {
        id(parameter) for parameter in prompt.parameters()
    }
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    rates = [group["lr"] for group in prompt.parameter_groups()]
    settings = generator.settings
    expected = [settings.learning_rate_low_rank] * (low_rank > 0) + [settings.learning_rate]
    expected += [settings.learning_rate_embedding] * trained
    expected += [settings.learning_rate_queries] * (mapping == "queries")
    assert rates == expected


def test_no_prompt_is_none() -> None:
    assert NoPrompt()(PREFIXES) is None


@pytest.mark.parametrize("mapping", ["naive", "queries"])
def test_padding_before_a_prefix_plays_no_part(mapping: str) -> None:
    generator = make_generator(mapping=mapping, initialisation="random")
    short = PREFIXES[:, 2:]
    padded = torch.cat([torch.full_like(PREFIXES[:, :2], PADDING), short], dim=1)
    repeated = torch.cat([short[:, 1:], short], dim=1)
    assert torch.equal(map_prefix(padded, P), repeated)
    assert torch.equal(generator(padded), generator(repeated))
