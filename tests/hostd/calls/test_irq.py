"""Interrupts: counted always, hinted once until acknowledged, never lost across a mask, a reset or a lost link."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raw import RawGuest, attached, bystander, connected, hello, served, settled, until

import hostd
from hcall import numbers
from hcall.messages import ACK, IRQ
from hcall.wire import encode
from hostd.calls.vectors import Vectors
from hostd.device import Device, Irq
from hostd.machine.file import DeviceSpec


class Model:
    """What a guest may rely on, said as simply as possible: the reference for Vectors."""

    def __init__(self) -> None:
        self.count = self.seen = 0
        self.outstanding = self.masked = False

    def hint(self) -> bool:
        """Whether one is due now."""
        if self.outstanding or self.masked or self.count <= self.seen:
            return False
        self.outstanding = True
        return True

    def fire(self) -> None:
        self.count += 1

    def acknowledge(self) -> None:
        self.outstanding, self.seen = False, self.count

    def acknowledge_one_less(self) -> None:
        self.outstanding, self.seen = False, max(0, self.count - 1)

    def mask(self) -> None:
        self.masked = True

    def unmask(self) -> None:
        self.masked = False

    def relink(self) -> None:
        self.outstanding = False


STEPS: dict[Callable[[Model], None], Callable[[Vectors, Model], object]] = {
    Model.fire: lambda vectors, _: vectors.fire(5),
    Model.acknowledge: lambda vectors, model: vectors.acknowledge(5, model.count),
    Model.acknowledge_one_less: lambda vectors, model: vectors.acknowledge(5, max(0, model.count - 1)),
    Model.mask: lambda vectors, _: vectors.set_mask(1 << 5),
    Model.unmask: lambda vectors, _: vectors.set_mask(0),
    Model.relink: lambda vectors, _: vectors.relink(),
}


@pytest.mark.spec("I-2")
def test_every_order_of_six_events_gives_the_hints_of_the_model() -> None:
    for order in itertools.product(STEPS, repeat=6):
        hints: list[tuple[int, int]] = []
        vectors, model = Vectors(lambda *hint, hints=hints: hints.append(hint)), Model()
        for event in order:
            hints.clear()
            STEPS[event](vectors, model)
            event(model)
            assert hints == ([(5, model.count)] if model.hint() else []), [step.__name__ for step in order]
            assert vectors.count(5) == model.count


def test_vectors_do_not_concern_each_other() -> None:
    hints: list[tuple[int, int]] = []
    vectors = Vectors(lambda *hint: hints.append(hint))
    assert vectors.set_mask(1 << 31 | 1) == 0
    for vector in (0, 1, 31, 1):
        vectors.fire(vector)
    assert hints == [(1, 1)]
    assert vectors.set_mask(1) == 1 << 31 | 1
    vectors.acknowledge(1, 2)
    assert hints == [(1, 1), (31, 1)] and [vectors.count(n) for n in (0, 1, 2, 31)] == [1, 2, 0, 1]


def test_nor_do_those_of_another_handle_which_was_never_raised() -> None:
    hints: list[tuple[int, int]] = []
    vectors, others = (Vectors(lambda *hint, hints=hints: hints.append(hint)) for _ in range(2))
    vectors.fire(0)
    vectors.acknowledge(0, 1)
    vectors.fire(1)
    assert hints == [(0, 1), (1, 1)] and (others.count(0), others.count(1)) == (0, 0)
    others.relink()
    others.fire(0)
    assert hints == [(0, 1), (1, 1), (0, 1)]


@pytest.mark.parametrize("seen", [0, 1, 2**64 - 1, -1, -(2**63)])
@pytest.mark.spec("I-3")
def test_acknowledging_what_was_never_raised_gives_no_hint(seen: int) -> None:
    hints: list[tuple[int, int]] = []
    vectors = Vectors(lambda *hint: hints.append(hint))
    vectors.acknowledge(0, seen)
    assert hints == []
    vectors.fire(0)
    assert hints == [(0, 1)]


# Over the wire.


class Ringer(Device):
    """Many guests, two vectors."""

    compatible, shared = "test,ringer", True
    first, second = Irq(), Irq()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("ringer", "ringer", Ringer, {})) as host:
        yield host


def ringer(host: hostd.Host) -> Ringer:
    device = host.tree.find("/ringer").device
    assert isinstance(device, Ringer)
    return device


async def heard(guest: RawGuest) -> list[tuple[int, ...]]:
    """(tag, vector, count) of the IRQs that have come, which are taken."""
    await settled(guest)
    interrupts, guest.interrupts = guest.interrupts, []
    return [message[1:] for message in interrupts if message[0] == IRQ]


@pytest.mark.spec("I-1", "I-3", "I-6", "C-12")
async def test_each_guest_has_its_own_vectors_and_its_own_tag(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as one, attached(host) as other:
        handle, _ = await one.open("/ringer", cookie=2**64 - 1)
        theirs, _ = await other.open("/ringer")
        for _ in range(3):
            ringer(host).second()
        assert await heard(one) == [(2**64 - 1, 1, 1)] and await heard(other) == [(theirs, 1, 1)]
        one.send(encode((ACK, handle, 1, 1)))
        other.send(encode((ACK, handle, 1, 3)))  # not its own: no effect
        assert await heard(one) == [(2**64 - 1, 1, 3)] and await heard(other) == []
        assert await one.core(numbers.POLL, 0, 0) == ((handle, (0, 3)),)
        other.send(encode((ACK, theirs, 1, 3)))
        ringer(host).first()
        assert await heard(other) == [(theirs, 0, 1)] and await heard(one) == [(2**64 - 1, 0, 1)]


@pytest.mark.spec("I-7", "N-6")
async def test_interrupts_begin_with_driver_ok_and_end_with_reset(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, _, vectors, _ = await guest.core(numbers.OPEN, await guest.core(numbers.FIND, 0, "/ringer"), 0)
        assert vectors == {"first": 0, "second": 1}
        for status in (1, 3, 11):
            await guest.core(numbers.SET_STATUS, handle, status)
            ringer(host).first()
        assert await heard(guest) == []
        await guest.core(numbers.SET_STATUS, handle, 15)
        ringer(host).first()
        assert await heard(guest) == [(handle, 0, 1)]
        await guest.core(numbers.SET_STATUS, handle, 0)
        ringer(host).second()
        assert await heard(guest) == []


@pytest.mark.spec("I-4", "I-5", "R-2", "C-13")
async def test_nothing_is_lost_across_a_mask_or_a_lost_link(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host), attached(host, token=token) as guest:
        handle, _ = await guest.open("/ringer")
        ringer(host).first()
        assert await guest.core(numbers.SET_MASK, handle, 2) == 0
        ringer(host).second()
        assert await heard(guest) == [(handle, 0, 1)]
        guest.close()
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        ringer(host).first()
        with connected(host) as again:
            again.seq = guest.seq
            await again.greet(hello(token=token))
            assert await heard(again) == [(handle, 0, 2)]
            assert await again.core(numbers.SET_MASK, handle, 0) == 2
            assert await heard(again) == [(handle, 1, 1)]
            again.send(encode((ACK, handle, 0, 2)) + encode((ACK, handle, 1, 1)))
            assert await heard(again) == []


@pytest.mark.spec("I-2")
async def test_a_storm_costs_one_message_for_each_vector(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, _ = await guest.open("/ringer")
        for _ in range(10_000):
            ringer(host).first()
        guest.send(encode((ACK, handle, 0, 1)))
        assert await heard(guest) == [(handle, 0, 1), (handle, 0, 10_000)]


@pytest.mark.spec("B-3")
def test_a_device_has_at_most_as_many_vectors_as_a_mask_has_bits() -> None:
    with pytest.raises(TypeError):
        type("TooMany", (Device,), {f"v{n}": Irq() for n in range(numbers.MAX_VECTORS + 1)})
