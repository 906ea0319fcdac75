"""Mistakes that need no model to be seen: refused at once, each with its remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memaudit import __version__

HEAVY = ("torch", "transformers", "scipy", "pandas")
CHECK = (
    "import sys\nfrom memaudit.cli.app import main\ntry:\n    main()\nfinally:\n"
    f"    loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
    "    sys.stderr.write(f'loaded: {loaded}')"
)
"""A command, then which heavy packages it loaded."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's folder that nothing can load, and data."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model", "config.json").write_text("{}")
    Path("data.jsonl").write_text('{"text": "one"}\n')
    Path("copy.jsonl").write_text('{"text": "one"}\n')
    Path("same.jsonl").symlink_to("data.jsonl")
    Path("texts").mkdir()
    Path("texts", "a.txt").write_text("one")
    Path("full").mkdir()
    Path("full", "novel.txt").write_text("mine")


def refused(*words: str, key: str = "0" * 64) -> str:
    """Run a command that must end with 2 and without a heavy package; return its last line."""
    environ = os.environ | {"MEMAUDIT_KEY": key}
    command = [sys.executable, "-c", CHECK, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    *said, loaded = done.stderr.splitlines()
    assert (done.returncode, done.stdout, loaded) == (2, "", "loaded: []"), done.stderr
    return said[-1].removeprefix("memaudit: error: ")


AUDIT = ("scan", "model", "data.jsonl")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("scan", "data.jsonl", "model"), "DATA (model) is a model folder and MODEL (data.jsonl) "),
        (("inspect", "texts", "model"), "MODEL (texts) a data folder; swap them"),
        (("scan", "data.jsonl", "gpt2"), "the model comes first: memaudit scan MODEL DATA"),
        (("scan", "model", "none.jsonl"), "none.jsonl: no such file or folder; give .jsonl"),
        ((*AUDIT, "--controls", "data.jsonl"), "--controls data.jsonl: holds the same as DATA"),
        ((*AUDIT, "--controls", "copy.jsonl"), "give text that the model has not seen"),
        ((*AUDIT, "--controls", "same.jsonl"), "--controls same.jsonl: holds the same as DATA"),
        (("inspect", *AUDIT[1:], "--controls", "copy.jsonl"), "holds the same as DATA"),
        ((*AUDIT, "--out", "full"), "--out full: exists and is not an empty folder"),
        ((*AUDIT, "--out", "model/run"), "lies inside the model's folder"),
        ((*AUDIT, "--resume", "none"), "none: no such run folder"),
        ((*AUDIT, "--set", "dynamic.start=x"), "dynamic.start = 'x' (flag): input should be"),
        (("report", "none"), "none: no such run folder; give one that memaudit scan wrote"),
        (("compare", "base.json", "none"), "none: no such run folder"),
        (("baseline", "write", "none"), "none: no such run folder"),
        (("verify", "none"), "none: no such run folder"),
        (("diagnose", "latent", "none"), "none: no such run folder"),
        (("merge", "none", "--out", "run"), "none: no such run folder"),
    ],
)
def test_a_mistake_is_refused_before_anything_heavy_is_loaded(
    words: tuple[str, ...], message: str
) -> None:
    assert message in refused(*words)
    assert not Path("memaudit-runs").exists()


def test_a_key_that_is_none_is_refused_at_once_by_its_variable() -> None:
    assert refused(*AUDIT, key="wrong").startswith("MEMAUDIT_KEY: holds no project key; a key is")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("attack.constant.epochs=2", "attack.constant.epochs (flag): unknown setting; did you "),
        ("attack.constant.epochs=2", "mean constant.epochs? See memaudit help settings"),
        ("gate={max_exakt=0.1}", "gate.max_exakt (flag): unknown setting; did you mean gate.max_e"),
        ("zzz=1", "zzz (flag): unknown setting; see memaudit help settings"),
        ("gate.max_exact=5", "gate.max_exact = 5 (flag): a share is below 1; did you mean 0.05, "),
        ("gate.max_fractional=1", "did you mean 0.01, which is 1 %?"),
        ("gate.max_lift=12.5", "did you mean 0.125, which is 12.5 %?"),
        ("gate.max_leaked='5%'", "did you mean 0.05, which is 5 %?"),
        ("scores.confidence=95", "did you mean 0.95, which is 95 %?"),
        ("gate.max_exact=500", "gate.max_exact = 500 (flag): input should be less than 1"),
    ],
)
def test_a_setting_that_was_meant_otherwise_is_named(given: str, message: str) -> None:
    assert message in " ".join(refused("scan", "m", "d", "--set", given).split())


def test_a_flag_with_a_percentage_asks_for_the_share() -> None:
    assert "gate.max_exact = 5.0 (flag): a share is below 1; did you mean 0.05" in refused(
        *AUDIT, "--max-exact", "5"
    )


def test_other_controls_of_the_same_size_are_no_copy() -> None:
    from memaudit.config.settings import ScanConfig
    from memaudit.data.inputs import check_inputs

    Path("controls.jsonl").write_text('{"text": "two"}\n')
    check_inputs(ScanConfig(model="model", data="data.jsonl", controls="controls.jsonl"))


def test_a_folder_of_texts_with_a_config_is_data_all_the_same() -> None:
    from memaudit.config.settings import ScanConfig
    from memaudit.data.inputs import check_inputs

    Path("texts", "config.json").write_text("{}")
    check_inputs(ScanConfig(model="model", data="texts"))
    check_inputs(ScanConfig(model="gpt2", data="texts"))


@pytest.mark.parametrize("words", [AUDIT, ("inspect", *AUDIT[1:])])
def test_the_first_words_come_before_torch_is_loaded(words: tuple[str, ...]) -> None:
    code = "import sys\nsys.modules['torch'] = None\nfrom memaudit.cli.app import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    first, *rest = done.stderr.splitlines()
    doing = "auditing model on data.jsonl" if words == AUDIT else "checking model"
    assert first == f"memaudit {__version__}: {doing}"
    assert "internal error" in rest[-1]  # the import that this test forbids
    quiet = subprocess.run(
        [sys.executable, "-c", code, *words, "--quiet"], capture_output=True, text=True, check=False
    )
    assert json.dumps(quiet.stderr).count("\\n") == 1
