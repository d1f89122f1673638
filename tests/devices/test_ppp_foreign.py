"""The slow network against implementations that are not ours: slirp's PPP, Wireshark's dissectors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import select
import shutil
import socket
import struct
import subprocess
import time
import tty
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pump import pumped

import guestd
import hostd
from guestd.stream import StreamDriver
from hcall.clock import ManualClock
from hcall.formats import ipv4
from hcall.formats.ppp import IPCP, LCP, Peer
from hcall.formats.ppp_control import Packet
from hostd import Machine

SECONDS = 20  # after which a test says that something hangs
SLIRP = "slirp-fullbolt"
OURS, SLIRPS = IPv4Address("10.0.2.15"), IPv4Address("10.0.2.2")  # slirp's own choice, and its name for the host


@contextlib.contextmanager
def slirp(home: Path, *commands: str) -> Iterator[int]:
    """slirp, a PPP and TCP/IP in one program, on a terminal: the master side."""
    if shutil.which(SLIRP) is None:
        pytest.skip("slirp is not installed")
    master, slave = pty.openpty()
    tty.setraw(slave)
    process = subprocess.Popen(
        [SLIRP, "-P", *commands], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(home)}, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    try:
        yield master
    finally:
        process.kill()
        process.wait()
        os.close(master)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_our_end_as_the_guest_of_slirp(tmp_path: Path) -> None:
    with slirp(tmp_path) as master, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(SECONDS)
        peer = Peer(time.monotonic, remote=SLIRPS, entropy=os.urandom)  # it has no address either
        poll = select.poll()
        poll.register(master, select.POLLIN)

        def step() -> list[bytes]:
            data, peer.out = b"".join(peer.out), []
            if data:
                os.write(master, data)
            assert poll.poll(SECONDS * 1000), "slirp says nothing"
            return peer.receive(os.read(master, 4096))

        peer.open()
        while not peer.is_open:
            step()
        assert (peer.ipcp.local, peer.ipcp.remote) == (OURS, SLIRPS)
        peer.send(ipv4.echo_request(OURS, SLIRPS, 1, 1, b"are you there"))
        while not (packets := step()):
            pass
        pong = ipv4.Packet.decode(packets[0])
        assert pong is not None and pong.source == SLIRPS and pong.payload.endswith(b"\0\x01\0\x01are you there")
        peer.send(ipv4.datagram((OURS, 1234), (SLIRPS, server.getsockname()[1]), b"a datagram"))
        os.write(master, b"".join(peer.out))
        peer.out.clear()
        data, sender = server.recvfrom(100)
        assert data == b"a datagram"
        server.sendto(b"its answer", sender)
        while not (packets := step()):
            pass
        reply = ipv4.Packet.decode(packets[0])
        assert reply is not None and (reply.source, reply.payload[8:]) == (SLIRPS, b"its answer")
        peer.close()
        while peer.phase != "dead":
            step()


class RawLine(StreamDriver):
    """The line without our PPP."""

    compatible = ("hostd,ppp",)


@contextlib.asynccontextmanager
async def served(folder: Path, **keys: str) -> AsyncIterator[hostd.Host]:
    machine = Machine.from_tables({"devices": {"ppp": {"model": "ppp", **keys}}}, folder)
    async with hostd.serve(machine, folder / "run") as host, asyncio.timeout(SECONDS):
        yield host


async def test_slirp_as_the_guest_of_our_host(tmp_path: Path) -> None:
    """A datagram of the kernel's goes through slirp over the line to the host's echo, and back."""
    port = free_port()
    with slirp(tmp_path, f"redir udp {port} {OURS}:7") as master:
        async with (
            served(tmp_path, local=str(OURS), remote=str(SLIRPS)) as host,
            guestd.attach(host.socket, drivers=[RawLine]) as guest,
        ):
            driver = await guest.bind("ppp")
            assert isinstance(driver, RawLine)
            async with pumped(master, driver.write_all, driver.read_some):
                while await driver.dev.property("state") != "open":
                    await guest.nop()
                assert await driver.dev.property("addresses") == (str(OURS), str(SLIRPS))
                sent = [number.to_bytes(4) + os.urandom(900) for number in range(50)]
                assert await asyncio.to_thread(exchange, ("127.0.0.1", port), sent) == sent


def exchange(address: tuple[str, int], sent: list[bytes]) -> list[bytes]:
    """What comes back for each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.connect(address)
        came = []
        for data in sent:
            client.send(data)
            came.append(client.recv(2000))
        return came


