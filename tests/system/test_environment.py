from __future__ import annotations

import re
from pathlib import Path

import pytest

from memaudit.system import environment
from memaudit.system.environment import TESTED, newer_than_tested

ROOT = Path(__file__).parents[2]


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Let these be the versions that are installed; others are as tested."""
    monkeypatch.setattr(environment, "version", lambda name: (TESTED | versions).get(name, "1.0"))


@pytest.mark.parametrize(
    ("library", "version"),
    [
        ("transformers", TESTED["transformers"]),
        ("transformers", "5.5"),
        ("transformers", "5.9.9"),
        ("torch", TESTED["torch"] + "+cpu"),
        ("torch", "2.6.0+cu124"),
        ("peft", "0.21"),
    ],
)
def test_what_was_tested_needs_no_note(
    monkeypatch: pytest.MonkeyPatch, library: str, version: str
) -> None:
    install(monkeypatch, **{library: version})
    assert newer_than_tested() == ""


@pytest.mark.parametrize(
    ("library", "version"),
    [
        ("transformers", "5.40.0"),
        ("transformers", "6.0.0rc1"),
        ("transformers", "5.100.0"),
        ("torch", "10.0.0.dev20270101+cpu"),
        ("peft", "1"),
    ],
)
def test_a_newer_library_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, version: str
) -> None:
    install(monkeypatch, **{library: version})
    note = newer_than_tested()
    assert f"{library} {version} (tested up to {TESTED[library]})" in note
    assert "\n" not in note


def test_several_newer_libraries_make_a_single_note(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch="3.0", peft="0.22.0")
    assert newer_than_tested().startswith("Newer than tested: torch 3.0 (tested up to ")
    assert ", peft 0.22.0 (tested up to " in newer_than_tested()


def test_what_is_pinned_was_tested() -> None:
    pins = re.findall(
        r"^(\S+)==([0-9.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    for name, pinned in pins:
        if name in TESTED:
            assert environment._release(pinned) <= environment._release(TESTED[name]), name
    assert {name for name, _ in pins} >= set(TESTED)
