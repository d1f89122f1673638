"""What a real Linux recorded, replayed: whole, in its time, to slow guests, and as an independent reader decodes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from input_ends import A, bound, edges, encoded, key, model, panel, served, way

from hcall.clock import ManualClock
from hcall.errors import WouldBlock
from hcall.formats.input import EV_KEY, EV_LED, EV_REL, EV_SYN, REPEATED, Event, Packet, Packets, codes_of
from hcall.formats.keycodes import AXES, BUTTONS, KEYS
from hostd.backings.parts.event_queue import QUEUE
from hostd.machine.file import MachineError

Acts: TypeAlias = list[tuple[str, int]]

RECORDINGS = Path(__file__).parent / "recordings"
NAMES = {(EV_KEY, code): name for name, code in (KEYS | BUTTONS).items()}
NAMES |= {(EV_REL, AXES[name]): name for name in ("REL_X", "REL_Y", "REL_WHEEL")}
PYTHON_EVDEV = """\
import evdev, json, os
from evdev import _input, ecodes
names = lambda name: [name] if isinstance(name, str) else name  # LEFT and MOUSE are one
size, found = os.fstat(0).st_size, []
while os.lseek(0, 0, os.SEEK_CUR) < size:
    found += _input.device_read_many(0)  # what InputDevice.read does, in C, with the kernel's own struct
print(json.dumps([(*event, type(evdev.categorize(evdev.InputEvent(*event))).__name__,
                   names(ecodes.bytype[event[2]][event[3]])) for event in found]))
"""


class Recorded(NamedTuple):
    """A recording, see recordings/README.md."""

    path: Path
    kind: str
    packets: list[Packet]  # without EV_LED, which a keyboard does not send: it is told
    injected: Acts


@pytest.fixture(params=["ps2-keyboard", "ps2-mouse", "usb-keyboard", "usb-mouse"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    path = RECORDINGS / f"{request.param}.evdev"
    packets = [
        packet._replace(events=tuple(event for event in packet.events if event.type != EV_LED))
        for packet in Packets().feed(path.read_bytes())
    ]
    injected = [(name, value) for name, value in json.loads(path.with_suffix(".json").read_text())]
    return Recorded(path, request.param.partition("-")[2], packets, injected)


def acts(packets: list[Packet]) -> Acts:
    """What somebody did, who does not repeat a key but hold it, and turns a wheel by notches, not by 120ths of one."""
    events = [event for packet in packets for event in packet.events if event[:2] in NAMES]
    return [(NAMES[event[:2]], event.value) for event in events if event[::2] != (EV_KEY, REPEATED)]


def added_up(acts: Acts) -> list[tuple[str, int] | dict[str, int]]:
    """Edges, and between two of them how far it went, by axis."""
    found: list[tuple[str, int] | dict[str, int]] = []
    for name, value in acts:
        if name not in AXES:
            found.append((name, value))
        elif found and isinstance(sums := found[-1], dict):
            sums[name] = sums.get(name, 0) + value
        else:
            found.append({name: value})
    return found


@pytest.fixture
def python_evdev() -> str:
    """Debian's Python, which has evdev if python3-evdev is installed."""
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.call([python, "-c", "import evdev"], stderr=subprocess.DEVNULL):
        pytest.skip("python3-evdev is not installed")
    return python


async def decoded(python: str, records: Path) -> list[list[Any]]:
    """By python-evdev, of each event: seconds, microseconds, type, code, value, class and names."""
    with records.open("rb") as file:
        text = await asyncio.to_thread(subprocess.check_output, [python, "-c", PYTHON_EVDEV], stdin=file)
    found: list[list[Any]] = json.loads(text)
    return found


