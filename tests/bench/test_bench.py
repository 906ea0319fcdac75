from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, build_model, build_tokenizer, save_model
from typer.testing import CliRunner

from memaudit.attack.prompts import NoPrompt
from memaudit.bench.bench_report import bench_to_json, render_bench
from memaudit.bench.benchmark import Benchmark, benchmark
from memaudit.bench.plain_ways import PlainTuning, decode_without_cache, generate
from memaudit.bench.work import BenchSettings, prepare
from memaudit.cli.app import app
from memaudit.config.sources import Layer, resolve
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.target.checkpoint import Checkpoint

P, S, V = 8, 6, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer(adds_bos=True)
    return save_model(build_model("llama"), tokenizer, tmp_path_factory.mktemp("target"))


def settings_for(folder: Path) -> BenchSettings:
    values = {
        "model": str(folder),
        "data": "none given",
        "windows": {"prefix_tokens": P, "suffix_tokens": S},
        "target": {"device": "cpu"},
        "dynamic": {"num_virtual_tokens": V, "batch_size": 4, "precision": "float32"},
    }
    config = resolve([Layer(source="flag", values=values)]).config
    return BenchSettings(config, rounds=2, windows=20, generate_batches=(8, 64))


@pytest.fixture(scope="module")
def result(folder: Path) -> Benchmark:
    return benchmark(settings_for(folder), Silent())


def test_every_way_is_timed_and_extracts_the_same(result: Benchmark) -> None:
    none_exact, most_exact, tuning = result.tables
    for table in (none_exact, most_exact):
        assert [way.name for way in table.ways] == [
            "memaudit",
            "memaudit, verifying alone",
            "generate",
            "generate",
            "no cache, all logits",
        ]
        assert [way.batch for way in table.ways[2:4]] == [8, 20]
        assert table.agree == table.windows == 20
    assert tuning.agree is None
    for table in result.tables:
        for way in table.ways:
            assert way.numbers == "float32"
            assert 0 < way.slowest <= way.windows_per_second <= way.fastest  # type: ignore[operator]
            own = way.name.startswith("memaudit")
            assert (way.share_of_rate is None, way.memaudit_is is None) == (not own, own)
    first, plain = none_exact.ways[0], none_exact.ways[2]
    assert first.batch == 20  # decoded together
    assert first.windows_per_second is not None
    assert plain.windows_per_second is not None
    ratio = first.windows_per_second / plain.windows_per_second
    assert plain.memaudit_is == pytest.approx(ratio)
    share = first.share_of_rate
    assert share is not None
    assert 0 < share < 1


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_as_many_windows_come_out_as_asked_for(folder: Path, share: float) -> None:
    work = prepare(settings_for(folder))
    exact, _ = work.extractor.verify(NoPrompt(), work.windows(share))
    assert exact.tolist() == [number < share * 20 for number in range(20)]


def test_operations_are_counted_from_the_weights(folder: Path) -> None:
    work = prepare(settings_for(folder))
    model = work.checkpoint.model
    body = sum(weight.numel() for weight in model.model.layers.parameters())
    body += model.model.norm.weight.numel()
    head = model.lm_head.weight.numel()
    tokens = 1 + P + S - 1  # BOS, and all tokens but the last
    assert work.verifying == 2 * body * tokens + 2 * head * S
    assert work.decoding == 2 * (body + head) * (S - 1)
    assert work.tuning == 4 * body * (tokens + V) + 4 * head * S


def test_a_tied_embedding_is_the_head_too(tmp_path: Path) -> None:
    folder = save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "tied")
    shape = prepare(settings_for(folder)).shape
    model = build_model("gpt2")
    assert shape.head == model.transformer.wte.weight.numel()
    body = sum(w.numel() for w in model.transformer.h.parameters())
    assert shape.body == body + sum(w.numel() for w in model.transformer.ln_f.parameters())


