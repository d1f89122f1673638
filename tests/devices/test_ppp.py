"""The slow network: model and driver together, and what stands behind the link."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from moving import until

import guestd
import hostd
from guestd.drivers.ppp import PppDriver
from hcall.clock import Clock, ManualClock
from hcall.errors import BadArgument, IoError, NotAllowed, WouldBlock
from hcall.formats import hdlc, ipv4
from hcall.formats.ppp_control import Code, Packet
from hostd import Machine
from hostd.devices.ppp import Ppp

HOST, GUEST = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
SECONDS = 20  # after which a test says that something hangs
DROPPED = "dropped"


@contextlib.asynccontextmanager
async def served(folder: Path, clock: Clock | None = None, **devices: dict[str, Any]) -> AsyncIterator[hostd.Host]:
    tables = {name: {"model": "ppp", **keys} for name, keys in (devices or {"ppp": {}}).items()}
    async with hostd.serve(Machine.from_tables({"devices": tables}, folder), folder / "run", clock) as host:
        async with asyncio.timeout(SECONDS):
            yield host


@contextlib.asynccontextmanager
async def bound(
    host: hostd.Host, name: str = "ppp", clock: Clock | None = None
) -> AsyncIterator[tuple[guestd.AsyncGuest, PppDriver]]:
    async with guestd.attach(host.socket, clock=clock, drivers=[PppDriver]) as guest:
        driver = await guest.bind(name)
        assert isinstance(driver, PppDriver)
        yield guest, driver


def ping(number: int = 1, data: bytes = b"hello", source: IPv4Address = GUEST, to: IPv4Address = HOST) -> bytes:
    return ipv4.echo_request(source, to, 7, number, data)


async def answer(driver: PppDriver, request: bytes) -> bytes:
    await driver.send(request)
    return await driver.receive()


@pytest.mark.spec("PPP-2", "PPP-3")
async def test_a_guest_gets_an_address_and_pings_the_host(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as (_, driver):
        assert (await driver.dev.property("state"), await driver.dev.property("addresses")) == ("establish", ())
        assert await driver.up() == ("10.0.0.2", "10.0.0.1")
        await driver.link_up.wait()
        assert await driver.dev.property("state") == "open"
        assert await driver.dev.property("addresses") == ("10.0.0.1", "10.0.0.2")
        reply = ipv4.Packet.decode(await answer(driver, ping(data=b"x" * 1000)))
        assert reply is not None and (reply.source, reply.destination) == (HOST, GUEST)
        assert reply.payload[:2] == b"\0\0" and reply.payload[4:] == b"\0\x07\0\x01" + b"x" * 1000
        assert await driver.up() == ("10.0.0.2", "10.0.0.1")  # it is already
        await driver.down()
        await driver.link_down.wait()
        assert await driver.dev.property("addresses") == ()


async def test_what_comes_is_heard_while_a_timer_runs(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host, clock=ManualClock()) as (guest, driver):
        line, (there,) = host.tree.find("/ppp").device, host.guests.by_token.values()
        assert isinstance(line, Ppp)
        line.set_link(up=False)
        rising = asyncio.create_task(driver.up())
        for _ in range(5):
            await guest.nop()
        calls = there.lane.session.calls
        line.set_link(up=True)  # and says so, while the guest's clock stands still
        await until(lambda: there.lane.session.calls > calls)
        rising.cancel()
        await asyncio.wait({rising})


async def test_two_who_receive_get_a_packet_each(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host, clock=ManualClock()) as (_, driver):
        await driver.up()
        receiving = [asyncio.create_task(driver.receive()) for _ in range(3)]
        await driver.dev.property("state")
        for n in range(3):
            await driver.send(ping(n))
        numbers = [int.from_bytes(packet[-7:-5], "big") for packet in await asyncio.gather(*receiving)]
        assert sorted(numbers) == [0, 1, 2]


async def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    def blocking(host: hostd.Host) -> tuple[Any, bytes]:
        with guestd.attach_blocking(host.socket, drivers=[PppDriver]) as guest:
            line = guest["ppp"]
            addresses = line.up()
            line.send(ping())
            reply = line.receive()
            line.down()
            return addresses, reply

    async with served(tmp_path) as host:
        addresses, reply = await asyncio.to_thread(blocking, host)
        assert addresses == ("10.0.0.2", "10.0.0.1") and reply.endswith(b"hello")


async def test_a_megabyte_there_and_back_byte_for_byte(tmp_path: Path) -> None:
    dice = random.Random(1)
    data = dice.randbytes(1 << 20)
    came = bytearray()
    async with served(tmp_path) as host, bound(host) as (_, driver):
        await driver.up()
        pieces = [data[at : at + 1400] for at in range(0, len(data), 1400)]
        for first in range(0, len(pieces), 8):
            window = pieces[first : first + 8]
            for piece in window:
                await driver.send(ipv4.datagram((GUEST, 5000), (HOST, 7), piece))
            for piece in window:
                packet = await driver.receive()
                assert packet == ipv4.datagram((HOST, 7), (GUEST, 5000), piece)
                came += packet[28:]
        assert await driver.dev.property(DROPPED) == 0
    assert came == data


async def test_much_in_one_call_is_taken_in_turns_with_others(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as (_, driver):
        await driver.up()
        lines = b"".join(hdlc.encode(b"\xff\x03\x00\x21" + ping(number, bytes(900)), 0) for number in range(60))
        with driver.dev.ram.alloc(len(lines)) as buffer:
            buffer.view[:] = lines
            assert await driver.write_from(buffer) == len(lines)
        assert [int.from_bytes(packet[26:28]) for packet in await _receive(driver, 60)] == [*range(60)]


async def test_many_senders_and_a_receiver_at_once(tmp_path: Path) -> None:
    dice = random.Random(3)
    async with served(tmp_path, ppp={"mtu": 16384}) as host, bound(host) as (_, driver):
        device = host.tree.find("/ppp").device
        assert isinstance(device, Ppp)
        await driver.up()
        receiving = asyncio.create_task(_receive(driver, 1000))
        await asyncio.gather(*(driver.send(ping(number, dice.randbytes(16000))) for number in range(100)))
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
        assert device._peer.decoder.dropped == 0  # no frame has another one in its middle


async def _receive(driver: PppDriver, count: int) -> list[bytes]:
    return [await driver.receive() for _ in range(count)]


@pytest.mark.spec("PPP-4")
async def test_a_guest_that_does_not_read_loses_packets_and_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as (_, driver):
        await driver.up()
        for number in range(200):
            await driver.send(ping(number, b"x" * 1000))
        device = host.tree.find("/ppp").device
        assert isinstance(device, Ppp)
        while device.waiting:  # it goes through them in parts
            await driver.dev.property(DROPPED)
        dropped = await driver.dev.property(DROPPED)
        assert 100 < dropped < 200
        assert [int.from_bytes(packet[26:28]) for packet in await _receive(driver, 200 - dropped)] == [
            *range(200 - dropped)
        ]
        assert (await answer(driver, ping(999)))[26:28] == (999).to_bytes(2)


@pytest.mark.parametrize("mtu", [128, 1500, 16384])
@pytest.mark.spec("PPP-5")
async def test_the_largest_packet_goes_and_a_larger_one_is_refused(tmp_path: Path, mtu: int) -> None:
    async with served(tmp_path, ppp={"mtu": mtu}) as host, bound(host) as (_, driver):
        await driver.up()
        assert driver.mtu == mtu
        assert len(await answer(driver, ping(data=b"~" * (mtu - 28)))) == mtu
        with pytest.raises(BadArgument, match=str(mtu)):
            await driver.send(bytes(mtu + 1))
        assert len(await answer(driver, ping())) == 33


async def test_a_link_that_is_down_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as (_, driver):
        for call in (driver.send(ping()), driver.receive()):
            with pytest.raises(NotAllowed, match="up comes first"):
                await call
        await driver.down()  # it is already
        await driver.up()
        await driver.down()
        with pytest.raises(NotAllowed):
            await driver.send(ping())


@pytest.mark.spec("PPP-3")
async def test_the_hosts_user_pulls_the_line_and_plugs_it_in(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as (_, driver):
        device = host.tree.find("/ppp").device
        assert device is not None
        await driver.up()
        waiting = asyncio.create_task(driver.receive())
        await driver.dev.property("state")  # it waits now
        device.set_link(False)  # type: ignore[attr-defined]
        with pytest.raises(NotAllowed):
            await waiting
        await driver.link_down.wait()
        device.set_link(True)  # type: ignore[attr-defined]
        await driver.up()
        assert (await answer(driver, ping())).endswith(b"hello")


async def test_a_host_that_does_not_answer_is_given_up_after_ten_seconds(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path) as host, bound(host, clock=clock) as (guest, driver):
        host.tree.find("/ppp").device.set_link(False)  # type: ignore[union-attr]
        up = asyncio.create_task(driver.up())
        while not up.done():
            clock.turn(0.05)
            await guest.nop()
        assert 10 <= clock.time() < 11
        with pytest.raises(IoError, match="does not answer"):
            await up
        host.tree.find("/ppp").device.set_link(True)  # type: ignore[union-attr]
        assert await driver.up() == ("10.0.0.2", "10.0.0.1")


async def requests(driver: PppDriver) -> list[Packet]:
    """What waits to be read: control packets."""
    data = b""
    with contextlib.suppress(WouldBlock):
        while True:
            data += await driver.read(4096)
    frames = list(hdlc.Decoder(4096).feed(data))
    assert all(frame[2:4] == b"\xc0\x21" for frame in frames)
    return [packet for frame in frames if (packet := Packet.decode(frame[4:]))]


@pytest.mark.spec("PPP-1")
async def test_the_host_asks_ten_times_then_waits_for_the_guest(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, bound(host) as (_, driver):
        assert len(await requests(driver)) == 1
        clock.turn(3)
        assert len(await requests(driver)) == 3
        clock.turn(60)
        assert len(await requests(driver)) == 6
        assert await driver.dev.property("state") == "dead"
        assert await driver.up() == ("10.0.0.2", "10.0.0.1")


async def test_the_next_guest_finds_nothing_of_the_last_one(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        async with bound(host) as (_, first):
            await first.up()
            for _ in range(100):
                await first.send(ping(data=b"secret" * 200))
        async with bound(host) as (_, second):
            assert await second.dev.property(DROPPED) == 0
            assert await second.dev.property("addresses") == ()
            (request,) = await requests(second)
            assert request.code == Code.CONFIGURE_REQUEST
        async with bound(host) as (_, third):
            assert await third.up() == ("10.0.0.2", "10.0.0.1")
            assert (await answer(third, ping())).endswith(b"hello")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.spec("PPP-6")
async def test_noise_on_the_line_harms_nobody(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with served(tmp_path) as host, bound(host) as (_, driver):
        await driver.up()
        await driver.write_all(
            dice.randbytes(30_000) + bytes(dice.choice(b"~}\xff\x03\xc0!\x01\x00") for _ in range(9000))
        )
        await driver.write_all(b"x" * 200_000)  # a frame without an end
        await driver.write_all(b"".join(hdlc.encode(b"\xff\x03\x00\x57" + bytes(4)) for _ in range(3000)))
        with contextlib.suppress(WouldBlock):
            while await driver.read(4096):  # what it was answered; there was no room for more
                pass
        assert (await answer(driver, ping())).endswith(b"hello")


ONE = {"local": "10.1.0.1", "remote": "10.1.0.2", "backing": "router:office"}
TWO = {"local": "10.2.0.1", "remote": "10.2.0.2", "backing": "router:office"}
OTHER = {"local": "10.3.0.1", "remote": "10.2.0.2", "backing": "router:home"}


async def test_two_guests_talk_through_a_router_and_none_in_the_others_name(tmp_path: Path) -> None:
    one, two = IPv4Address("10.1.0.2"), IPv4Address("10.2.0.2")
    async with (
        served(tmp_path, one=ONE, two=TWO, other=OTHER) as host,
        bound(host, "one") as (_, first),
        bound(host, "two") as (_, second),
    ):
        await first.up()
        await first.send(ping(1, source=one, to=two))  # the other one is not up yet: lost
        await second.up()
        await first.send(ping(2, source=two, to=two))  # in the other one's name
        await first.send(ping(3, source=one, to=two))
        came = ipv4.Packet.decode(await second.receive())
        assert came is not None and came.payload[6:8] == b"\0\x03"
        assert (came.source, came.destination, came.ttl) == (one, two, 63)
        reply = ipv4.answer(ping(3, source=one, to=two), two)
        assert reply is not None
        await second.send(reply)
        assert (await first.receive())[20:] == reply[20:]
        assert (await answer(first, ping(source=one, to=IPv4Address("10.1.0.1")))).endswith(b"hello")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"mtu": 127}, "devices.ppp.mtu: must be 128 to 16384, not 127"),
        ({"mtu": 16385}, "must be 128 to 16384, not 16385"),
        ({"local": "10.0.0.2"}, "both ends have the address 10.0.0.2"),
        ({"local": "10.0.0"}, "10.0.0"),
        ({"remote": "224.0.0.1"}, "224.0.0.1 is no address of a host"),
        ({"remote": "0.0.0.0"}, "0.0.0.0 is no address of a host"),
        ({"backing": "tunnel:x"}, "'tunnel:x' is no network"),
        ({"backing": "tun:a/b"}, "'a/b' is no name of an interface"),
        ({"backing": "tun:\0"}, "is no name of an interface"),
    ],
)
async def test_a_machine_file_that_is_wrong_is_refused(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        async with served(tmp_path, ppp=keys):
            pass


async def test_a_router_has_no_two_links_to_one_address(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"another link of router:office has remote = '10\.1\.0\.2'"):
        async with served(tmp_path, one=ONE, same={**ONE, "local": "10.9.0.1"}):
            pass
