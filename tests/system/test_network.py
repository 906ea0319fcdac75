"""With --offline no connection is tried, whatever the command; without it, only for files.

Each command runs in a process of its own, because the hub's client reads its variables once; it is
forked from one that has imported torch and not that client. An audit hook there refuses every
connection, whoever tries it, and writes it down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from command_server import MAIN, CommandServer
from conftest import build_model, build_tokenizer, save_model

from memaudit.system.network import (
    DOWNLOAD_COUNTS,
    OFFLINE,
    TELEMETRY_OFF,
    go_offline,
    turn_telemetry_off,
)

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/name"
SMALL = ["--prefix-tokens", "8", "--suffix-tokens", "6", "--device", "cpu", "--attacks", "none"]
PREAMBLE = """
import os, socket, sys

def refuse(event, values):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        place = str(values[1:] if event.startswith("socket.connect") else values)
        with open("tried", "a") as file:
            file.write(event + " " + place + "\\n")
        raise OSError("no network")

sys.addaudithook(refuse)
"""
SMALL_DEMO = """
import memaudit.demo.shipped as shipped

whole = shipped.demo_settings
fit = {"epochs": 1, "min_steps": 0, "num_virtual_tokens": 2}
small = {"windows": {"limit": 12}, "constant": fit, "dynamic": fit}
shipped.demo_settings = lambda: whole() | small
"""
"""The demonstration as it is takes minutes: here it reads few records and fits for one epoch."""


class Done(NamedTuple):
    """What became of a command."""

    code: int
    stderr: str
    tried: list[str]
    """Connections."""


class Place:
    """A working folder with data, and a cache of the hub with one model in it."""

    def __init__(self, folder: Path, commands: CommandServer) -> None:
        self.folder, self.commands = folder, commands
        snapshot = folder / "hf" / "hub" / "models--org--name" / "snapshots" / COMMIT
        save_model(build_model("gpt2"), build_tokenizer(), snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
        rows = ({"id": f"r{n}", "text": f"record {n} {n * 7919} and more"} for n in range(20))
        (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(
        self, *words: str, more: str = "", environment: Mapping[str, str] | None = None
    ) -> Done:
        """Run a command whose every connection is refused."""
        (self.folder / "tried").unlink(missing_ok=True)
        whole = os.environ | {"HF_HOME": str(self.folder / "hf")} | dict(environment or {})
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", *TELEMETRY_OFF):
            whole.pop(name, None)
        done = self.commands.run(words, self.folder, whole, PREAMBLE + more + MAIN)
        tried = self.folder / "tried"
        lines = tried.read_text().splitlines() if tried.is_file() else []
        return Done(done.code, done.stderr, lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, commands: CommandServer) -> Place:
    """With two finished runs of a model of the hub, and the shards of a third."""
    made = Place(tmp_path_factory.mktemp("network"), commands)
    scans = {
        "run": ["--offline"],
        "again": ["--offline"],
        "1": ["--offline", "--shard", "1/2"],
        "2": ["--shard", "2/2", "--offline"],
    }
    for out, flags in scans.items():
        done = made.run("scan", NAME, "d.jsonl", *SMALL, *flags, "--out", out, "--exit-zero")
        assert (done.code, done.tried) == (0, []), done.stderr
    return made


COMMANDS = {
    "help": ["--help"],
    "help of scan": ["scan", "--offline", "--help"],
    "version": ["--version"],
    "profiles": ["profiles"],
    "inspect": ["inspect", NAME, "d.jsonl", *SMALL, "--offline"],
    "flag first": ["inspect", "--offline", NAME, "d.jsonl", *SMALL],
    "report": ["report", "run"],
    "verify": ["verify", "run"],
    "verify elsewhere": ["verify", "run", "--model", NAME],
    "compare": ["compare", "run", "again", "--exit-zero"],
    "baseline": ["baseline", "write", "run", "--out", "b.json"],
    "merge": ["merge", "1", "2", "--out", "merged", "--exit-zero"],
    "resume": ["scan", "--resume", "run", "--exit-zero"],
    "diagnose as scanned": ["diagnose", "layers", "run"],
    "bench": ["bench", NAME, "--offline", "--windows", "8", "--rounds", "1", *SMALL[:6]],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_tries_a_connection_offline(place: Place, name: str) -> None:
    done = place.run(*COMMANDS[name])
    assert done.tried == []
    # A random model means nothing, so there is no baseline of it and no diagnosis need be one.
    assert done.code in (0, 1, 2, 4), done.stderr
    assert "internal error" not in done.stderr
    if "diagnose" not in name and name != "baseline":
        assert done.code == 0, done.stderr


def test_the_demonstration_tries_no_connection(place: Place) -> None:
    done = place.run("demo", "--out", "demo", more=SMALL_DEMO)
    assert (done.code, done.tried) == (4, []), done.stderr
    assert (place.folder / "demo" / "report.json").is_file()


@pytest.mark.parametrize(
    ("way", "model"),
    [
        ("flag", "adapter"),
        ("set", "org/other"),
        ("pyproject", "org/other"),
        ("config", "adapter"),
        ("profile", "org/other"),
    ],
)
def test_what_is_not_here_is_refused_without_a_try(place: Place, way: str, model: str) -> None:
    """``adapter``: one here, whose config names a base on the hub."""
    work = place.folder / f"{way}-{model.replace('/', '-')}"
    (work / "adapter").mkdir(parents=True)
    config = {"base_model_name_or_path": "org/other", "peft_type": "LORA"}
    (work / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    (work / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    (work / "d.jsonl").write_bytes((place.folder / "d.jsonl").read_bytes())
    words = ["scan", model, "d.jsonl", *SMALL]
    if way == "flag":
        words.append("--offline")
    elif way == "set":
        words += ["--set", "target.offline=true"]
    elif way == "pyproject":
        (work / "pyproject.toml").write_text("[tool.memaudit.target]\noffline = true\n")
    else:
        (work / "own.toml").write_text("[target]\noffline = true\n")
        words += [f"--{way}", "own.toml"]
    there = Place.__new__(Place)
    there.folder, there.commands = work, place.commands
    done = there.run(*words)
    assert (done.code, done.tried) == (3, []), done.stderr
    assert "not in the hub's local cache" in done.stderr


def test_without_offline_a_connection_is_tried(place: Place) -> None:
    """So that the tests above can fail."""
    done = place.run("inspect", "org/other", "d.jsonl", *SMALL)
    assert done.code == 3
    assert done.tried


# What the hub is asked without --offline


@pytest.fixture
def asked() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of a hub that has nothing, and what it was asked: path and user agent."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("User-Agent", "")))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", [NAME, "org/other"])
def test_the_hub_is_asked_for_files_alone(
    place: Place, asked: tuple[str, list[tuple[str, str]]], name: str, tmp_path: Path
) -> None:
    address, seen = asked
    words = ["inspect", name, str(place.folder / "d.jsonl"), *SMALL]
    proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    whole = os.environ | proxies | {"HF_ENDPOINT": address, "HF_HOME": str(place.folder / "hf")}
    for variable in ("HF_HUB_OFFLINE", *TELEMETRY_OFF):
        whole.pop(variable, None)
    place.commands.run(words, tmp_path, whole)
    assert seen
    for path, agent in seen:
        assert f"/{name}" in path
        assert "torch/" not in agent


# The variables


def test_the_variables_are_set_before_the_client_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "sys.argv = ['memaudit', 'scan', '--help', '--offline']\n"
        "from memaudit.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "from huggingface_hub import constants\n"
        "print(constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY)\n"
    )
    whole = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=whole, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.endswith("True True\n"), done.stderr


def test_a_client_that_is_imported_already_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, is_offline_mode

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    environment: dict[str, str] = {}
    turn_telemetry_off(environment)
    go_offline(environment)
    assert is_offline_mode()
    assert constants.HF_HUB_DISABLE_TELEMETRY
    expected = {OFFLINE: "1", DOWNLOAD_COUNTS: "0"} | dict.fromkeys(TELEMETRY_OFF, "1")
    assert environment == expected
