"""The user's home, and what happens where there is none: nothing is written to ``./~``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from known_answers import audit, greedy_records, random_llama, text_of, word_tokenizer, write_jsonl

from memaudit.config.settings import ScanConfig
from memaudit.data.project_key import find_key
from memaudit.errors import TargetError, UsageError
from memaudit.system.home import expand_home, home_folder, settings_folder
from memaudit.target import source

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="homes of POSIX systems")


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, under a user id that no list of users knows."""
    import pwd

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CONFIG_HOME", "MEMAUDIT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("home", ["", ".", "~", "/no/such/folder", "a-file"])
def test_a_home_is_a_folder_that_exists_and_has_a_whole_path(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    assert home_folder() is None
    (homeless / "a-file").write_text("")
    monkeypatch.setenv("HOME", str(homeless / home) if home == "a-file" else home)
    assert (home_folder(), settings_folder()) == (None, None)
    monkeypatch.setenv("HOME", str(homeless))
    assert home_folder() == homeless


@pytest.mark.skipif(sys.platform == "darwin", reason="the XDG specification is Linux's")
@pytest.mark.parametrize("given", [None, "", "relative"])
def test_settings_lie_where_the_platform_has_them(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    monkeypatch.setenv("HOME", str(homeless))
    if given is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", given)
    assert settings_folder() == homeless / ".config" / "memaudit"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/settings")
    assert settings_folder() == Path("/settings/memaudit")
    monkeypatch.delenv("HOME")
    assert settings_folder() == Path("/settings/memaudit")


def test_a_leading_tilde_is_the_home_and_a_name_that_begins_so_is_a_name(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="there is none; write the full path"):
        expand_home("~/run")
    monkeypatch.setenv("HOME", str(homeless))
    assert expand_home("~/run") == f"{homeless}/run"
    assert expand_home("~") == str(homeless)
    for name in ("~$records.csv", "~root/x", "a/~/b", ""):
        assert expand_home(name) == name
    config = ScanConfig(model="model", data=Path("~/data.jsonl"), out=Path("~/run"))
    assert (config.data, config.out) == (homeless / "data.jsonl", homeless / "run")


def test_without_a_home_no_key_is_kept_and_the_report_says_so(homeless: Path) -> None:
    tokenizer = word_tokenizer()
    model = random_llama(len(tokenizer))
    model.save_pretrained(homeless / "model")
    tokenizer.save_pretrained(homeless / "model")
    records = [{"text": text_of(tokenizer, ids)} for ids in greedy_records(model, tokenizer)]
    data = write_jsonl(homeless / "data.jsonl", records)
    done = audit(homeless / "model", data, Path("run"))
    assert done.exit_code == 0, done.stderr
    assert done.exact == (24, 24)
    assert done.report is not None
    assert any(note.startswith("No project key is kept") for note in done.report["notes"])
    refused = audit(homeless / "model", data, Path("~/run"))
    assert (refused.exit_code, "~ means the home folder" in refused.stderr) == (2, True)
    refused = audit("~/model", data, Path("other"))
    assert (refused.exit_code, "~ means the home folder" in refused.stderr) == (2, True)
    assert sorted(path.name for path in homeless.iterdir()) == ["data.jsonl", "model", "run"]


def test_the_keys_of_two_runs_without_a_home_differ(homeless: Path) -> None:
    first, second = find_key(None, None), find_key(None, None)
    assert first.secret != second.secret
    assert first.note == second.note != ""


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HF_MODULES_CACHE"])
def test_the_hubs_cache_is_not_made_in_the_working_folder(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(source, name, "~/.cache/huggingface/x")
    config = ScanConfig(model="owner/name", data=Path("data.jsonl"))
    settings, model = config.target, "owner/name"
    if name == "HF_MODULES_CACHE":
        settings = settings.model_copy(update={"trust_remote_code": True})
        (homeless / "model").mkdir()
        for file in ("config.json", "model.safetensors"):
            (homeless / "model" / file).write_text("{}")
        model = "model"
    with pytest.raises(TargetError, match="no home folder to cache its files in; set HF_HOME"):
        source.find_source(model, settings)


def test_a_model_in_the_home_of_nobody_is_not_there() -> None:
    settings = ScanConfig(model="x", data=Path("x")).target
    with pytest.raises((TargetError, UsageError), match="no such folder or file"):
        source.find_source(f"~no-such-user-{os.getpid()}/model", settings)
