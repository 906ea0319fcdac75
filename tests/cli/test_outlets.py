"""Standard streams that are closed, full or read by nobody: what is lost, and what is not."""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from known_answers import greedy_records, random_llama, text_of, word_tokenizer, write_jsonl

from memaudit.cli.app import main
from memaudit.cli.outlets import Outlet
from memaudit.system.threads import SPIN_VARIABLE

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
SCAN = "scan model data.jsonl --prefix-tokens 8 --suffix-tokens 8 --attacks none --device cpu -q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and data that it has by heart."""
    made = tmp_path_factory.mktemp("streams")
    tokenizer = word_tokenizer()
    model = random_llama(len(tokenizer))
    model.save_pretrained(made / "model")
    tokenizer.save_pretrained(made / "model")
    records = [{"text": text_of(tokenizer, ids)} for ids in greedy_records(model, tokenizer)]
    write_jsonl(made / "data.jsonl", records)
    return made


@pytest.fixture(autouse=True)
def _streams_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put everything back that `main` changes in its process."""
    for name in ("stdout", "stderr", "argv"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setenv(SPIN_VARIABLE, "1000")


def exit_code(*words: str) -> int:
    sys.argv = ["memaudit", *words]
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@needs_full
@pytest.mark.parametrize(
    ("flags", "code"),
    [("", 3), ("--max-exact 0.1", 1), ("--max-exact 0.1 --exit-zero", 3), ("--format json", 3)],
)
def test_a_full_stdout_costs_no_run_and_is_no_success(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    code: int,
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "run"
    with FULL.open("w") as sys.stdout:
        assert exit_code(*SCAN.split(), *flags.split(), "--out", str(out)) == code
    assert capsys.readouterr().err == (
        "memaudit: error: stdout cannot be written: No space left on device; the run is whole: "
        f"memaudit report {out}\n"
    )
    assert (out / "manifest.json").is_file()


def test_a_full_stderr_stops_no_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as sys.stderr:  # progress and notes go there
        words = [word for word in SCAN.split() if word != "-q"]
        assert exit_code(*words, "--out", str(tmp_path / "run")) == 0
    assert "24 of 24" in capsys.readouterr().out
    assert (tmp_path / "run" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("redirection", "words", "code", "error"),
    [
        (">&-", "--version", 3, "memaudit: error: stdout cannot be written: it is closed\n"),
        (">&- <&-", "scan --help", 3, "memaudit: error: stdout cannot be written: it is closed\n"),
        ("| true", "--version", 0, ""),
        ("| true", "scan --help", 0, ""),
        ("2>&-", "scan --nonsense", 2, ""),
        ("<&- >&- 2>&-", "scan --nonsense", 2, ""),
    ],
)
def test_closed_streams_of_a_process(redirection: str, words: str, code: int, error: str) -> None:
    memaudit = f"set -o pipefail; {sys.executable} -m memaudit {words} {redirection}"
    done = subprocess.run(["bash", "-c", memaudit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, error)
    assert done.stdout == ""


class Pipe:
    """A pipe whose writing end does not block and takes little."""

    def __init__(self) -> None:
        self.read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK)
        self.write = io.FileIO(write, "w")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.write.close()


def test_all_of_a_document_goes_through_a_pipe_that_does_not_block(pipe: Pipe) -> None:
    outlet = Outlet(pipe.write)
    content = bytes(range(256)) * 4096  # more than any pipe holds
    taken: list[bytes] = []

    def take() -> None:
        with os.fdopen(pipe.read, "rb") as reader:
            taken.append(reader.read(len(content)))

    reader = threading.Thread(target=take)
    reader.start()
    assert outlet.write(content) == len(content)
    reader.join()
    assert (taken, outlet.fault) == ([content], "")


def test_a_reader_that_went_away_is_no_fault(pipe: Pipe) -> None:
    os.close(pipe.read)
    outlet = Outlet(pipe.write)
    assert [outlet.write(b"ab"), outlet.write(b"c")] == [2, 1]
    assert outlet.fault == ""


def test_an_outlet_for_a_closed_descriptor_says_so_once_something_is_lost() -> None:
    outlet = Outlet(None)
    assert (outlet.fault, outlet.isatty()) == ("", False)
    assert outlet.write(b"abc") == 3
    assert outlet.fault == "it is closed"
    with pytest.raises(io.UnsupportedOperation):
        outlet.fileno()
