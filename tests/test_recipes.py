"""Recipes: their YAML parses, every command line in them is one that memaudit takes, they run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from conftest import build_model, build_tokenizer, save_model
from made_result import make_result, make_windows
from stored import store

from memaudit.cli.app import app
from memaudit.cli.report_files import check_format
from memaudit.sensitive.counting import Items, SensitiveContent

ROOT = Path(__file__).parents[1]
CI = ROOT / "examples" / "ci"
REFUSED = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What the parser raises; some versions of Typer have a click of their own."""
PAGES = sorted((ROOT / "memaudit" / "docs").glob("*.md"))
SHELLS = [ROOT / "README.md", *PAGES, *sorted((ROOT / "examples").rglob("README.md"))]


def parsed(words: list[str]) -> None:
    """Let the command line's own parser take the words; nothing is run. Raises click's errors."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, list(words)):
        pass


def lines_of(script: str) -> Iterator[list[str]]:
    """The words of every memaudit command in a shell script, without what a pipe follows."""
    for line in re.sub(r"\\\n\s*", " ", script).splitlines():
        words = shlex.split(line, comments=True)
        at = next((n for n, word in enumerate(words) if Path(word).name == "memaudit"), None)
        if at is not None and not any("=" not in word for word in words[:at]):
            end = next((n for n, word in enumerate(words) if word in ("|", ">", ">>", "||")), None)
            yield words[at + 1 : end]


def scripts(value: Any) -> Iterator[str]:
    """Every script of a workflow or job: what stands under run, script, before_ or after_script."""
    if isinstance(value, list):
        for one in value:
            yield from scripts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name == "run" or str(name).endswith("script"):
                yield from [one] if isinstance(one, str) else one
            else:
                yield from scripts(one)


def test_the_parser_refuses_what_memaudit_does_not_take() -> None:
    parsed(["scan", "model", "data.jsonl", "--max-exact", "0.01"])
    for words in (["scan", "--no-such-flag"], ["verify"], ["scan", "--max-exact", "few"]):
        with pytest.raises(REFUSED):
            parsed(words)
    with pytest.raises(KeyError):
        parsed(["no-such-command"])


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("github-actions.yml", ["scan", "report", "report", "report", "verify", "baseline"]),
        ("gitlab-ci.yml", ["scan", "verify", "baseline", "report"]),
    ],
)
def test_every_command_of_a_pipeline_is_accepted(name: str, commands: list[str]) -> None:
    found = [
        words
        for script in scripts(yaml.safe_load((CI / name).read_text()))
        for words in lines_of(script)
    ]
    for words in found:
        parsed(words)
    assert [words[0] for words in found] == commands


def test_the_pipelines_are_of_their_kind() -> None:
    github = yaml.safe_load((CI / "github-actions.yml").read_text())
    # YAML reads `on` as true.
    assert set(github[True]) == {"pull_request", "schedule", "workflow_dispatch"}
    assert github["permissions"] == {"contents": "read", "security-events": "write"}
    (job,) = github["jobs"].values()
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    (job,) = yaml.safe_load((CI / "gitlab-ci.yml").read_text()).values()
    assert {"image", "script", "artifacts"} <= set(job)
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        kept = re.findall(r"^\s+(?:- )?audit/(\S+)$", (CI / name).read_text(), re.M)
        tables = ["samples.csv", "windows.csv"]
        assert kept == ["report.html", "report.json", *tables, "config.toml", "manifest.json"]


@pytest.mark.parametrize("path", SHELLS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_accepted(path: Path) -> None:
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", path.read_text(), re.M | re.S)
    found = [words for block in blocks for words in lines_of(block)]
    for words in found:
        parsed(words)
    assert found or "memaudit " not in "".join(blocks)


@pytest.fixture
def path_with_memaudit() -> dict[str, str]:
    found = sysconfig.get_path("scripts")
    if not (Path(found) / "memaudit").exists():
        pytest.skip("memaudit is not installed here as a command")
    return {**os.environ, "PATH": f"{found}{os.pathsep}{os.environ['PATH']}"}


def test_the_pre_release_script(tmp_path: Path, path_with_memaudit: dict[str, str]) -> None:
    save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "model")
    for name, start in (("data", 0), ("controls", 40)):
        lines = [f"{n} words of record {n} and then {n} more {n * n}" for n in range(40)]
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{start} {line}" for line in lines))
    flags = "--attacks none --prefix-tokens 8 --suffix-tokens 6 --device cpu --exit-zero"
    words = ["bash", CI / "pre-release.sh", "model", "data.txt", "controls.txt", "out"]
    done = subprocess.run(
        [*map(str, words), *flags.split()],
        cwd=tmp_path,
        env={**path_with_memaudit, "MAX_EXACT": "0.5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"max-exact 50 % +PASS", done.stdout)
    assert "All as recorded: " in done.stdout
    bare = subprocess.run(["bash", CI / "pre-release.sh"], capture_output=True, check=False)
    assert bare.returncode == 2


TOLD = """\
#!/bin/sh
echo "$(basename "$0") $1" >> told
case "$1" in scan) exit "$SCAN" ;; verify) exit "$VERIFY" ;; esac
"""
"""Stands in for memaudit and for gpg: says what was asked of it, and exits as it is told to."""


@pytest.mark.parametrize("recipe", ["pre-release.sh", "gitlab-ci.yml"])
@pytest.mark.parametrize(
    ("scan", "verify", "code"),
    [(0, 0, 0), (1, 0, 1), (4, 0, 4), (0, 1, 1), (4, 1, 1), (0, 2, 2), (2, 0, 2), (3, 0, 3)],
)
def test_only_a_finished_scan_is_verified_and_signed(
    tmp_path: Path, recipe: str, scan: int, verify: int, code: int
) -> None:
    for name in ("memaudit", "gpg"):
        (tmp_path / name).write_text(TOLD)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("of an earlier run")
    words = [str(CI / recipe), "model", "data", "controls", "out"]
    if recipe.endswith(".yml"):
        (job,) = yaml.safe_load((CI / recipe).read_text()).values()
        words = ["-e", "-c", "\n".join(job["script"])]
    told = {"SCAN": str(scan), "VERIFY": str(verify), "SIGNING_KEY": "ours"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **told, "PATH": path}
    assert subprocess.run(["bash", *words], cwd=tmp_path, env=env, check=False).returncode == code
    asked = ["memaudit scan"]
    if scan in (0, 1, 4):
        asked.append("memaudit verify")
        if recipe == "pre-release.sh" and verify == 0:
            asked.append("gpg --batch")
        if recipe == "gitlab-ci.yml" and scan == verify == 0:
            asked.append("memaudit baseline")
    assert (tmp_path / "told").read_text().splitlines() == asked


READ = """\
Samples extracted, by role:
         extracted_none  extracted_copy  extracted_dynamic
