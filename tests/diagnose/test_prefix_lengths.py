"""Windows whose prefixes have several lengths are read as if each were alone, without padding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import MATRIX, make_model
from conftest import build_model
from numpy.typing import NDArray
from quick_scan import memaudit
from small_scan import make_files
from subjects_groups import P, S, subject_of_groups, windows_of
from subjects_layers import checkpoint_of

from memaudit.data.windows import PADDING
from memaudit.diagnose import protocol
from memaudit.diagnose.anatomy.blocks import find_blocks
from memaudit.diagnose.attention.measure import _read, eager_attention, find_layers
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.layers.measure import Ablation, Batch
from memaudit.diagnose.layers.measure import read_scores as read_layers
from memaudit.diagnose.neurons.probing import token_features
from memaudit.diagnose.neurons.representations import represent
from memaudit.diagnose.neurons.unit_effects import attribute
from memaudit.diagnose.neurons.units import Silencer, find_units
from memaudit.diagnose.passes import Pass, Passes
from memaudit.diagnose.signals.measure import Chosen, read_prefix_signals
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.progress import Silent
from memaudit.report.diagnosis import DIAGNOSES
from memaudit.target.checkpoint import Checkpoint

LENGTHS = (P, 5, 2, P, 9, 5, 3, P - 1)
NAMES = ("GPT-2", "Llama", "Gemma 2", "Mamba", "BLOOM")
KINDS = [one for one in MATRIX if one.name in NAMES]


def ragged(ids: NDArray[np.int32], lengths: tuple[int, ...] = LENGTHS) -> NDArray[np.int32]:
    """The windows (N,P+S) with padding in place of the first tokens of some prefixes."""
    cut = P - np.resize(lengths, len(ids))
    return np.where(np.arange(P + S) < cut[:, None], PADDING, ids).astype(np.int32)


def alone(
    checkpoint: Checkpoint, ids: NDArray[np.int32], ask: Callable[[Passes, Any, int], Any]
) -> list[Any]:
    """What ``ask`` finds in each window, cut to its own length."""
    cut = [row[row != PADDING][None] for row in ids]
    return [ask(Passes(checkpoint, row.shape[1] - S, 1), row, at) for at, row in enumerate(cut)]


def short(subject: Subject, lengths: tuple[int, ...] = LENGTHS) -> Subject:
    """The subject with shorter prefixes in data and controls."""
    data, controls = subject.data, subject.controls
    assert controls is not None
    return replace(
        subject,
        data=replace(data, ids=ragged(data.ids, lengths)),
        controls=replace(controls, ids=ragged(controls.ids, lengths)),
    )


def nll(batch: Pass) -> dict[str, torch.Tensor]:
    log_p = batch.logits.log_softmax(dim=-1).gather(-1, batch.tokens[..., None])[..., 0]
    return {"nll": -log_p.double().mean(dim=1)}


@pytest.mark.parametrize("architecture", KINDS, ids=lambda kind: kind.name)
def test_passes_read_each_window_as_the_model_alone_does(architecture: Any) -> None:
    """In any batch, and against the model itself in float64, one window after another."""
    model = make_model(architecture)
    if model is None:
        pytest.skip(f"this transformers has no {architecture.config}")
    checkpoint = checkpoint_of(model, bos_id=0 if architecture.adds_bos else None)
    ids = ragged(windows_of(10, seed=1))
    read = [Passes(checkpoint, P, size).read(ids, nll)["nll"] for size in (1, 3, 64)]
    np.testing.assert_allclose(read[1], read[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read[2], read[0], rtol=1e-4, atol=1e-4)
    exact = model.double()
    start = [0] * int(checkpoint.bos_id is not None)
    for row, value in zip(ids, read[2], strict=True):
        own = torch.tensor([start + row[row != PADDING].tolist()])
        with torch.no_grad():
            log_p = exact(input_ids=own, use_cache=False).logits.double().log_softmax(dim=-1)
        true = log_p[0, -S - 1 : -1].gather(-1, own[0, -S:, None])
        assert value == pytest.approx(-float(true.mean()), abs=1e-3)


def test_rows_of_a_pass_are_named_and_figures_stand_in_order() -> None:
    ids, named = ragged(windows_of(20, seed=2)), []
    passes = Passes(checkpoint_of(build_model("gpt2")), P, 3)
    read = passes.read(
        ids, lambda batch: {"tokens": batch.tokens}, begin=lambda rows: named.append(rows)
    )
    np.testing.assert_array_equal(read["tokens"], ids[:, -S:])
    assert sorted(np.concatenate(named).tolist()) == list(range(20))
    for rows in named:
        assert len(rows) <= 3
        assert len({int((ids[row] == PADDING).sum()) for row in rows}) == 1


@pytest.mark.parametrize("kind", ["attention", "feed-forward", "noise"])
def test_an_ablated_window_scores_as_alone(kind: Any) -> None:
    checkpoint = subject_of_groups({"extracted": 1}).checkpoint
    blocks, ids = find_blocks(checkpoint), ragged(windows_of(9, seed=3))
    block = None if kind == "noise" else blocks[1]
    ablation, batch = Ablation(kind, block, strength=0.3), Batch()
    with ablation.applied(blocks, 0, batch):
        together = Passes(checkpoint, P, 4).read(ids, read_layers, begin=batch.begin)["nll"]

    def ask(passes: Passes, row: NDArray[np.int32], at: int) -> float:
        own = Batch()
        with ablation.applied(blocks, 0, own):
            begin = lambda _: own.begin(np.array([at]))  # noqa: E731
            return float(passes.read(row, read_layers, begin=begin)["nll"][0])

    np.testing.assert_allclose(together, alone(checkpoint, ids, ask), rtol=1e-3, atol=1e-4)


def test_states_units_and_attributions_are_those_of_each_window_alone() -> None:
    checkpoint = subject_of_groups({"extracted": 1}).checkpoint
    blocks, ids = find_blocks(checkpoint), ragged(windows_of(9, seed=4))
    units, rng = find_units(checkpoint, blocks), np.random.default_rng(0)
    level = rng.standard_normal(units.total).astype(np.float32)
    sets = [rng.choice(units.total, 10 * at, replace=False) for at in range(9)]

    def ask(passes: Passes, row: NDArray[np.int32], at: int | slice) -> list[NDArray[Any]]:
        chosen = sets[at : at + 1] if isinstance(at, int) else sets
        states = represent(passes, blocks, row).states
        effects = attribute(passes, units, level, row)
        scores = Silencer(passes, units, level).score(row, chosen)
        return [
            *(states[place] for place in ("border", "suffix")),
            *(effects.weakest, effects.every, effects.size, scores["nll"]),
        ]

    together = ask(Passes(checkpoint, P, 4), ids, slice(None))
    separate = zip(*alone(checkpoint, ids, ask), strict=True)
    for values, parts in zip(together, separate, strict=True):
        expected = np.concatenate(parts)
        size = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * size)


def test_token_features_leave_padding_out() -> None:
    ids = ragged(windows_of(8, seed=5))
    features = token_features(ids, np.arange(8), P)
    assert np.isfinite(features).all()
    for row, found in zip(ids, features, strict=True):
        own = row[row != PADDING]
        assert found[2] == pytest.approx(len(set(own[:-S].tolist())) / len(own[:-S]))
        often = [np.log((sum(t in other for other in ids) + 1) / 9) for t in own[:-S]]
        assert found[0] == pytest.approx(np.mean(often), rel=1e-5)
        assert found[7] == pytest.approx(often[-1], rel=1e-5)


@pytest.mark.parametrize("model", ["whole", "sliding"])
def test_attention_is_that_of_each_window_alone(model: str) -> None:
    """Whatever each position sees: all before it, or a sliding window."""
    subject = subject_of_groups({"untouched": 12, "controls": 12}, reveal=True)
    built = build_model("gpt2") if model == "whole" else _sliding()
    subject = short(replace(subject, checkpoint=checkpoint_of(built)))
    settings = AttentionSettings(run=Path("run"))

    def read(tried: Subject) -> NDArray[Any]:
        with eager_attention(tried.checkpoint):
            groups = _read(tried, find_layers(tried.checkpoint), settings, Silent())
        return np.stack([*groups["not extracted"].figures.values()])

    together = read(subject)
    for row in range(len(subject.data)):
        own = subject.data.ids[row]
        part = Part(own[own != PADDING][None], subject.data.rows.iloc[[row]], ("none",))
        windows = subject.config.windows.model_copy(update={"prefix_tokens": part.ids.shape[1] - S})
        config = subject.config.model_copy(update={"windows": windows})
        one = replace(subject, data=part, controls=None, config=config)
        np.testing.assert_allclose(together[:, [row]], read(one), rtol=1e-4, atol=1e-5)


def _sliding() -> Any:
    kind = next(one for one in MATRIX if "sliding" in one.exercises)
    model = make_model(kind)
    if model is None:
        pytest.skip(f"this transformers has no {kind.config}")
    return model


def test_signals_of_a_prefix_are_those_of_its_own_tokens() -> None:
    """Equal to those of runs in which all prefixes have that one length."""
    whole = subject_of_groups({"untouched": 24, "controls": 8}, reveal=True)
    chosen, even = Chosen(np.arange(24), np.arange(8)), np.arange(24)
    mixed = read_prefix_signals(short(whole), chosen, even, 3, Silent())
    named = {signal.name: signal.values for signal in mixed.signals}
    assert len(named) == 17
    lengths = np.resize(LENGTHS, 24)
    for length in set(LENGTHS):
        equal = read_prefix_signals(short(whole, (length,)), chosen, even, 3, Silent())
        rows = np.flatnonzero(lengths == length)
        for signal in equal.signals:
            # These look the tokens or states up in all prefixes, which differ between the runs.
            if any(
                word in signal.name for word in ("rarity", "other prefixes", "nearest", "found")
            ):
                continue
            values = named[signal.name][rows]
            np.testing.assert_allclose(values, signal.values[rows], rtol=1e-4, atol=1e-5)
    assert named["other prefixes with the same run"].min() == 0


def test_curves_and_borders_count_from_the_suffix() -> None:
    subject = short(subject_of_groups({"extracted": 30, "untouched": 40, "controls": 30}))
    one = subject.data.ids.copy()
    one[7, : P - 1] = PADDING
    subject = replace(subject, data=replace(subject.data, ids=one))
    diagnosis = protocol.diagnose(
        "signals", subject, SignalsSettings(run=Path("run"), border=10), Silent()
    )
    notes = " ".join(diagnosis.notes)
    assert "1 window with one prefix token took no part" in notes
    assert f"Prefixes have 1 to {P} tokens; median of extracted windows 5, " in notes
    curve = next(table for table in diagnosis.tables if table.name == "border-entropy")
    assert "of the 99 windows, 26 have all positions" in curve.says
    assert [row[0] for row in curve.rows] == [f"-{P - 1} to -1", f"0 to {S - 1}"]


def test_a_short_prefix_takes_part_whole_in_a_sweep() -> None:
    subject = short(subject_of_groups({"extracted": 30, "untouched": 40, "controls": 30}))
    settings = SweepSettings(run=Path("run"), prefix_lengths=(3, 9))
    measured = protocol.Method.of("sweep").measure(subject, settings, Silent())
    assert list(measured.lengths) == [3, 9, P]
    lengths = subject.prefix_lengths(subject.data.ids)
    whole = measured.prefixes["data"][P]
    for p in (3, 9):
        scores, at_most = measured.prefixes["data"][p], lengths <= p
        np.testing.assert_array_equal(scores.nll[at_most], whole.nll[at_most])

        def ask(passes: Passes, row: NDArray[np.int32], at: int, p: int = p) -> float:
            cut = row[:, -S - min(p, row.shape[1] - S) :]
            return float(passes.read(cut, nll, last=S)["nll"][0])

        expected = np.array(alone(subject.checkpoint, subject.data.ids, ask))
        np.testing.assert_allclose(scores.nll[~at_most], expected[~at_most], rtol=1e-3, atol=1e-4)
        assert measured.shorter[p] == int((lengths < p).sum())
    diagnosis = protocol.diagnose("sweep", subject, settings, Silent())
    assert "fewer than p tokens: 9 at p = 3, " in " ".join(diagnosis.notes)
    assert any("with the whole prefix" in finding for finding in diagnosis.findings)


@pytest.fixture(scope="module")
def sliding_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of prefixes of several lengths, none of them as long as asked for."""
    folder = tmp_path_factory.mktemp("ragged")
    given = make_files(folder, 60)
    for name in ("data", "controls"):
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for number, record in enumerate(records):
            words = record["prefix"].split()
            record["prefix"] = " ".join(words[number % len(words) :])
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    given[given.index("--prefix-tokens") + 1] = "64"
    words = ("--placement", "sliding", "--attacks", "none", "--out", folder / "run", "-q")
    done = memaudit("scan", *given, *words)
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", DIAGNOSES)
def test_every_diagnosis_takes_a_run_of_several_lengths(sliding_run: Path, name: str) -> None:
    few = {
        "latent": ["--set", "draws=1"],
        "neurons": ["--set", "unit_windows=2", "--set", "most_units=4", "--set", "trials=2"],
    }
    words = ["diagnose", name, sliding_run / "run", "--windows", "20", *few.get(name, [])]
    done = memaudit(*words, "-q")
    assert done.exit_code == 0, done.stderr
    assert "Prefixes have " in " ".join(done.stdout.split())
