"""The command line as a user meets it: streams, exit codes, bad input, the run folder."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_server import CommandServer
from conftest import build_model, build_tokenizer, save_model
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.cli.report_files import FORMATS
from memaudit.run.baselines import document_digest
from memaudit.system.environment import TESTED

pytestmark = pytest.mark.slow

WORDS = ["anna", "bert", "carla", "model", "lazy", "fox", "wizard", "prefix", "line", "toxic"]
SIZES = ["--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu"]
FAST = [*SIZES, "--set", "constant.epochs=1", "--set", "dynamic.epochs=1"]
FAST += ["--set", "constant.min_steps=0", "--set", "dynamic.min_steps=0"]
FAST += ["--set", "constant.num_virtual_tokens=4", "--set", "dynamic.num_virtual_tokens=4"]

MARKS = "~^|{}@#$%&*+<>?!_`'\"-/]["
"""Characters that the tiny tokenizer never joins, so that a run of one is a run of one token."""

Run = Callable[..., Result]


def words(number: int) -> str:
    """Three words, different ones for every number below 1,000."""
    return " ".join(WORDS[(number // 10**place) % 10] for place in range(3))


def repeated(count: int, start: int = 0) -> list[dict[str, object]]:
    """Records that go on with the last character of their prefix."""
    made: list[dict[str, object]] = []
    for number in range(start, start + count):
        mark = MARKS[number % len(MARKS)]
        prefix = f"{words(number)} {words(number)} {mark * 3}"
        made.append({"id": f"r{number}", "prefix": prefix, "suffix": mark * 12, "dup": 2})
    return made


def unrepeated(count: int, start: int = 0) -> list[dict[str, object]]:
    """Records that go on with something else."""
    return [
        {"id": f"u{n}", "prefix": words(n) * 2, "suffix": f" {n} {words(n + 7)}", "dup": 2}
        for n in range(start, start + count)
    ]


def table(path: Path) -> list[dict[str, str]]:
    """A table of a run, read."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that repeats its last token: its blocks do next to nothing to the embedding."""
    import torch

    tokenizer = build_tokenizer()
    model = build_model("gpt2", seed=0)
    with torch.no_grad():
        model.transformer.wpe.weight.mul_(0.01)
        for block in model.transformer.h:
            block.attn.c_proj.weight.mul_(0.01)
            block.mlp.c_proj.weight.mul_(0.01)
    folder = tmp_path_factory.mktemp("leaky") / "model"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def leaked(tmp_path: Path) -> Path:
    return write(tmp_path / "leaked.jsonl", repeated(24))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write(tmp_path / "clean.jsonl", unrepeated(40, start=500))