role                                                      
control               0               0                  0
data                  2               4                  3

Share extracted, by dup:
     size  mean
dup            
7       5   0.6

Samples that hold sensitive content, and how many of them are extracted:
          size  sum
category           
email        2    1
phone        1    0

Extracted by the most attacks:
sample_id  line  attacks
  =cmd(1)     1        2
   007,NA     2        2
 doc-0003     3        1
"""


def test_samples_are_read_with_pandas(tmp_path: Path) -> None:
    windows = make_windows(5, ids=["=cmd(1)", "007,NA"], extra={"dup": "7"})
    made = make_result(data=windows, hits={"none": 2, "copy": 4, "dynamic": 3})
    counts = np.zeros((5, 2), dtype=np.uint16)
    counts[[0, 4], 0], counts[4, 1] = 1, 2
    methods: Any = {"email": "form", "phone": "form"}
    controls = np.zeros((100, 2), dtype=np.uint16)
    data, other = Items(counts, counts), Items(controls, controls)
    made = replace(made, sensitive=SensitiveContent(methods, {}, data, other))
    store(tmp_path / "run", made)
    script = [sys.executable, str(CI / "read_samples.py"), str(tmp_path / "run"), "dup"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == READ


def test_the_formats_of_a_pipeline_exist() -> None:
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        for script in scripts(yaml.safe_load((CI / name).read_text())):
            for words in lines_of(script):
                if "--format" in words:
                    check_format(words[words.index("--format") + 1])
