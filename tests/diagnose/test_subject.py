"""Finished run opened for a diagnosis: windows with their scores, and wrong files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scan import make_files, memaudit
from stored import seal

from memaudit.attack.verification import NotFinite
from memaudit.config.sources import toml_of_values
from memaudit.data.project_key import kept_key
from memaudit.diagnose.passes import Pass
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.diagnose.subject import Subject, draw, open_subject
from memaudit.errors import RunError, UsageError
from memaudit.report.hashes import sha256_text
from memaudit.system.home import settings_folder


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data and controls, and a finished run of them."""
    folder = tmp_path_factory.mktemp("scanned")
    given = make_files(folder)
    done = memaudit("scan", *given, "--attacks", "none,constant", "--out", folder / "run", "-q")
    assert done.exit_code == 0, done.stderr
    return folder


@pytest.fixture
def own(scanned: Path, tmp_path: Path) -> Path:
    """Copy that tests may change; its run still names the original files."""
    return Path(shutil.copytree(scanned, tmp_path / "own"))


def opened(folder: Path, **more: Any) -> Subject:
    return open_subject(DiagnoseSettings(run=folder / "run", **more))


def nll(batch: Pass) -> dict[str, torch.Tensor]:
    log_p = batch.logits.log_softmax(dim=-1).gather(-1, batch.tokens[..., None])[..., 0]
    return {"nll": -log_p.double().mean(dim=1)}


def test_passes_say_what_the_run_said(scanned: Path) -> None:
    subject = opened(scanned)
    assert subject.data.extracted.any()
    assert not subject.data.extracted.all()
    for part in (subject.data, subject.controls):
        assert part is not None
        measured = subject.passes().read(part.ids, nll)["nll"]
        np.testing.assert_allclose(
            measured, part.score("suffix_nll", "none"), rtol=0.05, atol=0.006
        )


def test_hidden_windows_are_those_that_only_a_prompt_extracts(scanned: Path) -> None:
    data = opened(scanned).data
    assert data.attacks == ("none", "constant")
    expected = (data.rows["exact_constant"] == 1) & (data.rows["exact_none"] == 0)
    np.testing.assert_array_equal(data.hidden, expected)
    few = data.take(data.extracted)
    assert few.extracted.all()
    assert len(few.rows) == len(few.ids) == data.extracted.sum()
    assert list(few.rows.index) == list(range(len(few)))


def test_batches_and_shortages_change_nothing(
    scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = opened(scanned)
    whole = subject.passes().read(subject.data.ids, nll)["nll"]
    advanced: list[int] = []
    failed: list[int] = []

    def short(batch: Pass) -> dict[str, torch.Tensor]:
        if len(batch.tokens) > 3:
            failed.append(len(batch.tokens))
            raise MemoryError
        return nll(batch)

    measured = subject.passes().read(subject.data.ids, short, advanced.append)["nll"]
    np.testing.assert_allclose(measured, whole, atol=1e-5)
    assert failed
    assert sum(advanced) == len(subject.data)

    def never(batch: Pass) -> dict[str, torch.Tensor]:
        raise MemoryError

    with pytest.raises(RunError, match="single window"):
        subject.passes().read(subject.data.ids, never)


def test_logits_are_let_go_pass_by_pass(scanned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure that looks into the logits would keep all of them until the last pass."""
    subject, join = opened(scanned, batch_size=4), np.concatenate
    joined: list[np.ndarray[Any, Any]] = []

    def note(parts: Any) -> Any:
        joined.extend(parts)
        return join(parts)

    monkeypatch.setattr(np, "concatenate", note)
    subject.passes().read(subject.data.ids[:16], lambda batch: {"first": batch.logits[:, 0]})
    assert len(joined) >= 4
    assert all(part.base is None for part in joined)


def test_more_positions_than_the_suffix(scanned: Path) -> None:
    subject = opened(scanned)
    tokens = subject.data.ids.shape[1]
    read = subject.passes().read(
        subject.data.ids[:5], lambda batch: {"tokens": batch.tokens}, last=tokens - 1
    )
    np.testing.assert_array_equal(read["tokens"], subject.data.ids[:5, 1:])


def test_logits_that_are_no_numbers_are_told(scanned: Path) -> None:
    subject = opened(scanned)
    weight = subject.checkpoint.model.lm_head.weight
    with torch.no_grad():
        weight[3] = torch.nan
    with pytest.raises(NotFinite):
        subject.passes().read(subject.data.ids[:5], nll)


def test_drawn_rows_are_rows_of_the_mask() -> None:
    mask = np.arange(100) % 3 == 0
    rows = draw(mask, 10, np.random.default_rng(0))
    assert len(rows) == 10
    assert mask[rows].all()
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(draw(mask, 1000, np.random.default_rng(0)), np.flatnonzero(mask))
    np.testing.assert_array_equal(rows, draw(mask, 10, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("file", "flag"), [("data.jsonl", "--data"), ("controls.jsonl", "--controls")]
)
def test_other_data_are_refused(own: Path, file: str, flag: str) -> None:
    with (own / file).open("a") as more:
        more.write(json.dumps({"prefix": "a" * 100, "suffix": "b" * 100}) + "\n")
    changed = {flag.strip("-"): own / file}
    with pytest.raises(UsageError, match=f"not the file that was audited.*{flag}"):
        opened(own, **changed)


def test_another_model_is_refused(own: Path) -> None:
    config = own / "model" / "config.json"
    assert opened(own, model=str(own / "model")).data.extracted.any()
    config.write_text(config.read_text() + "\n")
    with pytest.raises(UsageError, match=r"not the model that was audited \(config\.json"):
        opened(own, model=str(own / "model"))


def change(run: Path, old: str, new: str) -> None:
    """Change ``report.json`` of a run and renew its settings hash and its seal."""
    report = run / "report.json"
    document = json.loads(report.read_text().replace(old, new))
    document["hashes"]["config"] = sha256_text(toml_of_values(document["config"]["values"]))
    report.write_text(json.dumps(document))
    seal(run, kept_key(None, settings_folder()))


def test_files_that_were_moved_are_named(scanned: Path, own: Path) -> None:
    change(own / "run", str(scanned), "/nowhere")
    with pytest.raises(UsageError, match="the audited file is missing; give its path with --data"):
        opened(own)
    places = {"data": own / "data.jsonl", "controls": own / "controls.jsonl"}
    assert len(opened(own, model=str(own / "model"), **places).data)


def test_a_run_cannot_lift_a_safeguard(own: Path) -> None:
    for name in ("trust_remote_code", "allow_pickle"):
        change(own / "run", f'"{name}": false', f'"{name}": true')
    document = json.loads((own / "run" / "report.json").read_text())
    assert document["config"]["values"]["target"]["allow_pickle"]
    config = opened(own).config
    assert not config.target.trust_remote_code
    assert not config.target.allow_pickle


def test_a_run_without_none_cannot_be_diagnosed(scanned: Path, tmp_path: Path) -> None:
    given = make_files(tmp_path)
    done = memaudit("scan", *given, "--attacks", "copy", "--out", tmp_path / "run", "-q")
    assert done.exit_code == 0
    with pytest.raises(UsageError, match="none was not run"):
        opened(tmp_path)
