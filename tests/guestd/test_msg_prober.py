"""The prober of virtio-msg: what it finds on a bus, while devices come and go, and what it makes of a bus that lies."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

import guestd
import hostd
from guestd.memory import Ram
from guestd.probers import Found, Reach, msg
from hcall.errors import IoError
from hcall.formats import virtio_msg
from hcall.formats.virtio_msg import Body, DeviceEvent, DeviceInfo, Devices, GetDevices, GetNode, Node, Pong, StatusIs

MACHINE = """
[host]
msg = true
[devices."bus/one"]
model = "rng"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    return path


def expected(host: hostd.Host) -> list[Found]:
    there = [node for node in host.tree.root.walk() if node.device is not None]
    return [Found(node.handle, f"/msg:{number:04x}", f"msg:{number:04x}", node.compatible, node.ids)
            for number, node in enumerate(there, 1)]  # fmt: skip


async def test_it_finds_what_the_tree_has(machine: Path) -> None:
    async with hostd.serve(machine) as host, guestd.attach(host.socket, prober="msg") as guest:
        assert await guest.walk() == expected(host)
        assert sorted(await guest.bind_all()) == ["/msg:0001", "/msg:0002"]
        assert len(await guest.drivers["/msg:0002"].getrandom(16)) == 16  # type: ignore[attr-defined]


async def test_so_does_the_client_without_a_loop(machine: Path) -> None:
    def walk(socket: Path) -> list[Found]:
        with guestd.attach_blocking(socket, prober="msg") as guest:
            return guest.run(guest.walk())

    async with hostd.serve(machine) as host:
        assert await asyncio.to_thread(walk, host.socket) == expected(host)


async def test_a_machine_without_a_bus_says_how_it_would_have_one(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        with pytest.raises(FileNotFoundError, match=r"a machine has it by \[host\] msg = true"):
            await guest.walk("msg")


async def comes_and_goes(host: hostd.Host) -> None:
    """For ever: devices of which there are always some others."""
    for number in itertools.count():
        host.plug_table(f"goes{number}", {"model": "rng"})
        if number >= 20:
            await host.unplug(f"goes{number - 20}")
        await asyncio.sleep(0)


async def test_a_walk_misses_nothing_that_is_there_and_shows_nothing_twice(machine: Path) -> None:
    async with hostd.serve(machine) as host, guestd.attach(host.socket, prober="msg") as guest:
        for number in range(100):
            host.plug_table(f"stay{number}", {"model": "rng"})
        stays = {node.handle for node in host.tree.root.walk() if node.device is not None}
        await guest.walk()
        going = asyncio.ensure_future(comes_and_goes(host))
        try:
            for _ in range(20):
                found = [each.node for each in await guest.walk()]
                assert len(found) == len({*found}) and stays <= {*found}
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)


class Scripted:
    """A bus that answers what it is told to."""

    def __init__(self, answers: Callable[[Body], Sequence[Body]]) -> None:
        self._answers = answers
        self._waiting: deque[bytes] = deque()
        self.closed = False

    async def send(self, data: bytes) -> None:
        device, token, body = virtio_msg.decode(data)
        for answer in self._answers(body):
            is_event = virtio_msg.is_event(answer)
            self._waiting.append(virtio_msg.encode(answer, device, 0 if is_event else token))

    async def receive(self) -> bytes:
        if not self._waiting:
            raise TimeoutError
        return self._waiting.popleft()

    def close(self) -> None:
        self.closed = True


async def nothing(handle: int, number: int, *args: object) -> None:
    raise AssertionError("it makes no call of the core")


async def walk(answers: Callable[[Body], Sequence[Body]]) -> list[Found]:
    bus = Scripted(answers)
    try:
        return [found async for found in msg.probe(Reach(nothing, cast(Ram, None), lambda name: bus))]
    finally:
        assert bus.closed


def many(body: Body) -> Sequence[Body]:
    """Two windows with a gap, 300 devices each."""
    match body:
        case GetDevices(0, _):
            return [DeviceEvent(7, virtio_msg.READY), Devices(0, 64000, b"\xff" * 37 + b"\x0f")]
        case GetDevices(64000, _):
            return [Devices(64000, 0, b"\xff" * 37 + b"\x0f")]
        case GetNode(device):
            return [Node(device, device + 1, b"test,one\0test,two\0")]
        case _:
            return [DeviceInfo(0x1042, 0x1AF4, 64, 0)]


async def test_it_goes_on_where_the_bus_says() -> None:
    found = await walk(many)
    assert [each.node for each in found] == [*range(1, 301), *range(64001, 64301)]
    assert found[-1] == Found(64300, "/msg:fb2b", "msg:fb2b", ("test,one", "test,two"), (0x1AF4, 0x1042))


async def test_what_has_gone_meanwhile_is_left_out() -> None:
    found = await walk(lambda body: [Node(body.device, 0, b"")] if isinstance(body, GetNode) else many(body))
    assert found == []


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (lambda body: [Devices(8, 0, b"")], "asked for its devices from 0 on"),
        (lambda body: [Devices(0, 8, b"\x01" * 8)] if isinstance(body, GetDevices) else many(body), "round in circles"),
        (lambda body: [Pong(0)], "answers Pong"),
        (lambda body: [Devices(0, 0, b"\x02")] if isinstance(body, GetDevices) else [StatusIs(1)], "what device 1 is"),
        (lambda body: [DeviceEvent(1, 1)] * (1 << 18), "without end"),
    ],
)
async def test_a_bus_that_lies_is_told_from_one_that_does_not(
    answers: Callable[[Body], Sequence[Body]], why: str
) -> None:
    with pytest.raises(IoError, match=why):
        await walk(answers)


async def test_a_bus_that_says_nothing_is_not_waited_for_for_ever() -> None:
    with pytest.raises(TimeoutError):
        await walk(lambda body: [])
