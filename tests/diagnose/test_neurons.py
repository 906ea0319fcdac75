"""Both halves of `diagnose neurons`, on runs of a known answer, on odd ones, and on all models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, Architecture, make_model
from conftest import build_model
from estimates import known
from numpy.typing import NDArray
from subjects_neurons import P, S, as_found, checkpoint_of, part_of, subject_of

from memaudit.diagnose.anatomy.blocks import find_blocks
from memaudit.diagnose.neurons.probing import judge, probe_run
from memaudit.diagnose.neurons.report import _beyond_chance
from memaudit.diagnose.neurons.representations import PLACES, represent
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.passes import Passes
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.subject import Part, Subject
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import quiet_transformers

pytestmark = pytest.mark.slow

SETTINGS = NeuronsSettings(
    run="run", unit_windows=6, trials=30, random_sets=5, cost_windows=4, most_units=128
)
AUDITED = [item for item in MATRIX if item.refused is None]
MEMORIES, OTHERS = 30, 60


def random_ids(count: int, seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, 300, (count, P + S)).astype(np.int32)


@pytest.fixture(scope="module")
def taught() -> Checkpoint:
    """A tiny GPT-2 that knows MEMORIES random windows by heart, and nothing else."""
    model = build_model("gpt2").train()
    for part in (model.transformer.drop, *(block.mlp.dropout for block in model.transformer.h)):
        part.p = 0.0
    ids = torch.as_tensor(random_ids(MEMORIES, 1), dtype=torch.long)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        logits = model(ids[:, :-1]).logits[:, P - 1 :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, P:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return checkpoint_of(model)


@pytest.fixture(scope="module")
def subject(taught: Checkpoint) -> Subject:
    data = np.concatenate([random_ids(MEMORIES, 1), random_ids(OTHERS, 2)])
    return subject_of(taught, as_found(taught, data), as_found(taught, random_ids(OTHERS, 3)))


def weights(checkpoint: Checkpoint) -> Mapping[str, torch.Tensor]:
    return {name: value.clone() for name, value in checkpoint.model.state_dict().items()}


def hooks(checkpoint: Checkpoint) -> int:
    modules = checkpoint.model.modules()
    return sum(len(item._forward_hooks) + len(item._forward_pre_hooks) for item in modules)


def table(diagnosis: Diagnosis, name: str) -> FigureTable:
    (result,) = [item for item in diagnosis.tables if item.name == name]
    return result


def value(cell: Any) -> float:
    assert isinstance(cell, Estimate)
    assert cell.value is not None
    return cell.value


@pytest.fixture(scope="module")
def result(subject: Subject) -> Diagnosis:
    before, listening = weights(subject.checkpoint), hooks(subject.checkpoint)
    state = torch.random.get_rng_state()
    diagnosis = diagnose("neurons", subject, SETTINGS, Silent())
    assert torch.equal(torch.random.get_rng_state(), state)
    after = subject.checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert hooks(subject.checkpoint) == listening
    return diagnosis


def test_memories_are_stopped_by_their_own_units(result: Diagnosis) -> None:
    stopped = table(result, "unit-sets").rows[0]
    assert value(stopped[3]) > 0.6
    assert value(stopped[4]) < 100
    (random, largest) = table(result, "unit-controls").rows[0][2:]
    assert value(random) < 0.5
    assert value(random) <= value(largest) < 1


def test_the_verdict_on_a_probe_counts_the_words_and_claims_no_memory() -> None:
    def auc(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, low, high)

    result, permuted = auc(0.8, 0.9), auc(0.4, 0.6)
    beyond = _beyond_chance(result, (auc(0.5, 0.7), auc(0.5, 0.75)), permuted)
    assert beyond == "better than random weights and token statistics, which may also be skill"
    words = _beyond_chance(result, (auc(0.5, 0.7), auc(0.7, 0.85)), permuted)
    assert words == "not clearly better than the words alone"
    assert "not known" in _beyond_chance(result, (None, auc(0.5, 0.75)), permuted)
    assert _beyond_chance(result, (None,), auc(0.7, 0.85)) == "no better than chance"


def test_the_block_that_carries_the_memory_is_where_probes_find_it() -> None:
    """Block 2 adds a direction on windows that are called extracted; nothing else tells them."""
    model = build_model("gpt2")
    ids, labels = random_ids(120, 5), np.random.default_rng(5).permutation(120) < 50
    memorized = {tuple(row[:P]) for row in ids[labels].tolist()}
    table_of_ids = model.get_input_embeddings().weight.detach()
    flags: list[bool] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        tokens = torch.cdist(kwargs["inputs_embeds"], table_of_ids[None]).argmin(dim=-1)
        flags[:] = [tuple(row[:P]) in memorized for row in tokens.tolist()]

    def add(module: Any, args: Any, output: Any) -> Any:
        states = output if isinstance(output, torch.Tensor) else output[0]
        return states + 20.0 * torch.tensor(flags, dtype=torch.float32)[:, None, None]

    model.register_forward_pre_hook(look, with_kwargs=True)
    model.transformer.h[1].register_forward_hook(add)
    subject = subject_of(checkpoint_of(model), part_of(ids, labels))
    blocks = find_blocks(subject.checkpoint)
    result = judge(probe_run(subject, SETTINGS, blocks, Silent()), subject.resamples(0))
    (contrast,) = result.contrasts
    for place in PLACES:
        before, after = (item.value for item in contrast.probes["trained", place])
        assert after == 1.0
        for control in (before, *(item.value for item in contrast.probes["random", place])):
            assert 0.25 < known(control) < 0.75
        assert all(0.25 < known(item.value) < 0.75 for item in contrast.probes["permuted", place])
    assert 0.25 < known(contrast.baselines["tokens"].value) < 0.75


def test_states_are_those_of_the_border_and_of_the_suffix() -> None:
    model = build_model("gpt2")
    checkpoint, ids = checkpoint_of(model), random_ids(5, 6)
    result = represent(Passes(checkpoint, P, 2), find_blocks(checkpoint), ids)
    with torch.no_grad():
        tokens = torch.as_tensor(ids[:, :-1], dtype=torch.long)
        first = model(tokens, output_hidden_states=True).hidden_states[1].numpy()
    assert result.blocks == (0, 1)
    np.testing.assert_allclose(result.states["border"][:, 0], first[:, P - 1], atol=1e-5)
    mean = first[:, P - 1 :].mean(axis=1)
    np.testing.assert_allclose(result.states["suffix"][:, 0], mean, atol=1e-5)


def test_hidden_windows_are_scored_by_probes_that_saw_none(subject: Subject) -> None:
    """They look like whatever they are like, here like those that are not extracted."""
    count = len(subject.data)
    rows = subject.data.rows.assign(exact_constant=np.arange(count) >= count - 25)
    data = Part(subject.data.ids, rows, ("none", "constant"))
    run = replace(subject, data=data)
    scored = probe_run(run, SETTINGS, find_blocks(run.checkpoint), Silent())
    result = judge(scored, run.resamples(0))
    assert result.hidden == 25
    contrast = result.contrasts[0]
    assert contrast.negatives == count - 25 - MEMORIES
    assert len(contrast.probes["hidden", "border"]) == 2
    assert contrast.hidden_nll is not None
    assert 0.25 < known(contrast.hidden_nll.value) < 0.75
    assert contrast.baselines["nll"].value == 1.0


def test_each_plot_has_its_table_and_lines_that_fit(result: Diagnosis) -> None:
    tables = {item.name: item for item in result.tables}
    for plot in result.plots:
        assert len(plot.lines) <= 24
        assert {len(line.y) for line in plot.lines} == {len(tables[plot.name].rows)}
        assert all(len(line.name) <= 80 and line.name.isascii() for line in plot.lines)
    for item in result.tables:
        assert re.fullmatch("[a-z-]+", item.name)
        assert {len(row) for row in item.rows} == {len(item.columns)}


def test_the_same_seed_gives_the_same(subject: Subject, result: Diagnosis) -> None:
    again = diagnose("neurons", subject, SETTINGS, Silent())
    assert again == result
    other = diagnose("neurons", subject, SETTINGS.model_copy(update={"seed": 1}), Silent())
    assert other.tables != result.tables


def test_nothing_extracted_is_an_error(subject: Subject) -> None:
    data = subject.data.take(~subject.data.extracted)
    with pytest.raises(UsageError, match="extracted no window"):
        diagnose("neurons", replace(subject, data=data), SETTINGS, Silent())


def cut(part: Part, count: int) -> Part:
    return part.take(np.arange(len(part)) < count)


@pytest.mark.parametrize("case", ["no controls", "all extracted", "a single window"])
def test_odd_runs(subject: Subject, case: str) -> None:
    changes: dict[str, Any] = {
        "no controls": {"controls": None},
        "all extracted": {"data": cut(subject.data, MEMORIES), "controls": None},
        "a single window": {"data": cut(subject.data, 1), "controls": None},
    }
    diagnosis = diagnose("neurons", replace(subject, **changes[case]), SETTINGS, Silent())
    text = " ".join([*diagnosis.findings, *diagnosis.notes])
    assert "had no controls" in text
    names = {item.name for item in diagnosis.tables}
    if case == "no controls":
        assert "probe-border" in names
        assert "controls" not in text.replace("had no controls", "")
    else:
        assert "too few clusters" in text
        assert not any(name.startswith("probe") for name in names)
        assert "unit-sets" in names
    assert ("unit-overlap" in names) == (case != "a single window")
    assert "nan" not in text


def test_windows_of_one_cluster_are_looked_at_once(subject: Subject) -> None:
    rows = subject.data.rows.assign(cluster=7)
    data = Part(subject.data.ids, rows, subject.data.attacks)
    diagnosis = diagnose("neurons", replace(subject, data=data), SETTINGS, Silent())
    assert table(diagnosis, "unit-sets").rows[0][2] == 1
    assert "single window" in " ".join(diagnosis.notes)


@pytest.mark.parametrize("architecture", AUDITED, ids=lambda item: item.name)
def test_every_architecture_is_diagnosed_or_told_why_not(architecture: Architecture) -> None:
    with quiet_transformers():
        model = make_model(architecture)
    if model is None:
        pytest.skip(f"this transformers has no {architecture.config}")
    checkpoint = checkpoint_of(model, bos_id=0 if architecture.adds_bos else None)
    ids = random_ids(44, 4)
    as_found(checkpoint, ids)  # RWKV halves weights in its first pass
    text = np.arange(44) < 22
    ids[:3] = decoded(checkpoint, ids[:3])
    subject = subject_of(checkpoint, part_of(ids, text))
    before, listening = weights(checkpoint), hooks(checkpoint)
    settings = SETTINGS.model_copy(update=QUICK)
    with quiet_transformers():
        diagnosis = diagnose("neurons", subject, settings, Silent())
    after = checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert hooks(checkpoint) == listening
    names = {item.name for item in diagnosis.tables}
    assert {"probe-border", "probe-suffix", "probe-baselines"} <= names
    assert ("unit-sets" in names) == (architecture.name not in NO_UNITS), diagnosis.findings[0]
    if architecture.name in NO_UNITS:
        assert type(model).__name__ in diagnosis.findings[0]
    columns = [column.name for column in table(diagnosis, "probe-border").columns]
    assert "random weights, against other data" in columns, diagnosis.notes


QUICK = {
    "unit_windows": 22,
    "trials": 2,
    "random_sets": 1,
    "cost_windows": 1,
    "most_units": 16,
    "probe_blocks": 1,
}
NO_UNITS = {
    *("Mixtral", "Qwen2-MoE", "Qwen3-MoE", "OLMoE", "GPT-OSS", "MiniMax", "Granite 4"),
    *("Qwen3-Next", "Mamba", "Mamba 2", "Falcon Mamba", "RWKV", "xLSTM", "Zamba2"),
}
"""All experts fused into one parameter, or no feed-forward part that adds to the residual stream by
itself: no units that could be silenced one by one."""


def decoded(checkpoint: Checkpoint, ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Windows (B,P+S) with the suffix that the model gives itself."""
    result = ids.copy()
    for place in range(P, P + S):
        tokens = torch.as_tensor(result[:, :place], dtype=torch.long)
        if checkpoint.bos_id is not None:
            start = torch.full((len(tokens), 1), checkpoint.bos_id, dtype=torch.long)
            tokens = torch.cat([start, tokens], dim=1)
        with torch.no_grad():
            embedded = checkpoint.embed(tokens)
            logits = checkpoint.model(inputs_embeds=embedded, use_cache=False).logits[:, -1]
        result[:, place] = logits.argmax(dim=-1).numpy()
    return result
