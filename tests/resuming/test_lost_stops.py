"""A request to stop that a finalizer swallows ends the scan at the next step."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from small_scan import make_files, memaudit

from memaudit.run.unfinished import Unfinished


class Signalled:
    """Gets a signal in its finalizer, where Python ignores what the handler raises."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("quiet", [["-q"], []])
def test_a_stop_that_was_lost_ends_the_scan(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
    word: str,
    quiet: list[str],
) -> None:
    keep = Unfinished.keep

    def keep_and_lose(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        monkeypatch.setattr(Unfinished, "keep", keep)
        Signalled(number)

    monkeypatch.setattr(Unfinished, "keep", keep_and_lose)
    before = signal.getsignal(number)
    folder = tmp_path / "run"
    ended = memaudit("scan", *make_files(tmp_path, count=60), "--out", folder, *quiet)
    assert ended.exit_code == code, ended.output
    assert f"memaudit: {word}" in ended.stderr
    assert f"resume with: memaudit scan --resume {folder}" in ended.stderr
    assert signal.getsignal(number) is before
    assert memaudit("scan", "--resume", folder, "--exit-zero").exit_code == 0
