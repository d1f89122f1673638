"""Every shipped model in a place of its own, what its guest may do with it, and what happens at its other end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from hypothesis import strategies as st
from moving import Hand, moved

from hcall.clock import ManualClock
from hcall.errors import HcallError, WouldBlock
from hcall.formats import frames, ipv4, ppp, sysmgmt
from hcall.formats.folder import Access
from hcall.formats.input import EV_KEY, RECORD, Event, Packet
from hcall.formats.keycodes import KEYS, LEDS
from hostd.backings.ip import Echo
from hostd.backings.named import AnyBacking
from hostd.backings.spool import Spool
from hostd.device import Device, Later
from hostd.devices.block import Block
from hostd.devices.console import Console
from hostd.devices.folder import Folder
from hostd.devices.hid import Hid
from hostd.devices.net import Net
from hostd.devices.ppp import Ppp
from hostd.devices.printer import Printer
from hostd.devices.rng import Rng
from hostd.devices.sysman import Sysman, WallTime
from hostd.devices.tty import Tty
from hostd.devices.watchdog import Watchdog
from hostd.model.areas import InlineRoom

ELSEWHEN: Final = 4096.0  # seconds by which the clock of the other process differs
Make: TypeAlias = Callable[[], Device]


class Use(Hand):
    """A device and its guest, on a clock of their own."""

    clock: ManualClock
    peer: ppp.Peer  # the guest's end of a line

    def __init__(self, make: Make) -> None:
        self.clock = ManualClock()
        self.numbers: list[int] = []  # that the device gave
        self.files: list[int] = []  # and those of open files
        super().__init__(make, self.clock)

    def go_on(self) -> None:
        """In another device, on another clock."""
        there = ManualClock()
        there.turn(self.clock.time() + ELSEWHEN)
        self.site, self.clock = moved(self.site, self.make(), there), there
        self._set_up()

    async def did(self, step: tuple[str, Any], steps: Steps) -> object:
        """What *step* came to, as all devices that are alike say it, with the interrupts."""
        name, value = step
        before = self._counts
        try:
            outcome = steps[name].act(self, value)
            if isinstance(outcome, Later):
                done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                outcome.then(done.set_result)
                outcome = await done
                if isinstance(outcome, HcallError):
                    raise outcome
            outcome = steps[name].told(self, outcome)
        except HcallError as error:
            outcome = type(error), re.sub(r"(node|file) -?\d+", r"\1", str(error))
        return name, outcome, [now - then for now, then in zip(self._counts, before, strict=True)]

    @property
    def _counts(self) -> list[int]:
        return [self.vectors.count(n) for n in range(len(self.device.declares.irqs))]


class Step(NamedTuple):
    """Something that can be done with a device."""

    values: st.SearchStrategy[Any]
    act: Callable[[Any, Any], object]  # of a Use, and a value
    stays: bool = False  # a reset leaves what it did: it is not the guest that does it, or it is meant to last
    told: Callable[[Any, Any], object] = lambda use, outcome: outcome


Steps: TypeAlias = Mapping[str, Step]


class Model(NamedTuple):
    """How one is made in a folder, what can be done, and what a guest has that begins."""

    make: Callable[[Path], Make]
    steps: Steps
    begin: Callable[[Use], None] = lambda use: None


def guest(name: str, *values: st.SearchStrategy[Any], stays: bool = False) -> dict[str, Step]:
    """A call."""
    return {name: Step(st.tuples(*values), lambda use, given: use.call(name, *given), stays)}


def host(name: str, *values: st.SearchStrategy[Any]) -> dict[str, Step]:
    """What the host's user does, or what stands behind the device."""
    return {name: Step(st.tuples(*values), lambda use, given: getattr(use.device, name)(*given), stays=True)}


def shows(*names: str) -> dict[str, Step]:
    """Properties."""
    return {"shows": Step(st.none(), lambda use, _: [getattr(use.device, name, None) for name in names])}


