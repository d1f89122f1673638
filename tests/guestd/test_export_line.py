"""A peer of an exported stream that resets the connection just when something is to be said to it."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from guestd.exports.streams import Line

_RESET = struct.pack("ii", 1, 0)  # struct linger: close() resets


@pytest.mark.parametrize("steps", range(4))
async def test_a_peer_that_resets_the_connection_is_gone_whenever_it_is_written_to(steps: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as sock:
            sock.setblocking(False)
            line = Line(sock.fileno(), sock.fileno())
            reading = asyncio.ensure_future(line.read())
            await asyncio.sleep(0)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            peer.close()
            for _ in range(steps):
                await asyncio.sleep(0)
            with pytest.raises(ConnectionError):
                await line.write(b"hello")
            with pytest.raises(ConnectionError):
                await reading
            line.close()
