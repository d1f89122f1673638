"""What docs/protocol.md requires of a guest, of both our clients: what it sends, and what it passes over."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS
from fake_host import FIRST_OWN, NAME, OPEN, READ, ROOT, FakeHost, lying
from test_lying_host import within

from guestd.clients.guest import Guest
from guestd.driver import Driver, Op, Signal
from hcall import numbers
from hcall.errors import BadHandle, Internal, LinkLost, NotAllowed, Reset
from hcall.features import DeviceStatus
from hcall.messages import CALL, END, IRQ, REPLY, VERSION
from hcall.wire import Decoder, encode

HIGH = (1 << 64) - 1
LEAP = 1 << 32
GREAT = (1 << 63) + 7  # a handle whose upper bits are no epoch of version 1


class Thing(Driver):
    compatible = ("test,thing",)
    rx_ready = Signal()
    poke = Op[[], int]()


async def bound(guest: Guest[Any]) -> Thing:
    driver = await guest.bind_as(await guest.found(NAME), Thing, Thing.wants)
    assert isinstance(driver, Thing)
    return driver


def thing(tmp_path: Path, lies: dict[int, Any]) -> Any:
    """A host whose device has `poke`, too."""
    return lying(tmp_path, lies, "test,thing", {"poke": FIRST_OWN})


def calls(host: FakeHost, number: int) -> list[tuple[Any, ...]]:
    """Those that came of one number."""
    return [message for message in host.came if message[0] == CALL and message[3] == number]


async def nothing(guest: Guest[Any]) -> None:
    """Attach, and leave."""


@CLIENTS
@pytest.mark.spec("H-4", "H-1", "D-5")
async def test_a_token_is_sixteen_bytes_of_its_own(tmp_path: Path, client: str) -> None:
    with lying(tmp_path, {}) as host:
        for _ in range(2):
            await within(host.path, client, nothing)
        hellos: list[Any] = [Decoder().feed(data)[0] for data in host.hellos]
        assert len({hello[6] for hello in hellos}) == 2 and all(len(hello[6]) == 16 for hello in hellos)
        assert all(len(Decoder().feed(data)) == 1 for data in host.hellos)  # and nothing behind it


@CLIENTS
@pytest.mark.spec("X-6")
async def test_nothing_is_sent_after_detach(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        await (await bound(guest)).poke()

    with thing(tmp_path, {FIRST_OWN: 1}) as host:
        await within(host.path, client, scenario)
        assert host.came[-1][3] == numbers.DETACH


@CLIENTS
@pytest.mark.spec("W-3", "V-2")
async def test_a_handle_is_any_number_and_so_is_that_of_a_call(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        assert [found.node for found in await guest.walk()] == [ROOT, GREAT]
        driver = await bound(guest)
        assert await driver.poke() == 5

    lies: dict[int, Any] = {
        numbers.CHANGES: (HIGH, None), numbers.FIND: GREAT, numbers.CHILD: lambda node: GREAT if node == ROOT else 0,
        numbers.INFO: lambda node: (NAME, ("test,thing",), (1, 2)) if node == GREAT else ("", (), (0, 0)),
        numbers.OPEN: (HIGH, {"poke": 0xFFFF0010}, {"rx_ready": 31}, {}), 0xFFFF0010: 5,
    }  # fmt: skip
    with lying(tmp_path, lies) as host:
        await within(host.path, client, scenario)
        assert {message[4] for message in calls(host, 0xFFFF0010)} == {HIGH}


@CLIENTS
@pytest.mark.spec("C-10", "N-4", "F-1")
async def test_names_and_bits_that_a_guest_does_not_know_are_passed_over(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        assert await (await bound(guest)).poke() == 5

    opened = (
        OPEN,
        {"read": READ, "from_the_future": 0x10440099, "poke": FIRST_OWN},
        {"new": 7, "rx_ready": 0},
        {"NEW": 40},
    )
    with thing(tmp_path, {numbers.OPEN: opened, numbers.GET_FEATURES: HIGH, FIRST_OWN: 5}) as host:
        await within(host.path, client, scenario)
        assert not any(bits for message in calls(host, numbers.SET_FEATURES) for bits in message[5])


@CLIENTS
@pytest.mark.spec("N-11", "F-1")
async def test_bits_of_the_status_that_a_guest_does_not_know_are_never_written(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        assert await (await bound(guest)).poke() == 5

    with thing(tmp_path, {numbers.SET_STATUS: lambda _, status: status | 16 | 1 << 20, FIRST_OWN: 5}) as host:
        await within(host.path, client, scenario)
        written = [message[5][0] for message in calls(host, numbers.SET_STATUS)]
        known = sum(DeviceStatus) & ~DeviceStatus.NEEDS_RESET
        assert written and all(status & ~known == 0 for status in written)


@CLIENTS
@pytest.mark.spec("N-11", "N-3")
async def test_a_device_that_refuses_its_own_features_is_given_up_without_bits_of_its_own(
    tmp_path: Path, client: str
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        with pytest.raises(NotAllowed, match="refuses"):
            await bound(guest)

    def refuse(_: int, status: int) -> int:
        return status & ~DeviceStatus.FEATURES_OK | 16

    with thing(tmp_path, {numbers.SET_STATUS: refuse}) as host:
        await within(host.path, client, scenario)
        assert calls(host, numbers.SET_STATUS)[-1][5] == (DeviceStatus.FAILED | 3,)


@CLIENTS
@pytest.mark.spec("I-9", "R-13")
async def test_unknown_interrupts_are_passed_over_and_a_count_may_leap(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        await driver.poke()
        await driver.rx_ready.wait()
        await driver.poke()
        await driver.rx_ready.wait()
        await driver.poke()

    def poke(areas: object) -> bytearray:
        """Hints of tags and vectors that nobody has, and one that counts, which has leapt."""
        _, slot, seq, *_ = host.came[-1]
        cookie = calls(host, numbers.OPEN)[-1][5][0]
        count = 1 + LEAP * len(calls(host, FIRST_OWN))
        hints = [(IRQ, HIGH, 0, 1), (IRQ, cookie, 31, 9), (IRQ, cookie, 1 << 40, 9), (IRQ, cookie, 0, count)]
        return bytearray(b"".join(map(encode, hints)) + encode((REPLY, slot, seq, 0, 1)))

    with thing(tmp_path, {FIRST_OWN: poke}) as host:
        await within(host.path, client, scenario)
        seen = [message[1:] for message in host.came if message[0] == 3 and message[1] == OPEN]
        assert seen == [(OPEN, 0, 1 + LEAP), (OPEN, 0, 1 + 2 * LEAP)]


@CLIENTS
@pytest.mark.spec("K-2", "K-3", "F-1")
async def test_a_sentence_is_for_people_and_an_unknown_status_is_internal(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        for expected in (BadHandle, BadHandle, Internal):
            with pytest.raises(expected):
                await driver.poke()
        assert await driver.poke() == 5

    def poke(areas: object) -> object:
        _, slot, seq, *_ = host.came[-1]
        wrong: list[tuple[int, object]] = [(5, None), (5, {"not": "text"}), (77, "it is new")]
        nth = len(calls(host, FIRST_OWN)) - 1
        return bytearray(encode((REPLY, slot, seq, *wrong[nth]))) if nth < len(wrong) else 5

    with thing(tmp_path, {FIRST_OWN: poke}) as host:
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.spec("X-5", "F-1")
async def test_the_end_may_have_any_status(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        with pytest.raises(LinkLost, match="it is new"):
            await driver.poke()
        with pytest.raises(LinkLost, match="it is new"):
            await driver.poke()

    with thing(tmp_path, {FIRST_OWN: bytearray(encode((END, 99, "it is new", VERSION, VERSION)))}) as host:
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.spec("S-10")
async def test_a_reset_of_the_device_is_told_as_such(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        with pytest.raises(Reset):
            await (await bound(guest)).poke()

    def poke(areas: object) -> bytearray:
        _, slot, seq, *_ = host.came[-1]
        return bytearray(encode((REPLY, slot, seq, 14, "the device was reset")))

    with thing(tmp_path, {FIRST_OWN: poke}) as host:
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.spec("R-12", "R-3")
@pytest.mark.parametrize("epoch", [1, 2], ids=["the same life", "another life"])
async def test_memory_that_was_added_is_sent_again_to_another_life_of_the_host(
    tmp_path: Path, client: str, epoch: int
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        await guest.grow(4096)
        host.welcome = host.welcome._replace(epoch=epoch, resumed=True)
        host.cut()
        await guest.call(0, numbers.NOP)
        await guest.call(0, numbers.NOP)
        lane = guest.lane.theirs
        for message in calls(host, numbers.ADD_MEMORY):  # each with its descriptor
            data, fds, _, _ = socket.recv_fds(lane, 8, 2)
            assert int.from_bytes(data, "little") == message[5][2]
            (fd,) = fds
            os.close(fd)

    with lying(tmp_path, {}) as host:
        await within(host.path, client, scenario)
        added = [message[5][:2] for message in calls(host, numbers.ADD_MEMORY)]
        assert len(added) == epoch and len(set(added)) == 1
        seqs = [message[2] for message in host.came if message[0] == CALL]
        assert seqs == sorted(seqs)


@CLIENTS
@pytest.mark.spec("F-4")
async def test_a_lane_that_the_host_does_not_confirm_is_not_used(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        with pytest.raises(NotAllowed, match="no memory after the start"):
            await guest.grow(4096)
        with pytest.raises(BlockingIOError):
            guest.lane.theirs.recv(8, socket.MSG_DONTWAIT)

    with lying(tmp_path, {}) as host:
        host.welcome = host.welcome._replace(features=0)
        await within(host.path, client, scenario)
        assert not calls(host, numbers.ADD_MEMORY)


@CLIENTS
@pytest.mark.spec("R-12", "F-4")
async def test_another_life_of_the_host_may_confirm_less(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        await guest.grow(4096)
        host.welcome = host.welcome._replace(epoch=2, resumed=True, features=0)
        host.cut()
        await guest.call(0, numbers.NOP)
        await guest.call(0, numbers.NOP)

    with lying(tmp_path, {}) as host:
        await within(host.path, client, scenario)
        assert len(calls(host, numbers.ADD_MEMORY)) == 1


@CLIENTS
@pytest.mark.spec("I-9")
async def test_tags_that_a_host_makes_up_fill_no_memory(tmp_path: Path, client: str) -> None:
    """Those of other vectors than 0 are of devices, and none is known: nothing follows from them."""

    async def scenario(guest: Guest[Any]) -> None:
        guest._raised([(IRQ, 1000, 1, 1), (IRQ, 1001, 31, 1)])
        assert not guest.hotplug.hints
        guest._raised([(IRQ, tag, 0, 1) for tag in range(1000, 11_000)])
        assert 0 < len(guest.hotplug.hints) < 10_000
        guest._raised([(IRQ, 1000, 0, 2)])
        assert guest.hotplug.hints[1000] == 2

    with lying(tmp_path, {}) as host:
        await within(host.path, client, scenario)
