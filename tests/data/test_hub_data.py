"""Data sets of the hub, with the package datasets or a stand-in for it, and without a network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow
import pytest
from huggingface_hub import constants
from test_charsets import refusal

from memaudit.data import hub_data
from memaudit.data.records import sha256_of, size_of
from memaudit.data.samples import Sample, check_samples, read_samples

ROWS = [{"question": "Who?", "answer": f"Hilde {n}", "id": f"q{n}"} for n in range(3)]


class Rows:
    """The rows of a split, as far as they are used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.data = pyarrow.Table.from_pylist(rows)

    def with_format(self, name: str) -> Rows:
        assert name == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator[pyarrow.Table]:
        yield from (self.data.slice(at, 2) for at in range(0, len(self.data), 2))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    hub_data._load.cache_clear()
    yield
    hub_data._load.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Put a module in the place of datasets; returns the calls of its load_dataset."""

    def install(answer: Any, version: str = "4.0.0") -> list[Any]:
        calls: list[Any] = []

        def load_dataset(*names: Any, **options: Any) -> Any:
            calls.append((names, options, module.config.HF_HUB_OFFLINE))
            if isinstance(answer, Exception):
                raise answer
            return answer

        module: Any = ModuleType("datasets")
        module.__version__ = version
        module.load_dataset = load_dataset
        module.exceptions = ModuleType("datasets.exceptions")
        module.exceptions.DatasetsError = type("DatasetsError", (Exception,), {})
        module.config = ModuleType("datasets.config")
        module.config.HF_HUB_OFFLINE = False
        monkeypatch.setitem(sys.modules, "datasets", module)
        return calls

    return install


def test_the_rows_of_a_split(stand_in: Callable[..., list[Any]]) -> None:
    calls = stand_in(Rows(ROWS))
    path = Path("hf://org/seals@v1.2:plain/validation")
    samples = list(read_samples(path, skip_bad_lines=False))
    assert [(s.sample_id, s.line) for s in samples] == [("q0", 1), ("q1", 2), ("q2", 3)]
    assert isinstance(samples[0], Sample)
    assert (samples[0].messages or ())[1]["content"] == "Hilde 0"
    summary = check_samples(path, skip_bad_lines=False)
    assert summary.sha256 == sha256_of(path)
    assert "loaded from the hub's data set org/seals, split validation." in summary.notes[0]
    assert size_of(path) > 0
    ((names, options, _),) = calls  # once: the hub may change meanwhile
    assert names == ("org/seals", "plain")
    assert options == {"revision": "v1.2", "split": "validation"}


def test_a_file_or_the_split_for_training(stand_in: Callable[..., list[Any]]) -> None:
    calls = stand_in({"test": Rows(ROWS), "train": Rows(ROWS[:1])})
    summary = check_samples(Path("hf://org/seals"), skip_bad_lines=False)
    assert summary.rows == 1
    assert "org/seals, split train, one of its 2 splits." in summary.notes[0]
    calls = stand_in({"train": Rows(ROWS)})
    assert check_samples(Path("hf://org/seals/data/a.jsonl"), skip_bad_lines=False).rows == 3
    assert calls[0][1] == {"revision": None, "data_files": "data/a.jsonl"}


def test_other_rows_have_another_hash(stand_in: Callable[..., list[Any]]) -> None:
    path = Path("hf://org/seals")
    hashes = set()
    for rows in (ROWS, ROWS[::-1], ROWS[:2]):
        stand_in({"train": Rows(rows)})
        hub_data._load.cache_clear()
        hashes.add(sha256_of(path))
    assert len(hashes) == 3


def test_nothing_is_fetched_offline(
    stand_in: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    calls = stand_in(ConnectionError("offline"))
    message = refusal(Path("hf://org/seals"))
    assert "cannot be loaded from the hub (ConnectionError)" in message
    assert "--offline" in message
    assert all(is_offline for _, _, is_offline in calls)


def test_what_is_not_loaded(
    stand_in: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = stand_in(Rows(ROWS), version="3.6.0")
    assert "datasets 3.6.0 can run the code of a data set" in refusal(Path("hf://org/seals"))
    assert "write hf://owner/name" in refusal(Path("hf://seals"))
    assert "write hf://owner/name" in refusal(Path("hf://../seals/train"))
    stand_in(Rows(ROWS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "seals").mkdir(parents=True)
    assert "a file or folder org/seals is here as well" in refusal(Path("hf://org/seals"))
    assert not calls
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'memaudit-dsp[hub-data]'" in refusal(Path("hf://org/other"))


def test_the_package_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hub-data")
    (tmp_path / "seals").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "seals" / "train.jsonl").write_text(lines, encoding="utf-8")
    load = datasets.load_dataset

    def from_folder(name: str, *names: Any, **options: Any) -> Any:
        return load(str(tmp_path / "seals"), *names, cache_dir=str(tmp_path / "c"), **options)

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    samples = list(read_samples(Path("hf://org/seals"), skip_bad_lines=False))
    assert [sample.sample_id for sample in samples] == ["q0", "q1", "q2"]
    hub_data._load.cache_clear()
    assert size_of(Path("hf://org/seals/train")) > 0
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # as HF_DATASETS_OFFLINE=0 does
    assert "cannot be loaded from the hub" in refusal(Path("hf://org/nowhere"))
