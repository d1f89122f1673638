"""Where the sockets are: what the user says goes before the environment, and nobody else's directory is trusted."""

from __future__ import annotations

import os
import socket as socket_module
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcall.rendezvous import CONTROL_SOCKET, GUEST_SOCKET, check_private, find, runtime_dir

UID = 54321


@pytest.mark.parametrize(
    ("environ", "uid", "path"),
    [
        ({}, 0, "/run/hostd"),
        ({}, UID, f"/tmp/hostd-{UID}"),
        ({"XDG_RUNTIME_DIR": "/run/user/9"}, UID, "/run/user/9/hostd"),
        ({"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/hostd"),
        ({"XDG_RUNTIME_DIR": ""}, UID, f"/tmp/hostd-{UID}"),
        ({"RUNTIME_DIRECTORY": "/run/mine", "XDG_RUNTIME_DIR": "/run/user/9"}, UID, "/run/mine"),
        ({"RUNTIME_DIRECTORY": "/run/mine"}, 0, "/run/mine"),
        ({"RUNTIME_DIRECTORY": "/run/first:/run/second"}, UID, "/run/first"),  # systemd.exec(5)
        ({"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "/run/user/9"}, UID, "/run/user/9/hostd"),
        ({"HOSTD_SOCKET": "/else/where"}, UID, f"/tmp/hostd-{UID}"),
    ],
)
def test_the_runtime_directory_is_the_nearest_that_is_named(environ: dict[str, str], uid: int, path: str) -> None:
    assert runtime_dir(environ, uid) == Path(path)


def test_the_user_is_who_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: UID)
    assert runtime_dir({}) == Path(f"/tmp/hostd-{UID}")


@pytest.mark.parametrize("socket", [GUEST_SOCKET, CONTROL_SOCKET])
@pytest.mark.parametrize("by", ["name", "variable", "name before variable"])
def test_a_socket_is_found_by_itself_its_directory_or_its_sibling(tmp_path: Path, socket: str, by: str) -> None:
    def found(path: Path) -> Path:
        if by == "name":
            return find(str(path), socket, {"XDG_RUNTIME_DIR": "/not/this"})
        if by == "variable":
            return find(None, socket, {"HOSTD_SOCKET": str(path), "RUNTIME_DIRECTORY": "/not/this"})
        return find(str(path), socket, {"HOSTD_SOCKET": "/not/this"})

    assert found(tmp_path) == tmp_path / socket
    for sibling in (GUEST_SOCKET, CONTROL_SOCKET):
        assert found(tmp_path / sibling) == tmp_path / socket
    assert found(tmp_path / "other.sock") == tmp_path / "other.sock"
    assert found(tmp_path / "not" / "there") == tmp_path / "not" / "there" / socket  # a directory that is still to come
    named = tmp_path / "named"
    with socket_module.socket(socket_module.AF_UNIX) as bound:
        bound.bind(str(named))
        assert found(named) == named


def test_a_directory_is_one_whatever_its_name(tmp_path: Path) -> None:
    directory = tmp_path / "my.sock"
    directory.mkdir()
    assert find(str(directory), GUEST_SOCKET, {}) == directory / GUEST_SOCKET


@pytest.mark.parametrize("named", [None, ""])
@pytest.mark.parametrize("environ", [{}, {"HOSTD_SOCKET": ""}])
def test_a_socket_that_nobody_names_is_in_the_runtime_directory(
    named: str | None, environ: dict[str, str], tmp_path: Path
) -> None:
    assert find(named, GUEST_SOCKET, {**environ, "RUNTIME_DIRECTORY": str(tmp_path)}) == tmp_path / GUEST_SOCKET


@pytest.fixture
def in_reach() -> Iterator[Path]:
    """A directory right under /tmp, where everybody can make one."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hostd-test-") as name:
        yield Path(name)


@pytest.mark.parametrize("mode", [0o700, 0o500, 0o701, 0o710, 0o704, 0o770, 0o777, 0o1777])
def test_a_directory_in_reach_of_all_must_be_closed_to_others(in_reach: Path, mode: int) -> None:
    in_reach.chmod(mode)
    if mode & 0o077 == 0:
        check_private(in_reach)
        assert find(None, GUEST_SOCKET, {"RUNTIME_DIRECTORY": str(in_reach)}) == in_reach / GUEST_SOCKET
    else:
        with pytest.raises(PermissionError, match=str(in_reach)):
            check_private(in_reach)
        with pytest.raises(PermissionError):
            find(None, GUEST_SOCKET, {"RUNTIME_DIRECTORY": str(in_reach)})
        assert find(str(in_reach), GUEST_SOCKET, {}) == in_reach / GUEST_SOCKET  # the user says so


def test_somebody_elses_directory_is_refused(in_reach: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(PermissionError, match="not yours"):
        check_private(in_reach)


def test_a_link_to_a_directory_of_ones_own_is_refused(in_reach: Path, tmp_path: Path) -> None:
    """Whoever made the link can point it elsewhere."""
    link = in_reach.with_name(in_reach.name + "-link")
    tmp_path.chmod(0o700)
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(PermissionError):
            check_private(link)
    finally:
        link.unlink()


def test_a_directory_out_of_reach_is_anybodys_who_writes_to_it_alone(
    in_reach: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    check_private(tmp_path, serving=True)
    tmp_path.chmod(0o775)
    check_private(tmp_path)  # a service's, whose user and group its administrator has chosen
    with pytest.raises(PermissionError, match="chmod go-w it"):
        check_private(tmp_path, serving=True)
    monkeypatch.setattr(os, "getuid", lambda: UID)
    check_private(tmp_path)
    if os.geteuid() == 0:  # whom everybody trusts
        os.chown(tmp_path, UID + 1, -1)
    check_private(tmp_path)
    with pytest.raises(PermissionError, match="not yours alone; name another"):
        check_private(tmp_path, serving=True)


@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize("mode", [0o777, 0o702, 0o1777])
def test_one_that_all_may_write_to_is_nobodys_however_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, serving: bool
) -> None:
    (directory := tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(directory)
    directory.chmod(mode)
    monkeypatch.chdir(directory)
    for name in (directory, ".", "../run", "../link", tmp_path / "run" / ".." / "run", "/tmp", "/tmp/."):
        with pytest.raises(PermissionError, match="not yours"):
            check_private(Path(name), serving)
    directory.chmod(0o700)
    for name in (directory, ".", "../run", "../link"):
        check_private(Path(name), serving)
    tmp_path.chmod(mode & ~0o1000)  # what is in it can be replaced
    for name in (directory, ".", "../run", tmp_path / "link"):
        with pytest.raises(PermissionError, match=f"everybody may write to {tmp_path}"):
            check_private(Path(name), serving)


def test_what_is_not_there_is_no_matter(in_reach: Path) -> None:
    check_private(in_reach / "not there")
    check_private(in_reach.with_name(in_reach.name + "-not-there"))
