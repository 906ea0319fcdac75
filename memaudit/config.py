"""Settings: frozen objects that validate themselves, and the one place where profiles are read.

Knows every setting, its default, its bounds and where its value came from. Knows nothing of
models or data beyond their paths, and imports no torch: a usage error answers at once.

Values are layered, later ones winning: defaults, a profile, ``[tool.memaudit]`` in the
``pyproject.toml`` of the working folder, a ``--config`` file, flags.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memaudit.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AttackName = Literal["none", "copy", "dynamic-hard", "constant", "dynamic"]
LADDER: tuple[AttackName, ...] = ("none", "copy", "dynamic-hard", "constant", "dynamic")
"""Every attack, in the order of the report's columns."""

DEFAULT_PROFILE = "standard"

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WindowSettings(Settings):
    """How windows are cut from samples."""

    prefix_tokens: Positive = 50
    """P: tokens the target is shown. The benchmark's default (Carlini et al. 2022)."""
    suffix_tokens: Positive = 50
    """S: tokens it has to continue with."""
    placement: Literal["start", "end", "sliding"] = "start"
    """Where a window lies in its sample; ``sliding`` cuts one every ``stride`` tokens."""
    stride: Positive | None = None
    """Tokens between the starts of two sliding windows; P+S where not given."""
    limit: Positive | None = None
    """Audit at most this many samples of each file, drawn at random with the seed."""
    skip_bad_lines: bool = False
    """Keep malformed lines in the report as skipped, instead of stopping at the first."""

    @property
    def length(self) -> int:
        """P+S: tokens in one window."""
        return self.prefix_tokens + self.suffix_tokens

    @model_validator(mode="after")
    def _stride_slides(self) -> WindowSettings:
        if self.stride is not None and self.placement != "sliding":
            raise ValueError("stride is only used with placement = 'sliding'")
        return self


class TargetSettings(Settings):
    """How the model under audit is loaded."""

    revision: str | None = None
    """Branch, tag or commit on the hub."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    bos: Literal["auto", "yes", "no"] = "auto"
    """Whether every input starts with the BOS token; ``auto`` does what the tokenizer does."""
    base: str | None = None
    """Base model of an adapter, where its own config names one that is not to be had."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False


class ProtocolSettings(Settings):
    """How windows are split, so that no window is scored by a prompt that saw its like."""

    folds: Annotated[int, Field(ge=2, le=50)] = 2
    select_fraction: Fraction = 0.1
    """Share of the windows outside ``audit`` that picks the epoch."""
    split: Literal["clusters", "random"] = "clusters"
    """``random`` lets near-duplicates leak; it is there to show what that does."""
    cluster_run: Positive = 20
    """Two samples that share a run of this many tokens are near-duplicates."""
    seed: Annotated[int, Field(ge=0)] = 0


class TuningSettings(Settings):
    """How a soft prompt is fitted. Shared by ``constant`` and ``dynamic``."""

    num_virtual_tokens: Positive = 50
    """V: length of the soft prompt."""
    epochs: Positive = 3
    batch_size: Positive = 16
    """Windows per optimizer step; split into smaller passes where memory is short."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falling linearly to zero, or constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; none where absent."""
    patience: Positive | None = None
    """Stop after this many epochs without a better ``select``."""
    loss: Literal["aligned", "full"] = "aligned"
    """Cross-entropy over suffix tokens, or over prefix and suffix (the paper's ablation)."""
    focus: Annotated[float, Field(ge=0)] = 0.0
    """tau: each window's gradient is weighted by exp(-tau * its NLL); 0 weights all alike."""
    fit_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the fit windows that is trained on: those likeliest under ``none``."""


class ConstantSettings(TuningSettings):
    """``constant``: V free vectors (Ozdayi et al., ACL 2023)."""


class DynamicSettings(TuningSettings):
    """``dynamic``: the soft-prompt generator (Wang et al., EMNLP 2024)."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Of the transformer blocks."""
    learning_rate_embedding: Annotated[float, Field(gt=0)] = 1e-4
    """Of the embedding rows that occur in the fitted prefixes."""
    learning_rate_queries: Annotated[float, Field(gt=0)] = 1e-2
    """Of the free vectors of the ``queries`` mapping."""
    depth: Positive = 1
    """Transformer blocks in the generator."""
    initialisation: Literal["identity", "random"] = "identity"
    """``identity``: the generator returns its input before the first step."""
    mapping: Literal["naive", "queries"] = "queries"
    """``naive``: the last V prefix tokens, repeated as needed (the paper's mapping m)."""
    embedding: Literal["trained", "frozen"] = "frozen"


