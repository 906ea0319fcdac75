"""Baselines on disk: a small file to commit, or a run folder read as a baseline.

Knows the file's form and trusts none of it. Knows nothing of how a baseline is judged.

The file is sorted, with one entry a line, so that a change of the model shows as a diff of the
samples that were added or removed. It lists the extracted samples by their fingerprints, and all
samples by short ones, so that a run of changed data can be compared. It holds no time, line number,
sample id or text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from memaudit.config.settings import AttackName, ScanConfig
from memaudit.data.fingerprints import (
    SAMPLE_FINGERPRINT,
    SHORT_DIGITS,
    shorten_fingerprint,
)
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.gate.baseline import Baseline, ModelName, count_missing, make_baseline
from memaudit.gate.terms import Terms, terms_of
from memaudit.report.hashes import canonical, sha256_text
from memaudit.run.load import StoredRun, read_run
from memaudit.system.files import write_whole
from memaudit.system.plain_text import neutral, shorten
from memaudit.system.untrusted_json import read_json

VERSION = 3
"""Version of the file's form: raised when a reader of the old form would break."""
_LONGEST = 256 << 20
"""Bytes; a line takes 18 for each sample, and about 70 more for each extracted one."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z_]+(\.[a-z_]+)*$", max_length=100)]
Word = Annotated[str, StringConstraints(pattern=r"^[ -~]*$", max_length=100)]
SettingValue = bool | int | float | Word | list[Word] | None
"""Words are printable ASCII: messages about differences show them unescaped."""
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
HOW = r"^[a-z0-9:, ]{1,60}$"
How = Annotated[str, StringConstraints(pattern=HOW)]
Fingerprint = Annotated[str, StringConstraints(pattern=f"^{SAMPLE_FINGERPRINT}$")]
Short = Annotated[str, StringConstraints(pattern=f"^[0-9a-f]{{{SHORT_DIGITS}}}$")]


class _Attack(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    extracted: Annotated[int, Field(ge=0)]
    sha256: Sha256


class _File(BaseModel):
    """The document, in the order written."""

    model_config = ConfigDict(strict=True, extra="forbid")

    memaudit_baseline: Literal[3]
    tool_version: Annotated[str, StringConstraints(max_length=100)]
    model: Annotated[str, StringConstraints(max_length=1000)]
    model_sha256: Sha256
    data_hmac_sha256: Sha256
    controls_hmac_sha256: Sha256 | None
    config_sha256: Sha256
    key_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
    fingerprint_form: Annotated[str, StringConstraints(pattern=r"^s[0-9]+$")]
    samples: Annotated[int, Field(ge=0)]
    attacks: dict[AttackName, _Attack]
    settings: dict[SettingName, SettingValue]
    bos: Literal["yes", "no"] | None
    chat_date: Annotated[str, StringConstraints(pattern=DATE)] | None = None
    computed: dict[Literal["dtype", "device", "fitting"], How]
    extracted: dict[Fingerprint, Annotated[list[AttackName], Field(min_length=1)]]
    fingerprints: list[Short]
    digest: Sha256


def read_baseline(path: Path, key: ProjectKey | None = None) -> Baseline:
    """Read a baseline file, or a run folder as a baseline.

    key: the project key that the caller was given, which seals a run; None for the one at hand.

    Raises UsageError, in one line, where the path is neither.
    """
    try:
        folder = path.is_dir()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    return baseline_of_run(read_run(path, key)) if folder else read_baseline_file(path)


def read_baseline_file(path: Path) -> Baseline:
    """Read a file that `to_text` made. Raises UsageError, in one line, where it is not one."""
    try:
        if not path.is_file():
            raise UsageError(f"{path}: no such baseline file or run folder")
        document = read_json(path, _LONGEST)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    version = document.get("memaudit_baseline") if isinstance(document, dict) else None
    if type(version) is not int:
        raise UsageError(f"{path}: is not a baseline file; memaudit baseline write makes one")
    if version != VERSION:
        raise UsageError(
            f"{path}: has version {version}, but this memaudit reads {VERSION}; write it again"
        )
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        place = neutral(".".join(map(str, error.errors(include_url=False)[0]["loc"])))
        raise UsageError(
            f"{path}: {shorten(place, 100)} is not what memaudit writes; write it again"
        ) from None
    baseline = _baseline(file)
    _check(path, file, baseline)
    if file.digest != document_digest(document):
        raise UsageError(
            f"{path}: was changed: its digest does not match; write it again from a run"
        )
    return baseline


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file, whole or not at all. Raises UsageError where it cannot be written."""
    try:
        write_whole(path, [to_text(baseline).encode()])
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); name another") from None


