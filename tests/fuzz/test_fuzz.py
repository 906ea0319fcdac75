"""A few seconds of every target in the suite, and the fuzzer itself put to the test."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memaudit.errors import UsageError

from . import engine
from .limits import TooSlow, time_limit
from .mutation import WORDS, mutate
from .oracles import Broken, check_harmless
from .targets import Target, all_targets

pytestmark = pytest.mark.slow

EXAMPLES = {"run": 12, "strings": 10, "model": 40, "windows": 60, "prompts": 60, "unfinished": 40}
TARGETS = all_targets()


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_read(name: str, tmp_path: Path) -> None:
    for seed in TARGETS[name].seeds():
        outcome, find = engine.attempt(TARGETS[name], seed, tmp_path)
        assert find is None, outcome
    assert any(
        engine.attempt(TARGETS[name], seed, tmp_path)[0].startswith("ok")
        for seed in TARGETS[name].seeds()
    )


@pytest.mark.parametrize("name", TARGETS)
def test_no_changed_input_gets_further_than_an_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    folder = tmp_path_factory.mktemp(name)

    @given(st.sampled_from(seeds), st.integers(0, 2**32))
    @settings(
        max_examples=EXAMPLES.get(name, 150),
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    def changed(seed: bytes, number: int) -> None:
        _, find = engine.attempt(target, mutate(random.Random(number), seed, seeds), folder)
        assert find is None, find

    changed()


@pytest.mark.parametrize("name", ["records", "toml", "set", "baseline", "key", "gguf"])
@given(content=st.binary(max_size=200) | st.lists(st.sampled_from(WORDS)).map(b"".join))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_made_up_input_gets_further_than_an_error(
    tmp_path: Path, name: str, content: bytes
) -> None:
    _, find = engine.attempt(TARGETS[name], content, tmp_path)
    assert find is None, find


# The fuzzer finds what there is to find.


def falls(content: bytes, folder: Path) -> str:
    if b"\0" in content:
        raise KeyError("a")
    if len(content) > 4:
        raise UsageError("too long")
    return "read"


def test_a_find_is_told_once_and_what_leads_on_is_kept(tmp_path: Path) -> None:
    target = Target("falls", lambda: [b"abcd"], falls)
    tried = engine.run(target, tmp_path, 0.3, seed=0)
    ((what, find),) = tried.finds.items()
    assert re.fullmatch(r"KeyError at test_fuzz\.py:\d+", what)
    assert b"\0" in find.content
    assert tried.outcomes == {"ok read", what, "UsageError too long"}
    kept = [path.read_bytes() for path in (tmp_path / "falls").iterdir()]
    assert len(kept) == 2
    again = engine.run(target, tmp_path, 0, seed=0)
    assert again.inputs == 1


def test_what_takes_too_long_and_what_quotes_the_text_are_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(content: bytes, folder: Path) -> str:
        signal.pause()
        return ""

    def quotes(content: bytes, folder: Path) -> str:
        raise UsageError("line 1: SECRET is no number")

    monkeypatch.setattr(engine, "SECONDS", 0.05)
    _, slow = engine.attempt(Target("waits", list, waits), b"", tmp_path)
    assert slow is not None
    assert slow.what.startswith("TooSlow")
    _, quoted = engine.attempt(Target("quotes", list, quotes), b"", tmp_path)
    assert quoted is not None
    assert "quotes the text" in quoted.what
    with pytest.raises(TooSlow), time_limit(0.05):
        signal.pause()


@pytest.mark.parametrize(
    "shown", ["\x1b[31m", "a\u202eb", "x ##[error]y", "##vso[task.setvariable a]b", " ::error::x"]
)
def test_the_oracle_sees_what_is_not_harmless(shown: str) -> None:
    with pytest.raises(Broken):
        check_harmless(shown, "table")
    check_harmless("std::string ## [a] – × 漢 \u200d\n", "table")
    check_harmless("::error title=memaudit a::b\n", "github", commands=True)


def test_the_long_form_says_what_it_tried(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.02"]
    words += ["--target", "key", "--target", "set", "--corpus", str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["key", "set"]
    assert lines[2].endswith("inputs in 0.02 minutes, 0 found")
