"""verify_run(folder, places) -> Integrity: compare a finished run with what was recorded.

Knows the manifest, the hashes in the report, and how models and data are hashed. Changes nothing,
fetches nothing and opens no weights. Checks files outside the run folder only where they exist and
the report that names them is unchanged. Shows no digit of their hashes: a report may name any
file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from memaudit import __version__
from memaudit.config.settings import RUNS, ScanConfig, TargetSettings
from memaudit.config.sources import toml_of_values
from memaudit.data.project_key import VARIABLE, ProjectKey
from memaudit.data.records import sha256_of
from memaudit.errors import INCONCLUSIVE, DataError, MemauditError, UsageError
from memaudit.gate.thresholds import exit_code_of
from memaudit.report.diagnosis import DIAGNOSES
from memaudit.report.hashes import results_hash
from memaudit.report.model import Corpus, Model, Report
from memaudit.report.page import to_html
from memaudit.run.diagnoses import file_of, load_diagnosis, pictures_of
from memaudit.run.load import (
    PAGE,
    REPORT,
    StoredRun,
    find_figures_fault,
    find_gates_fault,
    find_settings_fault,
    find_wording_fault,
    load_run,
    read_report,
)
from memaudit.run.manifest import MANIFEST, Manifest, is_plain_file, read_manifest
from memaudit.run.seal import key_ids_fault, seal_fault
from memaudit.run.tables import SAMPLES, WINDOWS
from memaudit.system.files import file_sha256

State = Literal["same", "changed", "missing", "extra", "unproven", "not checked", "signature"]
_ALWAYS = (REPORT, SAMPLES, WINDOWS, "config.toml", PAGE)
"""Files of every finished run, besides the manifest."""
_OPTIONAL = re.compile(
    rf"generator-[0-9]+\.safetensors|diagnose-({'|'.join(DIAGNOSES)})(\.json|-[a-z0-9-]+\.png)"
)
"""Names of files that a run may also hold."""
DIFFERS: tuple[State, ...] = ("changed", "missing", "extra")
"""States that mean a run differs from the record."""


class Finding(NamedTuple):
    """Result of one check."""

    state: State
    what: str
    """File, or what was compared. May come from the run folder: neutralise before showing."""
    detail: str
    """Hashes, or why it was not checked."""


class Places(NamedTuple):
    """Paths that the user gave for model and data; None to use the report's."""

    model: str | None = None
    base: str | None = None
    """Base model of an adapter."""
    reference: str | None = None
    data: Path | None = None
    controls: Path | None = None


