"""The control socket: JSON lines over the real unix socket, right and wrong ones, from several clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from raw import attached

import guestd
import hostd
from hcall import numbers
from hostd import Machine
from hostd.commands.status import show_status
from hostd.devices.rng import Rng
from hostd.machine.file import DeviceSpec, MachineError

USAGE, NO_SUCH_DEVICE, BUSY, TIMED_OUT, BAD_CONFIGURATION = 2, 4, 5, 6, 78  # exit codes of the commands
LIMIT = 64 * 1024  # bytes of a line
Ask: TypeAlias = Callable[..., Awaitable[Any]]


class Client:
    """One connection to the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> dict[str, Any]:
        line = await self.reader.readline()
        assert line.endswith(b"\n"), line
        answer = json.loads(line)
        assert isinstance(answer, dict) and set(answer) in ({"ok"}, {"error", "code"})
        return answer

    async def raw(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line)
        return await self.answer()

    async def ask(self, do: str, **fields: object) -> Any:
        """What is in `ok`."""
        answer = await self.raw(json.dumps({"do": do, **fields}).encode() + b"\n")
        return answer["ok"]

    async def refused(self, do: str, **fields: object) -> tuple[int, str]:
        answer = await self.raw(json.dumps({"do": do, **fields}).encode() + b"\n")
        return answer["code"], answer["error"]


@contextlib.asynccontextmanager
async def connected(host: hostd.Host) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(host.socket.with_name("control.sock")))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def client(host: hostd.Host) -> AsyncIterator[Client]:
    async with connected(host) as client:
        yield client


async def test_ls_lists_devices_with_their_properties_and_who_has_them(host: hostd.Host, client: Client) -> None:
    async with guestd.attach(host.socket, name="tester") as guest:
        await guest.bind("disk")
        devices = {device["path"]: device for device in await client.ask("ls")}
        assert list(devices) == ["/rng", "/console", "/disk"]
        disk = devices["/disk"]
        assert (disk["name"], disk["model"], disk["shared"], disk["leaving"]) == ("disk", "block", False, False)
        assert disk["guests"] == ["tester"] and devices["/rng"]["guests"] == []
        assert disk["properties"]["capacity"] == 1 << 20 and disk["properties"]["compatible"] == ["hostd,block"]
        assert disk["handle"] == (await guest.found("disk")).node
        assert devices["/rng"]["shared"] is True


async def test_tree_nests_nodes_and_shows_those_without_a_device(client: Client) -> None:
    await client.ask("plug", path="/bus/slot/rng", config={"model": "rng"})
    tree = await client.ask("tree")
    assert (tree["path"], tree["model"]) == ("/", None)
    (bus,) = [child for child in tree["children"] if child["path"] == "/bus"]
    assert bus["model"] is None and bus["children"][0]["children"][0]["path"] == "/bus/slot/rng"


async def test_status_tells_of_the_machine_and_its_guests(host: hostd.Host, machine_file: Path, client: Client) -> None:
    async with guestd.attach(host.socket, name="tester", memory=1 << 20) as guest:
        await guest.bind("rng")
        status = await client.ask("status")
        assert (status["machine"], status["file"], status["pid"]) == ("test", str(machine_file), os.getpid())
        assert (status["socket"], status["epoch"], status["devices"]) == (str(host.socket), host.epoch, 3)
        assert status["spin"] is False and status["limits"]["slots"] == 64 and status["uptime"] >= 0
        (shown,) = status["guests"]
        (user,) = status["users"]
        assert user["uid"] == os.getuid() and user["has"] == shown["has"] and user["seconds"] >= 0
        memory = shown["memory"]
        assert shown["has"] == {
            "guests": 1, "descriptors": 3, "open devices": 1, "bytes of memory lent": memory,
            "bytes of memory lent without pages": memory,
        }  # fmt: skip
        assert shown["bytes"] > 0
        assert status["bounds"]["guests"] == {"total": 2048, "share": 1024, "one": 1, "limit": "[limits] guests"}
        assert (shown["name"], shown["uid"], shown["linked"]) == ("tester", os.getuid(), True)
        assert (shown["open"], shown["memory"]) == (["/rng"], 1 << 20)
        before = shown["calls"]
        await guest.nop()
        assert (await client.ask("status"))["guests"][0]["calls"] == before + 1
    await host.guests.wait_for(lambda: not host.guests.by_token)
    assert (await client.ask("status"))["guests"] == []


