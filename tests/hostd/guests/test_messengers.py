"""Guests of the bus of virtio-msg: they see and open what others of their user may, and do nobody any harm."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msg_peer import MsgPeer
from raw import LIVE, attached
from users import ALICE, BOB, connect, needs_root

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import DEVICES, READY, REMOVED, DeviceEvent
from hostd.calls.shares import DESCRIPTORS, GUESTS, OPENS
from hostd.guests.guests import UNREAD_SECONDS
from hostd.lanes.msg.answers import LEAVING
from hostd.machine.host import by_path
from hostd.service.serve import running
from hostd.tree.faces.msg import Numbers
from hostd.tree.node import Node

BUS = """
[host]
msg = true
[devices.rng]
model = "rng"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
[devices."bus/secret"]
model = "rng"
"""
FAR = 16 * 1024  # messages: more than a socket holds


@contextlib.asynccontextmanager
async def serving(folder: Path, more: str = "", clock: ManualClock | None = None) -> AsyncIterator[Any]:
    (folder / "machine.toml").write_text(more + BUS)
    async with running(folder / "machine.toml", folder / "run", clock=clock) as served:
        (folder / "run").chmod(0o711)
        yield served


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    """A host with a bus."""
    async with serving(tmp_path) as served:
        yield served.host


def path(host: hostd.Host) -> Path:
    return host.socket.with_name("msg.sock")


@contextlib.asynccontextmanager
async def peer(host: hostd.Host, uid: int | None = None) -> AsyncIterator[MsgPeer]:
    """One that is let in."""
    before = len(host.messengers.by_number)
    sock = None if uid is None else connect(path(host), uid, kind=socket.SOCK_SEQPACKET)
    with contextlib.closing(MsgPeer(path(host), sock)) as found:
        await found.fence()
        yield found
    await gone(host, before)


async def gone(host: hostd.Host, left: int = 0) -> None:
    """Until no more than those are here."""
    async with asyncio.timeout(3):
        await host.guests.wait_for(lambda: len(host.messengers.by_number) <= left)


async def number_of(found: MsgPeer, host: hostd.Host, at: str) -> int:
    """The device number of the node at that path."""
    for device in await found.devices():
        if (await found.ask(msg.GetNode(device), msg.Node)).handle == host.tree.find(at).handle:
            return device
    raise AssertionError(f"{at} is not there")


@pytest.mark.spec("MSG-1")
async def test_there_is_no_bus_unless_the_machine_file_wants_one(host: hostd.Host) -> None:
    assert not path(host).exists()


@pytest.mark.spec("MSG-6", "MSG-8")
async def test_devices_are_those_of_the_tree(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        nodes = [await found.ask(msg.GetNode(device), msg.Node) for device in await found.devices()]
        there = [node for node in bus.tree.root.walk() if node.device is not None]
        assert [(node.handle, node.compatible) for node in nodes] == [
            (node.handle, b"".join(name.encode() + b"\0" for name in node.compatible)) for node in there
        ]


@pytest.mark.spec("MSG-9")
async def test_the_configuration_is_the_properties(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        disk = await number_of(found, bus, "/disk")
        config = msgspec.msgpack.decode(await found.config(disk))
        assert config["compatible"] == ["hostd,block"] and config["capacity"] == 1 << 20
        assert await found.ask(msg.SetConfig(0, 0, b"x"), msg.ConfigSet, disk) == msg.ConfigSet(2, 0, b"")


@pytest.mark.spec("MSG-7")
async def test_come_and_go_is_told_and_a_number_is_not_used_again(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        before = await found.devices()
        bus.plug_table("extra", {"model": "rng"})
        event = await found.event(DeviceEvent)
        assert event.state == READY and event.device not in before
        assert await found.devices() == [*before, event.device]
        await bus.unplug("extra")
        assert await found.event(DeviceEvent) == DeviceEvent(event.device, REMOVED)
        assert await found.devices() == before
        bus.plug_table("extra", {"model": "rng"})
        assert (await found.event(DeviceEvent)).device not in [*before, event.device]


@pytest.mark.spec("MSG-7", "MSG-10")
async def test_who_has_a_device_open_is_asked_to_let_go_of_it(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        rng = await number_of(found, bus, "/rng")
        assert await found.set_status(rng, 1) == 1
        assert by_path(bus.openers()) == {"/rng": ["virtio-msg"]}
        leaving = asyncio.ensure_future(bus.unplug("/rng"))
        assert await found.event(DeviceEvent) == DeviceEvent(rng, LEAVING)
        assert await found.set_status(rng, 0) == 0
        assert await leaving
        assert await found.event(DeviceEvent) == DeviceEvent(rng, REMOVED)
        info = await found.ask(msg.GetDeviceInfo(), msg.DeviceInfo, rng)
        assert info == msg.DeviceInfo(0, 0, 0, 0)


async def test_a_surprise_does_not_ask(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        rng = await number_of(found, bus, "/rng")
        for status in LIVE:
            assert await found.set_status(rng, status) == status
        await bus.unplug("/rng", surprise=True)
        assert await found.event(DeviceEvent) == DeviceEvent(rng, REMOVED)
        found.send(msg.SetStatus(1), rng)  # of a device that is not there: no answer
        await found.fence()


@pytest.mark.spec("MSG-10")
async def test_a_device_has_one_driver_whichever_way_it_came(bus: hostd.Host) -> None:
    async with peer(bus) as found, attached(bus) as guest:
        disk = await number_of(found, bus, "/disk")
        node = bus.tree.find("/disk").handle
        assert await found.set_status(disk, 1) == 1
        status, _ = await guest.call(numbers.OPEN, node, 0)
        assert status == Status.BUSY
        assert await found.set_status(disk, 0) == 0
        status, opened = await guest.call(numbers.OPEN, node, 0)
        assert status == 0
        assert await found.set_status(disk, 1) == 0 == await found.status(disk)
        status, _ = await guest.call(numbers.CLOSE, opened[0])
        assert await found.set_status(disk, 1) == 1
    async with peer(bus) as found, attached(bus) as guest:  # the other one has hung up
        status, _ = await guest.call(numbers.OPEN, node, 0)
        assert status == 0


@pytest.mark.spec("MSG-9", "MSG-10")
async def test_what_changes_by_itself_is_told_to_who_has_it_open(bus: hostd.Host) -> None:
    async with peer(bus) as found, peer(bus) as other:
        disk = await number_of(found, bus, "/disk")
        await found.set_status(disk, 1)
        before = await found.ask(msg.GetConfig(0, 0), msg.Config, disk)
        device: Any = bus.tree.find("/disk").device
        device.capacity = 2 << 20
        event = await found.event(msg.ConfigChanged)
        assert event == msg.ConfigChanged(1, before.generation + 1, 0, b"")
        assert msgspec.msgpack.decode(await found.config(disk))["capacity"] == 2 << 20
        plugged = bus.tree.find("/disk").plugged
        assert plugged is not None
        plugged.fail()
        assert (await found.event(msg.ConfigChanged)).status == 1 | 64
        await found.set_status(disk, 0)
        device.capacity = 1 << 20
        await found.fence()
        await other.fence()
        assert not found.events and not other.events and not plugged.watchers


@pytest.mark.spec("MSG-13")
async def test_a_device_has_no_queues(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        for device in await found.devices():
            assert (await found.ask(msg.GetDeviceInfo(), msg.DeviceInfo, device)).queues == 0
            assert await found.ask(msg.GetQueue(3), msg.Queue, device) == msg.Queue(3, 0, 0, 0, 0, 0)
            assert await found.ask(msg.SetQueue(3, 64, 4096, 8192, 12288), msg.QueueSet, device) == ()
            assert await found.ask(msg.ResetQueue(3), msg.QueueReset, device) == ()
            assert await found.ask(msg.GetQueue(3), msg.Queue, device) == msg.Queue(3, 0, 0, 0, 0, 0)
            assert await found.ask(msg.GetShm(1), msg.Shm, device) == msg.Shm(1, 0, 0)
            found.send(msg.Available(3, 0), device)
            await found.fence()


@needs_root
@pytest.mark.spec("MSG-11")
async def test_what_a_policy_hides_is_not_there(tmp_path: Path) -> None:
    policy = f"[policy.alice]\nusers = [{ALICE}]\nopen = ['rng']\nsee = ['disk']\n"
    async with serving(tmp_path, policy) as served:
        host: hostd.Host = served.host
        async with peer(host) as root, peer(host, ALICE) as alice:
            every = await root.devices()
            secret = await number_of(root, host, "/bus/secret")
            rng, disk = await number_of(root, host, "/rng"), await number_of(root, host, "/disk")
            assert await alice.devices() == [each for each in every if each != secret]
            info = await alice.ask(msg.GetDeviceInfo(), msg.DeviceInfo, secret)
            assert info == await alice.ask(msg.GetDeviceInfo(), msg.DeviceInfo, 999)
            assert (await alice.ask(msg.GetNode(secret), msg.Node)).handle == 0
            for body in (msg.GetStatus(), msg.SetStatus(1), msg.GetConfig(0, 1), msg.GetFeatures(0, 1)):
                alice.send(body, secret)
            await alice.fence()
            assert await alice.set_status(disk, 1) == 0  # to see, not to open
            assert await alice.set_status(rng, 1) == 1
            host.plug_table("bus/other", {"model": "rng"})
            await root.event(DeviceEvent)
            await alice.fence()
            assert not alice.events

            (tmp_path / "machine.toml").write_text(policy.replace("'rng'", "'bus'").replace("'disk'", "'disk*'") + BUS)
            await served.reloads.begin()
            told = {(await alice.event(DeviceEvent)) for _ in range(3)}
            other = await number_of(root, host, "/bus/other")
            assert told == {DeviceEvent(rng, REMOVED), DeviceEvent(secret, READY), DeviceEvent(other, READY)}
            assert by_path(host.openers()) == {}
            (tmp_path / "machine.toml").write_text(BUS)
            await served.reloads.begin()
            assert await alice.receive() is None


@needs_root
@pytest.mark.spec("MSG-11")
async def test_a_user_without_a_rule_does_not_come_in(tmp_path: Path) -> None:
    async with serving(tmp_path, f"[policy.alice]\nusers = [{ALICE}]\nopen = ['rng']\n") as served:
        with contextlib.closing(MsgPeer(Path(), connect(path(served.host), BOB, kind=socket.SOCK_SEQPACKET))) as bob:
            assert await bob.receive() is None
        assert not served.host.messengers.by_number


@pytest.mark.spec("MSG-12")
async def test_they_count_as_guests_of_their_user_and_their_devices_too(tmp_path: Path) -> None:
    async with serving(tmp_path, "[limits]\nguests = 2\nshare = 100\nopens = 1024\n") as served:
        host: hostd.Host = served.host
        async with peer(host) as found, peer(host):
            await found.set_status((await found.devices())[0], 1)
            used = host.guests.shares.used
            assert (used[GUESTS], used[DESCRIPTORS], used[OPENS]) == (2, 2, 1)
            with contextlib.closing(MsgPeer(path(host))) as third:
                assert await third.receive() is None
        assert not +host.guests.shares.used


@pytest.mark.spec("MSG-12")
async def test_who_does_not_read_is_not_read_from_and_goes_on_when_it_does(bus: hostd.Host) -> None:
    async with peer(bus) as found, peer(bus) as other:
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                found.send(msg.Ping(sent))
                sent += 1
                if sent % 64 == 0:
                    await other.fence()
        assert 64 < sent < FAR
        (first, *_) = bus.messengers.by_number.values()
        assert first.link is not None and first.link.full_since is not None
        await other.fence()
        for number in range(sent):
            assert (await found.answer()).body == msg.Pong(number)
        await found.fence()
        assert first.link.full_since is None


@pytest.mark.spec("MSG-12")
async def test_who_does_not_read_for_long_is_cut_off(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock) as served:
        host: hostd.Host = served.host
        async with peer(host) as other, peer(host) as found:
            with contextlib.suppress(BlockingIOError):
                for sent in range(FAR):
                    found.send(msg.Ping(sent))
                    if sent % 64 == 0:
                        await other.fence()
            for _ in range(int(UNREAD_SECONDS) + 2):
                assert len(host.messengers.by_number) == 2
                clock.turn(1.0)
                await other.fence()
                if len(host.messengers.by_number) == 1:
                    break
            await gone(host, 1)


@pytest.mark.spec("MSG-12")
async def test_who_does_not_read_events_is_cut_off(bus: hostd.Host) -> None:
    async with peer(bus) as found, peer(bus) as other:
        device = (await found.devices())[0]
        (first, *_) = bus.messengers.by_number.values()
        count = 0
        while first.number in bus.messengers.by_number:
            for _ in range(64):
                first.send(DeviceEvent(device, READY))
                count += 1
            await other.fence()
            assert count < 4 * FAR
        assert count > 1024
        await gone(bus, 1)


@pytest.mark.spec("MSG-2")
async def test_an_empty_datagram_is_no_end(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        found.sock.send(b"")
        await found.fence()


async def test_a_watchdog_ends_its_guest_here_too(bus: hostd.Host) -> None:
    async with peer(bus) as found:
        (number,) = bus.messengers.by_number
        node = bus.tree.find("/rng")
        assert node.plugged is not None
        await found.set_status(await number_of(found, bus, "/rng"), 1)
        ender = node.plugged.ender()
        assert ender.guests == (number,) and not ender.is_idle
        ender("it is time")
        assert await found.receive() is None
        assert ender.is_idle


def node(handle: int) -> Node:
    return Node(f"n{handle}", handle, None)


@given(st.lists(st.booleans(), max_size=50))
def test_a_number_stands_for_one_node_as_long_as_it_is_there(steps: list[bool]) -> None:
    faced, there, used = Numbers(), dict[int, Node](), list[int]()
    for handle, comes in enumerate(steps, 1):
        if comes or not there:
            each = node(handle)
            number = faced.add(each)
            assert number is not None and number not in used and faced.add(each) == number
            there[number] = each
            used.append(number)
        else:
            number, each = there.popitem()
            each.gone = True
            assert faced.node(number) is None and faced.window(0, 64, None) == bits(there)
            faced.remove(each)
        assert {number: faced.node(number) for number in used} == {number: there.get(number) for number in used}
        assert faced.window(0, 64, None) == bits(there)
        last = max(there, default=0)
        assert faced.after(0) == (min(there) // 8 * 8 if there and min(there) >= 8 else 0)
        assert faced.after(last // 8 * 8 + 8) == 0


def bits(there: dict[int, Node]) -> bytes:
    return sum(1 << number for number in there).to_bytes(8, "little")


def test_a_number_comes_again_when_all_others_have_been_used() -> None:
    faced = Numbers()
    nodes = [node(handle) for handle in range(1, DEVICES)]
    assert [faced.add(each) for each in nodes] == list(range(1, DEVICES))
    assert faced.add(node(DEVICES)) is None
    for each in (nodes[5], nodes[3]):
        faced.remove(each)
    assert [faced.add(node(DEVICES + n)) for n in range(3)] == [6, 4, None]
