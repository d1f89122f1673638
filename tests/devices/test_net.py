"""The fast network with its driver: batches through a switch, what a hostile guest writes, and what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.bus.device import OpenDevice
from guestd.driver import Buffer
from guestd.drivers.net import NetDriver
from hcall.clock import Clock, ManualClock
from hcall.errors import BadArgument, WouldBlock
from hcall.formats.frames import MAX_BATCH, MAX_FRAMES, format_mac
from hostd import Machine, MachineError
from hostd.devices.net import Net

A, B, C = (bytes.fromhex(f"0200000000{n:02x}") for n in (1, 2, 3))
EVERYBODY = b"\xff" * 6
QUEUE = 8 << 20  # bytes that wait for a guest


def frame(destination: bytes, source: bytes, payload: bytes = b"hello") -> bytes:
    return destination + source + b"\x88\xb5" + payload  # the EtherType for experiments (IEEE 802)


def batch(frames: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in frames)


def machine(folder: Path, **devices: dict[str, object]) -> Machine:
    tables = {name: {"model": "net", **keys} for name, keys in devices.items()}
    return Machine.from_tables({"devices": tables}, folder)


@contextlib.asynccontextmanager
async def bound(host: hostd.Host, *names: str) -> AsyncIterator[list[NetDriver]]:
    """The drivers of *names*, each in a guest of its own."""
    async with contextlib.AsyncExitStack() as stack:
        drivers = []
        for name in names:
            guest = await stack.enter_async_context(guestd.attach(host.socket))
            driver = await guest.bind(name)
            assert isinstance(driver, NetDriver)
            drivers.append(driver)
        yield drivers


@contextlib.asynccontextmanager
async def net(
    folder: Path, names: str = "ab", clock: Clock | None = None, **keys: object
) -> AsyncIterator[list[NetDriver]]:
    """One driver for each letter of *names*, each in a guest of its own, all on one switch."""
    devices = {name: {"mac": format_mac(globals()[name.upper()]), **keys} for name in names}
    async with hostd.serve(machine(folder, **devices), folder / "run", clock) as host, bound(host, *names) as drivers:
        yield drivers


@pytest.mark.spec("NET-1", "NET-3")
async def test_frames_come_as_they_went_and_in_their_order(tmp_path: Path) -> None:
    sent = [frame(B, A, bytes([n % 256]) * (n * 7 % 1500)) for n in range(2000)]
    async with net(tmp_path) as (a, b):
        assert (a.mac, b.mac, a.mtu) == (A, B, 1500)
        got: list[bytes] = []
        for start in range(0, len(sent), 500):
            await a.send(sent[start : start + 500])
            while len(got) < start + 500:
                got += await b.receive()
        assert got == sent
        with pytest.raises(WouldBlock):
            await a.poll()  # nothing comes back to who sent it
        size = sum(map(len, sent))
        assert (await a.statistics())[3:] == (2000, size, 0)
        assert (await b.statistics())[:3] == (2000, size, 0)


async def everything(driver: NetDriver, count: int) -> list[bytes]:
    """The next *count* frames."""
    got: list[bytes] = []
    while len(got) < count:
        got += await driver.receive()
    return got


async def write(driver: NetDriver, data: bytes) -> int:
    """A batch as it stands, through guest memory."""
    with driver.dev.ram.alloc(len(data)) as buffer:
        buffer.view[:] = data
        return await driver.write_from(buffer)


async def read(driver: NetDriver, room: int) -> bytes:
    with driver.dev.ram.alloc(room) as buffer:
        return bytes(buffer.view[: await driver.read_into(buffer.part(0, room))])


@pytest.mark.spec("NET-4")
async def test_a_receiver_waits_until_a_frame_comes(tmp_path: Path) -> None:
    async with net(tmp_path) as (a, b):
        waiting = asyncio.ensure_future(b.receive())
        await b.link_up()  # an answer: what was called before it has been looked at, too
        assert not waiting.done()
        await a.send([frame(B, A)])
        assert await waiting == [frame(B, A)]


async def test_a_receiver_that_gives_up_loses_nothing(tmp_path: Path) -> None:
    async with net(tmp_path) as (a, b):
        for number in range(20):
            waiting = asyncio.ensure_future(b.receive())
            for _ in range(number):
                await asyncio.sleep(0)
            if number % 2:
                await a.send([frame(EVERYBODY, A, b"%d" % number)])
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        await a.send([frame(EVERYBODY, A, b"last")])
        got: list[bytes] = []
        while not got or got[-1] != frame(EVERYBODY, A, b"last"):
            got += await b.receive()


async def test_a_guest_without_memory_reads_when_it_has_some(tmp_path: Path) -> None:
    async with net(tmp_path) as (a, b):
        await a.send([frame(B, A)])
        taken: list[Buffer] = []
        with contextlib.suppress(MemoryError):
            while True:
                taken.append(b.dev.ram.alloc(MAX_BATCH))
        with pytest.raises(MemoryError):
            await b.receive()
        taken.pop().free()
        assert await b.receive() == [frame(B, A)]


async def test_broadcasts_reach_all_and_unicast_only_the_one(tmp_path: Path) -> None:
    async with net(tmp_path, "abc") as (a, b, c):
        await b.send([frame(EVERYBODY, B)])
        assert await everything(a, 1) == await everything(c, 1) == [frame(EVERYBODY, B)]
        await a.send([frame(B, A)])
        assert await everything(b, 1) == [frame(B, A)]
        assert (await c.statistics()).rx_frames == 1


async def test_borrowed_frames_are_gone_at_the_end_of_the_with(tmp_path: Path) -> None:
    async with net(tmp_path) as (a, b):
        await a.send([frame(B, A, b"one"), frame(B, A, b"two")])
        with await b.borrow() as frames:
            assert [bytes(each) for each in frames] == [frame(B, A, b"one"), frame(B, A, b"two")]
            kept = frames[0]
        with pytest.raises(ValueError, match="released"):
            bytes(kept)


@pytest.mark.spec("NET-3")
async def test_a_batch_that_is_read_in_small_rooms_comes_in_whole_frames(tmp_path: Path) -> None:
    sent = [frame(B, A, bytes([n]) * 986) for n in range(10)]  # 1,004 bytes with the length
    async with net(tmp_path) as (a, b):
        await a.send(sent)
        assert await read(b, 2500) == batch(sent[:2])
        assert await b.read(1004) == batch(sent[2:3])  # within the message
        for room in (0, 1003):
            with pytest.raises(BadArgument, match="does not fit"):
                await read(b, room) if room else await b.read(0)
        assert await read(b, 65536) == batch(sent[3:])
        with pytest.raises(WouldBlock):
            await read(b, 65536)


@pytest.mark.spec("NET-2")
async def test_the_longest_frames_pass(tmp_path: Path) -> None:
    sent = [frame(B, A, bytes([n]) * 65_535) for n in range(3)]
    async with net(tmp_path, mtu=65_535) as (a, b):
        assert (a.mtu, a.max_frame) == (65_535, 65_553)
        await a.send(sent)
        assert await everything(b, 3) == sent


async def test_more_than_a_batch_goes_in_several(tmp_path: Path) -> None:
    sent = [frame(B, A, n.to_bytes(4, "big") * 200) for n in range(MAX_FRAMES + 100)]
    async with net(tmp_path) as (a, b):
        await a.send(sent)
        assert await everything(b, len(sent)) == sent


WRONG = {
    "a length of nothing": struct.pack("<I", 0) + bytes(14),
    "a length below a header": struct.pack("<I", 13) + bytes(13),
    "a length above the MTU": batch([bytes(1519)]),
    "a length behind the end": struct.pack("<I", 60) + bytes(59),
    "a length without end": struct.pack("<I", 0xFFFF_FFFF) + bytes(60),
    "half a length": b"\x0e\0",
    "a length and nothing else": struct.pack("<I", 60),
    "too many frames": batch([frame(B, A, b"")] * (MAX_FRAMES + 1)),
    "too many bytes": batch([frame(B, A, bytes(1486))] * (MAX_BATCH // 1504 + 1)),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
@pytest.mark.spec("NET-1", "NET-2")
async def test_a_corrupt_batch_is_refused_whole_and_harms_nothing(tmp_path: Path, data: bytes) -> None:
    good = batch([frame(B, A, b"good")])
    async with net(tmp_path) as (a, b):
        for wrong in (data, good + data):
            with pytest.raises(BadArgument):
                await write(a, wrong)
        await a.send([frame(B, A, b"after")])
        assert await everything(b, 1) == [frame(B, A, b"after")]
        assert (await a.statistics()).tx_frames == 1


@pytest.mark.spec("NET-1")
async def test_a_batch_of_nothing_is_nothing(tmp_path: Path) -> None:
    async with net(tmp_path, "a") as (a,):
        assert await a.write(b"") == 0
        await a.send([])
        assert await a.statistics() == (0,) * 6


@pytest.mark.spec("NET-5")
async def test_what_nobody_reads_is_dropped_and_counted_and_holds_up_nobody(tmp_path: Path) -> None:
    sent = [frame(EVERYBODY, A, n.to_bytes(4, "big") * 371) for n in range(3 * QUEUE // 1502)]
    async with net(tmp_path, "abc") as (a, b, c):
        got: list[bytes] = []
        for start in range(0, len(sent), 500):
            await a.send(sent[start : start + 500])
            got += await everything(c, len(sent[start : start + 500]))
        assert got == sent
        there = await b.statistics()
        assert there.rx_frames + there.rx_dropped == len(sent)
        assert QUEUE - 1502 < there.rx_frames * 1502 <= QUEUE  # each has 1,498 bytes, and 4 for its length
        assert await everything(b, there.rx_frames) == sent[: there.rx_frames]
        await a.send(sent[:1])
        assert await everything(b, 1) == sent[:1]


@pytest.mark.spec("NET-6")
async def test_a_guest_gets_nothing_of_the_one_before(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run") as host, bound(host, "a") as (a,):
        async with bound(host, "b"):
            await a.send([frame(EVERYBODY, A, b"for the first")])
        await a.send([frame(EVERYBODY, A, b"for nobody")])
        async with bound(host, "b") as (b,):
            assert await b.statistics() == (0,) * 6
            await a.send([frame(EVERYBODY, A, b"for the second")])
            assert await b.receive() == [frame(EVERYBODY, A, b"for the second")]


async def test_a_guest_that_dies_with_a_full_card_leaves_it_usable(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run") as host, bound(host, "a") as (a,):
        async with guestd.attach(host.socket) as guest:
            await guest.bind("b")
            await a.send([frame(EVERYBODY, A, bytes(1000))] * 3000)
            await guest.grow(1 << 20)  # the last that is heard of it: it does not give the card back
        async with bound(host, "b") as (b,):
            await a.send([frame(B, A)])
            assert await b.receive() == [frame(B, A)]


async def test_cards_of_other_switches_and_of_other_hosts_are_not_reached(tmp_path: Path) -> None:
    clock = ManualClock()  # of both hosts
    one = machine(tmp_path, a={}, b={"switch": "dmz"}, c={})
    async with (
        hostd.serve(one, tmp_path / "run1", clock) as host, bound(host, "a", "b", "c") as (a, b, c),
        hostd.serve(one, tmp_path / "run2", clock) as other, bound(other, "a") as (stranger,),
    ):  # fmt: skip
        await a.send([frame(EVERYBODY, A)])
        assert await c.receive() == [frame(EVERYBODY, A)]
        assert (await b.statistics()).rx_frames == (await stranger.statistics()).rx_frames == 0


async def test_cards_come_and_go(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}), tmp_path / "run") as host, bound(host, "a") as (a,):
        for _ in range(2):
            host.plug_table("b", {"model": "net"})
            async with bound(host, "b") as (b,):
                await a.send([frame(B, A)])
                assert await b.receive() == [frame(B, A)]
            await host.unplug("b")
        await a.send([frame(B, A)])
        assert (await a.statistics()).tx_frames == 3


@pytest.mark.spec("NET-6", "NET-7")
async def test_a_cable_is_pulled_and_plugged_in_again(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run") as host, bound(host, "a", "b") as (a, b):
        card = host.tree.find("a").device
        assert isinstance(card, Net)
        assert await a.link_up()
        card.set_link(False)
        await a.link_changed.wait()
        assert not await a.link_up()
        await a.send([frame(EVERYBODY, A)])
        await b.send([frame(EVERYBODY, B)])
        assert (await a.statistics(), (await b.statistics()).rx_frames) == ((0, 0, 0, 0, 0, 1), 0)
        card.set_link(True)
        await a.link_changed.wait()
        await a.send([frame(EVERYBODY, A)])
        assert await b.receive() == [frame(EVERYBODY, A)]


async def test_an_address_is_forgotten_as_time_goes_on(tmp_path: Path) -> None:
    clock = ManualClock()
    async with net(tmp_path, "abc", clock) as (a, b, c):
        await b.send([frame(EVERYBODY, B)])
        await a.send([frame(B, A)])
        clock.turn(301)
        await a.send([frame(B, A)])
        assert await everything(b, 2) == [frame(B, A)] * 2
        assert await everything(c, 2) == [frame(EVERYBODY, B), frame(B, A)]


def test_the_blocking_client_sends_and_receives(tmp_path: Path) -> None:
    served, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run"):
            served.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert served.wait(10)
        with guestd.attach_blocking(tmp_path / "run") as guest, guestd.attach_blocking(tmp_path / "run") as other:
            guest.bind("a")
            other.bind("b")  # its link is up from here on
            sent = [frame(B, A, b"%d" % n) for n in range(100)]
            guest["a"].send(sent)
            assert other["b"].receive() == sent
    finally:
        over.set()
        thread.join()


async def test_a_card_without_an_address_gets_a_local_one_of_its_own(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run") as host, bound(host, "a", "b") as (a, b):
        for address in (a.mac, b.mac):
            assert address[0] & 3 == 2  # locally administered, of one card (IEEE 802, 8.4)
        assert a.mac != b.mac


@pytest.mark.parametrize(
    ("keys", "said"),
    [({"mac": "nonsense"}, "no MAC address"), ({"mac": "01:00:5e:00:00:01"}, "one card"), ({"tap": "a/b"}, "interface"),
     ({"mtu": 67}, "68 to 65535"), ({"mtu": 65_536}, "68 to 65535")],
)  # fmt: skip
async def test_keys_that_cannot_be_are_refused(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    with pytest.raises(MachineError, match=said):
        async with hostd.serve(machine(tmp_path, a=keys), tmp_path / "run"):
            pass


async def test_a_card_that_its_driver_resets_is_as_new(tmp_path: Path) -> None:
    async with net(tmp_path) as (a, b):
        await a.send([frame(EVERYBODY, A, b"before")])
        assert isinstance(b.dev, OpenDevice)
        await b.dev.negotiate(())
        assert await b.statistics() == (0,) * 6
        await a.send([frame(EVERYBODY, A, b"after")])
        assert await b.receive() == [frame(EVERYBODY, A, b"after")]


async def test_many_small_frames_to_many_cards_are_sent_in_parts_and_all_come(tmp_path: Path) -> None:
    names = "bcdefghi"
    devices: dict[str, dict[str, object]] = {name: {} for name in f"a{names}"}
    async with (
        hostd.serve(machine(tmp_path, **devices), tmp_path / "run") as host,
        bound(host, "a", *names) as (a, *others),
    ):
        sent = [frame(EVERYBODY, n.to_bytes(6, "big"), b"") for n in range(0, 2 * MAX_FRAMES, 2)]
        writing = asyncio.ensure_future(a.send(sent))
        await asyncio.sleep(0)  # it is on its way
        await a.link_up()  # came behind it
        assert not writing.done()
        await writing
        for other in others:
            assert await everything(other, MAX_FRAMES) == sent


async def test_what_waits_is_few_things_however_small_the_frames(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, a={}, b={}), tmp_path / "run") as host, bound(host, "a", "b") as (a, b):
        sent = [frame(EVERYBODY, n.to_bytes(6, "big"), b"") for n in range(0, 2 * MAX_FRAMES, 2)]
        for _ in range(4):
            await a.send(sent)
        device = host.tree.find("/b").device
        assert isinstance(device, Net) and len(device._queue) < 10
        assert await everything(b, 4 * MAX_FRAMES) == sent * 4
