"""The seal of a manifest: an HMAC under the project key, made by memaudit when it writes a run.

Knows the manifest and the key. Whoever can change a run folder but lacks the key cannot seal what
they changed, so only a seal of the key at hand proves who wrote a run. A run that was made without
a stored key has no seal.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from memaudit.data.project_key import VARIABLE, ProjectKey, kept_key
from memaudit.errors import UsageError
from memaudit.report.model import Report
from memaudit.run.manifest import MANIFEST, Manifest, read_manifest, seal_digest
from memaudit.system.home import settings_folder


def key_at_hand() -> ProjectKey | None:
    """Return the project key of the environment or the user's own; None without one."""
    return kept_key(None, settings_folder())


def seal_fault(manifest: Manifest, key: ProjectKey) -> str | None:
    """Describe why a manifest is not sealed by this key; None if it is."""
    if manifest.seal is None:
        return "has no seal, though the run was made with your project key"
    sealed = hmac.compare_digest(manifest.seal.hmac_sha256, seal_digest(manifest.content, key))
    return None if sealed else "has a seal that is not your project key's"


def key_ids_fault(report: Report, manifest: Manifest) -> str | None:
    """Describe how a run names several keys, of which it has one; None where it does not."""
    parts = [report.fingerprints, report.data, report.controls]
    named = {part.key_id for part in parts if part is not None}
    named |= set() if manifest.seal is None else {manifest.seal.key_id}
    return f"names the keys {' and '.join(sorted(named))}" if len(named) > 1 else None


def seal_doubt(folder: Path, report: Report, key: ProjectKey | None) -> str | None:
    """Return a sentence if ``key`` does not prove who wrote a run; None if it sealed the run.

    Raises UsageError where the run names this key without its seal, or names several keys.
    """
    manifest, named = read_manifest(folder), report.fingerprints.key_id
    fault = key_ids_fault(report, manifest)
    if fault is None and key is not None and key.key_id == named:
        fault = seal_fault(manifest, key)
        if fault is None:
            return None
    if fault is not None:
        raise UsageError(
            f"{folder}: {MANIFEST} {fault}: it was changed, or an earlier memaudit wrote it; "
            "scan again"
        )
    doubt = (
        f"{folder}: no project key is set, so nothing shows who wrote this run"
        if key is None
        else f"{folder}: is not sealed by your project key {key.key_id}, so nothing shows who "
        "wrote it"
    )
    return f"{doubt}. It names key {named}: set {VARIABLE} to that key to check it"
