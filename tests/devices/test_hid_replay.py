"""What input devices replay, what comes of much at once, and what an independent reader of evdev makes of it."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from pathlib import Path

import pytest
from input_ends import LEFT, A, bound, edges, encoded, key, model, panel, served, way

from hostd.machine import MachineError
from protocol.clock import ManualClock
from protocol.errors import WouldBlock
from protocol.formats.input import EV_KEY, EV_MSC, EV_REL, EV_SYN, Event, Packet, Packets
from protocol.formats.keycodes import AXES, BUTTONS, KEYS

PYTHON_EVDEV = """\
import evdev, json, os
from evdev import _input, ecodes
size, found = os.fstat(0).st_size, []
while os.lseek(0, 0, os.SEEK_CUR) < size:
    found += _input.device_read_many(0)  # what InputDevice.read does, in C, with the kernel's own struct
print(json.dumps([(*event, type(evdev.categorize(evdev.InputEvent(*event))).__name__,
                   ecodes.bytype[event[2]][event[3]]) for event in found]))
"""


def a_session(seed: int, length: int) -> list[Packet]:
    """Somebody types and uses a mouse; each packet is as drivers/hid/hid-input.c has the kernel report it."""
    rng = random.Random(seed)
    packets, now, held = [], 0, False
    while len(packets) < length:
        now += rng.randrange(1000, 8000)
        if rng.random() < 0.8:
            motion = {AXES["REL_X"]: rng.randrange(-9, 10), AXES["REL_Y"]: rng.randrange(-9, 10)}
            if rng.random() < 0.05:
                motion |= {AXES["REL_WHEEL"]: 1, AXES["REL_WHEEL_HI_RES"]: 120}
            change = tuple(Event(EV_REL, axis, n) for axis, n in motion.items() if n)
        elif rng.random() < 0.5:
            held = not held
            change = (Event(EV_MSC, 4, 0x90001), Event(EV_KEY, LEFT, int(held)))
        else:
            code = rng.choice([*KEYS.values()])
            packets.append(Packet(now, (Event(EV_MSC, 4, 0x70000 + code), Event(EV_KEY, code, 1))))
            now += 90_000
            change = (Event(EV_MSC, 4, 0x70000 + code), Event(EV_KEY, code, 0))
        if change:
            packets.append(Packet(now, change))
    return packets


@pytest.fixture
def python_evdev() -> str:
    """Debian's Python, which has evdev if python3-evdev is installed."""
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.call([python, "-c", "import evdev"], stderr=subprocess.DEVNULL):
        pytest.skip("python3-evdev is not installed")
    return python


async def test_python_evdev_reads_the_same_events(tmp_path: Path, python_evdev: str) -> None:
    session = a_session(1, 500)
    (tmp_path / "session.evdev").write_bytes(encoded(session))
    raw = b""
    async with served(tmp_path, replay="session.evdev", timed=False) as host, bound(host) as hid:
        while len(raw) < (tmp_path / "session.evdev").stat().st_size:
            raw += await hid.read(4096)
    (tmp_path / "read").write_bytes(raw)
    with (tmp_path / "read").open("rb") as file:
        seen = json.loads(
            await asyncio.to_thread(subprocess.check_output, [python_evdev, "-c", PYTHON_EVDEV], stdin=file)
        )
    codes = {EV_KEY: KEYS | BUTTONS, EV_REL: AXES, EV_MSC: {"MSC_SCAN": 4}, EV_SYN: {"SYN_REPORT": 0}}
    classes = {EV_KEY: "KeyEvent", EV_REL: "RelEvent", EV_MSC: "InputEvent", EV_SYN: "SynEvent"}
    for packet in session:
        for event in (*packet.events, Event(EV_SYN, 0, 0)):
            seconds, microseconds, *numbers, kind, names = seen.pop(0)
            assert (seconds * 1_000_000 + microseconds, *numbers, kind) == (packet.at, *event, classes[event.type])
            (name,) = [name for name, code in codes[event.type].items() if code == event.code]
            assert name in (names if isinstance(names, list) else [names])
    assert seen == []


async def test_a_guest_that_is_slow_misses_no_edge_and_no_way(tmp_path: Path) -> None:
    session = a_session(2, 3000)
    async with served(tmp_path) as host, bound(host) as hid:
        found: list[Packet] = []
        for n in range(0, len(session), 500):
            model(host).send(encoded(session[n : n + 500]))
            found += Packets().feed(await hid.read(4096))  # a few of them
        while True:
            try:
                found += Packets().feed(await hid.read(4096))
            except WouldBlock:
                break
    assert edges(found) == edges(session) and way(found) == way(session)
    assert len(found) < len(session) / 2


async def test_a_recording_takes_its_time(tmp_path: Path) -> None:
    recorded = [
        Packet(5_000_000 + at, packet.events) for at, packet in zip((0, 0, 250_000), key(A, 1, 0, 1), strict=True)
    ]
    (tmp_path / "rec").write_bytes(encoded(recorded))
    clock = ManualClock()
    async with served(tmp_path, clock, replay="rec") as host:
        for _ in range(2):  # each guest gets it from its beginning
            async with bound(host) as hid:
                assert await hid.events() == recorded[:2]
                clock.turn(0.249)
                with pytest.raises(WouldBlock):
                    await hid.read(4096)
                clock.turn(0.002)
                assert await hid.events() == recorded[2:]


async def test_a_recording_comes_as_fast_as_it_is_read_and_whole(tmp_path: Path) -> None:
    session = a_session(3, 20_000)  # more than the queue has room for
    (tmp_path / "rec").write_bytes(encoded(session))
    async with served(tmp_path, replay="rec", timed=False) as host, bound(host) as hid:
        found: list[Packet] = []
        while len(found) < len(session):
            found += await hid.events()
    assert found == session


@pytest.mark.parametrize(
    ("make", "says"), [(None, "No such file"), (b"x" * 25, "no whole records"), ("dir", "no file")]
)
async def test_what_is_no_recording_is_refused(tmp_path: Path, make: bytes | str | None, says: str) -> None:
    if isinstance(make, bytes):
        (tmp_path / "rec").write_bytes(make)
    elif make:
        (tmp_path / "rec").mkdir()
    with pytest.raises(MachineError, match=says):
        async with served(tmp_path, replay="rec"):
            pass


async def test_gaps_that_no_clock_can_wait_for_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "rec").write_bytes(
        encoded([Packet((1 << 62) * 1_000_000 * n, (Event(EV_REL, 0, 1),)) for n in (0, 1, 0)])
    )
    async with served(tmp_path, replay="rec") as host, bound(host) as hid:
        assert way(await hid.events()) == {0: 1}
        panel(host, "tap", "KEY_A")
        assert edges(await hid.events()) == edges(key(A, 1, 0))