def captured() -> list[bytes]:
    """A session of two of our ends: its frames as they were on the line."""
    clock = ManualClock()
    host = Peer(clock.time, local=IPv4Address("10.0.0.1"), remote=IPv4Address("10.0.0.2"), mru=1400, entropy=os.urandom)
    guest = Peer(clock.time, entropy=os.urandom)
    line: list[bytes] = []

    def carry() -> None:
        while host.out or guest.out:
            for source, sink in ((host, guest), (guest, host)):
                frames, source.out = source.out, []
                line.extend(frames)
                sink.receive(b"".join(frames))

    host.open()
    guest.open()
    carry()
    ping = ipv4.echo_request(guest.ipcp.local, host.ipcp.local, 1, 1, bytes(range(256)) * 4)
    pong = ipv4.answer(ping, host.ipcp.local)
    assert pong is not None
    guest.send(ping)
    host.send(pong)
    guest.send(ipv4.datagram((guest.ipcp.local, 5), (host.ipcp.local, 7), b"~}~}"))
    guest.send_control(LCP, Packet(9, 40, guest.lcp.magic + b"echo").encode())
    guest.send_control(LCP, Packet(1, 41, b"\x07\x02\x08\x02\x03\x04\xc0\x23").encode())
    carry()
    guest.send_control(LCP, Packet(42, 42, b"odd").encode())
    guest.send_control(0x8057, Packet(1, 43, b"").encode())
    carry()
    guest.close()
    carry()
    return line


def write_capture(path: Path, link_type: int, packets: list[bytes]) -> None:
    """A pcap file."""
    records = [struct.pack("<IIII", number, 0, len(each), len(each)) + each for number, each in enumerate(packets)]
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, link_type) + b"".join(records))


def dissected(path: Path, *options: str) -> list[list[str]]:
    """Protocol, code, FCS status and complaints of each frame, as tshark sees it."""
    fields = ["ppp.protocol", "ppp.code", "ppp.fcs.status", "icmp.checksum.status", "udp.checksum.status"]
    picked = [word for field in [*fields, "_ws.expert.message", "_ws.malformed"] for word in ("-e", field)]
    command = ["tshark", "-r", str(path), *options, "-o", "udp.check_checksum:TRUE", "-T", "fields", *picked]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [line.split("\t") for line in printed.splitlines()]


def test_wireshark_reads_what_is_on_the_line(tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    line = captured()
    write_capture(tmp_path / "raw.pcap", 147, line)
    raw = dissected(tmp_path / "raw.pcap", "-o", 'uat:user_dlts:"User 0 (DLT=147)","ppp_raw_hdlc","0","","0",""')
    codes = [row[:2] for row in raw]
    lcp, ipcp, ip = f"{LCP:#06x}", f"{IPCP:#06x}", "0x0021"
    for protocol, code in [
        (lcp, "1"),
        (lcp, "2"),
        (ipcp, "1"),
        (ipcp, "2"),
        (ipcp, "3"),
        (ip, ""),
        (lcp, "5"),
        (lcp, "6"),
    ]:
        assert [protocol, code] in codes
    for code in ("4", "7", "8", "9", "10"):  # Configure-Reject, Code-Reject, Protocol-Reject, Echo-Request and -Reply
        assert any(row[1].split(",")[0] == code for row in raw if row[0].startswith(lcp)), (
            f"no LCP packet of code {code}"
        )
    assert not any(row[6] for row in raw), "malformed"
    assert [row[3] for row in raw if row[3]] == ["1", "1"] and [row[4] for row in raw if row[4]] == ["1"]

    unstuffed = [
        re.sub(rb"\}(.)", lambda found: bytes([found[1][0] ^ 0x20]), each.strip(b"~"), flags=re.DOTALL) for each in line
    ]
    damaged = unstuffed[-1][:-1] + bytes([unstuffed[-1][-1] ^ 1])
    write_capture(tmp_path / "ppp.pcap", 9, [*unstuffed, damaged])
    *good, bad = dissected(tmp_path / "ppp.pcap", "-o", "ppp.fcs_type:16-Bit")
    assert [row[2] for row in good] == ["1"] * len(line), "a wrong FCS"
    assert bad[2] == "0"
