"""Baseline files: the form that is committed, and every kind of rubbish read back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_result import make_result, make_windows
from stored import seal, store

from memaudit.errors import UsageError
from memaudit.gate.baseline import Baseline
from memaudit.report.result import ScanResult
from memaudit.run.baselines import (
    model_name,
    read_baseline,
    read_baseline_file,
    to_text,
    write_baseline,
)

HITS = {"none": 2, "copy": 9, "dynamic-hard": 3}


def made(**more: Any) -> ScanResult:
    return make_result(data=make_windows(5), hits={**HITS, **more}, controls=None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return store(tmp_path / "run", made())


@pytest.fixture
def file(tmp_path: Path, run: Path) -> Path:
    write_baseline(tmp_path / "base.json", read_baseline(run))
    return tmp_path / "base.json"


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_baseline(path)
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 400
    return said


def test_the_file_as_a_literal(file: Path, run: Path) -> None:
    target = json.loads((run / "report.json").read_text())["target"]
    terms = read_baseline(run).terms
    none, hard = terms.attack_hash("none"), terms.attack_hash("dynamic-hard")
    assert (
        file.read_text()
        == f"""{{
  "memaudit_baseline": 3,
  "tool_version": "0.1.0",
  "model": "tb7m",
  "model_sha256": "{model_name("", target["fingerprint"]).sha256}",
  "data_hmac_sha256": "{"ab" * 32}",
  "controls_hmac_sha256": null,
  "config_sha256": "{terms.config_hash}",
  "key_id": "1131f7e7",
  "fingerprint_form": "s1",
  "samples": 5,
  "attacks": {{
    "none": {{"extracted": 2, "sha256": "{none}"}},
    "dynamic-hard": {{"extracted": 3, "sha256": "{hard}"}}
  }},
  "settings": {{
    "attacks": ["none", "dynamic-hard"],
    "dynamic.num_virtual_tokens": 50,
    "protocol.seed": 0,
    "target.bos": "auto",
    "windows.limit": null,
    "windows.placement": "start",
    "windows.prefix_tokens": 50,
    "windows.stride": null,
    "windows.suffix_tokens": 50
  }},
  "bos": "no",
  "computed": {{
    "device": "cpu",
    "dtype": "float32"
  }},
  "extracted": {{
    "s1-2b9c450e2002ccd6ca5321d9ae503987": ["dynamic-hard"],
    "s1-82c5a8eae531d0c76405e8c4b03edb15": ["none", "dynamic-hard"],
    "s1-e7e3e687cb52c219dc74dadf3b715fab": ["none", "dynamic-hard"]
  }},
  "fingerprints": [
    "2b9c450e20",
    "82c5a8eae5",
    "9559fc2104",
    "baaba8cc65",
    "e7e3e687cb"
  ],
  "digest": "{json.loads(file.read_text())["digest"]}"
}}
"""
    )


def test_a_file_comes_back_as_it_was(file: Path, run: Path) -> None:
    whole = read_baseline(run)
    short = tuple(sorted(each[3:13] for each in whole.fingerprints))
    assert read_baseline(file) == replace(
        whole, fingerprints=short, model=replace(whole.model, files=None)
    )
    assert to_text(read_baseline(file)) == file.read_text()
    assert file.read_text().isascii()


def test_no_time_no_place_and_no_name_is_in_it(file: Path) -> None:
    text = file.read_text()
    assert "2026" not in text
    assert "doc-000" not in text
    assert "members.jsonl" not in text


def test_what_decides_the_folds_is_in_it_where_prompts_are_fitted(tmp_path: Path) -> None:
    fitted = store(tmp_path / "run", make_result(hits={"none": 2, "dynamic": 3}))
    names = read_baseline(fitted).terms.settings
    assert {"protocol.folds", "dynamic.epochs", "prompts"} <= names.keys()
    assert "constant.epochs" not in names
    assert read_baseline(fitted).terms.controls is not None


def test_machines_do_not_show_in_a_models_name(run: Path) -> None:
    whole = read_baseline(run)
    for name, shown in [("/home/me/models/x", "x"), ("org/x", "org/x"), ("./out/x", "x")]:
        text = to_text(replace(whole, model=replace(whole.model, name=name)))
        assert json.loads(text)["model"] == shown


def test_nothing_extracted_is_a_baseline_too(tmp_path: Path) -> None:
    empty = store(tmp_path / "empty", made(**dict.fromkeys(HITS, 0)))
    write_baseline(tmp_path / "empty.json", read_baseline(empty))
    assert read_baseline_file(tmp_path / "empty.json").extracted == {}


def replace_unlisted(document: dict[str, Any]) -> None:
    """Exchange a sample that is not extracted for one that the data does not have."""
    listed = {fingerprint[3:13] for fingerprint in document["extracted"]}
    rest = [each for each in document["fingerprints"] if each not in listed]
    document["fingerprints"] = sorted([*listed, *rest[1:], "0" * 10])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"memaudit_baseline": 1, "memaudit_baseline": 1}', "is not valid JSON"),
        (b"5", "is not a baseline file"),
        (b"{}", "is not a baseline file"),
        (b'{"memaudit_baseline": true}', "is not a baseline file"),
        (b'{"memaudit_baseline": 1}', "has version 1, but this memaudit reads 3"),
        (b'{"memaudit_baseline": 3}', "tool_version is not what memaudit writes"),
        (b'{"tool": {"name": "memaudit"}, "schema_version": 1}', "is not a baseline file"),
    ],
)
def test_what_is_no_baseline(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(more=1), "more is not what memaudit writes"),
        (lambda d: d.update({"\x1b[2J": 1}), r"\x1b[2J is not what memaudit writes"),
        (lambda d: d["settings"].update({"\x1b": 1}), r"settings.\x1b"),
        (lambda d: d["settings"].update({"target.bos": "\x1b"}), "settings.target.bos"),
        (lambda d: d["extracted"].update({"\x1b[31m": ["none"]}), "extracted."),
        (lambda d: d["extracted"].update({f"s1-{'0' * 32}": ["magic"]}), "extracted."),
        (lambda d: d["extracted"].update({f"s1-{'0' * 32}": []}), "extracted."),
        (lambda d: d.update(bos="\x1b"), "bos is not what memaudit writes"),
        (lambda d: d["computed"].update(dtype="\x1b"), "computed.dtype is not what"),
        (lambda d: d.update(samples="5"), "samples is not what memaudit writes"),
        (lambda d: d.update(key_id="0" * 9), "key_id is not what memaudit writes"),
        (lambda d: d["extracted"].popitem(), "extracted does not fit the rest"),
        (lambda d: d["extracted"].update({f"s1-{'0' * 32}": ["none"]}), "does not fit the rest"),
        (lambda d: d["settings"].update({"protocol.seed": 7}), "settings does not fit the rest"),
        (lambda d: d["settings"].update(attacks=["none"]), "settings does not fit the rest"),
        (lambda d: d["attacks"].pop("none"), "attacks does not fit the rest"),
        (lambda d: d.update(samples=0), "samples does not fit the rest"),
        (lambda d: d["fingerprints"].pop(), "samples does not fit the rest"),
        (lambda d: d["fingerprints"].reverse(), "fingerprints does not fit the rest"),
        (lambda d: d["fingerprints"].append("\x1b[31m"), "fingerprints.5 is not what"),
        (replace_unlisted, "digest does not match"),
    ],
)
def test_what_was_edited(file: Path, change: Callable[[dict[str, Any]], object], said: str) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    assert said in refusal(file)


def test_a_file_that_is_not_there_or_too_large(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such baseline file or run folder" in refusal(tmp_path / "nothing")
    monkeypatch.setattr("memaudit.run.baselines._LONGEST", 100)
    assert "is larger than" in refusal(file)


def test_how_prompts_were_fitted_is_in_it_and_no_rubbish(tmp_path: Path) -> None:
    fitted = store(tmp_path / "run", make_result(hits={"none": 2, "dynamic": 3}))
    computed = {"dtype": "float32", "device": "cpu", "fitting": "float32"}
    assert read_baseline(fitted).computed == computed
    document = json.loads((fitted / "report.json").read_text())
    choices = document["target"]["choices"]
    choices["dtype"]["value"] = choices["bos"]["value"] = "\x1b[2J"
    del choices["device"]
    (fitted / "report.json").write_text(json.dumps(document))
    seal(fitted)
    found = read_baseline(fitted)
    assert (found.computed, found.terms.bos) == ({"fitting": "float32"}, None)


def test_the_date_of_chats_is_in_it(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", make_result(hits={"none": 2, "dynamic": 3}))
    undated = to_text(read_baseline(folder))
    assert "chat_date" not in undated  # an older memaudit reads it
    document = json.loads((folder / "report.json").read_text())
    for day, recorded in (("2024-07-26", "2024-07-26"), ("yesterday", None)):
        document["target"]["choices"]["chat_date"] = {"value": day, "reason": ""}
        (folder / "report.json").write_text(json.dumps(document))
        seal(folder)
        written = tmp_path / f"{day}.json"
        written.write_text(to_text(read_baseline(folder)))
        assert read_baseline(written).terms.chat_date == recorded


def test_that_the_target_was_quantised_is_in_it(tmp_path: Path) -> None:
    quantised = store(tmp_path / "run", make_result(hits={"none": 2}))
    document = json.loads((quantised / "report.json").read_text())
    document["target"]["choices"]["quantization"] = {"value": "llm-int8", "reason": "asked for"}
    (quantised / "report.json").write_text(json.dumps(document))
    seal(quantised)
    computed = read_baseline(quantised).computed
    assert (computed["dtype"], computed["device"]) == ("float32, llm int8", "cpu")


def test_a_run_whose_settings_are_none(run: Path) -> None:
    document = json.loads((run / "report.json").read_text())
    document["config"]["values"]["protocol"]["folds"] = "\x1b"
    (run / "report.json").write_text(json.dumps(document))
    seal(run)
    assert "the settings do not match their hash" in refusal(run)


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_gets_further_than_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = to_text(read_baseline(store(folder / "run", made()))).encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    damaged = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    (folder / "base.json").write_bytes(damaged)
    with contextlib.suppress(UsageError):
        found = read_baseline(folder / "base.json")
        assert isinstance(found, Baseline)
        assert to_text(found).isascii()
