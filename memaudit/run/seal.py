"""The seal of a manifest: an HMAC under the project key, made by memaudit when it writes a run.

Knows the manifest and the key. Whoever can change a run folder but lacks the key cannot seal what
they changed. A run that was made without a stored key has no seal.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from memaudit.data.project_key import ProjectKey, kept_key
from memaudit.errors import UsageError
from memaudit.run.manifest import Manifest, read_manifest, seal_digest
from memaudit.system.home import settings_folder


def own_key(key_id: str) -> ProjectKey | None:
    """Return the project key that is at hand if it is the one of this id."""
    key = kept_key(None, settings_folder())
    return key if key is not None and key.key_id == key_id else None


def seal_fault(manifest: Manifest, key: ProjectKey) -> str | None:
    """Describe why a manifest is not sealed by this key; None if it is."""
    if manifest.seal is None:
        return "has no seal, though the run was made with your project key"
    sealed = hmac.compare_digest(manifest.seal.hmac_sha256, seal_digest(manifest.content, key))
    return None if sealed else "has a seal that is not your project key's"


def require_seal(folder: Path, key_id: str) -> bool:
    """Check the seal of a run that was made with the key of this id, if that key is at hand.

    Returns True if it is sealed by that key, False without the key. Raises UsageError where it
    should be sealed and is not.
    """
    if (key := own_key(key_id)) is None:
        return False
    if (fault := seal_fault(read_manifest(folder), key)) is not None:
        raise UsageError(
            f"{folder}: manifest.json {fault}: it was changed, or an earlier memaudit wrote it; "
            "scan again"
        )
    return True
