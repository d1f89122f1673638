"""Functions that take any bytes: each raises only if something is wrong."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from guestd.probers import pci as prober
from hcall.errors import ProtocolViolation
from hcall.formats import ccw, folder, frames, hdlc, input, ipv4, nbd, pci, ppp, ppp_control, sysmgmt  # noqa: A004
from hcall.formats import virtio_msg as msg
from hcall.kernel import memfd
from hcall.messages import CALL, CALLS, FEATURES, HELLO, MAGIC, VERSION, WELCOME, Hello, Welcome
from hcall.session.guest import GuestSession
from hcall.session.host import HostSession
from hcall.wire import Decoder, encode, fits
from hostd.backings.parts.beneath import reach
from hostd.calls.channels.program import MOST, Unit, run
from hostd.calls.limits import Limits
from hostd.calls.memory import Memory, lend
from hostd.calls.shares import Purse, Shares

_HERE: Final = Hello(HELLO, MAGIC, VERSION, VERSION, FEATURES, "fuzz", bytes(16), ())


def wire(data: bytes) -> None:
    """The decoder: however the bytes are cut, the same comes out, and it can be said again."""
    whole, cut = Decoder(), Decoder()
    messages = whole.feed(data)
    at = len(data) // 3
    parts = cut.feed(data[:at]) + cut.feed(data[at:])
    assert repr(parts) == repr(messages), "the cut makes a difference"
    assert bool(whole.broken) == bool(cut.broken)
    for message in messages:
        if type(message) is tuple:  # of what is none, the levels are not counted: no session takes it
            assert all(map(fits, message)), message
        assert repr(Decoder().feed(encode(message))) == repr([message])  # type: ignore[arg-type]  # any value


def hello(data: bytes) -> None:
    """A host that is greeted."""
    session = HostSession()
    with contextlib.suppress(ProtocolViolation):
        session.greet(data)


def messages(data: bytes) -> None:
    """A host and a guest that are greeted already; both take what fits them, or end."""
    host, guest = HostSession(4), GuestSession[str]()
    host.greet(encode(_HERE))
    guest.greet(_HERE)
    guest.receive(encode(Welcome(WELCOME, VERSION, FEATURES, 1, 4, False)))
    guest.call(9, 0x10010, (), (), "waiter")
    for n in range(3):
        guest.queue(9, 0x10010, (n,), (16,), str(n))
    guest.pack()
    guest.out.clear()
    for part in (data[: len(data) // 2], data[len(data) // 2 :]):
        if host.broken is None:
            for message in host.receive(part):
                if message[0] == CALL:
                    host.reply(*message[1:3], 0, None)
                elif message[0] == CALLS:
                    host.reply_some(*message[1:3], len(message[5]), 0, [0], [None])
        if guest.broken is None:
            with contextlib.suppress(ProtocolViolation):
                guest.receive(part)


def _batches(data: bytes) -> None:
    for batch in (data, data * (1 + 4096 // max(1, len(data)))):  # the second one is of equal frames, if one is in it
        with contextlib.suppress(ValueError):
            found = frames.runs(batch)
            assert sum(run.frames for run in found) == len(frames.split(batch))
        with contextlib.suppress(ValueError):
            assert frames.copies(batch) == frames.split(batch) == list(map(bytes, frames.split(memoryview(batch))))


def _lines(data: bytes) -> None:
    decoder = hdlc.Decoder(1500)
    got = [*decoder.feed(data[:7]), *decoder.feed(data[7:])]
    assert all(len(frame) <= 1500 for frame in got)
    assert list(hdlc.Decoder(1 << 20).feed(hdlc.encode(data + b"\xff\x03"))) == [data + b"\xff\x03"]


def _link(data: bytes) -> None:
    local, remote = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    peer = ppp.Peer(lambda: 0.0, local=local, remote=remote, entropy=random.Random(0).randbytes)
    peer.open()
    peer.receive(data)
    for protocol in (b"\xc0\x21", b"\x80\x21", b"\x00\x21"):  # with an FCS that is right
        peer.receive(hdlc.encode(b"\xff\x03" + protocol + data[:1400]))


def _options(data: bytes) -> None:
    packet = ppp_control.Packet.decode(data)
    if packet is not None:
        assert ppp_control.Packet.decode(packet.encode()) == packet
    options = ppp_control.decode_options(data)
    assert options is None or ppp_control.encode_options(options) == data


def _packets(data: bytes) -> None:
    ipv4.answer(data, IPv4Address("10.0.0.1"))
    ipv4.forwarded(data)


def _events(data: bytes) -> None:
    packets = input.Packets()
    packets.feed(data[:25])
    packets.feed(data[25:])
    assert input.bitmap(input.codes_of(data)).rstrip(b"\0") == data.rstrip(b"\0")


def _system(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        for message in sysmgmt.messages(bytearray(data)):
            message.body()


def _entries(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        entries = list(folder.unpack(data))
        assert folder.pack(entries) == data


def _fetched(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        fetched = list(folder.unpack_fetched(data))
        assert folder.pack_fetched(fetched) == data
        for entry in fetched:
            folder.check_name(entry.name)


def _stored(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        files = list(folder.unpack_stored(data))
        assert folder.pack_stored(files) == data
        for file in files:
            folder.check_name(file.name)


def _subchannels(data: bytes) -> None:
    for decode in (ccw.Identity.decode, ccw.Status.decode, ccw.Subchannel.decode):
        with contextlib.suppress(ValueError):
            assert len(decode(data).encode()) <= max(len(data), ccw.SENSE_ID_BYTES)


_FORMATS: Final = (_batches, _lines, _link, _options, _packets, _events, _system, _entries, _fetched, _stored,
                   _subchannels)  # fmt: skip


def formats(data: bytes) -> None:
    """Codecs of devices; the first byte says which."""
    if data:
        _FORMATS[data[0] % len(_FORMATS)](data[1:])


def nbd_server(data: bytes) -> None:
    """The handshake of an export, and the requests behind it."""
    shake = nbd.Handshake("disk", 1 << 20, 1)
    with contextlib.suppress(nbd.BadMessage):
        shake.feed(data[: len(data) // 2])
        shake.feed(data[len(data) // 2 :])
        while len(shake.rest) >= nbd.REQUEST.size:
            nbd.request(shake.rest[: nbd.REQUEST.size])
            del shake.rest[: nbd.REQUEST.size]


def dumps(data: bytes) -> None:
    """The text of lspci: whatever machine that is, its scan ends, and each function is named once."""
    try:
        machine = pci.parse(data.decode("latin-1").splitlines())
    except ValueError:
        return
    try:
        prober.dumped(machine).send(None)
    except StopIteration as end:
        found, lost = end.value
        assert sorted(each.address for each in (*found, *lost)) == sorted(machine)
    else:
        raise AssertionError("a scan of what is there waits")


def virtio_msg(data: bytes) -> None:
    """A datagram of a bus: what is a message can be said again."""
    with contextlib.suppress(ValueError):
        device, token, body = msg.decode(data)
        assert msg.decode(msg.encode(body, device, token)) == (device, token, body)


class _Tree:
    """A folder with links that lead out of it, and something outside."""

    def __init__(self) -> None:
        top = Path(tempfile.mkdtemp(prefix="fuzz-"))
        atexit.register(shutil.rmtree, top, ignore_errors=True)
        self.root = top / "root"
        (self.root / "a" / "b").mkdir(parents=True)
        (self.root / "a" / "file").write_text("in")
        (top / "outside").write_text("out")
        for name, target in (("up", ".."), ("top", "/"), ("proc", "/proc/self/cwd"), ("a/out", "../../outside")):
            (self.root / name).symlink_to(target)


_trees: list[_Tree] = []


def paths(data: bytes) -> None:
    """Paths of a shared folder: what is reached lies in it."""
    if not _trees:
        _trees.append(_Tree())
    tree = _trees[0]
    good = False
    with contextlib.suppress(ValueError):
        folder.check_path(data)
        good = True
    folder.shown(data)
    root = os.open(tree.root, os.O_PATH)
    try:
        fd = reach(root, data)
        where = Path(f"/proc/self/fd/{fd}").readlink()
        os.close(fd)
    except OSError:
        pass
    else:
        assert where.is_relative_to(tree.root), where
        assert not good or b".." not in data.split(b"/")
    finally:
        os.close(root)


def programs(data: bytes) -> None:
    """A channel program, in a page of memory; the first byte says where it begins."""
    limits = Limits()
    memory = Memory(limits, Purse(Shares(limits, 1024).of(0)))
    fd = memfd.create(memfd.PAGE, filled=True)
    os.pwrite(fd, data[1 : memfd.PAGE + 1], 0)
    memory.add(0, memfd.PAGE, lend(0, memfd.PAGE, fd))
    steps = 0
    running = run(memory, Unit(b"\xff" * 24), data[0] if data else 0)
    try:
        while True:
            next(running)
            steps += 1
            assert steps <= MOST
    except StopIteration as end:
        assert end.value.is_pending and ccw.Status.decode(end.value.encode()) == end.value
    finally:
        memory.close()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "wire": wire, "hello": hello, "messages": messages, "formats": formats, "nbd": nbd_server, "paths": paths,
    "dumps": dumps, "virtio_msg": virtio_msg, "programs": programs,
}  # fmt: skip
CORPUS: Final = Path(__file__).parent / "corpus"


def kept(name: str) -> Iterable[Any]:
    """The files of the corpus of that target."""
    return sorted((CORPUS / name).iterdir())
