"""Sockets that connect to whoever listens, by themselves: again and again, quietly, leaving nothing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from port_end import SECONDS, leave, receive, started, until

from hostd.backings.named import AnyBacking as Backing


async def said_once(backing: Backing, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is said that nobody is there; again and again it is not."""
    async with asyncio.timeout(SECONDS):
        while not caplog.records:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        for _ in range(100):
            backing.tick()
            await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.message.startswith(f"{backing.endpoint}: ") and record.message.endswith("; trying again")


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_one_that_connects_does_so_when_somebody_listens_and_again_when_the_peer_went(
    tmp_path: Path, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def restart() -> socket.socket:
        if scheme == "unix":
            (tmp_path / "there").unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "there"))
            listener.listen(8)
        else:
            listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        return listener

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = "connect:unix:there" if scheme == "unix" else f"connect:tcp:localhost:{port}"
    async with started(text, tmp_path) as (backing, end):
        assert backing.endpoint == (f"unix:{tmp_path}/there" if scheme == "unix" else f"tcp:localhost:{port}")
        await said_once(backing, caplog)
        expected = b""
        for word in (b"one", b"two"):
            assert backing.write(word) == 3  # nobody is there
            with await restart() as listener:
                async with asyncio.timeout(SECONDS):
                    accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listener))
                    while not accepting.done():
                        backing.tick()
                        await asyncio.sleep(0)
                    peer, _ = await accepting
                with peer:
                    assert await receive(peer, 3) == word
                    await asyncio.get_running_loop().sock_sendall(peer, word)
                    expected += word
                    assert await until(end, len(expected)) == expected
                    await leave(peer)
        assert not end.gone


async def test_a_name_that_is_none_is_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with started(f"connect:tcp:{'x' * 64}:1", tmp_path) as (backing, _):
        await said_once(backing, caplog)


@pytest.mark.parametrize("text", ["connect:unix:nobody", "connect:tcp:localhost:1", "connect:tcp:127.0.0.1:FULL"])
async def test_one_that_is_stopped_while_it_connects_leaves_nothing(tmp_path: Path, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        for turns in range(4):
            async with started(text.replace("FULL", str(full.getsockname()[1])), tmp_path):
                for _ in range(turns):
                    await asyncio.sleep(0)