@dataclass(frozen=True)
class Integrity:
    """Result of verifying a run folder."""

    folder: Path
    manifest_sha256: str
    """Hash to quote; a signature covers the manifest."""
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 where something differs, 4 where something is unproven, else 0."""
        states = {finding.state for finding in self.findings}
        if not states.isdisjoint(DIFFERS):
            return 1
        return INCONCLUSIVE if "unproven" in states else 0

    @property
    def unchecked(self) -> int:
        """Number of recorded items that could not be compared."""
        return sum(finding.state == "not checked" for finding in self.findings)


def verify_run(folder: Path, places: Places, key: ProjectKey | None = None) -> Integrity:
    """Compare a run folder, and model and data where available, with what was recorded.

    key: the project key, under which data and controls were recorded.

    Raises UsageError where the folder holds no finished run, or a given path does not exist.
    """
    manifest = read_manifest(folder)
    try:
        findings = list(_files(folder, manifest))
        report = read_report(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from None
    except UsageError as error:
        findings.append(Finding("changed", "report.json", f"cannot be used: {error}"))
        return Integrity(folder, manifest.sha256, tuple(findings))
    seal = _seal(report, manifest, key)
    findings.append(seal)
    findings += _report(folder, report, manifest, sealed=seal.state == "same")
    if any(finding.what == REPORT and finding.state != "same" for finding in findings):
        why = "report.json, which names the model and data, was changed"
        findings.append(Finding("not checked", "model and data", why))
    else:
        findings += _elsewhere(folder, report, places, key)
    return Integrity(folder, manifest.sha256, tuple(findings))


def _files(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    for name, recorded in sorted(manifest.files.items()):
        path = folder / name
        if name not in _ALWAYS and not _OPTIONAL.fullmatch(name):
            yield Finding("extra", name, "recorded, but memaudit writes no file of this name")
        elif is_plain_file(path):
            try:
                yield _compare(name, recorded, file_sha256(path))
            except OSError as error:
                yield Finding("not checked", name, f"cannot be read ({error.strerror})")
        elif path.exists() or path.is_symlink():
            yield Finding("changed", name, "is no longer a regular file")
        else:
            yield Finding("missing", name, f"recorded {recorded[:16]}")
    for name in _ALWAYS:
        if name not in manifest.files and name == PAGE and PAGE in manifest.not_made:
            yield Finding("not checked", name, "could not be made when the run was written")
        elif name not in manifest.files:
            yield Finding("missing", name, "every run has it, but the manifest does not list it")
    for path in sorted(folder.iterdir()):
        if path.name.startswith(f"{MANIFEST}."):
            yield Finding("signature", path.name, "judging by its name; not checked")
        elif path.name not in manifest.files and path.name != MANIFEST:
            yield Finding("extra", path.name, "not recorded")


def _seal(report: Report, manifest: Manifest, key: ProjectKey | None) -> Finding:
    """Check if the manifest is sealed by the project key that the run was made with."""
    what, recorded = f"seal of {MANIFEST}", report.fingerprints.key_id
    if (fault := key_ids_fault(report, manifest)) is not None:
        return Finding("changed", what, f"the run {fault}")
    if key is None or key.key_id != recorded:
        sealed = "no seal" if manifest.seal is None else f"sealed by key {manifest.seal.key_id}"
        detail = f"{sealed}; set {VARIABLE} or --key-file to key {recorded}, which made it"
        if key is None:
            return Finding("not checked", what, detail)
        return Finding("unproven", what, f"not your project key {key.key_id}: {detail}")
    fault = seal_fault(manifest, key)
    if fault is None:
        return Finding("same", what, f"sealed by your project key {key.key_id}")
    return Finding("changed", what, fault)


def _report(folder: Path, report: Report, manifest: Manifest, *, sealed: bool) -> Iterator[Finding]:
    """Check the report against itself and the files beside it.

    sealed: the project key proves which version of memaudit wrote the run.
    """
    hashes, prompts = report.hashes, report.prompt_files
    yield _compare("results in report.json", hashes.results, results_hash(report.document()))
    code, due = report.exit_code, exit_code_of(gate.verdict for gate in report.gates)
    yield _compare("exit code in report.json", str(code), str(due))
    recorded = {"config.toml": hashes.config}
    if prompts.origin == "fitted in this run":
        recorded |= prompts.sha256
    prompt_files = {name: "nothing" for name in manifest.files if name.startswith("generator-")}
    for name, digest in (prompt_files | recorded).items():
        listed = manifest.files.get(name, "nothing")
        yield _compare(f"{name} as report.json names it", digest, listed)
    try:
        run = load_run(folder)
    except UsageError as error:
        yield Finding("changed", "tables beside report.json", str(error))
    else:
        yield from _follows(run, sealed=sealed)
        yield from _diagnoses(run)
        yield from _rendered(run, manifest, sealed=sealed)


def _follows(run: StoredRun, *, sealed: bool) -> Iterator[Finding]:
    """Check that figures, settings and gates follow from each other."""
    checks: tuple[tuple[str, str, Callable[[StoredRun], str | None]], ...] = (
        ("settings in report.json", "match their hashes", find_settings_fault),
        ("tables beside report.json", "figures agree", find_figures_fault),
        ("gates in report.json", "follow from its figures", find_gates_fault),
    )
    for what, detail, find_fault in checks:
        fault = find_fault(run)
        yield Finding("same", what, detail) if fault is None else Finding("changed", what, fault)
        if fault is not None:
            return
    what, written_by = "sentences in report.json", run.report.tool.version
    if find_wording_fault(run) is not None:
        yield _of_another_version(what, written_by, sealed=sealed)


def _of_another_version(what: str, version: str, *, sealed: bool) -> Finding:
    """Return what is known of something that this version of memaudit writes otherwise.

    Anyone can name another version in a report, which only the seal proves.
    """
    return Finding(
        "not checked" if sealed else "unproven",
        what,
        f"differs; if memaudit {version} made it, verify with that version",
    )


def _rendered(run: StoredRun, manifest: Manifest, *, sealed: bool) -> Iterator[Finding]:
    """Make the files again that are made from others, and compare them with those in the folder."""
    written_by = run.report.tool.version
    try:
        records = tuple(filter(None, (load_diagnosis(run, name) for name in DIAGNOSES)))
        toml = toml_of_values(run.report.settings)
        contents = {"config.toml": toml.encode()}
        if PAGE in manifest.files:
            contents[PAGE] = to_html(run.report, run.windows, records).encode()
        for record in records:
            contents |= pictures_of(record)
    except (MemauditError, ArithmeticError, LookupError, TypeError, ValueError):
        yield Finding("not checked", PAGE, "cannot be made again from the other files")
        return
    for name, content in contents.items():
        what = f"{name} made again"
        if manifest.files.get(name) == sha256(content).hexdigest():
            yield Finding("same", what, "as the other files give it")
        elif written_by != __version__:
            yield _of_another_version(what, written_by, sealed=sealed)
        elif name.endswith(".png"):
            yield Finding("not checked", what, "differs; other libraries draw it differently")
        else:
            yield Finding("changed", what, "is not what the other files give")


def _diagnoses(run: StoredRun) -> Iterator[Finding]:
    """Check that every diagnosis in the folder is of this run."""
    for name in DIAGNOSES:
        what = f"{file_of(name)} beside report.json"
        try:
            if load_diagnosis(run, name) is not None:
                yield Finding("same", what, "is of this run")
        except UsageError as error:
            yield Finding("changed", what, str(error))


def _elsewhere(
    folder: Path, report: Report, places: Places, key: ProjectKey | None
) -> Iterator[Finding]:
    try:
        config = ScanConfig.model_validate(report.settings)
    except ValidationError:
        yield Finding("changed", "settings in report.json", "do not fit this version of memaudit")
        return
    for role, named in (
        ("reference", places.reference),
        ("data", places.data),
        ("controls", places.controls),
    ):
        if getattr(report, role) is None and named is not None:
            raise UsageError(f"--{role} {named}: the run had none; leave the flag out")
    look = Lookup(scan_folder(folder, config.out))
    base = places.base or (config.target.base and look.up(config.target.base))
    settings = config.target.model_copy(update={"base": base})
    flags = {"model": places.model, "base": places.base}
    yield from _model("model", report.target, settings, places.model, look, flags)
    if (section := report.reference) is not None:
        settings = config.target.model_copy(update={"revision": None, "base": None})
        flags = {"reference": places.reference}
        yield from _model("reference", section.model, settings, places.reference, look, flags)
    for role, named in (("data", places.data), ("controls", places.controls)):
        if (corpus := getattr(report, role)) is not None:
            yield _corpus(role, corpus, named, look, key)
    if config.generator is not None:
        prompts = Path(look.up(str(config.generator)))
        yield from _earlier_prompts(prompts, report.prompt_files.sha256)


class Lookup(NamedTuple):
    """Resolves relative paths of a report, first in one folder, then in the working folder."""

    folder: Path | None
    """Folder in which the scan ran; None if unknown."""

    def up(self, path: str) -> str:
        """Return the path to open."""
        if self.folder is not None and not os.path.isabs(path):
            candidate = self.folder / path
            if _exists(candidate):
                return os.path.relpath(candidate)
        return path


def scan_folder(run: Path, out: Path | None) -> Path | None:
    """Return the folder in which the scan ran, from its relative --out; None for an absolute one.

    Reports hold no absolute paths but those that a user gave, as these reveal whose machine it was.
    """
    try:
        whole, _ = run.resolve(), Path.cwd()
    except OSError:  # the working folder is gone
        return None
    end = RUNS / whole.name if out is None else out
    if end.is_absolute() or ".." in end.parts or not end.parts:
        return None
    parts = len(end.parts)
    return whole.parents[parts - 1] if whole.parts[-parts:] == end.parts else None


def _model(
    role: str,
    target: Model,
    asked: TargetSettings,
    named: str | None,
    look: Lookup,
    flags: Mapping[str, str | None],
) -> Iterator[Finding]:
    """Compare the files of the model, or of the reference.

    named: the path that the user gave. flags: every path that the user gave, for a message.
    """
    # Imported here because they load torch, which a folder alone does not need.
    from memaudit.target.checkpoint import fingerprint_of
    from memaudit.target.source import find_source

    name = named or look.up(target.name)
    exists = _exists(Path(os.path.expanduser(name)))
    settings = asked.model_copy(update={"offline": True})
    if named is not None:
        settings = settings.model_copy(update={"revision": None})
    elif settings.revision is not None or not exists:
        settings = settings.model_copy(update={"revision": target.revision})
    try:
        hashes = fingerprint_of(find_source(name, settings), settings)
    except (MemauditError, OSError, ValueError) as error:
        if given := " ".join(f"--{flag} {place}" for flag, place in flags.items() if place):
            raise UsageError(f"{given}: cannot be hashed; give what was audited") from error
        remedy = f"not found; name it with --{role}"
        if exists:
            remedy = (
                f"cannot be hashed; name it with --{role}, or the base of an adapter with --base"
            )
        yield Finding("not checked", f"{role} {name}", remedy)
        return
    recorded = target.fingerprint
    for file in sorted({*recorded, *hashes}):
        what = f"{role} {file}"
        if file not in hashes:
            yield Finding("missing", what, "recorded")
        elif file not in recorded:
            yield Finding("extra", what, "not recorded")
        else:
            yield _compare_outside(what, recorded[file], hashes[file])


def _corpus(
    role: str,
    corpus: Corpus,
    named: Path | None,
    look: Lookup,
    key: ProjectKey | None,
) -> Finding:
    path = Path(look.up(corpus.path)) if named is None else named
    if not _exists(path):
        if named is not None:
            raise UsageError(f"--{role} {named}: no such file or folder")
        return Finding("not checked", f"{role} {path}", f"not found; name it with --{role}")
    if key is None or key.key_id != corpus.key_id:
        remedy = f"recorded under another key, {corpus.key_id}; set {VARIABLE} or --key-file"
        return Finding("not checked", f"{role} {path}", remedy)
    try:
        sealed = key.sign_file(sha256_of(path))
        return _compare_outside(f"{role} {path}", corpus.hmac_sha256, sealed)
    except (DataError, OSError) as error:
        if named is not None:
            raise UsageError(f"--{role} {named}: cannot be read") from error
        return Finding("not checked", f"{role} {path}", "cannot be read")


def _earlier_prompts(place: Path, recorded: Mapping[str, str]) -> Iterator[Finding]:
    for name, digest in recorded.items():
        path = place if _exists(place) and place.is_file() else place / Path(name).name
        try:
            exists = _exists(path) and path.is_file()
            digest_now = file_sha256(path) if exists else None
        except OSError:
            yield Finding("not checked", f"prompts {path}", "cannot be read")
            continue
        if digest_now is None:
            yield Finding("not checked", f"prompts {path}", "not found")
        else:
            yield _compare_outside(f"prompts {path}", digest, digest_now)


def _exists(path: Path) -> bool:
    """True for a file or folder; a path from a report may be invalid on every system."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def _compare(what: str, recorded: str, actual: str) -> Finding:
    if recorded == actual:
        return Finding("same", what, actual[:16])
    return Finding("changed", what, f"recorded {recorded[:16]}, found {actual[:16]}")


def _compare_outside(what: str, recorded: str, actual: str) -> Finding:
    """Compare a file outside the run folder, without showing its hash."""
    if recorded == actual:
        return Finding("same", what, "as recorded")
    return Finding("changed", what, "differs from the record")
