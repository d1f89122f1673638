"""What a model does wrong fails its call, or its device, never the daemon: other guests notice nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from clumsy import (
    CLUMSY,
    NEEDS_RESET,
    RAISED,
    SHARED,
    DoesNotStart,
    Untold,
    WithoutInit,
    ask,
    device,
    negotiate,
    works,
)
from raw import LIVE, attached, bystander, served, settled, until

import guestd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Internal, Status
from hostd.machine.file import DeviceSpec, MachineError

HOOK_ERRORS = pytest.mark.parametrize("error", [RAISED[0], RAISED[3]], ids=repr)


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_what_is_raised_in_a_call_fails_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async with served(tmp_path, CLUMSY) as host, bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/clumsy")
        device(host).wrong["go"] = error
        text = f"the device model raised {type(error).__name__}"
        assert await guest.call(calls["go"], handle) == (Status.INTERNAL, text)
        assert caplog.text.count("Traceback") == 1
        del device(host).wrong["go"]
        assert await works(guest, handle, calls)


@HOOK_ERRORS
@pytest.mark.spec("N-9")
async def test_a_device_that_fails_in_tick_takes_no_calls_until_its_driver_resets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    clock = ManualClock()
    async with served(tmp_path, CLUMSY, clock=clock) as host, bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/clumsy")
        guest.send(guest.next_call(calls["late"], handle, (0,), slot=1))
        await settled(other)
        device(host).wrong["tick"] = error
        clock.turn(5)
        assert device(host).did.count("tick") == 1 and caplog.text.count("Traceback") == 1  # it is left alone
        assert await guest.core(numbers.GET_STATUS, handle) == LIVE[-1] | NEEDS_RESET
        assert not await works(guest, handle, calls)
        device(host).rung()
        device(host).waiting[0].done(7)
        assert await guest.reply() == (0, 7) and not guest.interrupts
        (node,) = [node for node in await ask(host, "ls") if node["path"] == "/clumsy"]
        assert node["failed"] and len(node["guests"]) == 1
        assert (await guest.call(numbers.SET_STATUS, handle, 1))[0] == Status.BAD_ARGUMENT  # no way around
        assert await negotiate(guest, handle) == LIVE[-1]
        assert await works(guest, handle, calls) and device(host).did[-3:] == ["reset", "ready", "go"]
        clock.turn(2)
        assert not await works(guest, handle, calls)  # it is as bad as before


@HOOK_ERRORS
@pytest.mark.spec("N-9")
async def test_a_device_that_cannot_be_reset_is_of_no_use_until_it_can(tmp_path: Path, error: BaseException) -> None:
    async with served(tmp_path, CLUMSY) as host, bystander(host), attached(host) as guest:
        node = await guest.core(numbers.FIND, 0, "/clumsy")
        handle, calls = await guest.open("/clumsy")
        device(host).wrong["reset"] = error
        assert (await guest.call(numbers.SET_STATUS, handle, 0))[0] == Status.IO_ERROR
        assert await guest.core(numbers.GET_STATUS, handle) == NEEDS_RESET
        assert not await works(guest, handle, calls)
        assert device(host).did == ["ready", "reset"]
        assert await guest.core(numbers.CLOSE, handle) == 0
        status, text = await guest.call(numbers.OPEN, node, 0)
        assert status == Status.IO_ERROR and "cannot be reset" in text
        device(host).wrong.clear()
        handle, calls = await guest.open("/clumsy")
        assert await works(guest, handle, calls)
        device(host).wrong["reset"] = error
        assert (await guest.call(numbers.SET_STATUS, handle, 0))[0] == Status.IO_ERROR
        assert await guest.core(numbers.GET_STATUS, handle) == NEEDS_RESET
        device(host).wrong.clear()
        assert await negotiate(guest, handle) == LIVE[-1] and await works(guest, handle, calls)


@HOOK_ERRORS
@pytest.mark.spec("N-9")
async def test_ready_that_raises_fails_its_handle_and_no_other(tmp_path: Path, error: BaseException) -> None:
    async with served(tmp_path, SHARED) as host, attached(host) as other, attached(host) as guest:
        others, calls = await other.open("/clumsy")
        device(host).wrong["ready"] = error
        handle, _, _, _ = await guest.core(numbers.OPEN, await guest.core(numbers.FIND, 0, "/clumsy"), 0)
        for status in LIVE[:-1]:
            await guest.core(numbers.SET_STATUS, handle, status)
        assert (await guest.call(numbers.SET_STATUS, handle, LIVE[-1]))[0] == Status.INTERNAL
        assert await guest.core(numbers.GET_STATUS, handle) == LIVE[-1] | NEEDS_RESET
        assert not await works(guest, handle, calls)
        device(host).rung()
        assert await works(other, others, calls) and len(other.interrupts) == 1 and not guest.interrupts
        device(host).wrong.clear()
        assert await negotiate(guest, handle) == LIVE[-1] and await works(guest, handle, calls)
        assert "reset" not in device(host).did  # the other guest is at it


async def test_guests_of_a_shared_device_that_failed_reset_it_each_for_itself(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, SHARED, clock=clock) as host, attached(host) as one, attached(host) as two:
        first, calls = await one.open("/clumsy")
        second, _ = await two.open("/clumsy")
        device(host).wrong["tick"] = RAISED[0]
        clock.turn(1)
        device(host).wrong.clear()
        assert not await works(one, first, calls) and not await works(two, second, calls)
        assert await negotiate(one, first) == LIVE[-1] and await works(one, first, calls)
        assert device(host).did.count("reset") == 1 and not host.tree.find("/clumsy").failed
        assert not await works(two, second, calls)  # what it had set up is gone: it has to know
        async with attached(host) as three:
            assert await works(three, (await three.open("/clumsy"))[0], calls)
        assert await negotiate(two, second) == LIVE[-1] and await works(two, second, calls)
        assert device(host).did.count("reset") == 1 and await works(one, first, calls)


@pytest.mark.parametrize("error", [*RAISED, OSError(2, "No such lamp"), ValueError("too dark")], ids=repr)
async def test_a_model_that_does_not_start_is_refused_and_its_place_is_free(
    tmp_path: Path, error: BaseException
) -> None:
    async with served(tmp_path) as host, bystander(host):
        DoesNotStart.error = error
        with pytest.raises(MachineError, match=r"devices\.clumsy: ") as refused:
            host.plug(DeviceSpec("clumsy", "clumsy", DoesNotStart, {}))
        assert str(error.args[-1] if error.args else type(error).__name__) in str(refused.value)
        with pytest.raises(MachineError, match="its __init__ does not call that of Device"):
            host.plug(DeviceSpec("clumsy", "clumsy", WithoutInit, {}))
        assert [node["path"] for node in await ask(host, "ls")] == ["/rng"]
        host.plug(CLUMSY)


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_a_model_that_does_not_stop_is_gone_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async with served(tmp_path, CLUMSY) as host, bystander(host):
        device(host).wrong = {"stop": error, "reset": error}
        assert await host.unplug("/clumsy") and [node["path"] for node in await ask(host, "ls")] == ["/rng"]
        assert "stop() failed: " in caplog.text
        host.plug(CLUMSY)
        device(host).wrong["stop"] = error  # for the end of the host


@pytest.mark.spec("S-9", "T-5")
async def test_an_answer_that_does_not_come_is_given_up_after_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, CLUMSY, clock=clock) as host, bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/clumsy")
        guest.send(guest.next_call(calls["late"], handle, (0,)) + guest.next_call(calls["work"], handle, slot=1))
        await settled(other)
        clock.turn(30)
        guest.send(guest.next_call(calls["late"], handle, (1,), slot=2))
        await settled(other)
        clock.turn(32)
        assert await guest.reply() == (Status.INTERNAL, "the device model gave no answer within 60 s")
        device(host).waiting[0].done(1)  # too late: it goes nowhere
        device(host).waiting[1].done(2)
        assert await guest.reply() == (0, 2)
        device(host).gate.set()
        assert await guest.reply() == (0, True)  # what a thread has its hands on is waited for
        assert await guest.core(numbers.CLOSE, handle) == 0


async def test_one_later_answers_one_call(tmp_path: Path) -> None:
    async with served(tmp_path, CLUMSY) as host, bystander(host) as other, attached(host) as guest:
        handle, calls = await guest.open("/clumsy")
        guest.send(b"".join(guest.next_call(calls["late"], handle, (0,), slot=slot) for slot in range(2)))
        assert await guest.reply() == (Status.INTERNAL, "the device model returned the Later of another call")
        device(host).waiting[0].done(7)
        assert await guest.reply() == (0, 7)
        assert await guest.call(calls["late"], handle, 0) == (0, 7)  # it is known: nobody else waits
        guest.send(guest.next_call(calls["late"], handle, (1,)) + guest.next_call(numbers.CLOSE, handle, slot=1))
        assert [await guest.reply() for _ in range(2)] == [(Status.RESET, "the device was reset"), (0, 0)]
        await other.open("/clumsy")


async def test_a_vector_that_is_not_there_harms_no_session(tmp_path: Path) -> None:
    async with served(tmp_path, CLUMSY) as host:
        async with guestd.attach(host.socket, memory=1 << 16) as guest:
            handle, calls, _, _ = await guest.core((await guest.found("clumsy")).node, numbers.OPEN, 0)
            for status in (0, *LIVE):
                await guest.core(handle, numbers.SET_STATUS, status)
            for vector in (-1, 1, 40, 1 << 40):
                with pytest.raises(Internal, match="IndexError"):
                    await guest.call(handle, calls["ring"], (vector,))
            assert await guest.call(handle, calls["ring"], (0,)) is None
            (link,) = host.guests.links
            link.abort()
            assert await guest.call(handle, calls["go"]) == 1 and guest.resumed == 1
        await until(host, lambda: not host.guests.by_token)


async def test_a_property_that_is_not_there_yet_is_not_there(tmp_path: Path) -> None:
    async with served(tmp_path, DeviceSpec("untold", "untold", Untold, {})) as host, attached(host) as guest:
        node = await guest.core(numbers.FIND, 0, "/untold")
        assert (await guest.call(numbers.GETPROP, node, "size"))[0] == Status.NO_MATCH
        assert await guest.core(numbers.NEXTPROP, node, "hcall-class") == "parts"
        assert (await guest.call(numbers.GETPROP, node, "parts"))[0] == Status.INTERNAL  # it fits no message
        listed = {node["path"]: node["properties"] for node in await ask(host, "ls")}
        assert "size" not in listed["/untold"] and "/rng" in listed
        untold = device(host, "/untold")
        assert isinstance(untold, Untold)
        untold.size = 3
        assert await guest.core(numbers.GETPROP, node, "size") == 3
        with pytest.raises(TypeError, match="parts has set in it, which no property has"):
            untold.parts = (1, {2})
