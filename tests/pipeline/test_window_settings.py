"""Windows that the settings leave open, in whole scans of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from quick_scan import memaudit
from scanned import make_texts, write_samples

from memaudit.config.settings import ScanConfig
from memaudit.config.sources import Layer, resolve
from memaudit.data.project_key import throwaway_key
from memaudit.distributed import Processes
from memaudit.errors import UsageError
from memaudit.pipeline.prepare import prepare
from memaudit.pipeline.window_settings import resolve_windows
from memaudit.progress import Silent
from memaudit.run.record import Clock, RunNotes, RunRecord

PLAIN = ["--attacks", "none", "--device", "cpu", "--set", "scores.bootstrap=100", "-q"]
PLAIN += ["--set", "constant.num_virtual_tokens=4", "--set", "dynamic.num_virtual_tokens=4"]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return save_model(build_model("gpt2"), tokenizer, tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{text} pin {number * 7919}" for number, text in enumerate(make_texts(24, seed=1))]
    return write_samples(tmp_path_factory.mktemp("notes") / "notes.jsonl", texts)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    lines = []
    for number, (ask, answer) in enumerate(zip(make_texts(20, 2), make_texts(20, 3), strict=True)):
        turns = [("user", ask), ("assistant", f"{answer} {number * 7919}")]
        lines.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def report_of(run: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((run / "report.json").read_text())
    return document


def config_of(model: Path, data: Path, **values: Any) -> ScanConfig:
    given = {"model": str(model), "data": str(data), "attacks": ["none"], **values}
    return resolve([Layer(source="flag", values=given)]).config


@pytest.mark.parametrize("kind", ["notes", "chats"])
def test_a_scan_without_flags_fits_its_records_and_can_be_repeated(
    kind: str, model: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data = request.getfixturevalue(kind)
    run, again = tmp_path / "run", tmp_path / "again"
    assert memaudit("scan", model, data, *PLAIN, "--out", run).exit_code == 0
    report = report_of(run)
    windows, sources = report["config"]["values"]["windows"], report["config"]["sources"]
    assert windows["placement"] == "sliding"
    assert 8 <= windows["suffix_tokens"] <= 16
    assert {sources[f"windows.{name}"] for name in ("prefix_tokens", "placement")} == {"data"}
    assert report["notes"][0].startswith(f"Windows of up to {windows['prefix_tokens']}+")
    extent = [note for note in report["notes"] if "of the tokens of all records are" in note]
    assert len(extent) == 1
    if kind == "chats":
        assert extent == [f"{data.name}: 100 % of the tokens of all records are audited."]
        assert not any("more than" in note for note in report["notes"])  # no prefix is cut

    # Its config states the windows, so that other data would be cut alike.
    assert memaudit("scan", "--config", run / "config.toml", "--out", again).exit_code == 0
    assert report_of(again)["config"]["values"]["windows"] == windows
    for name in ("windows.csv", "samples.csv"):
        if (run / name).exists():
            assert (again / name).read_bytes() == (run / name).read_bytes()
    shown = memaudit("scan", model, data, *PLAIN, "--resume", run)
    assert shown.exit_code == 0, shown.output
    other = memaudit("scan", model, data, *PLAIN, "--suffix-tokens", "9", "--resume", run)
    assert other.exit_code == 2
    assert "windows.suffix_tokens" in other.stderr

    looked = memaudit("inspect", model, data, *PLAIN)
    size = f"{windows['prefix_tokens']}+{windows['suffix_tokens']} tokens, sliding"
    assert f"of up to {size}" in looked.stdout
    assert "% of the tokens of all records" in looked.stdout


def test_whoever_continues_a_run_has_to_choose_alike(model: Path, notes: Path) -> None:
    config = config_of(model, notes)
    record = RunRecord(RunNotes.new(config, {}, ""))
    key = throwaway_key()
    ready = prepare(config, key, Clock(Silent(), record), Processes())
    chosen = record.notes.facts["choice of windows"]
    assert chosen["windows.prefix_tokens, as chosen"] == "55"
    assert ready.config.windows.length == ready.plan.data.windows.window_tokens
    assert prepare(config, key, Clock(Silent(), record), Processes()).config == ready.config
    other = {**chosen, "windows.prefix_tokens, as chosen": "49"}
    changed = {**record.notes.facts, "choice of windows": other}
    record.notes = record.notes.model_copy(update={"facts": changed})
    with pytest.raises(UsageError, match=r"as chosen \(49, now 55\)"):
        prepare(config, key, Clock(Silent(), record), Processes())


def test_shards_choose_alike(model: Path, notes: Path, tmp_path: Path) -> None:
    shards = [tmp_path / "1", tmp_path / "2"]
    for number, shard in enumerate(shards, 1):
        words = ["scan", model, notes, *PLAIN, "--shard", f"{number}/2", "--out", shard]
        assert memaudit(*words).exit_code == 0
    assert memaudit("merge", *shards, "--out", tmp_path / "merged", "-q").exit_code == 0
    windows = report_of(tmp_path / "merged")["config"]["values"]["windows"]
    assert windows["prefix_tokens"] == 55
    assert windows["placement"] == "sliding"


def test_a_baseline_keeps_the_question(model: Path, notes: Path, tmp_path: Path) -> None:
    size = ["--prefix-tokens", "20", "--suffix-tokens", "9"]
    before, after = tmp_path / "before", tmp_path / "after"
    assert memaudit("scan", model, notes, *PLAIN, *size, "--out", before).exit_code == 0
    since = ["--baseline", before, "--max-new", "0", "--exit-zero", "--out", after]
    ended = memaudit("scan", model, notes, *PLAIN, *since)
    assert ended.exit_code == 0, ended.output
    report = report_of(after)
    windows = report["config"]["values"]["windows"]
    chosen = windows["prefix_tokens"], windows["suffix_tokens"], windows["placement"]
    assert chosen == (20, 9, "start")
    assert report["config"]["sources"]["windows.suffix_tokens"] == "baseline"
    assert report["notes"][0].startswith("Windows of up to 20+9 tokens, start, as in the baseline")
    shown = memaudit("scan", model, notes, *PLAIN, *since[:-2], "--out", after, "--resume", after)
    assert "other settings" not in shown.output


def test_the_models_positions_limit_what_is_chosen(model: Path, notes: Path) -> None:
    tokenizer = build_tokenizer()
    # Soft prompts of 190 tokens leave 65 of the model's 256 positions, without BOS.
    wide = {"num_virtual_tokens": 190}
    config = config_of(model, notes, attacks=["constant"], constant=wide, dynamic=wide)
    windows = resolve_windows(config, tokenizer).config.windows
    assert windows.length <= 65
    free = resolve_windows(config_of(model, notes), tokenizer).config.windows
    assert free.length > 65
