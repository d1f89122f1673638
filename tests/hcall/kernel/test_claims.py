"""A socket is stale when nobody has it any more, and only then it is removed; a claim ends with its process."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hcall.kernel.claims import claim, remove_stale

KINDS = [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET]


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_nobodys_is_removed(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "line.sock"
    with socket.socket(socket.AF_UNIX, kind) as left:
        left.bind(str(path))
    remove_stale(path)
    assert not path.exists()
    remove_stale(path)  # there is none


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_somebodys_stays_and_its_owner_sees_nothing(tmp_path: Path, kind: int, listens: bool) -> None:
    path = tmp_path / "line.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        other.setblocking(False)
        if listens and kind != socket.SOCK_DGRAM:
            other.listen(0)
        for _ in range(3):  # more than its queue has room for
            remove_stale(path)
        assert path.is_socket()
        if kind == socket.SOCK_DGRAM or listens:
            with pytest.raises(BlockingIOError):
                other.recv(1) if kind == socket.SOCK_DGRAM else other.accept()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    (tmp_path / "link").symlink_to(tmp_path / "left.sock")
    for name in ("file", "folder", "link"):
        remove_stale(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "left.sock", "link"]


def test_a_path_is_claimed_once_until_its_process_is_killed_and_nothing_is_made_there(tmp_path: Path) -> None:
    path = tmp_path / "tty"
    other = "import pathlib, hcall.kernel.claims; c = hcall.kernel.claims.claim(pathlib.Path('tty')); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", other], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(OSError, match="Address already in use") as error:
            claim(path)
        assert error.value.filename == str(path)
        process.kill()
    with claim(path), claim(tmp_path / "other"):
        assert not list(tmp_path.iterdir())
    claim(path).close()