class ExtractionSettings(Settings):
    """How windows are decoded."""

    batch_size: Positive | None = None
    """Windows per pass; found from the memory there is where not given."""


class ScoreSettings(Settings):
    """How scores and their intervals are computed."""

    confidence: Fraction = 0.95
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples of the cluster bootstrap."""
    top_k: Positive = 40
    """Sampler of p_z (Hayes et al. 2024): tokens outside the top k have probability 0."""
    temperature: Annotated[float, Field(gt=0)] = 1.0


class GateSettings(Settings):
    """What makes the audit fail. No threshold is set silently."""

    max_exact: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Largest share of windows that any attack may extract exactly."""
    gate_on: Literal["upper", "estimate"] = "upper"
    """Judge the interval's upper end, or the plain estimate."""


class ScanConfig(Settings):
    """Everything one audit depends on."""

    model: str
    data: Path
    controls: Path | None = None
    out: Path | None = None
    generator: Path | None = None
    """Run folder or file of prompts fitted earlier, used instead of fitting."""
    attacks: Annotated[tuple[AttackName, ...], Field(min_length=1)] = LADDER
    reveal: bool = False
    """Put prefix, suffix and output text in the reports."""
    windows: WindowSettings = WindowSettings()
    target: TargetSettings = TargetSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    constant: ConstantSettings = ConstantSettings()
    dynamic: DynamicSettings = DynamicSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    scores: ScoreSettings = ScoreSettings()
    gate: GateSettings = GateSettings()


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
    inside = Path(__file__).parent / "profiles"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "profiles"


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
        for name, value in _leaves(layer.values)
    ]


def layered(
    flags: dict[str, Any], *, profile: str | None, config_file: Path | None, sets: list[str]
) -> list[Layer]:
    """All layers that apply in the working folder, weakest first.

    The profile is the one named by flag, else by ``[tool.memaudit]``, else ``standard``; a
    config file holds every setting, so beside it only a profile named by flag is read.
    """
    project = load_project_settings(Path.cwd())
    layers: list[Layer] = []
    named = profile or (project.values.pop("profile", None) if project else None)
    if named is not None or config_file is None:
        layers.append(load_profile(named or DEFAULT_PROFILE))
    if project is not None:
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
    if not equals or not name.strip():
        raise UsageError(f"--set {assignment}: write it as section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
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
        for name, value in _leaves(layer.values):
            if value is not None:
                _put(merged, name, value, layer.source)
                sources[name] = layer.source
    try:
        config = ScanConfig.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error, sources)) from None
    names = (name for name, _ in _leaves(config.model_dump()))
    return ResolvedConfig(
        config=config, sources={name: sources.get(name, "default") for name in names}
    )


def to_toml(config: ScanConfig) -> str:
    """The configuration as ``config.toml``: every setting that has a value."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
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


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    """The first fault in one line: setting, value, what is wrong and where it was set."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    source = next((sources[key] for key in sources if name and key.startswith(name)), None)
    where = f" ({source})" if source else ""
    if fault["type"] == "extra_forbidden":
        return f"{name}{where}: there is no such setting; see README, Settings"
    if fault["type"] == "missing":
        return f"{name.upper()} is missing; try --help"
    what = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    shown = f" = {given!r}" if isinstance(given, (str, int, float, bool)) else ""
    return f"{name}{shown}{where}: {what[0].lower()}{what[1:]}"