async def test_people_read_once_of_a_device_that_is_open_often(
    host: hostd.Host, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    async with attached(host) as guest:
        for _ in range(3):
            await guest.open("/rng")
        show_status(await client.ask("status"))
    assert "  /rng x 3\n" in capsys.readouterr().out


async def test_what_is_plugged_works_and_what_is_unplugged_is_gone(host: hostd.Host, client: Client) -> None:
    node = await client.ask("plug", path="bus/more", config={"model": "block", "path": "more.img", "create": "4K"})
    assert node["path"] == "/bus/more" and node["properties"]["capacity"] == 4096
    async with guestd.attach(host.socket) as guest:
        await guest["bus/more"].store(b"x" * 4096)
    assert Path(host.machine.file or "").with_name("more.img").read_bytes() == b"x" * 4096  # beside the machine file
    await host.guests.wait_for(lambda: not host.guests.by_token)
    assert await client.ask("unplug", path="/bus/more") == {"willing": True}
    assert await client.refused("unplug", path="/bus/more") == (
        NO_SUCH_DEVICE,
        "no node '/bus/more': `hostd ls` shows what there is",
    )
    assert await client.ask("unplug", path="bus") == {"willing": True}
    assert "/bus" not in [node["path"] for node in (await client.ask("tree"))["children"]]


@pytest.mark.parametrize(
    ("path", "config", "says"),
    [
        ("/rng", {"model": "rng"}, "there is a 'rng' already: unplug it first, or take another name"),
        ("/new", {"model": "blok"}, "did you mean 'block'"),
        ("/new", {"model": "rng", "size": 3}, "plug: devices.new.size: unknown key"),
        ("/new", {}, "block, console, "),
        ("", {"model": "rng"}, "no device name"),
        ("/a b", {"model": "rng"}, "no device name"),
        ("/new", {"model": "block", "path": "missing.img"}, "missing.img: No such file or directory"),
        ("/new", {"model": "block", "path": "a\0b"}, "null"),
    ],
)
async def test_a_plug_that_cannot_be_says_why_and_plugs_nothing(
    client: Client, path: str, config: dict[str, object], says: str
) -> None:
    before = await client.ask("tree")
    code, text = await client.refused("plug", path=path, config=config)
    assert code == (BUSY if "already" in says else BAD_CONFIGURATION) and says in text
    assert await client.ask("tree") == before


@pytest.mark.parametrize("path", ["bus/one", "bus/a/two", "bus/a/b/three"])
async def test_a_plug_below_what_leaves_may_be_tried_again(host: hostd.Host, client: Client, path: str) -> None:
    host.plug_table("bus/rng", {"model": "rng"})
    async with attached(host) as guest:
        handle, _ = await guest.open("/bus/rng")
        leaving = asyncio.create_task(host.unplug("bus"))
        await asyncio.sleep(0)
        assert await client.refused("plug", path=path, config={"model": "rng"}) == (
            BUSY, f"plug: devices.{path}: /bus is being unplugged: try again when it is gone"
        )  # fmt: skip
        await guest.core(numbers.CLOSE, handle)
        assert await leaving
    await client.ask("plug", path=path, config={"model": "rng"})
    await client.ask("unplug", path="bus")


async def test_unplug_asks_the_guest_and_a_surprise_does_not(host: hostd.Host, client: Client) -> None:
    async with guestd.attach(host.socket) as guest:
        await guest.bind("disk")  # this guest follows: it gives the device back when asked
        assert await client.ask("unplug", path="/disk") == {"willing": True}
        assert "/disk" not in guest.drivers
        console = (await guest.found("console")).node
        await guest.core(console, numbers.OPEN, 0)  # nobody follows this one
        assert await client.ask("unplug", path="/console", timeout=0) == {"willing": False}
        await guest.core((await guest.found("rng")).node, numbers.OPEN, 0)
        assert await client.ask("unplug", path="/rng", surprise=True) == {"willing": True}
        assert await client.ask("ls") == []
    assert await client.refused("unplug", path="/") == (NO_SUCH_DEVICE, "the root stays")


async def test_unplug_if_free_takes_no_device_that_a_guest_has_open(host: hostd.Host, client: Client) -> None:
    host.plug_table("bus/slot/more", {"model": "rng"})
    async with guestd.attach(host.socket, name="one") as one, guestd.attach(host.socket, name="two") as two:
        for guest in one, two:
            await guest.bind("bus/slot/more")
        for path in "/bus", "/bus/slot/more":
            for more in {}, {"surprise": True}:
                refused = await client.refused("unplug", path=path, if_free=True, **more)
                assert refused == (BUSY, "/bus/slot/more is in use by one, two")
        assert not host.tree.find("/bus").leaving and await two["bus/slot/more"].getrandom(4)  # nobody was asked
        assert await client.ask("unplug", path="/rng", if_free=True) == {"willing": True}
        for guest in one, two:
            await guest.unbind("bus/slot/more")
        assert await client.ask("unplug", path="/bus", if_free=True) == {"willing": True}


async def test_wait_returns_when_its_device_comes(host: hostd.Host, client: Client) -> None:
    async with connected(host) as waiter, connected(host) as other:
        waiting = [asyncio.ensure_future(each.ask("wait", device="/late")) for each in (waiter, other)]
        await client.ask("ls")  # a wait under way stops nobody
        assert not any(wait.done() for wait in waiting)
        await client.ask("plug", path="/late", config={"model": "rng"})
        assert await asyncio.gather(*waiting) == [True, True]


async def test_wait_returns_when_its_device_is_gone_and_not_while_it_leaves(host: hostd.Host, client: Client) -> None:
    async with guestd.attach(host.socket) as guest, connected(host) as unplugger, connected(host) as waiter:
        handle, *_ = await guest.core((await guest.found("disk")).node, numbers.OPEN, 0)
        leaves = asyncio.Event()
        host.tree.watchers["test"] = lambda *_: leaves.set()
        unplug = asyncio.ensure_future(unplugger.ask("unplug", path="/disk", timeout=60))
        await leaves.wait()
        assert [node["leaving"] for node in await client.ask("ls") if node["path"] == "/disk"] == [True]
        gone = asyncio.ensure_future(waiter.ask("wait", gone="/disk"))
        assert (await client.refused("wait", device="/disk", timeout=0))[0] == TIMED_OUT
        assert not gone.done()
        await guest.core(handle, numbers.CLOSE)
        assert await gone is True and await unplug == {"willing": True}


async def test_wait_returns_when_its_guest_comes(host: hostd.Host, client: Client) -> None:
    async with connected(host) as waiter:
        wait = asyncio.ensure_future(waiter.ask("wait", guest="somebody"))
        async with guestd.attach(host.socket, name="nobody"):
            await client.ask("ls")
            assert not wait.done()
            async with guestd.attach(host.socket, name="somebody"):
                assert await wait is True


@pytest.mark.parametrize("what", [{"device": "/none"}, {"gone": "/rng"}, {"guest": "nobody"}])
async def test_a_wait_ends_with_its_time(client: Client, what: dict[str, str]) -> None:
    assert (await client.refused("wait", **what, timeout=0))[0] == TIMED_OUT
    assert await client.ask("wait", device="/rng", gone="/none") is True


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"ls\n", "line 1"),
        (b"\n", "Expecting value"),
        (b'{"do": "ls"\n', "line "),
        (b'{"do": "\xff"}\n', "utf-8"),
        (b"[1, 2]\n", "VERB"),
        (b'{"verb": "ls"}\n', "VERB one of ls, tree, status, plug, unplug, act, wait"),
        (b'{"do": ' + b"1" * 5000 + b"}\n", "digits"),
        (b"[" * 10_000 + b"\n", "recursion"),
        (b'{"do": "lss"}\n', "VERB one of ls, tree, status, plug, unplug, act, wait"),
        (b'{"do": null}\n', "VERB"),
        (b'{"do": ["ls"]}\n', "VERB"),
        (b'{"do": {"ls": 1}}\n', "VERB"),
        (b'{"do": "ls", "all": true}\n', "all"),
        (b'{"do": "unplug"}\n', "path"),
        (b'{"do": "unplug", "path": 3}\n', "path"),
        (b'{"do": "unplug", "path": "/rng", "surprise": "yes"}\n', "surprise"),
        (b'{"do": "plug", "path": "/x", "config": []}\n', "config"),
        (b'{"do": "wait", "timeout": "long"}\n', "timeout"),
    ],
)
async def test_a_request_that_is_none_is_refused_and_the_next_one_served(
    client: Client, line: bytes, says: str
) -> None:
    answer = await client.raw(line)
    assert answer["code"] == USAGE and says in answer["error"], answer
    assert len(await client.ask("ls")) == 3


