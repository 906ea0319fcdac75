"""Fitted prompts of an earlier run, checked against the manifest of that run.

Knows the manifest and the names of prompt files. Opens no prompts.
"""

from __future__ import annotations

from pathlib import Path

from memaudit.attack.prompt_files import find_files
from memaudit.data.project_key import ProjectKey
from memaudit.errors import UsageError
from memaudit.run.manifest import MANIFEST, is_plain_file, read_manifest, require_recorded
from memaudit.run.seal import seal_fault


def check_prompts(path: Path, key: ProjectKey) -> str | None:
    """Compare the prompts of ``--generator`` with the manifest of the run that fitted them.

    Returns a sentence for the report where nothing shows who wrote them; None where the manifest is
    sealed by ``key``. Raises UsageError where a file does not match the manifest, or is missing.
    """
    files = find_files(path)
    folder = path if path.is_dir() else path.parent
    try:
        has_manifest = is_plain_file(folder / MANIFEST)
    except OSError as error:
        raise UsageError(f"--generator {path}: cannot be read ({error.strerror})") from None
    if not has_manifest:
        return (
            "The prompts were used without the manifest of the run that fitted them, so they may "
            "have been changed; a sabotaged prompt extracts less."
        )
    manifest, names = read_manifest(folder), {file.name for file in files}
    if path.is_dir():
        names |= {name for name in manifest.files if name.startswith("generator-")}
    require_recorded(folder, sorted(names))
    if manifest.seal is not None and manifest.seal.key_id == key.key_id:
        if (fault := seal_fault(manifest, key)) is not None:
            raise UsageError(f"--generator {path}: {MANIFEST} {fault}; fit the prompts again")
        return None
    return (
        "The manifest of the run that fitted the prompts is not sealed by this project's key, so "
        "nothing shows who wrote them."
    )
