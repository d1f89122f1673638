"""Who may ask what of the control socket: other users' connections, as the kernel tells them apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import PATIENCE
from users import ALICE, BOB, connect, needs_root

from hostd.machine.reload import Running
from hostd.service.serve import running

DEVICES = '[devices.keys]\nmodel = "hid"\n[devices.rng]\nmodel = "rng"\n'
CAROL, GROUP = BOB + 1, BOB + 2
ROLES = f"""
[control.look]
users = [{ALICE}]
[control.operate]
groups = [{GROUP}]
[control.load]
users = [{CAROL}]
"""
LOOK = [{"do": "ls"}, {"do": "tree"}, {"do": "status"}, {"do": "wait", "device": "rng"}]
OPERATE = [
    {"do": "act", "path": "keys"}, {"do": "trace"}, {"do": "plug", "path": "new", "config": {"model": "rng"}},
    {"do": "unplug", "path": "new"}, {"do": "reload"},
]  # fmt: skip
LOAD = [
    {"do": "plug", "path": "a", "config": {"model": "rng", "seed": "1"}},
    {"do": "plug", "path": "b", "config": {"model": "rng"}, "words": {"seed": "1"}},
    {"do": "plug", "path": "c", "config": {"model": "hostd.devices.rng:Rng"}},
    {"do": "plug", "path": "d", "config": {"model": "FILE"}},
]


@contextlib.asynccontextmanager
async def serving(folder: Path, roles: str) -> AsyncIterator[Running]:
    file = folder / "machine.toml"
    file.write_text(roles + DEVICES)
    (folder / "own.py").write_text('from hostd.device import Device\nclass Own(Device):\n    compatible = "test,own"\n')
    async with running(file, folder / "run") as served:
        (folder / "run").chmod(0o711)
        yield served


class Client:
    """A connection of some user to the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._writer.write(json.dumps(request).encode() + b"\n")
        return json.loads(await self.line())  # type: ignore[no-any-return]

    async def line(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self._reader.readline()


@contextlib.asynccontextmanager
async def of(served: Running, uid: int, gid: int | None = None) -> AsyncIterator[Client]:
    path = served.host.socket.with_name("control.sock")
    reader, writer = await asyncio.open_unix_connection(sock=connect(path, uid, gid))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def requests(folder: Path, *lists: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = json.dumps([each for some in lists for each in some])
    return json.loads(text.replace("FILE", f"{folder}/own.py"))  # type: ignore[no-any-return]


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid", "may", "may_not", "says"),
    [
        (ALICE, None, [LOOK], [OPERATE, LOAD], "your role here is look"),
        (BOB, GROUP, [LOOK, OPERATE], [LOAD], "your role here is operate"),
        (CAROL, None, [LOOK, OPERATE, LOAD], [], ""),
        (0, None, [LOOK, OPERATE, LOAD], [], ""),
    ],
    ids=["look", "operate", "load", "root"],
)
async def test_a_role_is_what_one_may_ask(
    tmp_path: Path, uid: int, gid: int | None, may: list[Any], may_not: list[Any], says: str
) -> None:
    async with serving(tmp_path, ROLES) as served:
        devices = set(served.host.tree.nodes)
        async with of(served, uid, gid) as client:
            for request in requests(tmp_path, *may_not):
                answer = await client.ask(request)
                needed = "load" if request in requests(tmp_path, LOAD) else "operate"
                assert answer == {
                    "error": f"{says}, and to {request['do']} takes {needed}: [control.{needed}] of the machine file "
                    "gives it (NOT_ALLOWED)", "code": 1,
                }  # fmt: skip
            assert set(served.host.tree.nodes) == devices
        for request in requests(tmp_path, *may):  # each on its own: nothing follows a trace
            async with of(served, uid, gid) as client:
                assert "ok" in await client.ask(request), request


@needs_root
async def test_who_has_no_role_is_told_so_and_hung_up_on(tmp_path: Path) -> None:
    async with serving(tmp_path, ROLES) as served, of(served, BOB) as client:
        answer = json.loads(await client.line())
        assert answer["code"] == 1 and answer["error"].startswith("you have no role here")
        assert await client.line() == b""


@needs_root
async def test_without_roles_nobody_else_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, "") as served:
        control = served.host.socket.with_name("control.sock")
        assert stat.S_IMODE(control.stat().st_mode) == 0o600
        with pytest.raises(PermissionError):
            connect(control, ALICE)
        control.chmod(0o666)
        async with of(served, ALICE) as client:
            assert "you have no role here" in json.loads(await client.line())["error"]


@needs_root
async def test_a_reload_gives_and_takes_roles(tmp_path: Path) -> None:
    """From those who are connected, too; the sockets are open to others as long as somebody else has one."""
    async with serving(tmp_path, ROLES) as served:
        control = served.host.socket.with_name("control.sock")
        async with of(served, ALICE) as alice, of(served, BOB, GROUP) as bob:
            assert "ok" in await bob.ask({"do": "trace"})
            (tmp_path / "machine.toml").write_text(f"[control.operate]\nusers = [{ALICE}]\n" + DEVICES)
            assert (await served.reloads.begin()).changed == ["control"]
            assert "ok" in await alice.ask({"do": "plug", "path": "new", "config": {"model": "rng"}})
            while await bob.line():
                pass
            (tmp_path / "machine.toml").write_text(DEVICES)
            await served.reloads.begin()
            assert "you have no role here" in (await alice.ask({"do": "ls"}))["error"]
            assert (stat.S_IMODE(control.stat().st_mode), stat.S_IMODE(served.host.socket.stat().st_mode)) == (
                0o600, 0o660,
            )  # fmt: skip


async def test_a_socket_that_nobody_else_comes_to_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, told in (("policy.a", "guest.sock"), ("control.look", "control.sock")):
        (tmp_path / "machine.toml").write_text(f"[{name}]\nusers = [{ALICE}]\n" + DEVICES)
        (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
        caplog.clear()
        async with running(tmp_path / "machine.toml", tmp_path / "run"):
            assert [line.getMessage() for line in caplog.records] == [
                f"nobody else comes to {tmp_path}/run/{told}, for whom the machine file has rules: "
                f"chmod a+x {tmp_path}/run"
            ]
