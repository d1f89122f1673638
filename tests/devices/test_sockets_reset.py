"""A stream before a socket whose peer resets the connection with much unread."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import pytest
from raw import attached, served, settled

from hostd.backings.named import AnyBacking as Backing
from hostd.devices.tty import Tty
from hostd.machine.file import DeviceSpec
from hostd.model.areas import InlineRoom

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
