"""Sources of settings: profiles, ``pyproject.toml``, config files, environment, flags, in layers.

Knows settings files and how they are merged. Later layers win: defaults, a profile,
``[tool.memaudit]`` in the ``pyproject.toml`` of the working folder, a ``--config`` file, variables
of the environment, flags.
The only place where profiles are read. Does not know what a setting means.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from memaudit.config.environment import PROFILE, read_environment, read_variable, variable_of
from memaudit.config.flags import fields_of
from memaudit.config.settings import ScanConfig
from memaudit.errors import UsageError

DEFAULT_PROFILE = "standard"
FLAG, ARGUMENT = "flag", "argument"
"""Sources that win over all others: the command line, and a call from Python."""
_MAX_BYTES = 1 << 20
"""Largest settings file, in bytes; a config.toml has about 3,000."""
_MAX_DEPTH = 20
"""Deepest nesting of sections; the settings have one level."""
_MAX_QUOTED = 80
"""Characters of a value that a message repeats."""
ONLY_BY_FLAG = frozenset(("reveal", "target.trust_remote_code", "target.allow_pickle"))
"""Safeguards that no file and no variable may switch off, as it may come from someone else."""


class Layer(BaseModel):
    """Values from one source, not yet validated."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Source named in the report: ``profile quick``, ``flag``, a file or a variable."""
    values: dict[str, Any]
    about: str = ""
    """Purpose of a profile, in a sentence."""


class ResolvedConfig(BaseModel):
    """A valid configuration and the source of each value."""

    model_config = ConfigDict(frozen=True)

    config: ScanConfig
    sources: dict[str, str]
    """Source of each setting, by dotted name; ``default`` if nothing set it."""


def profiles_folder() -> Path:
    """Return the folder of shipped profiles: inside the wheel, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def list_profiles() -> dict[str, Layer]:
    """Return every shipped profile by name."""
    return {path.stem: load_profile(path.stem) for path in sorted(profiles_folder().glob("*.toml"))}


def load_profile(name: str) -> Layer:
    """Load a shipped profile by name, or any profile by path (a separator or .toml in the name).

    Raises UsageError if the profile does not exist or is not TOML.
    """
    is_path = name.endswith(".toml") or "/" in name or "\\" in name
    path = Path(name) if is_path else profiles_folder() / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(shipped.stem for shipped in profiles_folder().glob("*.toml")))
        raise UsageError(
            f"--profile {name}: no such profile; give a path or a shipped profile: {known}"
        )
    values = _read_toml(path)
    about = str(values.pop("about", ""))
    return Layer(source=f"profile {name}", values=values, about=about)


def setting_lines(layer: Layer) -> list[str]:
    """Return a layer's values as ``section.key = value`` lines."""
    return [
        " ".join(tomli_w.dumps({"value": value}).split()).replace("value", name, 1)
        for name, value in leaves(layer.values)
    ]


def named_settings(config: ScanConfig) -> dict[str, Any]:
    """Return every setting by its dotted name."""
    return dict(leaves(config.model_dump(mode="json")))


def sourced_lines(resolved: ResolvedConfig) -> list[str]:
    """Return a line for every setting, with its value and source."""
    layer = Layer(source="", values=resolved.config.model_dump(mode="json", exclude_none=True))
    names = [line.partition(" = ")[0] for line in setting_lines(layer)]
    return [
        f"{line}  ({resolved.sources[name]})"
        for name, line in zip(names, setting_lines(layer), strict=True)
    ]


def collect_layers(
    flags: dict[str, Any],
    *,
    profile: str | None,
    config_file: Path | None,
    sets: list[str],
    environ: Mapping[str, str] | None = None,
    source: str = FLAG,
) -> list[Layer]:
    """Return all layers that apply in the working folder, weakest first.

    The profile comes from the flag, else from the environment, else from ``[tool.memaudit]``,
    else it is ``standard``. A config file holds every setting: with it, ``[tool.memaudit]`` is
    ignored, and a profile is read only if a flag or the environment names it.
    """
    environ = environ or {}
    project = load_project_settings(Path.cwd())
    layers: list[Layer] = []
    preferred = project.values.pop("profile", None) if project is not None else None
    named = profile or read_variable(environ, PROFILE) or preferred
    if named is not None or config_file is None:
        layers.append(load_profile(named or DEFAULT_PROFILE))
    if project is not None and config_file is None:
        layers.append(project)
    if config_file is not None:
        layers.append(load_config_file(config_file))
    layers.extend(environment_layers(environ))
    layers.extend(_set_layer(assignment) for assignment in sets)
    layers.append(Layer(source=source, values=flags))
    return layers


def environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """Return a layer for each variable that sets a setting. Raises as `read_environment`."""
    layers = []
    for name, value in read_environment(environ).items():
        source = f"environment {variable_of(name)}"
        layers.append(Layer(source=source, values=nested({name: value}, source)))
    return layers


def _set_layer(assignment: str) -> Layer:
    """Parse ``section.key=value``; the value is TOML or a plain word."""
    name, equals, value = assignment.partition("=")
    if not equals or not name.strip() or name.count(".") > _MAX_DEPTH:
        raise UsageError(f"--set {_abbreviated(assignment)}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    if not _is_shallow(parsed, _MAX_DEPTH):
        raise UsageError(
            f"--set {_abbreviated(assignment)}: brackets nested too deep; give one value"
        )
    return Layer(source=FLAG, values=nested({name.strip(): parsed}, "--set"))


def load_config_file(path: Path) -> Layer:
    """Load the ``config.toml`` of a run folder. Raises UsageError if it cannot be read."""
    return Layer(source=str(path), values=_read_toml(path))


def load_project_settings(folder: Path) -> Layer | None:
    """Load ``[tool.memaudit]`` from the folder's ``pyproject.toml``, if present."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        return None
    tool = _read_toml(path).get("tool", {})
    values = tool.get("memaudit") if isinstance(tool, dict) else None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: [tool.memaudit] must be a table")
    return Layer(source="pyproject.toml", values=values)


def resolve(layers: list[Layer]) -> ResolvedConfig:
    """Merge layers, later ones first, and validate. Raises UsageError that names the setting."""
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, value in leaves(layer.values):
            by_hand = layer.source in (FLAG, ARGUMENT)
            if name in ONLY_BY_FLAG and not by_hand and value not in (None, False):
                # Not only true: 1 and "yes" would pass for it.
                flag = name.rpartition(".")[2].replace("_", "-")
                raise UsageError(f"{name} ({layer.source}): can only be set by the flag --{flag}")
            if value is not None:
                _assign(merged, name, value, layer.source)
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
    """Return the configuration as ``config.toml``: every setting that has a value."""
    return toml_of_values(config.model_dump(mode="json"))


def toml_of_values(values: dict[str, Any]) -> str:
    """Return settings as ``config.toml``, from their values in a report."""
    return tomli_w.dumps(_without_none(values))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():  # a pipe blocks, a device never ends
            raise UsageError(f"{path}: not a regular file; give a settings file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; not a settings file")
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {_toml_fault(error)}") from None
    if not _is_shallow(values, _MAX_DEPTH):
        raise UsageError(f"{path}: sections are nested more than {_MAX_DEPTH} deep")
    return values


def _toml_fault(error: Exception) -> str:
    """Describe a TOML error without quoting more than a character of the file."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "a number is too long or brackets are nested too deep"


def _is_shallow(value: Any, levels: int) -> bool:
    """Return True if tables and arrays are nested no deeper than ``levels``."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in inner)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is not a section, with its dotted name."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nested(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return values by dotted name as sections. Raises UsageError if a setting has settings."""
    sections: dict[str, Any] = {}
    for name, value in values.items():
        _assign(sections, name, value, source)
    return sections


def _assign(merged: dict[str, Any], name: str, value: Any, source: str) -> None:
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
    """Describe the first fault in one line: setting, value, source and what is wrong."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    given = next(
        (key for key in sources if name and (key.startswith(name) or name.startswith(f"{key}."))),
        None,
    )
    where = f" ({sources[given]})" if given else ""
    if fault["type"] == "extra_forbidden":
        whole = given if given is not None and given.startswith(f"{name}.") else name
        nearest = _nearest_setting(whole)
        meant = f"did you mean {nearest}? See" if nearest else "see"
        return f"{_abbreviated(whole)}{where}: unknown setting; {meant} memaudit help settings"
    if fault["type"] == "missing":
        return f"{name.upper()} is missing; try --help"
    message = fault["msg"].removeprefix("Value error, ")
    if not name:  # a rule between sections
        return message
    value = fault["input"]
    assigned = (
        f" = {_abbreviated(repr(value))}" if isinstance(value, (str, int, float, bool)) else ""
    )
    return f"{name}{assigned}{where}: {message[0].lower()}{message[1:]}"


def _nearest_setting(name: str) -> str:
    """Return the setting most like an unknown name; empty if none is like it."""
    known = list(fields_of(ScanConfig))
    matches = difflib.get_close_matches(name, known, n=1)
    last = name.rpartition(".")[2]
    return next(iter(matches or (key for key in known if key.endswith(f".{last}"))), "")


def _abbreviated(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"