async def test_python_evdev_reads_what_was_recorded_and_what_was_injected(
    tmp_path: Path, python_evdev: str, recorded: Recorded
) -> None:
    raw = b""
    async with (
        served(tmp_path, kind=recorded.kind, replay=str(recorded.path), timed=False) as host,
        bound(host) as hid,
    ):
        while len(raw) < len(encoded(recorded.packets)):
            raw += await hid.read(4096)
    (tmp_path / "read").write_bytes(raw)
    linux = [event for event in await decoded(python_evdev, recorded.path) if event[2] != EV_LED]
    for event in linux:
        if event[2] == EV_SYN:
            event[4] = 0  # SYN_REPORT is 1 after a repeat of Linux's own, and nothing depends on it
    found = await decoded(python_evdev, tmp_path / "read")
    assert found == linux
    pressed = [(names, value) for *_, value, kind, names in found if kind == "KeyEvent" and value != REPEATED]
    done = [(name, value) for name, value in recorded.injected if name not in AXES]
    assert [value for _, value in pressed] == [value for _, value in done]
    assert all(name in names for (names, _), (name, _) in zip(pressed, done, strict=True))


async def test_each_event_comes_at_its_time(tmp_path: Path, recorded: Recorded) -> None:
    clock = ManualClock()
    margin = 0.000_000_5  # seconds: the times of records are microseconds
    first = recorded.packets[0].at
    async with served(tmp_path, clock, kind=recorded.kind, replay=str(recorded.path)) as host:
        for packets in (recorded.packets[:50], recorded.packets):  # each guest gets it from its beginning
            clock.turn(1000)
            start = clock.time()
            async with bound(host) as hid:
                for packet in packets:
                    due = start + (packet.at - first) / 1_000_000
                    if packet.at > first:
                        clock.turn(due - margin - clock.time())
                        with pytest.raises(WouldBlock):
                            await hid.read(4096)
                    clock.turn(due + margin - clock.time())
                    assert await hid.events() == [packet]


async def test_a_recording_comes_as_fast_as_it_is_read_and_whole(tmp_path: Path, recorded: Recorded) -> None:
    times = 1 + QUEUE // len(recorded.packets)  # more than the queue has room for
    (tmp_path / "rec").write_bytes(recorded.path.read_bytes() * times)
    async with served(tmp_path, kind=recorded.kind, replay="rec", timed=False) as host, bound(host) as hid:
        found: list[Packet] = []
        while len(found) < times * len(recorded.packets):
            found += await hid.events()
    assert found == times * recorded.packets


async def test_a_guest_that_is_slow_misses_no_edge_and_no_way(tmp_path: Path, recorded: Recorded) -> None:
    clock = ManualClock()
    seconds = (recorded.packets[-1].at - recorded.packets[0].at) / 1_000_000
    found: list[Packet] = []
    async with served(tmp_path, clock, kind=recorded.kind, replay=str(recorded.path)) as host, bound(host) as hid:
        while clock.time() <= seconds:
            clock.turn(0.25)
            with contextlib.suppress(WouldBlock):
                found += Packets().feed(await hid.read(4096))
    assert edges(found) == edges(recorded.packets) and way(found) == way(recorded.packets)
    assert added_up(acts(found)) == added_up(recorded.injected)
    assert len(found) < len(recorded.packets) / 2 or recorded.kind == "keyboard"  # motion was added up


async def test_a_guest_that_does_not_read_learns_what_is_down_and_misses_nothing_after(
    tmp_path: Path, recorded: Recorded
) -> None:
    times = 100
    found: list[Packet] = []
    async with served(tmp_path, kind=recorded.kind) as host, bound(host) as hid:
        for _ in range(times):
            model(host).send(recorded.path.read_bytes())
        (dropped,) = Packets().feed(await hid.read(4096))
        down = codes_of(await hid.keys())
        with contextlib.suppress(WouldBlock):
            while True:
                found += Packets().feed(await hid.read(4096))
    sent, came = times * edges(recorded.packets), edges(found)
    assert dropped.dropped and 0 < len(came) < len(sent)
    missed, after = sent[: -len(came)], sent[-len(came) :]
    assert came == after
    assert down == {code for code, value in {event.code: event.value for event in missed}.items() if value}


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
