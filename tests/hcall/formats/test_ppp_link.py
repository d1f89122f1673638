"""Two ends of PPP: over lines that are good, bad and hostile, on a clock that is turned by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.clock import ManualClock
from hcall.formats import hdlc
from hcall.formats.ppp import IP, IPCP, LCP, Peer
from hcall.formats.ppp_control import Code, Packet, decode_options

HOST, GUEST = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
MRU, ACCM, AUTH, QUALITY, MAGIC, PFC, ACFC = 1, 2, 3, 4, 5, 7, 8


class Line:
    """A host and a guest, and what goes between them through *noise*."""

    def __init__(self, seed: int = 1, host_mru: int = 1500, guest_mru: int = 1500) -> None:
        self.clock = ManualClock()
        self.dice = random.Random(seed)
        self.host = Peer(
            self.clock.time, local=HOST, remote=GUEST, mru=host_mru, entropy=random.Random(f"host{seed}").randbytes
        )
        self.guest = Peer(self.clock.time, mru=guest_mru, entropy=random.Random(f"guest{seed}").randbytes)
        self.noise: Callable[[bytes], bytes] = lambda data: data
        self.came: dict[str, list[bytes]] = {"host": [], "guest": []}

    def carry(self) -> None:
        """Until nothing is under way."""
        while self.host.out or self.guest.out:
            for name, source, sink in (("guest", self.host, self.guest), ("host", self.guest, self.host)):
                data, source.out = b"".join(source.out), []
                self.came[name] += sink.receive(self.noise(data))

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.turn(0.25)
            self.host.tick()
            self.guest.tick()
            self.carry()

    def open(self) -> None:
        self.host.open()
        self.guest.open()
        self.carry()
        self.wait(2)  # for one that spoke when the other did not listen yet
        assert self.host.is_open and self.guest.is_open


def opened(**options: int) -> Line:
    line = Line(**options)
    line.open()
    return line


def frame(protocol: int, packet: Packet | bytes, accm: int = hdlc.EVERY_CONTROL) -> bytes:
    information = packet.encode() if isinstance(packet, Packet) else packet
    return hdlc.encode(b"\xff\x03" + protocol.to_bytes(2) + information, accm)


def answers(peer: Peer) -> list[tuple[int, Packet]]:
    """What a peer has to say."""
    decoder = hdlc.Decoder(4000)
    decoder.accm = 0
    out, peer.out = b"".join(peer.out), []
    packets = [(int.from_bytes(raw[2:4]), Packet.decode(raw[4:])) for raw in decoder.feed(out)]
    assert decoder.dropped == 0
    return [(protocol, packet) for protocol, packet in packets if packet is not None]


def test_two_ends_agree_on_addresses_whoever_begins() -> None:
    for first in ("host", "guest"):
        line = Line()
        assert line.host.phase == line.guest.phase == "dead"
        getattr(line, first).open()
        line.carry()
        assert getattr(line, first).phase == "establish"
        line.open()
        line.wait(2)
        assert line.host.phase == line.guest.phase == "open"
        assert (line.guest.ipcp.local, line.guest.ipcp.remote) == (GUEST, HOST)
        assert (line.host.ipcp.local, line.host.ipcp.remote) == (HOST, GUEST)
        assert line.host.deadline is line.guest.deadline is None


def test_packets_go_both_ways_as_they_are_one_byte_at_a_time() -> None:
    line = opened()
    packets = [bytes(range(256)), b"~}" * 300, bytes(1500), b"\x11\x13\x1a"]
    for packet in packets:
        assert line.host.send(packet) and line.guest.send(packet)
    there = [packet for byte in b"".join(line.host.out) for packet in line.guest.receive(bytes([byte]))]
    back = [packet for byte in b"".join(line.guest.out) for packet in line.host.receive(bytes([byte]))]
    assert there == back == packets


@pytest.mark.parametrize("end", ["host", "guest"])
def test_one_that_is_saved_between_any_two_bytes_goes_on_as_if_nothing_had_been(end: str) -> None:
    line, moved = Line(), 0

    def move() -> None:
        """That end goes on in another process, whose clock began at another time."""
        old: Peer = getattr(line, end)
        new = Peer(lambda: line.clock.time() + 1000 * moved, local=old.ipcp._own, remote=old.ipcp._given,
                   entropy=random.Random(moved).randbytes)  # fmt: skip
        new.restore(old.save())
        new.out = old.out
        setattr(line, end, new)

    def carry() -> None:
        nonlocal moved
        while line.host.out or line.guest.out:
            for source, sink in (("host", "guest"), ("guest", "host")):
                data, getattr(line, source).out = b"".join(getattr(line, source).out), []
                for byte in data:
                    line.came[sink] += getattr(line, sink).receive(bytes([byte]))
                    moved += 1
                    move()

    line.carry = carry  # type: ignore[method-assign]  # byte by byte
    line.host.open()
    carry()
    line.wait(1.5)  # nobody answers, and the one that waits is moved meanwhile
    line.open()
    packets = [bytes(range(256)), b"~}" * 30]
    for packet in packets:
        assert line.host.send(packet) and line.guest.send(packet)
    carry()
    assert line.came == {"host": packets, "guest": packets} and moved > 500
    assert (line.guest.ipcp.local, line.host.ipcp.remote) == (GUEST, GUEST)


def test_a_packet_is_not_larger_than_the_other_end_takes() -> None:
    line = opened(host_mru=300, guest_mru=9000)
    assert (line.guest.send_mru, line.host.send_mru) == (300, 9000)
    assert line.host.send(bytes(9000)) and line.guest.send(bytes(300))
    line.carry()
    assert not line.host.send(bytes(9001)) and not line.guest.send(bytes(301)) and not line.guest.out
    assert line.came == {"host": [bytes(300)], "guest": [bytes(9000)]}


def test_nothing_goes_through_before_it_is_open_and_after() -> None:
    line = Line()
    line.host.open()
    line.guest.open()
    assert not line.guest.send(b"early")
    assert line.host.receive(frame(IP, b"early")) == []
    line.carry()
    line.guest.close()
    assert line.guest.phase == "terminate" and not line.guest.send(b"late")
    line.carry()
    assert line.guest.phase == "dead" and line.host.phase == "terminate"
    assert line.host.receive(frame(IP, b"late")) == []
    line.wait(1)
    assert line.host.phase == "dead"
    line.guest.open()
    line.carry()
    assert line.host.is_open and line.guest.is_open


def test_who_gave_up_listens_on() -> None:
    line = Line()
    line.host.open()
    line.host.out.clear()
    for _ in range(10):
        line.clock.turn(1)
        line.host.tick()
        line.host.out.clear()
    assert line.host.failed and line.host.deadline is None
    line.guest.open()
    line.carry()
    assert line.host.is_open and line.guest.is_open


def test_one_that_begins_again_is_followed() -> None:
    line = opened()
    line.guest = Peer(line.clock.time, entropy=random.Random("reset").randbytes)  # a reset, without a word
    line.guest.open()
    line.wait(3)
    assert line.host.is_open and line.guest.is_open and line.guest.ipcp.local == GUEST


@pytest.mark.parametrize("seed", range(40))
def test_a_line_that_loses_doubles_and_mixes_up_bytes_is_opened_and_never_gives_a_wrong_packet(seed: int) -> None:
    line = Line(seed)

    def noise(data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(line.dice.randrange(3) if data else 0):
            at, what = line.dice.randrange(len(out)), line.dice.randrange(4)
            if what == 0:
                del out[at : at + line.dice.randrange(1, 20)]
            elif what == 1:
                out[at:at] = out[at : at + line.dice.randrange(1, 60)]
            elif what == 2:
                out[at] ^= 1 << line.dice.randrange(8)
            else:
                out[at : at + 2] = out[at : at + 2][::-1]
            if not out:
                break
        return bytes(out)

    line.noise = noise
    line.host.open()
    line.guest.open()
    for second in range(30):
        if second == 20:
            line.noise = lambda data: data
        line.wait(1)
        line.guest.send(b"a packet of the guest")
        line.host.send(b"and one of the host")
        line.carry()
        if line.guest.failed:
            line.guest.open()  # as whoever called `up` would
    line.guest.send(b"the last one")
    line.carry()
    assert line.came["host"].pop() == b"the last one"
    assert set(line.came["host"]) <= {b"a packet of the guest"}
    assert set(line.came["guest"]) <= {b"and one of the host"}
    assert line.guest.ipcp.local == GUEST


@pytest.mark.parametrize("repeats", [2, 5])
def test_frames_that_come_more_than_once_open_the_link_and_leave_it_open(repeats: int) -> None:
    line = Line()
    line.noise = lambda data: b"".join(b"~" + each + b"~" for each in data.split(b"~") if each for _ in range(repeats))
    for _ in range(3):  # a doubled request makes the other end negotiate again: it settles
        line.host.open()
        line.guest.open()
        line.wait(5)
    line.noise = lambda data: data
    line.wait(5)
    assert line.host.is_open and line.guest.is_open


def negotiating() -> Peer:
    """A host that has sent its request."""
    peer = Line().host
    peer.open()
    answers(peer)
    return peer


def asked(peer: Peer, protocol: int, options: bytes, ident: int = 5) -> tuple[Code, dict[int, bytes] | None]:
    """How a peer answers a Configure-Request."""
    peer.receive(frame(protocol, Packet(Code.CONFIGURE_REQUEST, ident, options)))
    ((_, answer),) = [each for each in answers(peer) if each[0] == protocol and each[1].code != Code.CONFIGURE_REQUEST]
    assert answer.ident == ident
    return Code(answer.code), decode_options(answer.data)


def test_what_is_unknown_or_of_no_use_is_rejected_and_nothing_else() -> None:
    unknown = b"\x03\x04\xc0\x23\x04\x08\xc0\x25\x00\x00\x00\x01\x07\x02\x08\x02\x0d\x03\x06\xff\x02"
    known = b"\x01\x04\x05\xdc\x05\x06abcd"
    assert asked(negotiating(), LCP, known[:4] + unknown + known[4:]) == (
        Code.CONFIGURE_REJECT,
        decode_options(unknown),
    )
    assert asked(negotiating(), LCP, known) == (Code.CONFIGURE_ACK, decode_options(known))


@pytest.mark.parametrize(
    ("option", "better"),
    [
        (b"\x01\x04\x00\x40", {MRU: b"\x00\x80"}),  # 64 is less than the least, 128
        (b"\x01\x03\x40", {MRU: b"\x00\x80"}),
        (b"\x02\x03\x00", {ACCM: bytes(4)}),
        (b"\x02\x02", {ACCM: bytes(4)}),
    ],
)
def test_what_cannot_be_so_gets_a_better_value(option: bytes, better: dict[int, bytes]) -> None:
    assert asked(negotiating(), LCP, option) == (Code.CONFIGURE_NAK, better)


@pytest.mark.parametrize(
    "magic", [b"\x05\x06\x00\x00\x00\x00", b"\x05\x03\x00", None], ids=["zero", "short", "its own"]
)
def test_a_magic_number_that_is_none_gets_another_one(magic: bytes | None) -> None:
    peer = negotiating()
    code, options = asked(peer, LCP, magic or b"\x05\x06" + peer.lcp.magic)
    assert code == Code.CONFIGURE_NAK and options is not None
    assert len(options[MAGIC]) == 4 and any(options[MAGIC]) and options[MAGIC] != peer.lcp.magic


def test_one_that_does_not_listen_is_rejected_in_the_end() -> None:
    peer = negotiating()
    codes = [asked(peer, LCP, b"\x01\x04\x00\x40")[0] for _ in range(6)]
    assert codes == [Code.CONFIGURE_NAK] * 5 + [Code.CONFIGURE_REJECT]
    assert asked(peer, LCP, b"")[0] == Code.CONFIGURE_ACK


def test_the_peers_map_of_characters_holds_for_ip_and_never_for_lcp() -> None:
    line = opened()
    answers(line.host)
    code, _ = asked(line.host, LCP, b"\x02\x06\x00\x0a\x00\x00")  # XON and XOFF
    assert code == Code.CONFIGURE_ACK and line.host.send_accm == 0x000A0000
    line.host.send_control(IPCP, b"\x11\x12\x13")
    assert b"\x7d\x31\x12\x7d\x33" in line.host.out.pop()
    line.host.send_control(LCP, b"\x11\x12\x13")
    assert b"\x7d\x31\x7d\x32\x7d\x33" in line.host.out.pop()
    assert asked(line.host, LCP, b"")[0] == Code.CONFIGURE_ACK
    assert line.host.send_accm == hdlc.EVERY_CONTROL


@pytest.mark.parametrize("wrong", ["0.0.0.0", "10.0.0.3", "10.0.0.1"])
def test_a_guest_gets_the_address_that_the_host_gives(wrong: str) -> None:
    line = opened()
    assert asked(line.host, IPCP, b"\x03\x06" + IPv4Address(wrong).packed) == (Code.CONFIGURE_NAK, {3: GUEST.packed})
    assert asked(line.host, IPCP, b"\x03\x06" + GUEST.packed) == (Code.CONFIGURE_ACK, {3: GUEST.packed})


def test_a_guest_that_asks_for_no_address_is_told_to_and_then_left_alone() -> None:
    line = opened()
    told = [asked(line.host, IPCP, b"") for _ in range(6)]
    assert told == [(Code.CONFIGURE_NAK, {3: GUEST.packed})] * 5 + [(Code.CONFIGURE_ACK, {})]


def test_name_servers_and_compression_are_rejected() -> None:
    options = b"\x02\x06\x00\x2d\x0f\x01\x81\x06\x00\x00\x00\x00"
    assert asked(opened().host, IPCP, options) == (Code.CONFIGURE_REJECT, decode_options(options))


def test_an_echo_is_answered_with_the_answerers_magic_number_and_only_in_an_open_link() -> None:
    line = opened()
    request = frame(LCP, Packet(Code.ECHO_REQUEST, 77, line.guest.lcp.magic + b"anybody?"))
    line.host.receive(request)
    assert answers(line.host) == [(LCP, Packet(Code.ECHO_REPLY, 77, line.host.lcp.magic + b"anybody?"))]
    for silent in (
        Packet(Code.ECHO_REPLY, 1, bytes(4)),
        Packet(Code.DISCARD_REQUEST, 2, bytes(9)),
        Packet(9, 3, b"abc"),
    ):
        line.host.receive(frame(LCP, silent))
    assert not answers(line.host)
    peer = negotiating()
    peer.receive(request)
    assert not answers(peer)


def test_an_unknown_code_and_an_unknown_protocol_are_rejected_with_what_they_were() -> None:
    line = opened()
    odd = Packet(42, 9, bytes(1000))
    line.host.receive(frame(LCP, odd) + frame(IPCP, odd) + frame(0x8057, b"\x01\x01\x00\x04"))
    (a, b, c) = answers(line.host)
    for protocol, answer in (a, b):
        assert answer.code == Code.CODE_REJECT and answer.data == odd.encode()[: len(answer.data)]
        assert protocol in (LCP, IPCP) and len(answer.data) == 64
    assert c[1].code == Code.PROTOCOL_REJECT and c[1].data == b"\x80\x57\x01\x01\x00\x04"
    assert line.host.is_open


def test_a_rejected_protocol_is_done_without_but_not_ip() -> None:
    line = opened()
    line.host.receive(frame(LCP, Packet(Code.PROTOCOL_REJECT, 1, b"\x80\x57\x01\x01\x00\x04")))
    assert line.host.is_open and not line.host.out
    for protocol in (IPCP, LCP):
        line = opened()
        line.host.receive(frame(LCP, Packet(Code.PROTOCOL_REJECT, 2, protocol.to_bytes(2))))
        assert not line.host.is_open
        line.noise = lambda data: b""
        line.wait(5)
        assert line.host.phase == "dead"


def test_one_that_gets_no_answer_to_its_addresses_closes_the_link_for_both() -> None:
    line = Line()
    line.noise = lambda data: b"~".join(each for each in data.split(b"~") if b"\x80\x21" not in each)
    line.host.open()
    line.guest.open()
    line.carry()
    assert line.host.phase == line.guest.phase == "network"
    assert line.host.receive(frame(IP, b"no address yet")) == []
    line.wait(13)
    assert line.host.phase == line.guest.phase == "dead"


def test_options_that_a_peer_refuses_are_left_out() -> None:
    peer = Line().guest
    peer.open()
    ((_, request),) = answers(peer)
    assert list(decode_options(request.data) or {}) == [MRU, ACCM, MAGIC]
    refused = bytes.fromhex("020600000000") + b"\x05\x06" + peer.lcp.magic
    peer.receive(frame(LCP, Packet(Code.CONFIGURE_REJECT, request.ident, refused)))
    ((_, request),) = answers(peer)
    assert decode_options(request.data) == {MRU: b"\x05\xdc"} and peer.lcp.magic == bytes(4)


@given(st.binary(max_size=600), st.booleans())
def test_noise_never_raises(data: bytes, is_open: bool) -> None:
    line = opened() if is_open else Line()
    line.host.open()
    line.host.receive(b"~" + data + b"~")
    line.host.tick()


OPTIONS = [b"\x01\x04\x05\xdc", b"\x02\x06\0\0\0\0", b"\x03\x06\n\0\0\x02", b"\x05\x06\0\0\0\x01", b"\x07\x02"]
CODES, IDENTS = st.integers(0, 15), st.integers(0, 4)
NEGOTIATION = st.builds(Packet, st.integers(1, 4), IDENTS, st.lists(st.sampled_from(OPTIONS), max_size=3).map(b"".join))
FRAMES = st.tuples(
    st.sampled_from([LCP, IPCP, IP, 0xC023]), st.builds(Packet, CODES, IDENTS, st.binary(max_size=30)) | NEGOTIATION
)


@given(st.lists(FRAMES, max_size=30), st.integers(0, 3))
def test_hostile_frames_never_raise_and_are_answered_in_proportion(
    frames: list[tuple[int, Packet]], begin: int
) -> None:
    line = opened() if begin == 3 else Line()
    if begin:
        line.host.open()
    if begin == 2:
        line.host.close()
    for protocol, packet in frames:
        line.host.out.clear()
        line.host.receive(frame(protocol, packet))
        assert len(line.host.out) <= 3
        line.clock.turn(0.5)
        line.host.tick()
    assert line.host.phase in ("dead", "establish", "network", "open", "terminate")
