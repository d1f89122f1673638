"""protocol/vectors against our codec, our guest's session, our formats, and a host on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from notation import FOLDER, Unfinished, data, end, load, matches, value
from raw import PATIENCE, RawGuest, attached, memfd, settled

import hostd
from hcall.clock import ManualClock
from hcall.errors import ProtocolViolation, Status
from hcall.formats import ccw, folder, frames, hdlc, sysmgmt, virtio_msg
from hcall.formats import input as evdev
from hcall.formats.lanes import ring
from hcall.messages import HELLO, MAGIC, Hello
from hcall.session.guest import GuestSession
from hcall.wire import Decoder, encode

EXCHANGES = ("hello", "session", "limits", "calls", "memory", "interrupts", "resume", "bundles", "times")


def vectors(*files: str) -> Any:
    """Those of these files, as parameters."""
    found = [(file, vector) for file in files for vector in load(f"{file}.json")]
    return pytest.mark.parametrize(
        "vector", [vector for _, vector in found], ids=[f"{file}: {vector['name']}" for file, vector in found]
    )


def test_every_file_is_run() -> None:
    files = {path.stem for path in FOLDER.glob("*.json")}
    assert files == {*EXCHANGES, "decoding", "guest", "payloads", "rings", "virtio_msg"}
    table = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert {line[3 : line.index(".json")] for line in table} == files


@vectors("decoding")
@pytest.mark.parametrize("cut", [True, False], ids=["byte by byte", "at once"])
def test_bytes_are_the_messages_that_they_are(vector: dict[str, Any], cut: bool) -> None:
    given = data(vector["bytes"])
    decoder = Decoder()
    messages: list[object] = []
    for part in [given[at : at + 1] for at in range(len(given))] if cut else [given]:
        messages += decoder.feed(part)
    expected = list(value(vector["messages"]))
    assert repr(messages) == repr(expected)  # 7 is not 7.0, nor True 1
    state = "broken" if decoder.broken is not None else "in a message" if decoder.partial else "at rest"
    assert state == vector["then"]


@vectors("decoding")
def test_what_we_send_is_the_shortest_form(vector: dict[str, Any]) -> None:
    if vector.get("shortest"):
        (message,) = value(vector["messages"])
        assert encode(message) == data(vector["bytes"])


@vectors("guest")
def test_a_guest_makes_of_a_hosts_bytes_what_they_say(vector: dict[str, Any]) -> None:
    guest: GuestSession[int] = GuestSession()
    guest.greet(Hello(HELLO, MAGIC, 1, 1, 0, "guest", bytes(16), ()))
    if "calls" in vector:
        guest.receive(data("96 05 01 00 01 04 c2"))
        for n in range(vector["calls"]):
            guest.call(0, 16, (), (), n + 1)
    answers, interrupts = guest.receive(data(vector["bytes"]))
    assert repr(answers) == repr([value(answer) for answer in vector["answers"]])
    assert [message[1:] for message in interrupts] == [value(each) for each in vector["interrupts"]]
    last = "hangs up" if guest.broken is not None else "goes on" if guest.last is None else guest.last.status
    assert last == vector["then"]


@vectors("rings")
def test_a_ring_has_what_its_bytes_say(vector: dict[str, Any]) -> None:
    if "body" in vector:
        number, handle, args = value(vector["call"])
        assert ring.unpack_body(data(vector["body"])) == (number, handle, args)
        assert ring.pack_body(number, handle, args) == data(vector["body"])
    elif "answer" in vector:
        room = memoryview(bytearray(ring.LEAST_ANSWER))
        assert bytes(room[: ring.put_answer(room, *vector["value"])]) == data(vector["answer"])
        assert ring.unpack_answer(data(vector["answer"])) == value(vector["value"])
    elif vector["chain"] == "broken":
        with pytest.raises(ProtocolViolation):
            ring.walk(memoryview(data(vector["descriptors"])), vector["head"], 4)
    else:
        chain, _ = ring.walk(memoryview(data(vector["descriptors"])), vector["head"], 4)
        assert chain._asdict() == {part: value(pieces) for part, pieces in vector["chain"].items()}


# Payloads.


def as_net(given: bytes) -> list[Any]:
    frames.runs(given)
    return [frame.hex(" ") for frame in frames.split(given)]


def as_sysman(given: bytes) -> list[Any]:
    buffer = bytearray(given)
    found = []
    for message in sysmgmt.messages(buffer):
        body = message.body()
        found.append((message.service, message.tag, type(body).__name__, tuple(body)))
    assert not buffer
    return found


def as_ppp(given: bytes) -> list[Any]:
    return [frame.hex(" ") for frame in hdlc.Decoder(1504).feed(given)]


def as_fetched(given: bytes) -> list[Any]:
    return [(*entry[:7], entry.name.hex(" "), bytes(entry.data).hex(" ")) for entry in folder.unpack_fetched(given)]


def as_stored(given: bytes) -> list[Any]:
    return [(file.mode, file.name.hex(" "), bytes(file.data).hex(" ")) for file in folder.unpack_stored(given)]


def as_schib(given: bytes) -> list[Any]:
    known = ccw.Subchannel.decode(given)
    return [known.device, known.parameter, tuple(known.status)]


def as_sense_id(given: bytes) -> list[Any]:
    found = ccw.Identity.decode(given)
    return [*found.control_unit, *found.device, found.node]


READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "net": as_net,
    "hid": lambda given: [(packet.at, tuple(map(tuple, packet.events))) for packet in evdev.Packets().feed(given)],
    "bitmap": lambda given: sorted(evdev.codes_of(given)),
    "sysman": as_sysman,
    "folder": lambda given: [(*entry[:3], entry.name.hex(" ")) for entry in folder.unpack(given)],
    "fetched": as_fetched,
    "stored": as_stored,
    "ppp": as_ppp,
    "schib": as_schib,
    "sense id": as_sense_id,
}


@vectors("payloads")
def test_a_payload_means_what_it_says(vector: dict[str, Any]) -> None:
    given, read = data(vector["bytes"]), READERS[vector["format"]]
    if vector["is"] == "wrong":
        with pytest.raises(ValueError):
            read(given)
    else:
        assert read(given) == list(value(vector["is"]))


@vectors("virtio_msg")
def test_a_datagram_is_the_message_that_it_is(vector: dict[str, Any]) -> None:
    given = data(vector["bytes"])
    if vector["is"] == "wrong":
        with pytest.raises(ValueError):
            virtio_msg.decode(given)
    else:
        device, token, body = virtio_msg.decode(given)
        assert (device, token, type(body).__name__, tuple(body)) == value(vector["is"])
        if not vector["name"].startswith(("reserved", "padding")):
            assert virtio_msg.encode(body, device, token) == given


# Exchanges.


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    shutil.copy(FOLDER / "machine.toml", tmp_path)
    async with hostd.serve(tmp_path / "machine.toml", tmp_path / "run", clock=clock) as host:
        yield host
        for guest in list(host.guests.by_token.values()):
            host.guests.end(guest, Status.RESET, "the vector ends")


class Exchange:
    """One vector on its connections."""

    def __init__(self, host: hostd.Host, bystander: RawGuest, clock: ManualClock, scrap: contextlib.ExitStack) -> None:
        self._host, self._bystander, self._clock, self._scrap = host, bystander, clock, scrap
        self._names: dict[str, bytes] = {}
        self._kept: dict[tuple[int, str], int] = {}  # descriptors of HELLO, by place and entry
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connect()
        scrap.enter_context(self._ours)
        scrap.enter_context(self._theirs)

    def connect(self) -> None:
        self._sock = self._scrap.enter_context(socket.socket(socket.AF_UNIX))
        self._sock.connect(str(self._host.socket))
        self._sock.setblocking(False)
        self._came = b""

    async def step(self, step: dict[str, Any]) -> None:
        match step:
            case {"send": text, **rest}:
                fds = [self._descriptor(place, each) for place, each in enumerate(rest.get("descriptors", ()))]
                self._send(data(text, self._names), fds)
            case {"lane": text, "descriptors": entries}:
                fds = [self._made(entry) for entry in entries]
                socket.send_fds(self._ours, [data(text)], fds)
            case {"expect": "closed"}:
                assert await self._message() is None
            case {"expect": pattern}:
                await self._expect([pattern])
            case {"expect in any order": patterns}:
                await self._expect(patterns)
            case {"do": verb, **rest}:
                await self._do(verb, **rest)

    async def _do(self, verb: str, **rest: Any) -> None:
        if verb in ("cut", "hang up"):
            self._send(data(rest.get("sending", ""), self._names))
            self._sock.close()
        if verb in ("cut", "connect", "connect again"):
            self.connect()
        elif verb == "wait":
            await settled(self._bystander)
            self._clock.turn(rest["seconds"])
        elif verb == "plug":
            self._host.plug_table(rest["path"].strip("/"), {"model": rest["model"]})
        elif verb == "unplug":
            await self._host.unplug(rest["path"], surprise=True)

    def _send(self, given: bytes, fds: list[int] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError):  # the host has said END
            sent = socket.send_fds(self._sock, [given], fds) if fds else self._sock.send(given) if given else 0
            assert sent == len(given)

    async def _expect(self, patterns: list[str]) -> None:
        patterns = list(patterns)
        while patterns:
            message = await self._message()
            assert message is not None, f"the host hung up; expected {patterns}"
            fitting = next((each for each in patterns if matches(each, message, self._names)), None)
            assert fitting is not None, f"{message.hex(' ')} is none of {patterns}"
            patterns.remove(fitting)

    async def _message(self) -> bytes | None:
        """The next message, as it came; None is the end."""
        while True:
            with contextlib.suppress(Unfinished):
                after = end(self._came)
                message, self._came = self._came[:after], self._came[after:]
                return message
            async with asyncio.timeout(PATIENCE):
                try:
                    more = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
                except ConnectionResetError:
                    more = b""
            if not more:
                assert not self._came
                return None
            self._came += more

    def _descriptor(self, place: int, entry: Any) -> int:
        key = place, str(entry)
        if key not in self._kept:
            self._kept[key] = self._made(entry)
        return self._kept[key]

    def _made(self, entry: Any) -> int:
        """A new descriptor."""
        match entry:
            case "lane":
                return self._theirs.fileno()
            case {"memfd": size, **rest}:
                fd = memfd(size, **({} if rest.get("seals", True) else {"seals": 0}))
            case "read-only memfd":
                written = self._made({"memfd": 4096, "seals": False})
                fd = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
            case "pipe":
                fd, other = os.pipe()
                os.close(other)
            case "file":
                path = self._host.socket.with_name("file")
                path.write_bytes(bytes(4096))
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            case _:
                assert entry == "stream socket"
                one, other_end = socket.socketpair(socket.AF_UNIX)
                other_end.close()
                fd = one.detach()
        self._scrap.callback(os.close, fd)
        return fd


@vectors(*EXCHANGES)
async def test_a_host_answers_as_the_exchange_says(
    host: hostd.Host, clock: ManualClock, vector: dict[str, Any]
) -> None:
    async with attached(host) as bystander:
        with contextlib.ExitStack() as scrap:
            exchange = Exchange(host, bystander, clock, scrap)
            for number, step in enumerate(vector["steps"]):
                try:
                    await exchange.step(step)
                except AssertionError as error:
                    raise AssertionError(f"step {number}, {step}: {error}") from error


def test_patterns_match_what_they_say_and_nothing_else() -> None:
    names: dict[str, bytes] = {}
    assert matches("92 <a> <a>", bytes.fromhex("92cd0100cd0100"), names) and names == {"a": b"\xcd\x01\x00"}
    assert not matches("92 <a> 07", bytes.fromhex("920707"), names)
    assert matches("92 <any> 07", bytes.fromhex("9281a1619107") + b"\x07", {})
    assert not matches("91 07", bytes.fromhex("910700"), {}) and not matches("91 07", b"\x91\x08", {})
