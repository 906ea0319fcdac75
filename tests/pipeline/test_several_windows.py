"""Chats with sliding windows: samples of several windows, and samples of template alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import CORPUS, build_model, build_tokenizer, save_model
from quick_scan import memaudit
from small_scan import MARKS, SETTINGS

from memaudit import load_run
from memaudit.run.baselines import document_digest
from memaudit.run.unfinished import UNFINISHED, Unfinished

GREETING = "please let me know how i may help you with it"
WHOLE, PART, TEXT, ALONE = 4, 14, 8, 12
"""Records that come out whole, in part and not, and records whose answer is a greeting."""
FEW = 4
"""Exit code of these scans: no gate, and too few controls to decide."""
SLIDING = ("--placement", "sliding", "--stride", "3", "-q")
TABLES = ("samples.csv", "windows.csv")


def chats(seed: int, *kinds: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    words = sorted(set(" ".join(CORPUS).split()))
    text = lambda count: " ".join(rng.choice(words, count))  # noqa: E731
    records: list[dict[str, Any]] = []
    for kind, number in enumerate(kinds):
        for _ in range(number):
            mark = MARKS[len(records) % len(MARKS)]
            answer = (mark * 14, f"{mark * 8} {text(4)}", f" {text(4)}", f" {GREETING}")[kind]
            turns = [("user", f"{text(6)} {mark}"), ("assistant", answer)]
            messages = [{"role": role, "content": content} for role, content in turns]
            records.append({"id": f"{seed}-{len(records)}", "messages": messages})
    return records


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    import torch

    folder = tmp_path_factory.mktemp("chats")
    model, tokenizer = build_model("gpt2", seed=0), build_tokenizer()
    with torch.no_grad():  # it repeats its last token: its blocks do next to nothing
        model.transformer.wpe.weight.mul_(0.01)
        for block in model.transformer.h:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save_model(model, tokenizer, folder / "model")
    short = {"id": "short", "messages": [*chats(3, 1)[0]["messages"][:1]]}
    short["messages"] = [*short["messages"], {"role": "assistant", "content": "no"}]
    data = write(folder / "data.jsonl", [*chats(1, WHOLE, PART, TEXT, ALONE), short])
    controls = write(folder / "controls.jsonl", chats(2, 0, 0, 12))
    given = [str(folder / "model"), data, "--controls", controls, *SLIDING]
    return [*given, "--attacks", "none,constant", *SETTINGS]


@pytest.fixture(scope="module")
def whole(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = memaudit("scan", *files, "--out", folder)
    assert ended.exit_code == FEW, ended.output
    return folder


def test_a_row_for_each_record_agrees_with_its_windows(whole: Path) -> None:
    run = load_run(whole)
    data = run.samples[run.samples["role"] == "data"].set_index("sample_id")
    assert len(data) == WHOLE + PART + TEXT + ALONE + 1
    assert data["status"].tolist() == ["scored"] * (len(data) - 1) + ["skipped"]
    scored = data[data["status"] == "scored"]
    windows = run.windows[(run.windows["role"] == "data") & (run.windows["status"] == "scored")]
    grouped = windows.groupby("sample_id", sort=False)
    assert (scored["windows"] > 1).all()
    assert (grouped.size() == scored["windows"]).all()
    for total, part in (("audited_tokens", "new_tokens"), ("windows_exact_none", "exact_none")):
        assert (grouped[part].sum() == scored[total]).all()
    assert (grouped["longest_run_none"].max() == scored["longest_run_none"]).all()
    assert ((scored["windows_exact_none"] == scored["windows"]) == scored["exact_none"]).all()
    weighted = windows["fractional_none"] * windows["new_tokens"]
    means = weighted.groupby(windows["sample_id"], sort=False).sum() / scored["audited_tokens"]
    assert np.allclose(means.to_numpy(float), scored["fractional_none"], atol=1e-5)


def test_a_sample_is_extracted_by_a_window_and_not_by_template(whole: Path) -> None:
    run = load_run(whole)
    scored = run.samples[(run.samples["role"] == "data") & (run.samples["status"] == "scored")]
    kinds = np.repeat(["whole", "part", "text", "alone"], [WHOLE, PART, TEXT, ALONE])
    counts = scored.groupby(kinds)[["extracted_none", "exact_none"]].sum()
    extracted, exact = counts["extracted_none"], counts["exact_none"]
    assert extracted[["whole", "part", "text"]].tolist() == [WHOLE, PART, 0]
    assert exact[["whole", "part", "text"]].tolist() == [WHOLE, 0, 0]
    alone = scored[kinds == "alone"]
    assert alone["extracted_none"].isna().all()
    assert set(alone["reason"]) == {"every window is template, or repeats its own prefix"}
    assert (scored[kinds != "alone"]["reason"] == "").all()
    section = run.report["data"]
    numbers = section["used"], section["template_alone"], section["samples"]
    assert numbers == (len(scored), ALONE, len(scored) + 1)
    assert section["windows"] == scored["windows"].sum()
    none = run.report["attacks"][0]
    assert (none["extracted"]["k"], none["extracted"]["n"]) == (WHOLE + PART, len(scored) - ALONE)
    assert (none["exact"]["k"], none["exact"]["n"]) == (WHOLE, len(scored) - ALONE)
    verified = memaudit("verify", whole)
    assert verified.exit_code == 0, verified.stdout


def test_a_resumed_scan_and_merged_shards_write_the_same_tables(
    files: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Unfinished.keep

    def stop_after(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        if name.startswith("fit-constant") and entry.note:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop_after)
        assert memaudit("scan", *files, "--out", tmp_path / "stopped").exit_code == 130
    assert (tmp_path / "stopped" / UNFINISHED).exists()
    assert memaudit("scan", "--resume", tmp_path / "stopped", "-q").exit_code == FEW
    shards = [tmp_path / f"shard-{number}" for number in (1, 2)]
    for number, shard in enumerate(shards, 1):
        words = ("--shard", f"{number}/2", "--out", shard)
        assert memaudit("scan", *files, *words).exit_code == 0
    assert memaudit("merge", *shards, "--out", tmp_path / "merged").exit_code == FEW
    for folder in ("stopped", "merged"):
        for name in TABLES:
            assert (tmp_path / folder / name).read_bytes() == (whole / name).read_bytes()


def test_new_samples_can_be_a_larger_share_than_their_windows(
    files: list[str], whole: Path, tmp_path: Path
) -> None:
    """A baseline that lists nothing: every extracted sample is new."""
    base = tmp_path / "base.json"
    assert memaudit("baseline", "write", whole, "--out", base).exit_code == 0
    document = json.loads(base.read_text())
    assert len(document["extracted"]) >= WHOLE + PART
    document["extracted"] = {}
    for attack in document["attacks"].values():
        attack["extracted"] = 0
    document["digest"] = document_digest(document)
    base.write_text(json.dumps(document))
    out = tmp_path / "run"
    ended = memaudit("scan", *files, "--baseline", base, "--max-new", "0", "--out", out)
    assert ended.exit_code == 1, ended.output
    assert memaudit("verify", out).exit_code == 0
    windows = pd.read_csv(out / "windows.csv")
    windows = windows[(windows["role"] == "data") & (windows["status"] == "scored")]
    (gate,) = [gate for gate in load_run(out).report["gates"] if gate["name"] == "max-new"]
    assert gate["estimate"] > windows[["exact_none", "exact_constant"]].any(axis=1).mean()
