"""The public interface: ``from memaudit import scan, load_run``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_scan import make_files, memaudit

from memaudit import Run, load_run, scan
from memaudit.docs.pages import read_page
from memaudit.errors import DataError, TargetError, UsageError
from memaudit.run.unfinished import UNFINISHED

SMALL: dict[str, Any] = {
    "attacks": ["none"],
    "windows": {"prefix_tokens": 8, "suffix_tokens": 6},
    "target.device": "cpu",
    "scores.bootstrap": 100,
}
PLAIN = ["--attacks", "none", "--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_files(folder, count=60)
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(files: Path, out: str = "run", **settings: Any) -> Run:
    return scan(files / "model", files / "data.jsonl", out=out, settings=SMALL | settings)


def test_the_page_runs_as_it_stands(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the scan sets it
    for name in ("model", "data.jsonl", "controls.jsonl"):
        (tmp_path / name).symlink_to(files / name)
    (block,) = re.findall(r"```python\n(.*?)```", read_page("api"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["run"].verdict == "fail"
    assert len(names["extracted"]) == 20
    assert names["page"] == (tmp_path / "run" / "report.html").read_text()
    shown = capfd.readouterr()
    assert shown.out.startswith("fail: 20 of 60 samples (")
    assert "max-exact fail the prefix alone extracted 20 of 60" in shown.out
    assert shown.err == ""


def test_the_attributes_of_a_run_are_all_described() -> None:
    listed = set(re.findall(r"^\| `(\w+)", read_page("api"), re.MULTILINE))
    assert listed == {name for name in vars(Run) if not name.startswith("_")}


def test_a_run_is_what_the_command_writes(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gate: dict[str, Any] = {"gate.max_exact": 0.9}
    run = small(files, **gate)
    assert capfd.readouterr() == ("", "")
    words = [files / "model", files / "data.jsonl", *PLAIN, "--set", "scores.bootstrap=100"]
    command = memaudit("scan", *words, "--max-exact", "0.9", "--out", "other")
    assert command.exit_code == run.exit_code == 0
    written = {path.name for path in run.path.iterdir()}
    assert written == {path.name for path in (tmp_path / "other").iterdir()}
    for name in ("samples.csv", "windows.csv"):
        assert (run.path / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    rate = run.rates["none"]
    assert (rate.k, rate.n, rate.value) == (20, 60, 20 / 60)
    assert rate.low < rate.value < rate.high
    assert (run.passed, run.verdict) == (True, "pass")
    assert [gate.name for gate in run.gates if gate.verdict == "pass"] == ["max-exact"]
    assert run.report["config"]["sources"]["gate.max_exact"] == "argument"
    assert run.report["command"] == "memaudit.scan()"
    assert len(run.samples) == len(run.windows) == 60
    assert memaudit("verify", run.path).exit_code == 0


def test_without_a_threshold_nothing_passes(files: Path) -> None:
    run = small(files)
    assert (run.passed, run.verdict, run.exit_code) == (False, "none", 0)


def test_a_failed_gate_raises_nothing(files: Path) -> None:
    run = small(files, gate={"max_exact": 0.01})
    assert (run.passed, run.verdict, run.exit_code) == (False, "fail", 1)
    assert load_run(str(run.path)).verdict == "fail"
    assert repr(run) == "Run('run', fail)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate.max_exact": 5}, r"gate\.max_exact = 5 \(argument\): a share is below 1"),
        ({"gate": {"max_exat": 0.1}}, r"gate\.max_exat \(argument\): unknown setting"),
        ({"attacks": ["noen"]}, r"attacks\.0 = 'noen' \(argument\)"),
        ({"attacks.none": 1, "attacks": []}, "attacks is a setting, not a section"),
        ({"gate.max_new": 1}, "max_new is only used with baseline"),
    ],
)
def test_settings_are_checked_as_the_commands_are(
    files: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        small(files, **settings)
    assert not (tmp_path / "run").exists()


def test_what_is_missing_raises_the_commands_error_and_leaves_nothing(
    files: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        scan(files / "model", tmp_path / "none.jsonl", out="run", settings=SMALL)
    assert caught.value.exit_code == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(TargetError):
        scan(tmp_path / "empty", files / "data.jsonl", out="run", settings=SMALL)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no such run folder"):
        load_run("run")


def test_a_changed_run_is_refused(files: Path) -> None:
    report = small(files).path / "report.json"
    report.write_text(report.read_text().replace('"k": 20', '"k": 2'))
    with pytest.raises(UsageError):
        load_run(report.parent)


def test_arguments_win_over_the_environment_and_it_over_the_profile(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMAUDIT_GATE_MAX_EXACT", "0.01")
    monkeypatch.setenv("MEMAUDIT_WINDOWS_PREFIX_TOKENS", "7")
    run = small(files)
    assert run.verdict == "fail"
    sources = run.report["config"]["sources"]
    assert sources["gate.max_exact"] == "environment MEMAUDIT_GATE_MAX_EXACT"
    assert sources["windows.prefix_tokens"] == "argument"
    monkeypatch.setenv("MEMAUDIT_GATE_MAXEXACT", "0.01")
    with pytest.raises(UsageError, match="MEMAUDIT_GATE_MAXEXACT is no setting"):
        small(files, out="other")


def test_an_unknown_variable_is_a_warning(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMAUDIT_CI_JOB", "7")
    with pytest.warns(UserWarning, match="MEMAUDIT_CI_JOB is no setting"):
        small(files)


def test_a_safeguard_can_be_lifted_by_an_argument_alone(files: Path, tmp_path: Path) -> None:
    profile = tmp_path / "own.toml"
    profile.write_text("reveal = true\n")
    with pytest.raises(UsageError, match="can only be set by the flag --reveal"):
        scan(files / "model", files / "data.jsonl", profile=str(profile), settings=SMALL)
    assert (small(files, reveal=True).windows["text_none"] != "").all()
    assert "text_none" not in small(files, out="other").windows.columns


def test_a_scan_that_ends_early_is_resumed_by_the_command(files: Path, tmp_path: Path) -> None:
    class Stopping:
        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Any]:
            if name == "scoring":
                raise KeyboardInterrupt
            yield lambda done: None

        def note(self, text: str) -> None:
            pass

    model, data = files / "model", files / "data.jsonl"
    with pytest.raises(KeyboardInterrupt):
        scan(model, data, out="run", settings=SMALL, progress=Stopping())
    assert (tmp_path / "run" / UNFINISHED).is_dir()
    resumed = memaudit("scan", "--resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert load_run("run").rates["none"].k == 20


def test_a_launcher_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"memaudit.scan\(\) runs in one process"):
        small(files)


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import memaudit; memaudit.__version__", ("torch", "pydantic", "memaudit.api")),
        ("from memaudit import load_run, scan", ("torch", "pandas")),
        ("import memaudit.pipeline.scan; from memaudit import scan; scan.__annotations__", ()),
    ],
)
def test_importing_memaudit_loads_nothing_heavy(code: str, heavy: tuple[str, ...]) -> None:
    check = f"import sys; sys.exit(','.join(n for n in {heavy!r} if n in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_no_other_name_is_offered() -> None:
    import memaudit as package

    with pytest.raises(AttributeError, match="no attribute 'scna'"):
        package.scna  # noqa: B018
