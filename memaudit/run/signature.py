"""Signatures that prove memaudit wrote a piece of unfinished work, for this run and this name.

Knows the project key, notes and named arrays. Knows nothing of files. Somebody who can write to
the run folder but lacks the key can remove a piece, but cannot forge, change or move any.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

from memaudit.attack.journal import Entry
from memaudit.data.project_key import VARIABLE, ProjectKey
from memaudit.errors import UsageError
from memaudit.report.hashes import canonical
from memaudit.run.record import NO_KEY, RunNotes

_NOTES_LABEL = "memaudit unfinished notes 1"
_PIECE_LABEL = "memaudit unfinished piece 1"
_KEEP_A_KEY = f"set {VARIABLE} or --key-file"


def id_of(key: ProjectKey) -> str:
    """Return the key's id as notes record it: `NO_KEY` for a key that ends with the process."""
    return NO_KEY if key.is_temporary else key.key_id


def signed_notes(notes: RunNotes, key: ProjectKey) -> RunNotes:
    """Return the notes with the key's id and their signature."""
    named = notes.model_copy(update={"key_id": id_of(key)})
    return named.model_copy(update={"signature": _sign_notes(named, key)})


def check_notes(where: str, notes: RunNotes, key: ProjectKey) -> None:
    """Raise UsageError where the notes are not as memaudit wrote them under this key."""
    if NO_KEY in (notes.key_id, id_of(key)):
        when = "this run began without one" if notes.key_id == NO_KEY else "none is set now"
        remedy = "start a new scan" if notes.key_id == NO_KEY else "resume again"
        raise UsageError(
            f"{where}: cannot resume: unfinished work is checked with a stored project key, and "
            f"{when}; {_KEEP_A_KEY} and {remedy}"
        )
    if not notes.key_id:
        raise UsageError(
            f"{where}: run.json has no signature: it was changed, or an earlier memaudit wrote it; "
            "start a new scan"
        )
    if notes.key_id != id_of(key):
        raise UsageError(
            f"{where}: cannot resume: the project key changed since the run began "
            f"({notes.key_id}, now {id_of(key)}). Restore it ({_KEEP_A_KEY}), or start a new scan"
        )
    if not hmac.compare_digest(notes.signature, _sign_notes(notes, key)):
        raise UsageError(
            f"{where}: run.json was changed: its signature does not match; start a new scan"
        )


def _sign_notes(notes: RunNotes, key: ProjectKey) -> str:
    content = canonical([_NOTES_LABEL, notes.model_dump(mode="json", exclude={"signature"})])
    return key.sign(content.encode()).hex()


def sign_piece(
    name: str, entry: Entry, notes: RunNotes, groups: Sequence[str], key: ProjectKey
) -> str:
    """Return the signature of a piece of work under its name.

    groups: groups of the notes' facts known when it was written. A piece belongs to every run with
    the same facts, so to all shards of a scan, and to no other run.
    """
    facts = [[group, dict(notes.facts[group])] for group in groups]
    arrays = {part: np.asarray(array) for part, array in sorted(entry.arrays.items())}
    forms = [[part, array.dtype.str, list(array.shape)] for part, array in arrays.items()]
    form = canonical([_PIECE_LABEL, facts, name, entry.note, forms])
    digest = hashlib.sha256(form.encode())
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return key.sign(_PIECE_LABEL.encode() + b"\n" + digest.digest()).hex()


def is_signed(
    name: str, entry: Entry, notes: RunNotes, groups: Sequence[str], signed: str, key: ProjectKey
) -> bool:
    """True if the signature fits that piece, under that name, in a run with these notes."""
    if not set(groups) <= notes.facts.keys():
        return False
    wanted = sign_piece(name, entry, notes, groups, key)
    return hmac.compare_digest(signed.encode(), wanted.encode())
