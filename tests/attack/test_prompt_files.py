from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_model, build_tokenizer
from safetensors.torch import save

from memaudit.attack.facts import NO_PROMPT
from memaudit.attack.generator import MAX_PREFIX_READ, Generator
from memaudit.attack.prompt_files import FoldPrompts, load_all, load_prompts, to_bytes
from memaudit.attack.prompts import (
    ConstantPrompt,
    DynamicPrompt,
    FittedPrompt,
    NoPrompt,
    trained_rows,
)
from memaudit.config.settings import ConstantSettings, DynamicSettings
from memaudit.errors import UsageError
from memaudit.target.checkpoint import Checkpoint

P, V = 5, 3
PREFIXES = torch.randint(3, 300, (4, P), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint("gpt2")


def make_checkpoint(architecture: str, **changes: Any) -> Checkpoint:
    model = build_model(architecture).requires_grad_(False)
    return Checkpoint(
        model=model,
        tokenizer=build_tokenizer(),
        name=architecture,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def make_dynamic(checkpoint: Checkpoint, prefix_tokens: int = P, **changes: Any) -> DynamicPrompt:
    settings = DynamicSettings(**{"num_virtual_tokens": V, "initialisation": "random"} | changes)
    rows = None
    if settings.embedding == "trained":
        rows = trained_rows(checkpoint.embed, PREFIXES[:2], checkpoint.vocabulary)
        torch.nn.init.normal_(rows.rows, generator=torch.Generator().manual_seed(3))
    generator = Generator(
        checkpoint.embed,
        settings,
        prefix_tokens=prefix_tokens,
        first_vectors=torch.ones(V, checkpoint.width),
        scale=0.3,
        rows=rows,
        rng=torch.Generator().manual_seed(1),
    )
    prompt = DynamicPrompt(settings, generator, torch.Generator().manual_seed(4))
    if prompt.change is not None:
        torch.nn.init.normal_(prompt.change.back, generator=torch.Generator().manual_seed(5))
    return prompt


def make_fold(checkpoint: Checkpoint, dynamic: DynamicPrompt) -> FoldPrompts:
    rng = torch.Generator().manual_seed(2)
    constant = ConstantPrompt(
        ConstantSettings(num_virtual_tokens=V),
        torch.randn(V, checkpoint.width, generator=rng),
        rng,
    )
    prompts: dict[str, FittedPrompt] = {"constant": constant, "dynamic": dynamic}
    return FoldPrompts(
        fold=1,
        prompts=prompts,
        chosen={"constant": NO_PROMPT, "dynamic": "epoch 2"},
        marks=np.array([1, 5, 2**64 - 1], dtype=np.uint64),
        cluster_run=7,
        prefix_tokens=P,
        target="gpt2",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"low_rank": 0},
        {"low_rank": 3},
        {"mapping": "naive", "embedding": "trained", "depth": 2},
        {"embedding": "trained"},
    ],
)
def test_prompts_come_back_as_they_were(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    fold = make_fold(checkpoint, make_dynamic(checkpoint, **changes))
    path = tmp_path / "generator-1.safetensors"
    path.write_bytes(to_bytes(fold))
    (back,) = load_all(tmp_path, checkpoint)
    assert (back.fold, back.cluster_run, back.prefix_tokens) == (1, 7, P)
    assert back.chosen == fold.chosen
    np.testing.assert_array_equal(back.marks, fold.marks)
    assert back.marks.dtype == np.uint64
    for attack, prompt in fold.prompts.items():
        assert back.prompts[attack].settings == prompt.settings
        assert torch.equal(back.prompts[attack](PREFIXES), prompt(PREFIXES))
        embedded = checkpoint.embed(PREFIXES)
        assert torch.equal(back.prompts[attack].adapt(embedded), prompt.adapt(embedded))
        assert not any(parameter.requires_grad for parameter in back.prompts[attack].parameters())
    assert isinstance(back.usable["constant"], NoPrompt)
    assert back.usable["dynamic"] is back.prompts["dynamic"]
    assert to_bytes(back) == path.read_bytes()


def test_a_prompt_for_long_prefixes_comes_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The generator reads only the end of a long prefix."""
    dynamic = make_dynamic(checkpoint, 3 * MAX_PREFIX_READ, mapping="queries")
    fold = replace(make_fold(checkpoint, dynamic), prefix_tokens=3 * MAX_PREFIX_READ)
    (tmp_path / "generator-1.safetensors").write_bytes(to_bytes(fold))
    (back,) = load_all(tmp_path, checkpoint)
    prefixes = PREFIXES.repeat(1, 3 * MAX_PREFIX_READ // P + 1)[:, : 3 * MAX_PREFIX_READ]
    assert torch.equal(back.prompts["dynamic"](prefixes), dynamic(prefixes))
    changed = prefixes.clone()
    changed[:, : 2 * MAX_PREFIX_READ] = 0
    assert torch.equal(dynamic(changed), dynamic(prefixes))


def test_the_same_prompts_give_the_same_bytes(checkpoint: Checkpoint) -> None:
    fold, twin = (make_fold(checkpoint, make_dynamic(checkpoint)) for _ in range(2))
    assert to_bytes(fold) == to_bytes(twin)
    assert to_bytes(replace(twin, fold=2)) != to_bytes(fold)


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "generator-0.safetensors"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("changes", [{}, {"embedding": "trained"}])
def test_prompts_of_another_target_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = written(tmp_path, to_bytes(make_fold(checkpoint, make_dynamic(checkpoint, **changes))))
    with pytest.raises(UsageError, match="width 32, the target's is 16"):
        load_prompts(path, make_checkpoint("opt"))
    if changes:
        checkpoint.model.resize_token_embeddings(310)
        with pytest.raises(UsageError, match="vocabulary"):
            load_prompts(path, checkpoint)


def facts_of(checkpoint: Checkpoint, **changes: Any) -> bytes:
    facts: dict[str, Any] = {
        "format": "memaudit-prompts-1",
        "fold": 0,
        "cluster_run": 7,
        "prefix_tokens": P,
        "chosen": {},
        "settings": {},
    }
    tensors = {"seen": torch.zeros(2, dtype=torch.long)}
    return save(tensors, metadata={"memaudit": json.dumps(facts | changes)})


GARBAGE = {
    "empty": b"",
    "text": b"these are not the prompts you are looking for",
    "long header": (2**60).to_bytes(8, "little") + b"{}",
    "foreign": save({"weight": torch.ones(2)}),
    "no json": save({"seen": torch.ones(2)}, metadata={"memaudit": "{"}),
    "list": save({"seen": torch.ones(2)}, metadata={"memaudit": "[1]"}),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused(checkpoint: Checkpoint, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError, match="--generator"):
        load_prompts(written(tmp_path, content), checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "memaudit-prompts-9"},
        {"fold": "first"},
        {"settings": ["dynamic"]},
        {"settings": {"dynamic": {}}},
        {"settings": {"constant": {"num_virtual_tokens": -1}}},
        {"settings": {"hypnosis": {}}},
        {"prefix_tokens": None},
    ],
)
def test_facts_of_another_shape_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="--generator"):
        load_prompts(written(tmp_path, facts_of(checkpoint, **changes)), checkpoint)


def test_a_truncated_file_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    content = to_bytes(make_fold(checkpoint, make_dynamic(checkpoint)))
    with pytest.raises(UsageError, match="--generator"):
        load_prompts(written(tmp_path, content[: len(content) // 2]), checkpoint)


def test_files_of_different_attacks_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    fold = make_fold(checkpoint, make_dynamic(checkpoint))
    only = replace(fold, fold=0, prompts={"constant": fold.prompts["constant"]})
    for written in (fold, only):
        (tmp_path / f"generator-{written.fold}.safetensors").write_bytes(to_bytes(written))
    with pytest.raises(UsageError, match="different attacks"):
        load_all(tmp_path, checkpoint)


def test_a_folder_without_prompts_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no generator-"):
        load_all(tmp_path, checkpoint)
    with pytest.raises(UsageError, match="no generator-"):
        load_all(tmp_path / "missing.safetensors", checkpoint)
