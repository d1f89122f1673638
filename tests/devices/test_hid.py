"""Keyboard and mouse with their driver: from the front panel or a socket to a guest, and LEDs back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from input_ends import CAPS, LEFT, A, bound, edges, encoded, events, key, model, panel, served

import guestd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import BadArgument, Busy, NotAllowed, WouldBlock
from hcall.formats.input import DROPPED, EV_KEY, EV_LED, EV_MSC, EV_REL, EV_SYN, Event, Packet, Packets, codes_of
from hcall.formats.keycodes import AXES, BUTTONS, KEYS, LEDS
from hostd import Machine
from hostd.machine.file import MachineError


@pytest.mark.spec("HID-1", "HID-6")
async def test_what_is_done_at_the_front_panel_comes_as_packets(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as hid:
        panel(host, "tap", "KEY_A")
        panel(host, "click", "BTN_LEFT")
        panel(host, "move", "-3", "7")
        panel(host, "scroll", "-1")
        assert events(await hid.events()) == [
            (Event(EV_KEY, A, 1),), (Event(EV_KEY, A, 0),), (Event(EV_KEY, LEFT, 1),), (Event(EV_KEY, LEFT, 0),),
            (Event(EV_REL, 0, -3), Event(EV_REL, 1, 7), Event(EV_REL, 8, -1), Event(EV_REL, 11, -120)),
        ]  # fmt: skip
        reading = asyncio.ensure_future(hid.events())
        await hid.keys()
        assert not reading.done()
        panel(host, "press", "KEY_LEFTSHIFT")
        assert events(await reading) == [(Event(EV_KEY, KEYS["KEY_LEFTSHIFT"], 1),)]
        assert codes_of(await hid.keys()) == hid.pressed == {KEYS["KEY_LEFTSHIFT"]}


async def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        loop = asyncio.get_running_loop()

        def blocking() -> object:
            with guestd.attach_blocking(host.socket) as guest:
                guest["hid"].set_led(CAPS, True)
                loop.call_soon_threadsafe(panel, host, "tap", "KEY_A")
                found: list[Packet] = guest["hid"].events()
                while len(found) < 2:
                    found += guest["hid"].events()
                return edges(found), guest["hid"].lit(), guest["hid"].capabilities()[EV_LED]

        assert await asyncio.to_thread(blocking) == (edges(key(A, 1, 0)), {CAPS}, {*LEDS.values()})


async def test_text_is_typed_as_on_a_us_keyboard(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as hid:
        panel(host, "type", "aB!")
        shift, b, one = KEYS["KEY_LEFTSHIFT"], KEYS["KEY_B"], KEYS["KEY_1"]
        assert [event[1:] for event in edges(await hid.events())] == [
            (A, 1), (A, 0), (shift, 1), (b, 1), (b, 0), (shift, 0), (shift, 1), (one, 1), (one, 0), (shift, 0),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "action", "args", "error", "says"),
    [
        ("keyboard", "tap", ["KEY_AA"], BadArgument, "KEY_A"),
        ("keyboard", "click", ["BTN_LEFT"], BadArgument, "keyboard"),
        ("keyboard", "move", [1, 1], BadArgument, "keyboard"),
        ("mouse", "type", ["a"], BadArgument, "mouse"),
        ("mouse", "move", [1 << 31, 0], BadArgument, "2147483648"),
        ("keyboard", "type", ["ä"], BadArgument, "ä"),
        ("keyboard", "type", ["a" * 5000], Busy, "less at once"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_comes(
    tmp_path: Path, kind: str, action: str, args: list[object], error: type[Exception], says: str
) -> None:
    async with served(tmp_path, kind=kind) as host, bound(host) as hid:
        with pytest.raises(error, match=says):
            panel(host, action, *args)
        with pytest.raises(WouldBlock):
            await hid.read(4096)


async def test_without_a_guest_the_front_panel_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        with pytest.raises(NotAllowed, match="no guest"):
            panel(host, "tap", "KEY_A")


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("keyboard", {EV_KEY: {*KEYS.values()}, EV_MSC: {4}, EV_LED: {*LEDS.values()}}),
        ("mouse", {EV_KEY: {*BUTTONS.values()}, EV_MSC: {4}, EV_REL: {*AXES.values()}}),
        ("keyboard, mouse", {EV_KEY: {*KEYS.values(), *BUTTONS.values()}, EV_MSC: {4}, EV_REL: {*AXES.values()},
                             EV_LED: {*LEDS.values()}}),
    ],
)  # fmt: skip
@pytest.mark.spec("HID-2")
async def test_a_guest_learns_what_it_is(tmp_path: Path, kind: str, types: dict[int, set[int]]) -> None:
    async with served(tmp_path, kind=kind) as host, bound(host) as hid:
        assert await hid.capabilities() == types
        assert codes_of(await hid.bits(EV_SYN)) == {EV_SYN, *types}
        assert await hid.devname() == f"hostd {kind.replace(',', ' and')}"
        assert tuple(await hid.devids()) == (6, 0x1AF4, 0x1052, 1)
        assert await hid.bits(3) == b""  # no absolute axes
        for event_type in (-1, 0x20, 1 << 40):
            with pytest.raises(BadArgument):
                await hid.bits(event_type)


@pytest.mark.spec("HID-3", "HID-7")
async def test_leds_go_to_the_backing_as_records_and_are_off_for_the_next_guest(tmp_path: Path) -> None:
    async with served(tmp_path, events="file:leds") as host:
        async with bound(host) as hid:
            await hid.set_led(CAPS, True)
            await hid.set_led(CAPS, True)  # no change
            await hid.set_led(LEDS["LED_NUML"], True)
            await hid.set_led(LEDS["LED_NUML"], False)
            assert await hid.lit() == {CAPS}
            for code in (-1, 11, 1 << 40):
                with pytest.raises(BadArgument):
                    await hid.set_led(code, True)
        async with bound(host) as hid:
            assert await hid.lit() == set()
    written = Packets().feed((tmp_path / "leds").read_bytes())
    assert events(written) == [(Event(EV_LED, code, on),) for code, on in ((1, 1), (0, 1), (0, 0), (1, 0))]


@pytest.mark.spec("HID-7")
async def test_a_mouse_has_no_leds(tmp_path: Path) -> None:
    async with served(tmp_path, kind="mouse") as host, bound(host) as hid:
        with pytest.raises(BadArgument, match="LED"):
            await hid.set_led(CAPS, True)


async def test_a_program_at_a_socket_is_the_keyboard(tmp_path: Path) -> None:
    async with served(tmp_path, events="unix:hid.sock") as host, bound(host) as hid:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "hid.sock")
        sent = [*key(A, 1, 2, 0), Packet(0, (Event(EV_REL, 0, 5), Event(EV_KEY, LEFT, 1)))]
        data = encoded(sent)
        writer.write(data[:30])
        await writer.drain()
        await hid.keys()
        writer.write(data[30:])
        found: list[Packet] = []
        while len(found) < len(sent):
            found += await hid.events()
        assert events(found) == events(sent)
        await hid.set_led(CAPS, True)
        assert events(Packets().feed(await reader.readexactly(48))) == [(Event(EV_LED, CAPS, 1),)]
        writer.close()
        await writer.wait_closed()


async def test_a_program_that_goes_lets_go_of_its_keys_and_of_no_others(tmp_path: Path) -> None:
    async with served(tmp_path, kind="keyboard", events="unix:hid.sock") as host, bound(host) as hid:
        b, c = KEYS["KEY_B"], KEYS["KEY_C"]
        panel(host, "press", "KEY_B")
        found = await hid.events()
        for code in (A, c):  # the second one begins with a whole record
            _, writer = await asyncio.open_unix_connection(tmp_path / "hid.sock")
            writer.write(encoded(key(code, 1)) + encoded(key(b, 1))[:30])
            while code not in hid.pressed:
                found += await hid.events()
            writer.close()
            await writer.wait_closed()
            while code in hid.pressed:
                found += await hid.events()
            panel(host, "press", "KEY_A")
        assert edges(found) == edges(key(b, 1) + key(A, 1, 0, 1) + key(c, 1, 0))
        assert codes_of(await hid.keys()) == {A, b}


@pytest.mark.spec("HID-4")
async def test_a_guest_that_does_not_read_learns_what_it_missed(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as hid:
        b = KEYS["KEY_B"]
        model(host).send(encoded(key(A, 1)))
        assert events(await hid.events()) == events(key(A, 1))
        model(host).send(encoded(key(A, 0) + key(b, 1) + key(LEFT, 1, 0) * 3000 + key(LEFT, 1)))
        found = await hid.events()
        assert found[0].events == (DROPPED,)
        while hid.pressed != {b, LEFT}:
            found += await hid.events()
        down = {A}
        for event in edges(found):
            assert (event.code in down) != bool(event.value)
            down ^= {event.code}
        assert down == codes_of(await hid.keys()) == {b, LEFT}


@pytest.mark.parametrize("steps", range(1, 16))
async def test_two_who_read_at_once_are_told_what_was_missed_once(tmp_path: Path, steps: int) -> None:
    async with served(tmp_path) as host, bound(host) as hid:
        model(host).send(encoded(key(LEFT, 1, 0) * 3000 + key(A, 1)))
        first = asyncio.ensure_future(hid.events())
        for _ in range(steps):
            await asyncio.sleep(0)
        second = asyncio.ensure_future(hid.events())
        found = await first
        model(host).send(encoded(key(A, 0) + key(LEFT, 0)))  # something for the other one, too
        found += await second
        while hid.pressed:
            found += await hid.events()
        down: set[int] = set()
        for event in edges(found):
            assert (event.code in down) != bool(event.value)
            down ^= {event.code}
        assert not down


async def test_nothing_of_one_guest_is_there_for_the_next(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        async with bound(host) as hid:
            await hid.set_led(CAPS, True)
            panel(host, "press", "KEY_A")
            await hid.events()
            panel(host, "type", "secret")
        model(host).send(encoded(key(A, 0, 1)))  # while nobody is there
        async with bound(host) as hid:
            assert await hid.lit() == codes_of(await hid.keys()) == set()
            with pytest.raises(WouldBlock):
                await hid.read(4096)
            model(host).send(encoded(key(A, 0)))  # of a key that this guest has never seen down
            panel(host, "tap", "KEY_B")
            assert edges(await hid.events()) == edges(key(KEYS["KEY_B"], 1, 0))


async def test_a_guest_hears_of_nothing_before_its_driver_is_ready(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket, drivers=[]) as guest:
        handle, calls, _, _ = await guest.core((await guest.found("hid")).node, numbers.OPEN, 0)
        for status in (1, 3, 11):
            await guest.core(handle, numbers.SET_STATUS, status)
        model(host).send(encoded(key(A, 1)))
        await guest.core(handle, numbers.SET_STATUS, 15)
        with pytest.raises(WouldBlock):
            await guest.call(handle, calls["read"], (0,), (4096,))


async def test_what_a_backing_sends_that_the_device_has_not_is_left_out(tmp_path: Path) -> None:
    async with served(tmp_path, kind="keyboard") as host, bound(host) as hid:
        strange = [Event(EV_REL, 0, 1), Event(3, 0, 5), Event(EV_LED, CAPS, 1), Event(EV_KEY, 0x2FF, 1), Event(0, 1, 0)]
        model(host).send(encoded([Packet(0, (*strange, Event(EV_KEY, A, 1)))]))
        model(host).send(random.Random(4).randbytes(100_000))
        assert (await hid.events())[0].events == (Event(EV_KEY, A, 1),)


async def test_a_record_that_is_not_finished_is_forgotten_after_a_second(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, bound(host) as hid:
        model(host).send(encoded(key(A, 1))[:37])
        clock.turn(3)
        model(host).send(encoded(key(LEFT, 1)))
        assert edges(await hid.events()) == edges(key(LEFT, 1))


async def test_a_backing_that_goes_lets_go_of_its_keys_and_is_tried_again_for_the_next_guest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, events="file:/dev/full") as host:
        for turn in (1, 2):
            async with bound(host) as hid:
                model(host).send(encoded(key(A, 1)))
                await hid.set_led(CAPS, True)  # the write fails
                assert edges(await hid.events()) == edges(key(A, 1, 0))
                assert caplog.text.count("No space left on device") == 2 * turn - 1  # and once to switch it off
                await hid.set_led(CAPS, False)  # nobody is there: no error
                panel(host, "tap", "KEY_B")  # the front panel is
                assert edges(await hid.events()) == edges(key(KEYS["KEY_B"], 1, 0))
                await hid.set_led(CAPS, True)


@pytest.mark.spec("HID-1")
async def test_a_read_of_nothing_and_one_that_is_too_small_harm_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as host, bound(host) as hid:
        panel(host, "press", "KEY_A")
        assert await hid.read(0) == b""
        for count in (1, 24, 47):
            with pytest.raises(BadArgument, match="48 bytes"):
                await hid.read(count)
        assert edges(await hid.events()) == edges(key(A, 1))


@pytest.mark.parametrize("kind", ["", "joystick", "keyboard mouse", "keyboard,"])
def test_another_kind_is_refused_by_the_machine_file(tmp_path: Path, kind: str) -> None:
    with pytest.raises(MachineError, match="keyboard"):
        Machine.from_tables({"devices": {"hid": {"model": "hid", "kind": kind}}}, tmp_path)
