"""A bus of virtio-msg to be checked: hostd's, or the one whose socket $VIRTIO_MSG_SOCKET names.

    VIRTIO_MSG_SOCKET=/run/hostd/msg.sock pytest tests/virtio_msg

Another bus has to have a device at least, offered to whoever checks, and a SOCK_SEQPACKET socket whose datagrams are
messages.  Its devices are reset, and features negotiated; nothing is written to their queues or configuration.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
from msg_peer import MsgPeer

import hostd

OTHER = os.environ.get("VIRTIO_MSG_SOCKET")
MACHINE = """
[host]
msg = true
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
[devices.rng]
model = "rng"
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """What fails says which statement of the draft it is about."""
    report = yield
    if report.failed and (cited := item.get_closest_marker("draft")) is not None:
        report.sections.append(("the draft says", "\n".join(cited.args)))
    return report


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[hostd.Host | None]:
    """Our host; None: another bus is checked."""
    if OTHER is not None:
        yield None
        return
    (tmp_path / "machine.toml").write_text(MACHINE)
    async with hostd.serve(tmp_path / "machine.toml", tmp_path / "run") as host:
        yield host


@pytest.fixture
async def peer(own: hostd.Host | None) -> AsyncIterator[MsgPeer]:
    """A connection to the bus."""
    path = Path(OTHER) if OTHER is not None or own is None else own.socket.with_name("msg.sock")
    with contextlib.closing(MsgPeer(path)) as peer:
        yield peer


@pytest.fixture
async def device(peer: MsgPeer) -> AsyncIterator[int]:
    """The number of a device, which was reset."""
    number = (await peer.devices())[0]
    assert await peer.set_status(number, 0) == 0
    yield number
    await peer.set_status(number, 0)


@pytest.fixture
async def absent(peer: MsgPeer) -> int:
    """A number that no device has."""
    there = {*await peer.devices()}
    return next(number for number in range(65535, 0, -1) if number not in there)


@pytest.fixture
def host(own: hostd.Host | None) -> hostd.Host:
    """Of checks that plug and unplug."""
    if own is None:
        pytest.skip("nothing can be plugged into another bus from here")
    return own