def to_text(baseline: Baseline) -> str:
    """Return the file's text: JSON in ASCII, sorted, one entry a line."""
    terms = baseline.terms
    head: dict[str, str | int | None] = {
        "memaudit_baseline": VERSION,
        "tool_version": baseline.version,
        "model": _portable(baseline.model.name),
        "model_sha256": baseline.model.sha256,
        "data_hmac_sha256": terms.data,
        "controls_hmac_sha256": terms.controls,
        "config_sha256": terms.config_hash,
        "key_id": terms.key_id,
        "fingerprint_form": terms.form,
        "samples": baseline.samples,
    }
    attacks = {
        name: {"extracted": baseline.count(name), "sha256": terms.attack_hash(name)}
        for name in terms.attacks
    }
    document: dict[str, Any] = {
        **head,
        "attacks": attacks,
        "settings": dict(sorted(terms.settings.items())),
        "bos": terms.bos,
        **({} if terms.chat_date is None else {"chat_date": terms.chat_date}),
        "computed": dict(sorted(baseline.computed.items())),
        "extracted": dict(sorted(baseline.extracted.items())),
        "fingerprints": sorted(map(shorten_fingerprint, baseline.fingerprints)),
    }
    document["digest"] = document_digest(document)
    parts = [
        _table(key, value)
        if isinstance(value, dict | list)
        else f"  {json.dumps(key)}: {json.dumps(value)}"
        for key, value in document.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the rest of the file, so that every change to a line shows."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    return sha256_text(canonical(rest))


def baseline_of_run(run: StoredRun) -> Baseline:
    """Return a finished run as a baseline.

    Raises UsageError where its settings are invalid, or attacks could not run.
    """
    report, rows = run.report, run.scored_samples("data")
    controls, target = report.controls, report.target
    chosen = {name: choice.value for name, choice in target.choices.items()}
    bos, day = chosen.get("bos"), chosen.get("chat_date")
    terms = terms_of(
        config_of_run(run),
        report.data.hmac_sha256,
        None if controls is None else controls.hmac_sha256,
        report.fingerprints.key_id,
        bos if bos in ("yes", "no") else None,
        day if day is not None and re.fullmatch(DATE, day) else None,
    )
    if missing := [attack for attack in terms.attacks if attack not in run.attacks]:
        raise UsageError(
            f"{run.folder}: {', '.join(missing)} could not run, so nothing can be compared with "
            f"it; scan with --attacks {','.join(run.attacks)}, or with more data"
        )
    extracted = {
        attack: (rows[f"extracted_{attack.replace('-', '_')}"] == 1).fillna(False).tolist()
        for attack in terms.attacks
    }
    return make_baseline(
        model_name(target.name, target.fingerprint),
        report.tool.version,
        terms,
        rows["fingerprint"].tolist(),
        extracted,
        _computed(run),
    )


def _computed(run: StoredRun) -> dict[str, str]:
    """Return how the run's figures were computed; values that do not fit `HOW` are left out."""
    choices = run.report.target.choices
    computed = {name: choices[name].value for name in ("dtype", "device") if name in choices}
    if "dtype" in computed and "quantization" in choices:
        # HOW allows no hyphen.
        computed["dtype"] += f", {choices['quantization'].value.replace('-', ' ')}"
    fits = [fit.precision for attack in run.report.attacks for fit in attack.fits]
    if fits:
        computed["fitting"] = ", ".join(sorted(set(fits)))
    return {name: value for name, value in computed.items() if re.fullmatch(HOW, value)}


def config_of_run(run: StoredRun) -> ScanConfig:
    """Return the settings of a finished run. Raises UsageError where they are invalid."""
    try:
        return ScanConfig.model_validate(run.report.settings)
    except ValidationError:
        raise UsageError(
            f"{run.folder}: its settings do not fit this version of memaudit; scan again"
        ) from None


def model_name(name: str, files: Mapping[str, str]) -> ModelName:
    """Identify a model by its name and the hashes of its files."""
    listed = "\n".join(f"{digest} {file}" for file, digest in sorted(files.items()))
    return ModelName(name, hashlib.sha256(listed.encode()).hexdigest(), dict(files))


def _portable(name: str) -> str:
    """Strip a machine's folders from a model's name; a name on the hub stays as it is."""
    return Path(name).name or name if name.startswith(("/", "\\", ".", "~")) else name


def _table(name: str, entries: Mapping[str, object] | list[str]) -> str:
    """Return a JSON object or list with one entry a line."""
    if isinstance(entries, list):
        start, end, lines = "[", "]", [json.dumps(entry) for entry in entries]
    else:
        start, end = "{", "}"
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in entries.items()]
    body = ",\n".join(f"    {line}" for line in lines)
    return f'  "{name}": {start}\n{body}\n  {end}' if lines else f'  "{name}": {start}{end}'


def _baseline(file: _File) -> Baseline:
    terms = Terms(
        data=file.data_hmac_sha256,
        controls=file.controls_hmac_sha256,
        key_id=file.key_id,
        form=file.fingerprint_form,
        settings=dict(file.settings),
        bos=file.bos,
        chat_date=file.chat_date,
    )
    return Baseline(
        model=ModelName(file.model, file.model_sha256),
        version=file.tool_version,
        terms=terms,
        fingerprints=tuple(file.fingerprints),
        extracted={key: tuple(attacks) for key, attacks in file.extracted.items()},
        computed={str(name): how for name, how in file.computed.items()},
    )


def _check(path: Path, file: _File, baseline: Baseline) -> None:
    """Refuse a file whose parts contradict each other, as after a manual merge."""
    terms = baseline.terms
    named = list(terms.attacks)
    fits = {
        "settings": file.config_sha256 == terms.config_hash,
        "attacks": list(file.attacks) == named and "copy" not in named,
        "samples": file.samples == len(file.fingerprints),
        "fingerprints": file.fingerprints == sorted(file.fingerprints),
        "extracted": not count_missing(file.extracted, file.fingerprints),
    }
    for name, attack in file.attacks.items():
        fits[f"attacks.{name}.sha256"] = attack.sha256 == terms.attack_hash(name)
        fits[f"attacks.{name}.extracted"] = attack.extracted == baseline.count(name)
    fits["extracted"] = fits["extracted"] and all(
        attacks == [name for name in named if name in attacks]
        for attacks in file.extracted.values()
    )
    for part, fit in fits.items():
        if not fit:
            raise UsageError(
                f"{path}: {part} does not fit the rest of the file; if it was merged or edited, "
                "write it again, or update one side from a run"
            )