async def test_requests_in_one_write_are_answered_in_order(client: Client) -> None:
    client.writer.write(b'{"do": "ls"}\n{"do": "nothing"}\n{"do": "status"}\n')
    first, second, third = [await client.answer() for _ in range(3)]
    assert len(first["ok"]) == 3 and second["code"] == USAGE and third["ok"]["machine"] == "test"


async def test_a_request_may_come_byte_by_byte(client: Client) -> None:
    for byte in b'{"do": "ls"}\n':
        client.writer.write(bytes([byte]))
        await client.writer.drain()
    assert len((await client.answer())["ok"]) == 3


async def test_a_line_beyond_the_limit_ends_that_client_only(host: hostd.Host, client: Client) -> None:
    padded = b'{"do": "ls"}'.ljust(LIMIT - 1)
    assert len((await client.raw(padded + b"\n"))["ok"]) == 3
    async with connected(host) as talker:
        with contextlib.suppress(ConnectionError):  # it may be gone before all of it is sent
            talker.writer.write(b"x" * (2 * LIMIT + 1))
            await talker.writer.drain()
            answer = json.loads(await talker.reader.read())
            assert answer == {"error": f"a request has {LIMIT} bytes at most", "code": USAGE}
    assert len(await client.ask("ls")) == 3


@pytest.mark.parametrize("more", [0, 1, LIMIT, 10 * LIMIT, 100 * LIMIT])
async def test_whoever_says_too_much_is_told_so_and_hung_up_on(host: hostd.Host, more: int) -> None:
    def say() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(host.socket.with_name("control.sock")))
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(b"x" * (LIMIT + 1 + more))
            return b"".join(iter(partial(sock.recv, 4096), b""))

    assert b"at most" in await asyncio.to_thread(say)


