"""Dispatch: every wrong call gets its own status, a device's failure stays its own, no call is answered twice."""

from __future__ import annotations

import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import ADDRESS, PAGE, attached, bystander, served, settled

import hostd
from hcall import numbers
from hcall.errors import BadArea, BadArgument, Status, WouldBlock
from hostd.device import Data, Device, Feature, Irq, Later, Room, call
from hostd.machine.file import DeviceSpec


class Bench(Device):
    """One call for each way that a call may go."""

    compatible, ids = "test,bench", (0x1234, 0x77)
    EXTRA = Feature(3)
    rung = Irq()

    def start(self) -> None:
        self.log: list[str] = []
        self.waiting: list[Later[Any]] = []
        self.gate = threading.Event()
        self.answer: Any = None

    def reset(self) -> None:
        self.log.append("reset")

    def stop(self) -> None:
        self.log.append("stop")

    def read(self, into: Room, at: int) -> int:
        return into.put(b"x" * at)

    def write(self, data: Data, at: int) -> int:
        self.log.append(data.get().decode())
        return data.nbytes

    @call
    def typed(self, a: int, b: bool, c: str, d: bytes, e: float) -> None:
        self.log.append("typed")

    @call
    def give(self) -> Any:
        """Whatever the test has put there."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @call
    def fill(self, into: Room) -> Any:
        return self.answer

    @call
    def swap(self, into: Room, data: Data) -> int:
        return into.put(data.get()[::-1])

    @call
    def late(self) -> Later[Any]:
        self.waiting.append(Later())
        return self.waiting[-1]

    @call
    def work(self) -> Later[bool]:
        """A worker waits for the gate."""
        return self.offload(self.gate.wait, 3)

    @call(needs=EXTRA)
    def extra(self) -> int:
        return 1

    @call(early=True)
    def early(self) -> int:
        return 2


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("bench", "bench", Bench, {}), handles=4) as host:
        yield host


def bench(host: hostd.Host) -> Bench:
    device = host.tree.find("/bench").device
    assert isinstance(device, Bench)
    return device


@pytest.mark.spec("W-2", "E-3", "A-1", "O-3", "F-2")
async def test_every_wrong_call_has_its_status_and_no_effect(host: hostd.Host) -> None:
    async with bystander(host), attached(host, regions=2) as guest:
        node = await guest.core(numbers.FIND, 0, "/bench")
        root = await guest.core(numbers.FIRST)
        gone, calls = await guest.open("/bench")
        await guest.core(numbers.CLOSE, gone)
        handle, _ = await guest.open("/bench")
        never = handle + 1000
        read, write, typed = calls["read"], calls["write"], calls["typed"]
        good = (1, True, "c", b"d", 0.5)
        bad: list[tuple[int, int, tuple[Any, ...], tuple[Any, ...], Status]] = [
            (0, 0, (), (), Status.NO_SUCH_CALL),
            (4095, 0, (), (), Status.NO_SUCH_CALL),
            (-1, 0, (), (), Status.BAD_HANDLE),
            (2**63, handle, (), (), Status.NO_SUCH_CALL),
            (0x1044 << 16 | 1, handle, (0,), (4,), Status.NO_SUCH_CALL),  # another class
            (0x77 << 16 | 15, handle, (), (), Status.NO_SUCH_CALL),
            (calls["extra"], handle, (), (), Status.NO_SUCH_CALL),
            (read, gone, (0,), (4,), Status.STALE_HANDLE),
            (read, never, (0,), (4,), Status.BAD_HANDLE),
            (read, 0, (0,), (4,), Status.BAD_HANDLE),
            (read, -handle, (0,), (4,), Status.BAD_HANDLE),
            (read, 2**64 - 1, (0,), (4,), Status.BAD_HANDLE),
            (read, node, (0,), (4,), Status.NOT_OPEN),
            (numbers.CLOSE, node, (), (), Status.NOT_OPEN),
            (numbers.CLOSE, gone, (), (), Status.STALE_HANDLE),
            (numbers.SET_STATUS, never, (0,), (), Status.BAD_HANDLE),
            (numbers.INFO, never, (), (), Status.BAD_HANDLE),
            (numbers.OPEN, root, (0,), (), Status.NOT_ALLOWED),  # no device
            (numbers.OPEN, node, (0,), (), Status.BUSY),
            (numbers.OPEN, node, (-1,), (), Status.BUSY),
            (numbers.FIND, 0, ("/bench/none",), (), Status.NO_MATCH),
            (numbers.GETPROP, node, ("none",), (), Status.NO_MATCH),
            (numbers.NEXTPROP, node, ("none",), (), Status.NO_MATCH),
            (numbers.SET_MASK, handle, (1 << 32,), (), Status.BAD_ARGUMENT),
            (numbers.SET_MASK, handle, (-1,), (), Status.BAD_ARGUMENT),
            (numbers.NOP, 0, (0,), (), Status.BAD_ARGUMENT),
            (numbers.FIND, 0, (), (), Status.BAD_ARGUMENT),
            (numbers.FIND, 0, (b"/bench",), (), Status.BAD_ARGUMENT),
            (numbers.OPEN, node, (True,), (), Status.BAD_ARGUMENT),
            (numbers.NOP, 0, (), (4,), Status.BAD_AREA),
            (read, handle, (), (4,), Status.BAD_ARGUMENT),
            (read, handle, (0, 0), (4,), Status.BAD_ARGUMENT),
            (read, handle, (False,), (4,), Status.BAD_ARGUMENT),
            (read, handle, (0.0,), (4,), Status.BAD_ARGUMENT),
            *((typed, handle, (*good[:n], None, *good[n + 1 :]), (), Status.BAD_ARGUMENT) for n in range(5)),
            (typed, handle, good, (4,), Status.BAD_AREA),
            (typed, handle, good[:4], (), Status.BAD_ARGUMENT),
            (read, handle, (9,), (-1,), Status.BAD_AREA),
            (read, handle, (9,), (4097,), Status.BAD_AREA),
            (read, handle, (9,), (True,), Status.BAD_AREA),
            (read, handle, (9,), (4, 4), Status.BAD_AREA),
            (read, handle, (9,), (b"data",), Status.BAD_AREA),
            (read, handle, (9,), ((ADDRESS, 1, 1), 4), Status.BAD_AREA),
            *(
                (read, handle, (9,), (area,), Status.BAD_AREA)
                for area in list[Any]([
                    (ADDRESS, 4, 0), (ADDRESS, 4, 2), (ADDRESS, -1, 1), (ADDRESS, 4), (ADDRESS, 4, 1, 0), (),
                    (ADDRESS, 4.0, 1), (ADDRESS, 4, True), (ADDRESS - 1, 4, 1), (ADDRESS + 2 * PAGE - 1, 2, 1),
                    (ADDRESS + 2 * PAGE, 1, 1), (2**64 - 1, 4, 1), (ADDRESS, 2**64 - 1, 1), (-1, 4, 1),
                    (ADDRESS, 2 * PAGE + 1, 1), None, "area", {},
                ])
            ),
            (write, handle, (9,), ((ADDRESS, 4, 1),), Status.BAD_AREA),
            (write, handle, (9,), (4,), Status.BAD_AREA),
            (write, handle, (9,), (b"good", (0, 4, 0)), Status.BAD_AREA),
        ]  # fmt: skip
        for number, target, args, areas, status in bad:
            answer = await guest.call(number, target, *args, areas=areas)
            assert answer[0] == status and answer[1], (number, target, args, areas, answer)
        assert bench(host).log == ["reset"]
        assert await guest.call(typed, handle, *good) == (0, None)
        assert await guest.call(read, handle, 3, areas=(4,)) == (0, b"xxx")


@pytest.mark.spec("A-2", "A-3", "A-5", "C-16")
async def test_areas_are_a_scatter_list_in_their_order(host: hostd.Host) -> None:
    async with attached(host, regions=2) as guest:
        handle, calls = await guest.open("/bench")
        last, first = (ADDRESS + PAGE - 2, 2, 1), (ADDRESS + PAGE, 3, 1)
        assert await guest.call(calls["swap"], handle, areas=(b"abc", last, b"", first, b"de")) == (0, 5)
        pieces = ((ADDRESS + PAGE - 2, 2, 0), (ADDRESS, 0, 0), b"-", (ADDRESS + PAGE, 3, 0))
        assert await guest.call(calls["write"], handle, 0, areas=pieces) == (0, 6)
        assert bench(host).log == ["ed-cba"]
        for mixed in [(8, b"abc"), (b"abc", 8)]:  # room in the reply is the only area of its call
            assert (await guest.call(calls["swap"], handle, areas=mixed))[0] == Status.BAD_AREA
        await guest.core(numbers.REMOVE_MEMORY, 0, ADDRESS)
        assert (await guest.call(calls["write"], handle, 0, areas=pieces))[0] == Status.BAD_AREA
        assert (await guest.call(numbers.REMOVE_MEMORY, 0, ADDRESS))[0] == Status.BAD_AREA


@pytest.mark.parametrize(
    ("answer", "status", "traceback"),
    [
        (ZeroDivisionError("a secret"), Status.INTERNAL, True),
        (object(), Status.INTERNAL, False),
        (1 << 64, Status.INTERNAL, False),
        ("\ud800", Status.INTERNAL, False),
        ("x" * 257, Status.INTERNAL, False),
        (bytes(4097), Status.INTERNAL, False),
        ((0,) * 65, Status.INTERNAL, False),
        ((bytes(4096),) * 4, Status.INTERNAL, False),
        (BadArgument("x" * 1000), Status.BAD_ARGUMENT, False),
        (BadArgument("ü" * 200), Status.BAD_ARGUMENT, False),
        (WouldBlock("later"), Status.WOULD_BLOCK, False),
        (OSError(errno.ENOSPC, "full"), Status.NO_SPACE, False),
        (OSError(errno.EROFS, "fixed"), Status.READ_ONLY, False),
        (OSError(errno.EIO, "broken"), Status.IO_ERROR, False),
        (OSError(errno.EACCES, "no"), Status.NOT_ALLOWED, False),
        (OSError("without a number"), Status.IO_ERROR, False),
    ],
    ids=lambda value: repr(value).split(" at ")[0][:24],
)
@pytest.mark.parametrize("when", ["now", "later"])
@pytest.mark.spec("K-2", "U-2")
async def test_a_device_that_fails_costs_one_call_and_says_one_sentence(
    host: hostd.Host, caplog: pytest.LogCaptureFixture, answer: Any, status: Status, traceback: bool, when: str
) -> None:
    async with bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/bench")
        if when == "now":
            bench(host).answer = answer
            got = await guest.call(calls["give"], handle)
        else:
            guest.send(guest.next_call(calls["late"], handle))
            await settled(other)
            (later,) = bench(host).waiting
            later.fail(answer) if isinstance(answer, Exception) else later.done(answer)
            got = await guest.reply()
        assert got[0] == status and 0 < len(got[1].encode()) <= 256 and "secret" not in got[1]
        assert ("Traceback" in caplog.text and "a secret" in caplog.text) == traceback
        assert await guest.call(calls["early"], handle) == (0, 2)


@pytest.mark.parametrize("count", [-1, 5, True, None, 2.0, b"data"], ids=repr)
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "in guest memory"])
@pytest.mark.spec("U-2")
async def test_a_count_that_cannot_be_is_the_models_mistake(
    host: hostd.Host, caplog: pytest.LogCaptureFixture, count: object, inline: bool
) -> None:
    async with bystander(host), attached(host, regions=1) as guest:
        handle, calls = await guest.open("/bench")
        bench(host).answer = count
        status, text = await guest.call(calls["fill"], handle, areas=(4 if inline else (ADDRESS, 4, 1),))
        assert status == Status.INTERNAL and "TypeError" in text and "Traceback" in caplog.text
        caplog.clear()  # the traceback there holds the guest's memory
        bench(host).answer = 2
        assert await guest.call(calls["fill"], handle, areas=(4,)) == (0, b"\0\0")


@pytest.mark.spec("S-4", "S-10", "C-11")
async def test_closing_answers_what_is_under_way_once_and_its_late_answer_goes_nowhere(host: hostd.Host) -> None:
    async with bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/bench")
        guest.send(b"".join(guest.next_call(calls["late"], handle, slot=slot) for slot in range(3)))
        await settled(other)
        bench(host).waiting[1].done("in time")
        assert await guest.reply() == (0, "in time")
        guest.send(guest.next_call(numbers.CLOSE, handle, slot=3))
        assert [(await guest.reply())[0] for _ in range(3)] == [Status.RESET, Status.RESET, 0]
        for later in bench(host).waiting:
            later.done("too late")
        assert await guest.core(numbers.NOP) is None
        assert bench(host).log == ["reset"]


@pytest.mark.spec("S-10", "N-6")
async def test_a_reset_waits_for_the_worker_and_ends_its_call_with_reset(host: hostd.Host) -> None:
    async with bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/bench")
        guest.send(guest.next_call(calls["work"], handle) + guest.next_call(calls["late"], handle, slot=1))
        guest.send(guest.next_call(numbers.SET_STATUS, handle, (0,), slot=2))
        assert (await guest.reply())[0] == Status.RESET  # of the call that no thread works on
        guest.send(guest.next_call(calls["typed"], handle, (1, True, "c", b"d", 0.5), slot=3))
        refused = await guest.reply()
        guest.send(guest.next_call(calls["early"], handle, slot=3))  # which would put the reset off
        assert await guest.reply() == (Status.NOT_ALLOWED, "/bench is being reset")
        await settled(other)
        assert bench(host).log == []
        bench(host).gate.set()
        assert await guest.reply() == (Status.RESET, "the device was reset")
        assert await guest.reply() == (0, 0)
        assert bench(host).log == ["reset"]
        assert await guest.core(numbers.GET_STATUS, handle) == 0
        assert refused[0] == Status.NOT_ALLOWED
        assert await guest.core(calls["early"], handle) == 2


@pytest.mark.parametrize("how", ["unplug", "detach", "hang up"])
async def test_a_close_that_waits_for_a_worker_is_not_done_twice(
    host: hostd.Host, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    device = bench(host)
    async with bystander(host) as other:
        async with attached(host) as guest:
            handle, calls = await guest.open("/bench")
            guest.send(guest.next_call(calls["work"], handle) + guest.next_call(numbers.CLOSE, handle, slot=1))
            await settled(other)
            if how == "unplug":
                await host.unplug("/bench", surprise=True)
            elif how == "detach":
                guest.send(guest.next_call(numbers.DETACH, slot=2))
                await settled(other)
            if how != "hang up":
                device.gate.set()
                answers = sorted([(await guest.reply())[0] for _ in range(2 + (how == "detach"))])
                assert answers == [0, Status.RESET] if how == "unplug" else [0, 0, Status.RESET]
        device.gate.set()
        if how == "unplug":
            assert device.log == ["stop"]
        else:
            async with attached(host) as heir:
                status: int = Status.BUSY
                node = await heir.core(numbers.FIND, 0, "/bench")
                while status == Status.BUSY:  # until the worker has noticed
                    status, _ = await heir.call(numbers.OPEN, node, 0)
            assert device.log == ["reset", "reset"] and status == 0
    assert "Exception" not in caplog.text


@pytest.mark.spec("N-1", "N-2", "N-3")
async def test_negotiation_is_virtios_and_a_wrong_step_changes_nothing(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        node = await guest.core(numbers.FIND, 0, "/bench")
        handle, calls, vectors, features = await guest.core(numbers.OPEN, node, 0)
        assert vectors == {"rung": 0} and features == {"EXTRA": 3}

        async def step(number: int, value: int, status: int, after: int) -> None:
            assert (await guest.call(number, handle, value))[0] == status
            assert await guest.core(numbers.GET_STATUS, handle) == after

        assert (await guest.call(calls["give"], handle))[0] == Status.NOT_ALLOWED
        assert await guest.call(calls["early"], handle) == (0, 2)
        await step(numbers.SET_FEATURES, 8, Status.NOT_ALLOWED, 0)
        await step(numbers.SET_STATUS, 2, Status.NOT_ALLOWED, 0)
        for value in (16, 64, 256, -1):
            await step(numbers.SET_STATUS, value, Status.BAD_ARGUMENT, 0)
        await step(numbers.SET_STATUS, 1, 0, 1)
        await step(numbers.SET_STATUS, 2, Status.BAD_ARGUMENT, 1)
        await step(numbers.SET_STATUS, 3, 0, 3)
        await step(numbers.SET_STATUS, 7, Status.NOT_ALLOWED, 3)
        assert await guest.core(numbers.GET_FEATURES, handle) == 8
        await step(numbers.SET_FEATURES, -1, Status.BAD_ARGUMENT, 3)
        await step(numbers.SET_FEATURES, 9, 0, 3)
        await step(numbers.SET_STATUS, 11, 0, 3)  # it does not stay
        await step(numbers.SET_STATUS, 15, Status.NOT_ALLOWED, 3)
        await step(numbers.SET_FEATURES, 8, 0, 3)
        await step(numbers.SET_STATUS, 11, 0, 11)
        await step(numbers.SET_FEATURES, 0, Status.NOT_ALLOWED, 11)
        await step(numbers.SET_STATUS, 15, 0, 15)
        assert await guest.call(calls["extra"], handle) == (0, 1)
        await step(numbers.SET_STATUS, 15 | 128, 0, 15 | 128)
        assert (await guest.call(calls["extra"], handle))[0] == Status.NOT_ALLOWED
        await step(numbers.SET_STATUS, 0, 0, 0)
        assert bench(host).log == ["reset"]


async def test_handles_of_one_guest_are_limited_and_nobody_elses(host: hostd.Host) -> None:
    async with bystander(host) as other, attached(host) as guest:
        opened = [(await guest.open("/rng"))[0] for _ in range(4)]
        rng = await guest.core(numbers.FIND, 0, "/rng")
        assert (await guest.call(numbers.OPEN, rng, 0))[0] == Status.BUSY
        assert (await other.call(numbers.SET_STATUS, opened[0], 0))[0] == Status.STALE_HANDLE
        assert await guest.core(numbers.POLL, 0, 0) == tuple((handle, ()) for handle in opened)
        assert await guest.core(numbers.POLL, 0, opened[2]) == ((opened[3], ()),)
        await guest.core(numbers.CLOSE, opened[1])
        await guest.open("/rng")


async def test_a_lane_may_hand_in_areas_that_it_had_checked_before(host: hostd.Host) -> None:
    async with attached(host, regions=1) as guest:
        handle, calls = await guest.open("/bench")
        (inside,) = host.guests.by_token.values()
        memory, dispatch = inside.account.memory, inside.dispatch
        room, data = memory.ready(((ADDRESS, 3, 1),)), memory.ready(((ADDRESS, 3, 0),))
        both = memory.ready(((ADDRESS + 8, 3, 1), (ADDRESS, 3, 0)))
        for _ in range(2):
            assert dispatch(calls["read"], handle, (3,), room.kept()) == (0, 3)
            assert dispatch(calls["write"], handle, (0,), data.kept()) == (0, 3)
            assert dispatch(calls["swap"], handle, (), both.kept()) == (0, 3)
        assert bench(host).log[-2:] == ["xxx", "xxx"]
        for call, wrong in (("read", data), ("read", both), ("write", room), ("swap", room), ("swap", data)):
            answer = dispatch(calls[call], handle, () if call == "swap" else (0,), wrong.kept())
            assert isinstance(answer, tuple) and answer[0] == Status.BAD_AREA
        answer = dispatch(calls["typed"], handle, (1, True, "", b"", 1.0), room.kept())
        assert isinstance(answer, tuple) and answer[0] == Status.BAD_AREA
        with pytest.raises(BadArea):
            memory.ready(((ADDRESS, PAGE + 1, 1),))
