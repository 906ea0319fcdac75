"""The project's key: where it comes from, how it is made, and that it is never told."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from memaudit.data.project_key import VARIABLE, ProjectKey, find_key
from memaudit.errors import UsageError

ONE, OTHER, THIRD = "0a" * 32, "1b" * 32, "2c" * 32


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)


def secret(text: str) -> bytes:
    return bytes.fromhex(text)


def test_a_file_beats_the_environment_which_beats_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").write_text(f"{ONE}\n")
    (tmp_path / "key").write_text(THIRD)
    monkeypatch.setenv(VARIABLE, f" {OTHER.upper()} ")
    assert find_key(tmp_path / "named", tmp_path).secret == secret(ONE)
    assert find_key(None, tmp_path).secret == secret(OTHER)
    monkeypatch.setenv(VARIABLE, "")
    assert find_key(None, tmp_path).secret == secret(THIRD)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "memaudit"
    key = find_key(None, folder)
    assert len(key.secret) == 32
    assert key.note == ""
    assert [path.name for path in folder.iterdir()] == ["key"]
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    assert secret((folder / "key").read_text().strip()) == key.secret
    assert find_key(None, folder) == key
    assert find_key(None, tmp_path / "other") != key


def test_a_key_that_another_process_made_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(ONE)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert find_key(None, tmp_path).secret == secret(ONE)


def test_where_no_key_can_be_kept_one_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keys = [find_key(None, tmp_path / "file" / "memaudit") for _ in range(2)]
    assert keys[0].secret != keys[1].secret
    assert keys[0].note.startswith(f"No project key could be kept in {tmp_path}/file/memaudit (")
    assert "MEMAUDIT_KEY or --key-file" in keys[0].note


@pytest.mark.parametrize(
    "content", [b"", b"secret", b"0a" * 31, b"0a" * 33, b"0a" * 100_000, b"\xff" * 64, b"zz" * 32]
)
def test_what_is_no_key_is_refused_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "key").write_bytes(content)
    for given in (tmp_path / "key", None):
        with pytest.raises(UsageError, match="holds no project key; a key is 64 hex") as caught:
            find_key(given, tmp_path)
        assert "secret" not in str(caught.value).replace("project", "")
    assert (tmp_path / "key").read_bytes() == content  # never made anew over it
    if content == b"secret":
        monkeypatch.setenv(VARIABLE, "secret")
        with pytest.raises(UsageError, match=r"^MEMAUDIT_KEY: holds no project key"):
            find_key(None, tmp_path)


def test_a_named_file_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--key-file .*nothing: no such file"):
        find_key(tmp_path / "nothing", tmp_path)


def test_the_id_tells_keys_apart_and_nothing_else() -> None:
    key = ProjectKey(secret(ONE))
    signed = hmac.new(secret(ONE), b"memaudit key id\n", hashlib.sha256)
    assert key.key_id == signed.hexdigest()[:8]
    assert key.key_id != ProjectKey(secret(OTHER)).key_id
    assert ONE not in repr(key)
    assert repr(secret(ONE)) not in repr(key)