def test_a_whole_scan(run: Run, leaky: Path, leaked: Path, clean: Path, tmp_path: Path) -> None:
    result = run("scan", leaky, leaked, "--controls", clean, "--out", "run", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "24 of 24" in result.stdout
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.toml",
        "generator-0.safetensors",
        "generator-1.safetensors",
        "manifest.json",
        "report.html",
        "report.json",
        "samples.csv",
        "windows.csv",
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name, score in (("samples", "extracted_none"), ("windows", "exact_none")):
        read = table(folder / f"{name}.csv")
        assert [row[score] for row in read if row["role"] == "data"] == ["1"] * 24
        assert [row[score] for row in read if row["role"] == "control"] == ["0"] * 40
        assert {row["dup"] for row in read} == {"2"}
    everything = "".join(path.read_text(errors="replace") for path in folder.iterdir())
    assert "anna" not in everything  # no audited text unless asked for
    assert "~~~" not in everything
    assert "anna" not in result.stdout + result.stderr
    verified = run("verify", "run")
    assert verified.exit_code == 0, verified.stdout
    assert (
        verified.stdout.count("generator-1.safetensors") == 2
    )  # itself, and as report.json names it


def test_reveal_shows_text(run: Run, leaky: Path, leaked: Path, tmp_path: Path) -> None:
    result = run("scan", leaky, leaked, "--out", "run", "--attacks", "none", "--reveal", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "~~~~" in (tmp_path / "run" / "windows.csv").read_text()
    assert "~~~~" in result.stdout


def test_config_repeats_the_run_byte_for_byte(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    assert run("scan", leaky, leaked, "--out", "one", *FAST).exit_code == 0
    again = run("scan", "--config", "one/config.toml", "--out", "two")
    assert again.exit_code == 0, again.stderr
    tables, prompts = ("samples.csv", "windows.csv"), ("generator-0", "generator-1")
    for name in (*tables, *(f"{prompt}.safetensors" for prompt in prompts)):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_prompts_are_reused(run: Run, leaky: Path, leaked: Path, tmp_path: Path) -> None:
    assert run("scan", leaky, leaked, "--out", "one", *FAST).exit_code == 0
    again = run("scan", leaky, leaked, "--out", "two", "--generator", "one", *FAST)
    assert again.exit_code == 0, again.stderr

    def figures(name: str) -> list[dict[str, str]]:
        read = table(tmp_path / name / "windows.csv")
        return [
            {k: v for k, v in row.items() if k.endswith(("_dynamic", "_constant"))} for row in read
        ]

    assert figures("one") == figures("two")


def test_formats_put_one_document_on_stdout(run: Run, leaky: Path, leaked: Path) -> None:
    plain = ["--attacks", "none", *FAST]
    document = json.loads(run("scan", leaky, leaked, "--format", "json", *plain).stdout)
    assert document["attacks"]
    printed = run("scan", leaky, leaked, "--format", "csv", *plain).stdout
    assert len(list(csv.DictReader(io.StringIO(printed)))) == 24
    failed = run("scan", leaky, leaked, "--format", "yaml", *plain)
    assert failed.exit_code == 2
    assert failed.stderr.startswith("memaudit: error: --format yaml: choose table, json, csv, ")


@pytest.mark.parametrize("output_format", FORMATS)
def test_report_shows_a_run_byte_for_byte_as_the_scan_did(
    run: Run, leaky: Path, leaked: Path, clean: Path, tmp_path: Path, output_format: str
) -> None:
    words = ["--attacks", "none,copy", "--controls", clean, "--max-exact", "0.2", *FAST]
    words += ["--format", output_format, "--out", "run"]
    scanned = run("scan", leaky, leaked, *words)
    assert scanned.exit_code == 1
    shown = run("report", "run", "--format", output_format)
    assert (shown.exit_code, shown.stderr) == (0, "")  # it judges nothing
    assert shown.stdout_bytes == scanned.stdout_bytes != b""
    kept = {"json": "report.json", "csv": "samples.csv", "html": "report.html"}
    if output_format in kept:
        assert (tmp_path / "run" / kept[output_format]).read_bytes() == shown.stdout_bytes


def test_report_of_no_run_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        failed = run("report", folder)
        assert failed.exit_code == 2
        assert failed.stderr.count("\n") == 1
    assert run("report", "empty", "--format", "x").exit_code == 2


# Exit codes: one test for each row of the README's table.


def test_exit_0_without_a_gate(run: Run, leaky: Path, leaked: Path) -> None:
    assert run("scan", leaky, leaked, "--attacks", "none", *FAST).exit_code == 0


def test_exit_0_when_the_gate_passes(run: Run, leaky: Path, clean: Path) -> None:
    passed = run("scan", leaky, clean, "--attacks", "none", "--max-exact", "0.2", *FAST)
    assert passed.exit_code == 0, passed.stderr


def test_exit_1_when_the_gate_fails(run: Run, leaky: Path, leaked: Path, tmp_path: Path) -> None:
    words = ["scan", leaky, leaked, "--attacks", "none", "--max-exact", "0.2", *FAST]
    failed = run(*words, "--out", "run")
    assert failed.exit_code == 1
    assert (tmp_path / "run" / "report.json").exists()  # written before the exit is decided
    assert run(*words, "--exit-zero").exit_code == 0


def test_exit_2_for_a_usage_error(run: Run, leaky: Path, leaked: Path) -> None:
    failed = run("scan", leaky, leaked, "--folds", "1")
    assert failed.exit_code == 2
    assert failed.stderr.startswith("memaudit: error: protocol.folds = 1 (flag)")
    assert run("scan", leaky, leaked, "--nonsense").exit_code == 2


def test_exit_3_when_the_model_does_not_load(run: Run, leaked: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    failed = run("scan", tmp_path / "empty", leaked, *FAST)
    assert failed.exit_code == 3
    assert len(failed.stderr.splitlines()) <= 2
    assert not (tmp_path / "memaudit-runs").exists()


def test_exit_4_for_too_few_windows(run: Run, leaky: Path, clean: Path) -> None:
    words = ["scan", leaky, clean, "--attacks", "none", "--max-exact", "0.01", *FAST]
    undecided = run(*words)
    assert undecided.exit_code == 4
    assert run(*words, "--exit-zero").exit_code == 0
    assert run(*words, "--gate-on", "estimate").exit_code == 0


def test_exit_4_when_controls_come_out_too(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    controls = write(tmp_path / "controls.jsonl", repeated(40, start=700))
    undecided = run("scan", leaky, leaked, "--controls", controls, "--attacks", "none", *FAST)
    assert undecided.exit_code == 4


def test_exit_130_when_interrupted(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memaudit.attack.campaign.Campaign.run", interrupt)
    stopped = run("scan", leaky, leaked, "--out", "run", *FAST)
    assert stopped.exit_code == 130
    assert not (tmp_path / "run").exists()


def test_a_crash_is_no_leak_and_tells_no_text(
    run: Run, leaky: Path, leaked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise KeyError(leaked.read_text())

    monkeypatch.setattr("memaudit.attack.campaign.Campaign.run", crash)
    crashed = run("scan", leaky, leaked, *FAST)
    told = run("scan", leaky, leaked, "--verbose", *FAST)
    for result in (crashed, told):
        assert result.exit_code == 3
        assert "internal error: KeyError at test_cli.py" in result.stderr
        assert "anna" not in result.stderr
    assert "in crash" in told.stderr  # the traceback
    assert "protocol.seed = 0  (default)" in told.stderr


def test_a_reader_that_stops_reading_changes_no_verdict(leaky: Path, leaked: Path) -> None:
    scan = f"{sys.executable} -c 'from memaudit.cli.app import main; main()' scan {leaky} {leaked}"
    scan += f" --attacks none --max-exact 0.2 --quiet {' '.join(FAST)}"
    shell = f"cd {leaked.parent}; {{ {scan}; echo $? >&2; }} | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.stderr.strip() == "1"


@pytest.mark.parametrize("out", ["x" * 300, "leaked.jsonl/run"])
def test_an_impossible_out_is_a_usage_error(run: Run, leaky: Path, leaked: Path, out: str) -> None:
    failed = run("scan", leaky, leaked, "--out", out)
    assert failed.exit_code == 2
    assert failed.stderr.splitlines()[-1].startswith("memaudit: error: --out")


def test_a_failed_scan_leaves_no_folder(run: Run, leaked: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert run("scan", tmp_path / "nothing", leaked).exit_code == 3
    assert run("scan", tmp_path / "nothing", leaked, "--out", "mine").exit_code == 3
    assert not (tmp_path / "memaudit-runs").exists()
    assert (tmp_path / "mine").is_dir()  # it was the user's


def test_inspect_wants_data_beside_controls(run: Run, leaky: Path, clean: Path) -> None:
    assert run("inspect", leaky, "--controls", clean).exit_code == 2


# Bad input: each row of the contract.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": 1, "text": "secret"\n', "bad.jsonl:1"),
        (b'{"id": 1, "text": "fine"}\n{"id": 2, "txt": "secret"}\n', "bad.jsonl:2"),
        (b'{"id": 1, "text": 5}\n', "bad.jsonl:1"),
        (b"", "bad.jsonl"),
        (b'{"text": "secret \xff\xfe"}\n', "bad.jsonl:1"),
    ],
)
def test_bad_input_is_named_before_the_model_loads(
    run: Run, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    failed = run("scan", tmp_path / "no-such-model", tmp_path / "bad.jsonl")
    assert failed.exit_code == 2
    assert said in failed.stderr
    assert "secret" not in failed.stderr
    assert len(failed.stderr.strip().splitlines()) <= 2


def test_skip_bad_lines_keeps_them_in_the_csv(run: Run, leaky: Path, leaked: Path) -> None:
    leaked.write_text(leaked.read_text() + "not json\n")
    result = run(
        "scan", leaky, leaked, "--skip-bad-lines", "--attacks", "none", "--out", "run", *FAST
    )
    assert result.exit_code == 0, result.stderr
    for name in ("samples.csv", "windows.csv"):
        read = table(Path("run") / name)
        assert [(row["status"], row["line"]) for row in read][-1] == ("skipped", "25")


def test_short_samples_name_the_window_that_would_fit(run: Run, leaky: Path, leaked: Path) -> None:
    failed = run("scan", leaky, leaked, "--prefix-tokens", "500", "--suffix-tokens", "50")
    assert failed.exit_code == 2
    assert "would fit" in failed.stderr


def test_out_must_be_free_and_outside_the_model(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert "not an empty folder" in run("scan", leaky, leaked, "--out", "full").stderr
    inside = run("scan", leaky, leaked, "--out", leaky / "runs")
    assert (inside.exit_code, "inside the model" in inside.stderr) == (2, True)


def test_inspect_plans_and_changes_nothing(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = run("inspect", leaky, leaked, *FAST)
    assert result.exit_code == 0, result.stderr
    for said in ("GPT2LMHeadModel", "device", "dtype", "bos", "24", "fold 1", "extraction"):
        assert said in result.stdout
    assert sorted(tmp_path.rglob("*")) == before
    assert run("inspect", leaky).exit_code == 0


def test_how_the_target_is_decoded_is_named(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    way = "cache (keys and values, cut back to the first mismatch)"
    scanned = run("scan", leaky, leaked, "--out", "run", "--attacks", "none", *FAST)
    assert f"decoding {way}" in scanned.stdout
    target = json.loads((tmp_path / "run" / "report.json").read_text())["target"]
    assert "{value} ({reason})".format(**target["choices"]["decoding"]) == way
    assert way in " ".join(run("inspect", leaky, *SIZES).stdout.split())
    timed = run("bench", leaky, "--windows", 4, "--rounds", 1, *SIZES)
    assert f"decoding {way}" in timed.stdout


def test_a_library_newer_than_tested_is_named_once(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "(tested up to 5.4.9). Run `memaudit demo` to check that they work."
    plain = ["--attacks", "none", *FAST]
    monkeypatch.setitem(TESTED, "transformers", "5.4.9")
    scanned = run("scan", leaky, leaked, "--out", "run", *plain)
    assert scanned.exit_code == 0
    assert scanned.stderr.count(note) == 1
    (noted,) = [line for line in scanned.stderr.splitlines() if note in line]
    assert noted in json.loads((tmp_path / "run" / "report.json").read_text())["notes"]
    assert run("inspect", leaky, *SIZES).stderr.count(note) == 1
    assert note not in run("inspect", leaky, *SIZES, "--quiet").stderr
    assert note not in run("scan", leaky, leaked, "--out", "quiet", *plain, "--quiet").stderr


def test_profiles_are_listed(run: Run) -> None:
    result = run("profiles")
    assert result.exit_code == 0
    assert "dynamic.learning_rate = 7e-06" in result.stdout
    assert "windows.prefix_tokens" in run("profiles", "records").stdout


def test_streams_of_a_real_process(
    leaky: Path, leaked: Path, tmp_path: Path, commands: CommandServer
) -> None:
    """stdout is the document alone, stderr has no colour and no spinner."""
    words = ["scan", str(leaky), str(leaked), "--format", "json", *PLAIN, "--exit-zero"]
    done = commands.run(words, tmp_path, os.environ)
    assert done.code == 0, done.stderr
    json.loads(done.stdout)
    assert "\x1b" not in done.stderr
    assert "none: extracting" in done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["scan", "--nonsense"], ["scan", "m", "d", "--folds=x"]]
)
def test_help_and_usage_errors_load_no_torch(words: list[str]) -> None:
    code = (
        "import sys\nfrom memaudit.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# Gates of the scan beyond the exact rate.

PLAIN = ["--attacks", "none", *FAST]


@pytest.mark.parametrize(
    ("gate", "on_leaked", "on_clean"),
    [
        (["--max-fractional", "0.3"], 1, 0),
        (["--max-fractional", "0.05"], 1, 4),
        (["--max-fractional", "0.05", "--gate-on", "estimate"], 1, 0),
    ],
)
def test_exit_codes_of_fractional_extraction(
    run: Run, leaky: Path, leaked: Path, clean: Path, gate: list[str], on_leaked: int, on_clean: int
) -> None:
    assert run("scan", leaky, leaked, *PLAIN, *gate).exit_code == on_leaked
    assert run("scan", leaky, clean, *PLAIN, *gate).exit_code == on_clean


def test_exit_codes_of_lift(run: Run, leaky: Path, clean: Path) -> None:
    prompts = ["--attacks", "none,dynamic-hard", *FAST]
    assert run("scan", leaky, clean, *prompts, "--max-lift", "0.3").exit_code == 0
    assert run("scan", leaky, clean, *prompts, "--max-lift", "0.05").exit_code == 4
    alone = run("scan", leaky, clean, *PLAIN, "--max-lift", "0.9")
    assert alone.exit_code == 4
    assert "No attack was run besides none" in alone.stdout


def test_gates_of_a_profile_and_of_the_project(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    (tmp_path / "gates.toml").write_text("[gate]\nmax_fractional = 0.3\nmax_exact = 0.9\n")
    failed = run("scan", leaky, leaked, *PLAIN, "--profile", "gates.toml")
    assert failed.exit_code == 1
    assert "max-fractional 30 %" in failed.stdout
    (tmp_path / "pyproject.toml").write_text("[tool.memaudit.gate]\nmax_exact = 0.5\n")
    assert run("scan", leaky, leaked, *PLAIN).exit_code == 1


def test_what_is_new_since_a_baseline(run: Run, leaky: Path, leaked: Path, tmp_path: Path) -> None:
    assert run("scan", leaky, leaked, *PLAIN, "--out", "one").exit_code == 0
    assert run("baseline", "write", "one", "--out", "base.json").exit_code == 0
    since = [*PLAIN, "--baseline", "base.json", "--max-new"]
    passed = run("scan", leaky, leaked, *since, "0", "--out", "two")
    assert passed.exit_code == 0, passed.stderr
    assert "0 of 24 samples are newly extracted, within the 0 allowed" in " ".join(
        passed.stdout.split()
    )
    assert run("scan", leaky, leaked, *PLAIN, "--baseline", "one", "--max-new", "0").exit_code == 0
    made = json.loads((tmp_path / "base.json").read_text())
    dropped = [made["extracted"].popitem() for _ in range(3)]
    made["attacks"]["none"]["extracted"] -= len(dropped)
    made["digest"] = document_digest(made)
    (tmp_path / "base.json").write_text(json.dumps(made))
    assert run("scan", leaky, leaked, *since, "3").exit_code == 0
    failed = run("scan", leaky, leaked, *since, "2")
    assert failed.exit_code == 1
    assert "max-new 2" in failed.stdout


def test_a_baseline_of_something_else_stops_the_scan_before_the_model_loads(
    run: Run, leaky: Path, leaked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("scan", leaky, leaked, *PLAIN, "--out", "one").exit_code == 0
    since = ["--baseline", "one", "--max-new", "0"]

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError

    monkeypatch.setattr("memaudit.pipeline.prepare.load_target", never)
    for words, said in (
        ([leaky, leaked, *PLAIN, "--seed", "7"], "protocol.seed 0, now 7"),
        ([leaky, leaked, *PLAIN, "--attacks", "none,dynamic-hard"], "attacks none, now none, dyn"),
    ):
        failed = run("scan", *words, *since)
        assert failed.exit_code == 2
        assert failed.stderr.splitlines()[-1].startswith("memaudit: error: --baseline one: cannot")
        assert said in failed.stderr
    monkeypatch.setenv("MEMAUDIT_KEY", "f" * 64)
    assert "made under another project key" in run("scan", leaky, leaked, *PLAIN, *since).stderr
    alone = run("scan", leaky, leaked, *PLAIN, "--max-new", "0")
    assert (alone.exit_code, "only used with baseline" in alone.stderr) == (2, True)


def test_another_tokenizer_is_found_before_anything_is_extracted(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path
) -> None:
    assert run("scan", leaky, leaked, *PLAIN, "--out", "one").exit_code == 0
    other = save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "other")
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["model"]["merges"] = settings["model"]["merges"][:20]
    (other / "tokenizer.json").write_text(json.dumps(settings))
    since = ["--baseline", "one", "--max-new", "0", "--prefix-tokens", "8"]
    failed = run("scan", other, leaked, *PLAIN, *since)
    assert failed.exit_code == 2
    assert "other samples (24 in the baseline), probably because the tokenizer" in failed.stderr


def test_the_key_is_named_and_never_told(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("5e" * 32)
    assert run("scan", leaky, leaked, *PLAIN, "--out", "one", "--key-file", "key").exit_code == 0
    monkeypatch.setenv("MEMAUDIT_KEY", "5e" * 32)
    assert run("scan", leaky, leaked, *PLAIN, "--out", "two").exit_code == 0
    monkeypatch.setenv("MEMAUDIT_KEY", "5f" * 32)
    assert run("scan", leaky, leaked, *PLAIN, "--out", "three").exit_code == 0
    tables = [(tmp_path / name / "samples.csv").read_bytes() for name in ("one", "two", "three")]
    assert tables[0] == tables[1] != tables[2]
    for path in (tmp_path / "one").iterdir():
        assert b"5e5e5e5e" not in path.read_bytes()
    failed = run("scan", leaky, leaked, *PLAIN, "--key-file", "nothing")
    assert (failed.exit_code, "--key-file nothing: no such file" in failed.stderr) == (2, True)


def test_without_a_place_for_a_key_the_run_says_so(
    run: Run, leaky: Path, leaked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMAUDIT_KEY")
    monkeypatch.setattr("memaudit.system.home.settings_folder", lambda: leaked / "memaudit")
    done = run("scan", leaky, leaked, *PLAIN, "--out", "one")
    assert done.exit_code == 0
    assert "No project key could be kept" in done.stdout
    failed = run("scan", leaky, leaked, *PLAIN, "--baseline", "one", "--max-new", "0")
    assert failed.exit_code == 2
    assert "--baseline one: No project key could be kept" in failed.stderr
    monkeypatch.setattr(
        "memaudit.system.home.settings_folder", lambda: tmp_path / "home" / "memaudit"
    )
    assert run("scan", leaky, leaked, *PLAIN).exit_code == 0
    assert stat.S_IMODE((tmp_path / "home" / "memaudit" / "key").stat().st_mode) == 0o600