@pytest.mark.parametrize(
    ("path", "says"), [("/".join("a" * 33), "32 names at most, not 33"), ("a/" * 3000 + "a", "32 names at most"),
                       ("a" * 60_000, "1 to 31 letters")],
)  # fmt: skip
async def test_a_path_that_is_too_deep_or_long_is_plugged_nowhere(
    host: hostd.Host, client: Client, path: str, says: str, machine_file: Path
) -> None:
    with machine_file.open("a") as file:
        file.write(f'[devices."{path}"]\nmodel = "rng"\n')
    for request in ({"do": "plug", "path": path, "config": {"model": "rng"}}, {"do": "reload"}):
        answer = await client.raw(json.dumps(request).encode() + b"\n")
        assert says in answer["error"] and len(answer["error"]) < 1000, answer
    with pytest.raises(MachineError, match=says):
        host.plug(DeviceSpec(path, "rng", Rng, {}))
    assert len(await client.ask("ls")) == 3 and len(host.tree.nodes) == 4


async def test_the_deepest_and_longest_path_is_as_any_other(host: hostd.Host, client: Client) -> None:
    for path in ("/".join("a" * 32), "/".join(["a" * 31] * 32)):
        await client.ask("plug", path=path, config={"model": "rng"})
        assert (await client.ask("ls"))[-1]["path"] == f"/{path}"
        await client.ask("tree")
        assert await client.ask("unplug", path=path.split("/")[0]) == {"willing": True}


INTERRUPTED = """
from hostd.device import Config, Device
class Parsed:
    @classmethod
    def parse(cls, text, folder):
        raise KeyboardInterrupt
class Rude(Device):
    compatible = "test,rude"
    WHERE
"""


@pytest.mark.parametrize(
    "where",
    [
        "key = Config(Parsed)",
        "def check_keys(self): raise KeyboardInterrupt",
        "raise KeyboardInterrupt",
        "def start(self): raise KeyboardInterrupt",
        "def __init__(self, **keys): raise KeyboardInterrupt",
    ],
)
async def test_a_model_that_says_it_was_interrupted_has_failed(
    host: hostd.Host, client: Client, tmp_path: Path, where: str
) -> None:
    (tmp_path / "rude.py").write_text(INTERRUPTED.replace("WHERE", where))
    request = {
        "do": "plug",
        "path": "rude",
        "config": {"model": "rude.py", **({"key": "x"} if "Config" in where else {})},
    }
    answer = await client.raw(json.dumps(request).encode() + b"\n")
    assert answer["code"] == BAD_CONFIGURATION and "KeyboardInterrupt" in answer["error"]
    assert len(await client.ask("ls")) == 3


async def test_half_a_line_and_a_hang_up_harm_nobody(host: hostd.Host, client: Client) -> None:
    for part in (b"", b'{"do": "unplug", "path": "/rng', b'{"do": "ls"}'):
        async with connected(host) as quitter:
            quitter.writer.write(part)
            await quitter.writer.drain()
    assert len(await client.ask("ls")) == 3


async def test_a_wait_ends_when_its_client_hangs_up(host: hostd.Host) -> None:
    before = asyncio.all_tasks()
    async with connected(host) as quitter, connected(host) as other:
        quitter.writer.write(b'{"do": "wait", "device": "/none"}\n')
        await other.ask("ls")
    while left := [task for task in asyncio.all_tasks() - before if "_client" in repr(task)]:
        _, pending = await asyncio.wait(left, timeout=1)
        assert not pending, "the wait holds its connection for ever"


async def test_the_end_of_the_host_ends_every_client(tmp_path: Path) -> None:
    async with hostd.serve(Machine(), tmp_path) as host:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
        waiter = Client(reader, writer)
        writer.write(b'{"do": "wait", "device": "/none"}\n')
        async with connected(host) as other:
            assert await other.ask("ls") == []
    assert await waiter.reader.read() == b""
    writer.close()
    await writer.wait_closed()


def test_the_control_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async def mode() -> int:
        async with hostd.serve(Machine(), tmp_path):
            return (tmp_path / "control.sock").stat().st_mode & 0o777

    assert asyncio.run(mode()) == 0o600
