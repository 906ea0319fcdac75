"""Files of settings, ``--set`` and key files."""

from __future__ import annotations

from pathlib import Path

from memaudit.config.settings import ScanConfig
from memaudit.config.sources import (
    Layer,
    collect_layers,
    load_project_settings,
    profiles_folder,
    resolve,
    setting_lines,
    sourced_lines,
    to_toml,
)
from memaudit.data.project_key import find_key

from .oracles import Broken
from .targets import Target

FLAGS = {"model": "m", "data": "d.jsonl"}


def _toml_seeds() -> list[bytes]:
    shipped = [path.read_bytes() for path in sorted(profiles_folder().glob("*.toml"))]
    whole = to_toml(ScanConfig(model="m", data=Path("d"))).encode()
    tool = (
        b"[tool.memaudit]\nprofile = 'quick'\nreveal = false\n[tool.memaudit.windows]\nlimit = 3\n"
    )
    dates = b"about = 'x'\n[windows]\nlimit = 1979-05-27T07:32:00Z\n[gate]\nmax_exact = 1e-3\n"
    return [*shipped, whole, tool, dates, b"reveal = 'yes'\ntarget.allow_pickle = 1\n"]


def _toml(content: bytes, folder: Path) -> str:
    path = folder / "settings.toml"
    path.write_bytes(content)
    (folder / "pyproject.toml").write_bytes(content)
    said = []
    for kind in ("config", "profile", "project"):
        if kind == "project":
            project = load_project_settings(folder)
            layers = [project] if project else []
        else:
            profile = str(path) if kind == "profile" else None
            config_file = path if kind == "config" else None
            layers = collect_layers(FLAGS, config_file=config_file, sets=[], profile=profile)
        if kind == "profile":
            setting_lines(layers[0])
        resolved = resolve([*layers, Layer(source="flag", values=FLAGS)])
        config = resolved.config
        if config.reveal or config.target.allow_pickle or config.target.trust_remote_code:
            raise Broken("a file lifted a safeguard")
        sourced_lines(resolved)
        said.append(f"{kind} {to_toml(config) != ''}")
    return " ".join(said)


def _sets(content: bytes, folder: Path) -> str:
    given = content.decode("utf-8", "surrogateescape").split("\n")[:5]
    resolve(collect_layers(FLAGS, profile=None, config_file=None, sets=given))
    return "read"


def _key(content: bytes, folder: Path) -> str:
    path = folder / "key"
    path.write_bytes(content)
    key = find_key(path, folder)
    assert len(key.secret) == 32
    assert key.secret.hex() not in repr(key)
    return "key"


TARGETS = (
    Target("toml", _toml_seeds, _toml),
    Target("set", lambda: [b"dynamic.depth=2", b"gate.baseline=x\nwindows.stride=[1]"], _sets),
    Target("key", lambda: [b"5e" * 32, b"5E" * 32 + b"\n"], _key),
)
