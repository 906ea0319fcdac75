"""Pipes, devices and files of the kernel: refused in a line wherever a file is read."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from memaudit.data.packing import unpacked_blocks
from memaudit.system.files import file_sha256, open_regular
from memaudit.system.untrusted_json import read_json


def special_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "fifo")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket"))
    bound.close()
    (folder / "link").symlink_to("/dev/zero")
    kernel = ("/proc/kmsg", "/proc/self/status", "/proc/kcore", "/sys/kernel/uevent_seqnum")
    candidates = [folder / "fifo", folder / "socket", folder / "link", folder, Path("/dev/zero")]
    return [path for path in (*candidates, *map(Path, kernel)) if path.exists()]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    refused = special_files(tmp_path)
    assert len(refused) >= 6
    for path in refused:
        for read in (
            open_regular,
            file_sha256,
            lambda path: read_json(path, 100),
            lambda path: list(unpacked_blocks(path, lambda path, words: None)),
        ):
            with pytest.raises(OSError) as raised:  # noqa: PT011
                read(path)
            # a socket cannot be opened at all, and /proc/kcore only with a capability
            assert raised.value.errno in (errno.EINVAL, errno.ENXIO, errno.EPERM, errno.EACCES)
    (tmp_path / "file").write_bytes(b"{}")
    (tmp_path / "to-file").symlink_to(tmp_path / "file")
    assert read_json(tmp_path / "to-file", 100) == {}