SIZES = st.sampled_from([0, 1, 7, 512, 4096, 65536])
FEW = st.integers(0, 5)
READ = {"read": Step(SIZES, lambda use, size: use.read(size))}
WRITE = {"write": Step(SIZES, lambda use, size: use.write(bytes(range(256)) * (size // 256) + b"x" * (size % 256)))}
TURN = {"turn": Step(st.sampled_from([0.25, 1.0, 30.0]), lambda use, seconds: use.clock.turn(seconds), stays=True)}
TICK = {"tick": Step(st.none(), lambda use, _: use.site.tick(), stays=True)}
SENT = {"sent": Step(SIZES, lambda use, size: use.device.send(b"typed" * (size // 5)), stays=True)}
STREAM = (
    READ | WRITE | SENT | host("hang_up") | guest("get_param", st.integers(-1, 8))
    | guest("set_param", st.integers(-1, 8), st.sampled_from([0, 1, 5, 7, 65535, 65536]))
)  # fmt: skip
LINE = STREAM | guest("sync") | guest("send_break") | shows("current_speed")
WINSIZE = guest("winsize") | guest("set_winsize", FEW, FEW)


def backed(model: type[Console | Tty], text: str) -> Callable[[Path], Callable[[], Device]]:
    return lambda folder: lambda: model(backing=AnyBacking.parse(text, folder))


# Input devices.

PRESSED = Packet(0, (Event(EV_KEY, KEYS["KEY_C"], 1),)).encode()


def hid(folder: Path) -> Make:
    recording = [Packet(n * 400_000, (Event(EV_KEY, KEYS["KEY_A"], (n + 1) % 2),)) for n in range(8)]
    (folder / "recording").write_bytes(b"".join(packet.encode() for packet in recording))
    return lambda: Hid(replay=folder / "recording", events=AnyBacking.parse("file:leds", folder))


def timeless(use: Use, data: bytes) -> list[tuple[int, ...]]:
    """Events without their moments."""
    return [record[2:] for record in RECORD.iter_unpack(data)]


HID = (
    TURN | TICK | guest("keys") | guest("leds") | guest("set_led", st.sampled_from([*LEDS.values(), 99]), st.booleans())
    | {"read": READ["read"]._replace(told=timeless)} | host("move", FEW, FEW)
    | host("press", st.sampled_from(["KEY_A", "KEY_B"])) | host("type", st.just("hi")) | host("parted")
    | {"sent": Step(st.integers(1, 48), lambda use, size: use.device.send(PRESSED[:size]), stays=True)}
)  # fmt: skip


# Networks.


def batch(count: int) -> bytes:
    """*count* frames, for everybody."""
    view = memoryview(bytearray(1 << 16))
    size, _ = frames.pack_into(view, [b"\xff" * 6 + b"\x02" + bytes(5) + bytes([n]) * 50 for n in range(count)])
    return bytes(view[:size])


NET = (
    READ | guest("statistics") | host("set_link", st.booleans()) | shows("link_up", "mac_address", "max_frame_size")
    | {"write": Step(FEW, lambda use, count: use.write(batch(count)))}
    | {"came": Step(st.integers(1, 5), lambda use, count: use.device._deliver(batch(count), count), stays=True)}
)  # fmt: skip


def dial(use: Use) -> None:
    """The guest begins."""
    use.peer = ppp.Peer(lambda: 0.0, entropy=lambda count: b"\x01" * count)
    use.peer.open()


def talk(use: Use, _: object = None) -> object:
    """Both ends of the line say all that they have to say; the packets that the guest gets, and how things stand."""
    packets: list[bytes] = []
    for _ in range(20):
        for frame in use.peer.out:
            use.write(frame)
        use.peer.out = []
        try:
            packets += use.peer.receive(use.read(65536))
        except WouldBlock:
            break
    return use.device.state, use.device.addresses, use.device.dropped, packets, use.peer.phase


def ping(use: Use, number: int) -> object:
    use.peer.send(ipv4.echo_request(IPv4Address("10.0.0.2"), IPv4Address("10.0.0.1"), 1, number, b"hello"))
    return talk(use)


PPP = (
    TURN | host("set_link", st.booleans()) | {"talk": Step(st.none(), talk), "ping": Step(FEW, ping)}
    | {"noise": Step(st.binary(max_size=20), lambda use, data: use.write(data))}
)  # fmt: skip


# Files.


def block(folder: Path) -> Make:
    (folder / "image").write_bytes(bytes(range(256)) * 256)
    return lambda: Block(path=folder / "image")


BLOCK = (
    TICK | {"read": Step(st.tuples(SIZES, SIZES), lambda use, where: use.read(*where))}
    | {"write": Step(st.tuples(SIZES, SIZES), lambda use, where: use.write(b"w" * where[0], where[1]), stays=True)}
    | guest("discard", SIZES, SIZES, stays=True) | guest("write_zeroes", SIZES, SIZES, stays=True) | guest("sync")
    | shows("capacity")
)  # fmt: skip


def shared(folder: Path) -> Make:
    (folder / "share/sub").mkdir(parents=True)
    (folder / "share/a").write_bytes(b"content of a")
    (folder / "share/sub/b").write_bytes(b"b")
    return lambda: Folder(path=folder / "share")


def nth(given: list[int], number: int) -> int:
    """What the device calls the *number*-th that it gave."""
    return given[number - 1] if 0 < number <= len(given) else -number


def node(use: Use, outcome: tuple[int, int]) -> object:
    """A number is never given twice: here they are counted from 1."""
    use.numbers.append(outcome[0])
    return len(use.numbers), outcome[1]


def file(use: Use, outcome: Any) -> object:
    number, *more = outcome if isinstance(outcome, tuple) else (outcome,)
    use.files.append(number)
    return len(use.files), more


def forget(use: Use) -> None:
    use.numbers, use.files = [], []


def below(name: str, *more: int, told: Callable[[Any, Any], object]) -> dict[str, Step]:
    """A call that names a file by a node and a path below it."""
    values = st.tuples(FEW, st.sampled_from([b"", b"a", b"sub", b"sub/b", b"none", b"a/b", b"../a"]))
    return {
        name: Step(values, lambda use, where: use.call(name, nth(use.numbers, where[0]), where[1], *more), told=told)
    }


def begin_read(use: Use, where: tuple[int, int]) -> object:
    use.room = InlineRoom(5)  # type: ignore[attr-defined]  # until it is `told`
    return use.call("read_file", use.room, nth(use.files, where[0]), where[1])  # type: ignore[attr-defined]


FOLDER = (
    below("walk", told=node) | below("open_file", Access.READ, 0, told=file) | below("open_dir", told=file)
    | guest("sync") | below("stat", told=lambda use, about: (about[0], *about[2:4]))  # no inode, no time
    | {"forget": Step(FEW, lambda use, n: use.call("forget", nth(use.numbers, n)))}
    | {"close": Step(FEW, lambda use, n: use.call("close_file", nth(use.files, n)))}
    | {"read": Step(st.tuples(FEW, FEW), begin_read, told=lambda use, count: use.room.filled(count))}
)  # fmt: skip


# And the rest.


def jobs(use: Use) -> list[bytes]:
    return [path.read_bytes() for path in sorted(use.device.spool._folder.glob("job-*"))]


def printer(folder: Path) -> Make:
    return lambda: Printer(spool=Spool.parse("spool:jobs", folder), max_job=100_000)


def count_jobs(use: Use) -> None:
    """Those of a guest before stay in the folder."""
    use.numbers = [len(jobs(use))]


PRINTER = (
    STREAM | guest("finish") | guest("outcome") | guest("soft_reset") | guest("status") | guest("get_device_id")
    | guest("set_abort_mode", st.booleans()) | host("paper_out") | host("load_paper") | host("offline") | host("online")
    | {"jobs": Step(st.none(), lambda use, _: jobs(use)[use.numbers[0] :])}
)  # fmt: skip
WATCHDOG = (
    TURN | guest("keepalive") | guest("set_timeout", st.integers(0, 40)) | guest("get_timeout") | guest("time_left")
    | guest("set_pretimeout", st.integers(0, 20)) | guest("get_pretimeout") | guest("boot_status")
    | {"write": Step(st.sampled_from([b"x", b"V", b""]), lambda use, data: use.write(data))}
)  # fmt: skip
SAID = [
    sysmgmt.SetAttr(sysmgmt.Attribute.ALL), sysmgmt.SetAttr(0), sysmgmt.SetNextOp(sysmgmt.Operation.REBOOT),
    sysmgmt.Request(), sysmgmt.Response(0), sysmgmt.Response(1), sysmgmt.Command(),
]  # fmt: skip
MESSAGES = [*(sysmgmt.encode(body, 7) for body in SAID), sysmgmt.encode(SAID[0])[:5]]
BUTTONS = st.sampled_from(["power", "reset", "x"])
SYSMAN = (
    TURN | READ | guest("get_time") | guest("set_led", BUTTONS, st.sampled_from(["on", "blink"])) | shows("leds")
    | host("press", BUTTONS) | host("release", BUTTONS) | host("overheat", FEW) | host("cool", FEW)
    | host("shutdown") | host("reboot")
    | {"say": Step(st.sampled_from(MESSAGES), lambda use, data: use.write(data))}
)  # fmt: skip


# What would show a difference, in the order in which it does.
LOOKS: Final = [
    ("shows", None), ("winsize", ()), ("get_time", ()), ("time_left", ()), ("get_timeout", ()), ("get_pretimeout", ()),
    ("boot_status", ()), ("keys", ()), ("leds", ()), ("statistics", ()), ("status", ()), ("outcome", ()),
    *(("get_param", (param,)) for param in range(8)), ("talk", None), ("ping", 1),
    ("say", sysmgmt.encode(sysmgmt.Response(0), 7)), ("say", sysmgmt.encode(sysmgmt.Request(), 8)), ("came", 1),
    ("release", ("power",)), ("cool", (1,)), *(("walk", (n, b"a")) for n in range(3)),
    *(("stat", (n, b"")) for n in range(4)), *(("read", (n, 0)) for n in (1, 2, 3, 4096)),
    *(("read", n) for n in (7, 65536)),
    ("offline", ()), ("write", 7), ("online", ()), ("finish", ()), ("jobs", None), ("sync", ()), ("read", 65536),
    ("turn", 30.0), ("tick", None), ("read", 65536), ("shows", None), ("time_left", ()), ("keepalive", ()),
]  # fmt: skip

MODELS: Final = {
    "rng": Model(lambda folder: lambda: Rng(seed="x"), READ),
    "console": Model(backed(Console, "file:log"), LINE | WINSIZE | guest("emergency_write", st.integers(-1, 256))),
    "console pty": Model(backed(Console, "pty:"), WINSIZE | TICK | guest("emergency_write", st.just(10))),
    "tty": Model(backed(Tty, "file:log"), LINE | guest("set_baud", st.sampled_from([0, 300])) | host("receive_break")),
    "watchdog": Model(lambda folder: lambda: Watchdog(timeout=20), WATCHDOG),
    "sysman": Model(lambda folder: lambda: Sysman(time=WallTime(1e9)), SYSMAN),
    "hid": Model(hid, HID),
    "net": Model(lambda folder: Net, NET),
    "printer": Model(printer, PRINTER, count_jobs),
    "ppp": Model(lambda folder: lambda: Ppp(backing=Echo()), PPP, dial),
    "block": Model(block, BLOCK),
    "folder": Model(shared, FOLDER, forget),
}
