"""Where settings come from: profiles, ``pyproject.toml``, config files and flags, in layers.

Knows files of settings and how they are merged, later ones winning: defaults, a profile,
``[tool.memaudit]`` in the ``pyproject.toml`` of the working folder, a ``--config`` file, flags.
The one place where profiles are read. What a setting means is the business of config.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from memaudit.config.settings import ScanConfig
from memaudit.errors import UsageError

DEFAULT_PROFILE = "standard"
_LONGEST_FILE = 1 << 20
"""Bytes of a file of settings; a config.toml has three thousand."""
_DEEPEST = 20
"""Sections inside each other; the settings have one."""
_LONGEST_SHOWN = 80
"""Characters of a value that a message repeats."""
ONLY_BY_FLAG = frozenset(("reveal", "target.trust_remote_code", "target.allow_pickle"))
"""Safeguards that a file lying in the working folder, or got from someone, must not lift."""


class Layer(BaseModel):
    """Values from one source, not yet validated against their settings."""

    model_config = ConfigDict(frozen=True)

    source: str
    """What the report says a value comes from: ``profile quick``, ``flag``, a file's name."""
    values: dict[str, Any]
    about: str = ""
    """What a profile is for, in a sentence."""


class ResolvedConfig(BaseModel):
    """A valid configuration and the origin of each of its values."""

    model_config = ConfigDict(frozen=True)

    config: ScanConfig
    sources: dict[str, str]
    """Dotted setting name to the source it came from; ``default`` where nothing set it."""


def profiles_folder() -> Path:
    """Where the shipped profiles lie: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def list_profiles() -> dict[str, Layer]:
    """Every shipped profile by name."""
    return {path.stem: load_profile(path.stem) for path in sorted(profiles_folder().glob("*.toml"))}


def load_profile(name: str) -> Layer:
    """A shipped profile by name, or any profile by path (anything with a separator or .toml).

    Raises UsageError where there is no such profile or it is not TOML.
    """
    is_path = name.endswith(".toml") or "/" in name or "\\" in name
    path = Path(name) if is_path else profiles_folder() / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(shipped.stem for shipped in profiles_folder().glob("*.toml")))
        raise UsageError(f"--profile {name}: no such profile; shipped are {known}, or give a path")
    values = _read_toml(path)
    about = str(values.pop("about", ""))
    return Layer(source=f"profile {name}", values=values, about=about)


def setting_lines(layer: Layer) -> list[str]:
    """A layer's values as ``section.key = value`` lines."""
    return [
        " ".join(tomli_w.dumps({"value": value}).split()).replace("value", name, 1)
        for name, value in leaves(layer.values)
    ]


def named_settings(config: ScanConfig) -> dict[str, Any]:
    """Every setting by its dotted name."""
    return dict(leaves(config.model_dump(mode="json")))


def sourced_lines(resolved: ResolvedConfig) -> list[str]:
    """Every setting with its value and where that came from."""
    layer = Layer(source="", values=resolved.config.model_dump(mode="json", exclude_none=True))
    names = [line.partition(" = ")[0] for line in setting_lines(layer)]
    return [
        f"{line}  ({resolved.sources[name]})"
        for name, line in zip(names, setting_lines(layer), strict=True)
    ]


def layered(
    flags: dict[str, Any], *, profile: str | None, config_file: Path | None, sets: list[str]
) -> list[Layer]:
    """All layers that apply in the working folder, weakest first.

    The profile is the one named by flag, else by ``[tool.memaudit]``, else ``standard``; a
    config file holds every setting, so beside it only a profile named by flag is read, and
    ``[tool.memaudit]`` is not.
    """
    project = load_project_settings(Path.cwd())
    layers: list[Layer] = []
    named = profile or (project.values.pop("profile", None) if project else None)
    if named is not None or config_file is None:
        layers.append(load_profile(named or DEFAULT_PROFILE))
    if project is not None and config_file is None:
        project.values.pop("profile", None)
        layers.append(project)
    if config_file is not None:
        layers.append(load_config_file(config_file))
    layers.extend(_set_layer(assignment) for assignment in sets)
    layers.append(Layer(source="flag", values=flags))
    return layers


