"""The system manager: its model and its driver together, and the conversation as Linux has it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from raw import plugged

import guestd
import hostd
from guestd.drivers.sysman import SysmanDriver
from hcall.clock import ManualClock
from hcall.errors import BadArgument, Busy, IoError, LinkLost, NotAllowed
from hcall.formats.sysmgmt import (
    LONGEST,
    Attribute,
    Body,
    Command,
    Event,
    Happened,
    Operation,
    Reason,
    Request,
    RequestError,
    Response,
    SetAttr,
    SetNextOp,
    encode,
    messages,
)
from hostd import Machine
from hostd.commands.remote import ask
from hostd.devices.sysman import Sysman

SECONDS = 10  # after which a test says that something hangs
Managed: TypeAlias = "tuple[Sysman, guestd.AsyncGuest, SysmanDriver]"


@contextlib.asynccontextmanager
async def served(folder: Path, clock: ManualClock | None = None, **config: object) -> AsyncIterator[hostd.Host]:
    machine = Machine.from_tables({"devices": {"sysman": {"model": "sysman", **config}}}, folder)
    async with hostd.serve(machine, folder / "run", clock) as host, asyncio.timeout(SECONDS):
        yield host


@contextlib.asynccontextmanager
async def managed(folder: Path, clock: ManualClock | None = None, **config: object) -> AsyncIterator[Managed]:
    async with served(folder, clock, **config) as host, guestd.attach(host.socket) as guest:
        yield model(host), guest, await bound(guest)


def model(host: hostd.Host) -> Sysman:
    device = host.tree.find("/sysman").device
    assert isinstance(device, Sysman)
    return device


async def bound(guest: guestd.AsyncGuest) -> SysmanDriver:
    driver = await guest.bind("sysman")
    assert isinstance(driver, SysmanDriver)
    return driver


async def said(driver: SysmanDriver, count: int = 1) -> list[tuple[int, Body]]:
    """The next messages of the host: tags and bodies."""
    data = bytearray(await driver.read_exactly(count * LONGEST))
    return [(message.tag, message.body()) for message in messages(data)]


async def last_word(guest: guestd.AsyncGuest) -> str:
    """Why the session of *guest* ends."""
    try:
        await guest.happened()
    except LinkLost as error:
        return str(error).removeprefix("the host ended the session: ")
    raise AssertionError("it goes on")


# Events.


async def test_buttons_and_heat_come_as_events_in_their_order(tmp_path: Path) -> None:
    clock = ManualClock()
    async with managed(tmp_path, clock) as (panel, _, sysman):
        waiting = asyncio.ensure_future(sysman.event())
        assert panel.press("power") == "the guest was told"
        assert await waiting == Event(Happened.POWER_PRESSED, 0)
        clock.turn(1.5)
        for action in (panel.release, panel.press):
            action("power" if action == panel.release else "reset")
        panel.overheat(3)
        panel.cool(3)
        clock.turn(0.25)
        panel.release("reset")
        assert [await sysman.event() for _ in range(5)] == [
            Event(Happened.POWER_RELEASED, 1500), Event(Happened.RESET_PRESSED, 0), Event(Happened.THERMAL_ALERT, 3),
            Event(Happened.THERMAL_CLEARED, 3), Event(Happened.RESET_RELEASED, 250),
        ]  # fmt: skip


async def test_an_action_over_the_control_socket_becomes_an_event(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest:
        sysman = await bound(guest)
        told: Any = await asyncio.to_thread(
            ask, str(host.socket), "act", path="/sysman", action="press", args=["power"]
        )
        assert told == "the guest was told"
        assert await sysman.event() == Event(Happened.POWER_PRESSED, 0)


@pytest.mark.parametrize("attribute", [Attribute.POWER, Attribute.RESET, Attribute.THERMAL])
@pytest.mark.spec("SYS-1")
async def test_only_what_the_attributes_say_is_told(tmp_path: Path, attribute: Attribute) -> None:
    async with managed(tmp_path) as (panel, _, sysman):
        await sysman.listen(attribute)
        told = [panel.press("power"), panel.press("reset"), panel.overheat(0)]
        wanted = [Attribute.POWER, Attribute.RESET, Attribute.THERMAL]
        assert told == ["the guest was told" if each == attribute else "no guest listens" for each in wanted]
        happened = [Happened.POWER_PRESSED, Happened.RESET_PRESSED, Happened.THERMAL_ALERT][wanted.index(attribute)]
        assert await sysman.event() == Event(happened, 0)
        assert await sysman.get_param(4) == 0  # RX_BYTES


@pytest.mark.spec("SYS-1")
async def test_a_guest_that_has_not_asked_is_told_nothing_nor_the_next_one_what_was_for_another(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        assert model(host).press("power") == "no guest listens"
        async with guestd.attach(host.socket) as guest:
            await bound(guest)
            assert model(host).overheat(1) == "the guest was told"
        async with guestd.attach(host.socket) as guest:
            sysman = await bound(guest)
            assert model(host).cool(1) == "the guest was told"
            assert await sysman.event() == Event(Happened.THERMAL_CLEARED, 1)


def test_what_no_front_panel_can_do_is_refused() -> None:
    panel = Sysman()
    panel.clock = ManualClock()
    panel.start()
    buttons, zones = (panel.press, panel.release), (panel.overheat, panel.cool)
    for button in ("", "any"):
        for action in buttons:
            with pytest.raises(BadArgument, match="power or reset"):
                action(button)
    for zone in (-1, 16):
        for heat in zones:
            with pytest.raises(BadArgument, match="0 to 15"):
                heat(zone)
    panel.press("power")
    panel.overheat(0)
    for action, button in zip(buttons, ("power", "reset"), strict=True):
        with pytest.raises(NotAllowed, match=f"{button} is"):
            action(button)
    for heat, zone in zip(zones, (0, 1), strict=True):
        with pytest.raises(NotAllowed, match=f"zone {zone} is"):
            heat(zone)
    for end in (panel.shutdown, panel.reboot):
        with pytest.raises(NotAllowed, match="no guest listens"):
            end()


async def test_events_for_a_guest_that_does_not_read_have_a_bound_and_none_is_torn(tmp_path: Path) -> None:
    async with managed(tmp_path) as (panel, _, sysman):
        sent = []
        with pytest.raises(Busy, match="does not read"):
            for _ in range(100_000):
                for zone in range(16):
                    (panel.cool if (zone in panel._hot) else panel.overheat)(zone)
                    sent.append(zone)
        assert len(sent) == 65536 // LONGEST
        assert [(await sysman.event()).value for _ in sent] == sent  # type: ignore[union-attr]
        panel.press("power")
        assert await sysman.event() == Event(Happened.POWER_PRESSED, 0)


# The end of a guest.


@pytest.mark.parametrize(("how", "word"), [("shutdown", "shut down"), ("reboot", "rebooted")])
async def test_a_guest_ends_itself_and_no_other(tmp_path: Path, how: str, word: str) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as other, guestd.attach(host.socket) as guest:
        sysman = await bound(guest)
        model(host).press("power")  # is waiting to be read
        await getattr(sysman, how)()
        assert await last_word(guest) == f"the guest was {word}"
        await other.nop()
        assert await (await bound(other)).get_time() > 0


@pytest.mark.parametrize(
    ("operation", "word"),
    [(Operation.SHUTDOWN, "shut down"), (Operation.REBOOT, "rebooted"), (Operation.PARTITION_REBOOT, "rebooted")],
)
@pytest.mark.spec("SYS-3")
async def test_the_conversation_is_linuxs(tmp_path: Path, operation: Operation, word: str) -> None:
    async with managed(tmp_path) as (_, guest, sysman):
        await sysman.write_all(encode(SetAttr(0)))
        for byte in encode(SetNextOp(operation)) + encode(Request()):
            await sysman.write_all(bytes([byte]))
        assert await said(sysman) == [(0, Command())]
        await guest.nop()  # it goes on until it says that it is ready
        await sysman.write_all(encode(Response(0)))
        assert await last_word(guest) == f"the guest was {word}"


@pytest.mark.parametrize(("order", "word"), [("shutdown", "shut down"), ("reboot", "rebooted")])
@pytest.mark.spec("SYS-3")
async def test_the_hosts_user_ends_a_guest_when_it_is_ready(tmp_path: Path, order: str, word: str) -> None:
    async with managed(tmp_path) as (panel, guest, sysman):
        getattr(panel, order)()
        with pytest.raises(Busy, match="has not answered"):
            panel.shutdown()
        assert await sysman.event() == Command()
        await sysman.respond(ready=False)
        await guest.nop()
        getattr(panel, order)()
        assert await sysman.event() == Command()
        await sysman.respond()
        assert await last_word(guest) == f"the guest was {word}"


async def test_a_guest_may_end_itself_while_it_is_commanded_to(tmp_path: Path) -> None:
    async with managed(tmp_path) as (panel, guest, sysman):
        panel.reboot()
        await sysman.shutdown()
        assert await last_word(guest) == "the guest was shut down"


@pytest.mark.parametrize(
    ("sent", "service", "reason"),
    [
        (encode(Request(), 9), 1, Reason.WRONG_TIME),  # no SET_NEXT_OP before
        (encode(Response(0), 9), 2, Reason.WRONG_TIME),
        (encode(Request(2), 9), 1, Reason.BAD_VALUE),
        (encode(Request(1, 3), 9), 1, Reason.BAD_VALUE),
        (encode(SetNextOp(3), 9), 5, Reason.BAD_VALUE),
        (encode(SetNextOp(1, 2), 9), 5, Reason.BAD_VALUE),
        (encode(SetAttr(16), 9), 8, Reason.BAD_VALUE),
        (encode(Command(), 9), 3, Reason.NO_SUCH_SERVICE),
        (encode(Event(3, 0), 9), 4, Reason.NO_SUCH_SERVICE),
        (encode(RequestError(1, 1), 9), 6, Reason.NO_SUCH_SERVICE),
        (bytes.fromhex("01100000 00000008 abcd 0000 00000009 0000000000000000"), 0xABCD, Reason.NO_SUCH_SERVICE),
        (bytes.fromhex("01100000 00000008 0008 0000 00000009 0200000000000000"), 8, Reason.BAD_VALUE),
    ],
)
@pytest.mark.spec("SYS-2")
async def test_what_cannot_be_done_is_told_with_its_tag(
    tmp_path: Path, sent: bytes, service: int, reason: Reason
) -> None:
    async with managed(tmp_path) as (panel, _, sysman):
        await sysman.write_all(sent)
        assert await said(sysman) == [(9, RequestError(service, reason))]
        panel.press("power")  # nothing else has changed
        assert await sysman.event() == Event(Happened.POWER_PRESSED, 0)


@pytest.mark.spec("SYS-3")
async def test_a_second_request_and_an_answer_to_another_one_are_refused(tmp_path: Path) -> None:
    async with managed(tmp_path) as (_, guest, sysman):
        await sysman.write_all(encode(SetNextOp(1)) + encode(Request(), 5) + encode(Request(), 6))
        await sysman.write_all(encode(Response(0), 4))
        refused = [(6, RequestError(1, Reason.WRONG_TIME)), (4, RequestError(2, Reason.WRONG_TIME))]
        assert await said(sysman, 3) == [(5, Command()), *refused]
        await sysman.write_all(encode(Response(0), 5))
        assert "shut down" in await last_word(guest)


async def test_a_refusal_is_an_error_of_the_driver(tmp_path: Path) -> None:
    async with managed(tmp_path) as (panel, _, sysman):
        await sysman.respond()  # to nothing
        with pytest.raises(NotAllowed, match="service 2: WRONG_TIME"):
            await sysman.event()
        await sysman.write_all(encode(SetNextOp(1)) + encode(Request(), 77))
        assert await sysman.event() == Command()
        panel.press("power")
        with pytest.raises(NotAllowed, match="service 1: WRONG_TIME"):
            await sysman.reboot()
        panel.release("power")  # it listens again
        happened = [(await sysman.event()).type for _ in range(2)]
        assert happened == [Happened.POWER_PRESSED, Happened.POWER_RELEASED]


async def test_a_refusal_of_what_was_sent_before_does_not_keep_a_guest_from_ending(tmp_path: Path) -> None:
    async with managed(tmp_path) as (_, guest, sysman):
        await sysman.respond()  # to nothing
        await sysman.shutdown()
        assert await last_word(guest) == "the guest was shut down"


async def test_one_thing_at_a_time(tmp_path: Path) -> None:
    async with managed(tmp_path) as (panel, _, sysman):
        waiting = asyncio.ensure_future(sysman.event())
        await sysman.get_time()
        for second in (sysman.event(), sysman.shutdown()):
            with pytest.raises(Busy, match="waits for sysman already"):
                await second
        panel.press("power")
        assert await waiting == Event(Happened.POWER_PRESSED, 0)


@pytest.mark.spec("SYS-4")
async def test_what_is_no_message_hangs_up_until_the_device_is_reset(tmp_path: Path) -> None:
    async with managed(tmp_path) as (panel, guest, sysman):
        await sysman.write_all(bytes(16))
        await sysman.disconnected.wait()
        with pytest.raises(IoError, match="hung up"):
            await sysman.event()
        with pytest.raises(IoError):
            await sysman.write(b"x")
        assert panel.press("power") == "no guest listens"
        with pytest.raises(NotAllowed):
            panel.shutdown()
        await guest.unbind("sysman")
        fresh = await bound(guest)
        panel.press("reset")
        assert await fresh.event() == Event(Happened.RESET_PRESSED, 0)


async def test_a_guest_that_does_not_read_its_refusals_has_to_wait(tmp_path: Path) -> None:
    """Memory is bounded, and no answer is lost."""
    count = 3000
    async with managed(tmp_path) as (_, _, sysman):
        writing = asyncio.ensure_future(sysman.write_all(b"".join(encode(Response(0), n) for n in range(count))))
        while await sysman.get_param(4) < 65536:  # RX_BYTES
            pass
        assert await said(sysman, count) == [(n, RequestError(2, Reason.WRONG_TIME)) for n in range(count)]
        await writing


# Lights, and the clock.


@pytest.mark.spec("SYS-5")
async def test_lights_show_in_the_device_tree_and_are_off_for_the_next_guest(tmp_path: Path) -> None:
    async with managed(tmp_path) as (_, guest, sysman):
        await sysman.set_led("power", "on")
        await sysman.set_led("disk", "blink")
        assert await sysman.dev.property("leds") == "power=on status=off disk=blink"
        for led, state, says in (("lamp", "on", "no light: power, status, disk"), ("power", "dim", "off, on, blink")):
            with pytest.raises(BadArgument, match=says):
                await sysman.set_led(led, state)
        await guest.unbind("sysman")
        assert await (await bound(guest)).dev.property("leds") == "power=off status=off disk=off"


def test_a_light_is_all_that_a_guest_has_to_switch_for_a_reset_to_matter() -> None:
    device = Sysman()
    site = plugged(device)
    device.start()
    device.set_led("power", "on")
    site.reset()
    assert device.leds == "power=off status=off disk=off"


async def test_the_clock_is_the_hosts(tmp_path: Path) -> None:
    async with managed(tmp_path) as (_, _, sysman):
        before = time.time()
        assert before <= await sysman.get_time() <= time.time()


@pytest.mark.spec("SYS-6")
async def test_the_clock_may_start_at_any_time(tmp_path: Path) -> None:
    clock = ManualClock()
    async with managed(tmp_path, clock, time="1000000000.5") as (_, _, sysman):
        clock.turn(86400)
        assert await sysman.get_time() == 1000086400.5


@pytest.mark.parametrize("text", ["", "now", "-1", "nan", "inf", "1e300"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(hostd.MachineError, match="is no time"):
        Machine.from_tables({"devices": {"sysman": {"model": "sysman", "time": text}}}, tmp_path)


def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as host:

            def blocking() -> str:
                with guestd.attach_blocking(host.socket) as guest:
                    sysman = guest["sysman"]
                    assert sysman.get_time() > 0
                    ask(str(host.socket), "act", path="/sysman", action="press", args=["power"])
                    assert sysman.event() == Event(Happened.POWER_PRESSED, 0)
                    sysman.shutdown()
                    try:
                        guest.nop()
                    except LinkLost as error:
                        return str(error)
                    return "it goes on"

            assert "the guest was shut down" in await asyncio.to_thread(blocking)

    asyncio.run(scenario())
