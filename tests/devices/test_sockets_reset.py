"""A stream before a socket whose peer resets the connection with much unread."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest
from port_end import End
from raw import attached, served, settled

from hostd.backings.named import AnyBacking as Backing
from hostd.devices.tty import Tty
from hostd.machine.file import DeviceSpec
from hostd.model.areas import InlineRoom

PEERS = 3
BUFFERS = 64 * 1024  # bytes, the stream's, and what is kept for a peer
SECONDS = 10  # after which the test says that something hangs
_RESET = struct.pack("ii", 1, 0)  # struct linger: close() resets


@pytest.mark.parametrize("steps", range(4))
async def test_a_peer_that_resets_the_connection_is_heard_to_the_end_and_makes_way(tmp_path: Path, steps: int) -> None:
    backing = Backing.parse("tcp:127.0.0.1:0", tmp_path)
    tty = DeviceSpec("tty", "tty", Tty, {"backing": backing})
    async with served(tmp_path, tty) as host, attached(host) as guest:
        handle, calls = await guest.open("/tty")
        device = host.tree.find("/tty").device
        assert isinstance(device, Tty)
        port = int(device.endpoint.rpartition(":")[2])
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(bytes(2 * BUFFERS))  # the guest does not read it: the host stops reading, too
        while await guest.call(calls["get_param"], handle, 4) != (0, BUFFERS):
            pass
        while (await guest.call(calls["write"], handle, 0, areas=(bytes(4096),)))[0] == 0:
            pass  # the peer does not read either: the host waits to write
        await settled(guest)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        peer.close()
        for _ in range(steps):
            await asyncio.sleep(0)
        assert device.read(InlineRoom(4096), 0) == 4096  # not by the guest: now
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.setblocking(False)
            async with asyncio.timeout(SECONDS):
                while True:
                    await guest.call(calls["read"], handle, 0, areas=(4096,))
                    try:
                        assert peer.recv(1)  # what the first one did not take: this one is heard
                        break
                    except BlockingIOError:
                        pass


@pytest.mark.parametrize("space", [1 << 20, 1500], ids=["taken at once", "taken in parts"])
async def test_a_reset_that_a_write_meets_first_does_not_hide_what_came_before(tmp_path: Path, space: int) -> None:
    """The loop hears of both in one look; the write takes the error off the socket."""
    end, backing, loop = End(), Backing.parse("tcp:127.0.0.1:0", tmp_path), asyncio.get_running_loop()
    backing.start(end)
    guest, ours = socket.socketpair()

    def write() -> None:
        ours.recv(1)
        backing.write(b"x")

    loop.add_reader(ours, write)
    try:
        port = int(backing.endpoint.rpartition(":")[2])
        for n in range(1, PEERS + 1):
            end.space = space
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(b"hello")
                while not end.data.endswith(b"hello"):
                    await end.news()
                backing.write(b"unread")  # so the end is a reset
                for _ in range(3):
                    await asyncio.sleep(
                        0
                    )  # the loop has looked, and now hears of the write before it hears of the peer
                guest.send(b"!")
                peer.sendall(b"z" * 2000)
            async with asyncio.timeout(SECONDS):
                while end.parts < n:
                    await end.news()
                    end.space = space
                    backing.resume()
        assert end.data == (b"hello" + b"z" * 2000) * PEERS
    finally:
        loop.remove_reader(ours)
        guest.close()
        ours.close()
        backing.stop()