def checkpoint_of(architecture: str, *, bos: bool = False) -> Checkpoint:
    return Checkpoint(
        model=build_model(architecture).requires_grad_(False),
        tokenizer=build_tokenizer(),
        name=architecture,
        device=torch.device("cpu"),
        dtype=torch.float32,
        bos_id=0 if bos else None,
    )


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_plain_ways_agree(architecture: str) -> None:
    """Whatever the model's own settings for decoding are."""
    checkpoint = checkpoint_of(architecture, bos=True)
    checkpoint.model.generation_config.repetition_penalty = 1.3
    checkpoint.model.generation_config.no_repeat_ngram_size = 2
    checkpoint.model.generation_config.eos_token_id = list(range(3, 100))
    ids = torch.as_tensor(np.random.default_rng(0).integers(3, 300, (4, P)))
    assert torch.equal(generate(checkpoint, ids, S), decode_without_cache(checkpoint, ids, S))


def test_plain_tuning_lowers_the_loss_and_leaves_the_target_alone() -> None:
    checkpoint = checkpoint_of("gpt_neox", bos=True)
    before = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    plain = PlainTuning(checkpoint, V, P)
    for group in plain.optimizer.param_groups:
        group["lr"] = 1e-2
    ids = torch.as_tensor(np.random.default_rng(0).integers(3, 300, (4, P + S)))
    losses = [plain.step(ids) for _ in range(8)]
    assert losses[-1] < losses[0]
    after = checkpoint.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_way_without_memory_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("memaudit.bench.ways.decode_without_cache", full)
    result = benchmark(settings_for(folder), Silent())
    last = result.tables[0].ways[-1]
    assert (last.windows_per_second, last.memaudit_is) == (None, None)
    assert result.tables[0].agree == 20
    assert "no memory" in render_bench(result, width=80, color=False)


def test_tuning_is_timed_whatever_the_attacks(folder: Path) -> None:
    settings = settings_for(folder)
    plain = settings.config.model_copy(update={"attacks": ("none",)})
    work = prepare(replace(settings, config=plain))
    assert work.generate_batches == (8, 20)
    assert replace(work, settings=replace(settings, generate_batches=())).generate_batches == (20,)
    wide = plain.dynamic.model_copy(update={"num_virtual_tokens": 500})
    with pytest.raises(UsageError, match="positions"):
        prepare(replace(settings, config=plain.model_copy(update={"dynamic": wide})))


def test_the_table_fits_and_the_document_is_whole(result: Benchmark) -> None:
    text = render_bench(result, width=80, color=False)
    tables = text.partition("Target")[0]
    assert max(map(len, tables.splitlines())) <= 80
    for phrase in (
        "extraction, 90% exact",
        "generate",
        "tuning",
        "GFLOP/s in float32",
        "of the rate",
    ):
        assert phrase in text
    document = json.loads(bench_to_json(result))
    way = document["tables"][0]["ways"][0]
    assert way["name"] == "memaudit"
    assert {"least", "most", "windows_per_second"} <= way.keys()
    assert document["settings"]["config"]["windows"]["prefix_tokens"] == P


def test_the_command(folder: Path) -> None:
    words = ["bench", str(folder), "--prefix-tokens", "8", "--suffix-tokens", "6", "--quiet"]
    words += ["--windows", "8", "--rounds", "1", "--device", "cpu", "--generate-batches", "8"]
    words += ["--set", "dynamic.num_virtual_tokens=3", "--set", "dynamic.batch_size=2"]
    done = CliRunner().invoke(app, [*words, "--format", "json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["windows"] == 8
    for wrong in (["--format", "csv"], ["--generate-batches", "8,x"], ["--windows", "1"]):
        assert CliRunner().invoke(app, [*words, *wrong]).exit_code == 2
    done = CliRunner().invoke(app, [*words, "--prefix-tokens", "500"])
    assert (done.exit_code, "positions" in done.stderr) == (2, True)