def _set_layer(assignment: str) -> Layer:
    """``section.key=value``, the value as TOML, or as a plain word."""
    name, equals, value = assignment.partition("=")
    if not equals or not name.strip() or name.count(".") > _DEEPEST:
        raise UsageError(f"--set {_shown(assignment)}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    if not _is_shallow(parsed, _DEEPEST):
        raise UsageError(f"--set {_shown(assignment)}: brackets too deep; write one value")
    values: dict[str, Any] = {}
    _put(values, name.strip(), parsed, "--set")
    return Layer(source="flag", values=values)


def load_config_file(path: Path) -> Layer:
    """A ``config.toml`` as a run folder holds it. Raises UsageError where it cannot be read."""
    return Layer(source=str(path), values=_read_toml(path))


def load_project_settings(folder: Path) -> Layer | None:
    """``[tool.memaudit]`` of the folder's ``pyproject.toml``, if there is one."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        return None
    tool = _read_toml(path).get("tool", {})
    values = tool.get("memaudit") if isinstance(tool, dict) else None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: [tool.memaudit] has to be a table")
    return Layer(source="pyproject.toml", values=values)


def resolve(layers: list[Layer]) -> ResolvedConfig:
    """Merge layers, later ones winning, and validate. Raises UsageError naming the setting."""
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, value in leaves(layer.values):
            if name in ONLY_BY_FLAG and layer.source != "flag" and value not in (None, False):
                # Not only true: 1 and "yes" would be taken for it.
                raise UsageError(
                    f"{name} ({layer.source}): only the flag --"
                    f"{name.rpartition('.')[2].replace('_', '-')} can say so"
                )
            if value is not None:
                _put(merged, name, value, layer.source)
                sources[name] = layer.source
    try:
        config = ScanConfig.model_validate(merged)
    except ValidationError as error:
        raise UsageError(explain_fault(error, sources)) from None
    names = (name for name, _ in leaves(config.model_dump()))
    return ResolvedConfig(
        config=config, sources={name: sources.get(name, "default") for name in names}
    )


def to_toml(config: ScanConfig) -> str:
    """The configuration as ``config.toml``: every setting that has a value."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
            raise UsageError(f"{path}: not a regular file; give a file of settings")
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > _LONGEST_FILE:
        raise UsageError(f"{path}: is larger than {_LONGEST_FILE >> 20} MiB, so no settings")
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {_toml_fault(error)}") from None
    if not _is_shallow(values, _DEEPEST):
        raise UsageError(f"{path}: has more than {_DEEPEST} sections inside each other")
    return values


def _toml_fault(error: Exception) -> str:
    """What is wrong, in words that quote nothing of the file but a sign."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "a number too long or brackets too deep"


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether nothing lies deeper than so many levels of tables and arrays."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, by its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(merged: dict[str, Any], name: str, value: Any, source: str) -> None:
    *sections, key = name.split(".")
    for section in sections:
        merged = merged.setdefault(section, {})
        if not isinstance(merged, dict):
            raise UsageError(f"{name} ({source}): {section} is a setting, not a section")
    merged[key] = value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def explain_fault(error: ValidationError, sources: Mapping[str, str]) -> str:
    """The first fault in one line: setting, value, what is wrong and where it was set."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    source = next((sources[key] for key in sources if name and key.startswith(name)), None)
    where = f" ({source})" if source else ""
    if fault["type"] == "extra_forbidden":
        return f"{_shown(name)}{where}: there is no such setting; see README, Settings"
    if fault["type"] == "missing":
        return f"{name.upper()} is missing; try --help"
    what = fault["msg"].removeprefix("Value error, ")
    if not name:  # a rule between sections
        return what
    given = fault["input"]
    shown = f" = {_shown(repr(given))}" if isinstance(given, (str, int, float, bool)) else ""
    return f"{name}{shown}{where}: {what[0].lower()}{what[1:]}"


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
