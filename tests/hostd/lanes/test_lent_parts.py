"""A guest that lends parts of its memory, as a machine monitor does: all its RAM in one memfd, and a hole in it."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from raw import PAGE, connected, hello, lent, memfd, served, until

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import FD_LANE

LOW, HIGH = 0x1000_0000, 0x1_0000_0000
RAM = ((LOW, 2 * PAGE, 0), (HIGH, PAGE, 2 * PAGE), (HIGH + PAGE, PAGE, 5 * PAGE))
TOKEN = bytes(range(16))


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path) as host:
        yield host


@pytest.mark.spec("M-7", "A-2", "C-15", "R-1")
async def test_a_machine_lends_parts_of_one_memfd_comes_back_with_them_and_adds_another(host: hostd.Host) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, lent(memfd(6 * PAGE)) as (fd,):
        data = hello(features=FD_LANE, token=TOKEN, regions=RAM)
        fds = [fd, fd, fd, theirs.fileno()]
        with connected(host) as guest:
            await guest.greet(data, fds)
            handle, calls = await guest.open("/rng")
            areas = ((HIGH + PAGE - 8, 16, 1), (LOW + 2 * PAGE - 8, 8, 1))  # the first is over two parts
            assert await guest.call(calls["read"], handle, 0, areas=areas) == (0, 24)
            filled = (3 * PAGE - 8, 5 * PAGE, 2 * PAGE - 8)  # offsets in the file
            assert all(any(os.pread(fd, 8, at)) for at in filled)
            assert not any(os.pread(fd, 2 * PAGE, 3 * PAGE))  # what is not lent
            beyond = ((LOW + 2 * PAGE - 8, 16, 1),)
            assert (await guest.call(calls["read"], handle, 0, areas=beyond))[0] == Status.BAD_AREA
            seq = guest.seq
        await until(host, lambda: host.guests.by_token[TOKEN].lane.link is None)
        other = ((LOW, 2 * PAGE, 0), (HIGH, PAGE, 2 * PAGE), (HIGH + PAGE, PAGE, 4 * PAGE))
        with connected(host) as guest:  # the same file at the same places, but not the same part of it
            guest.send(hello(features=FD_LANE, token=TOKEN, regions=other), fds)
            assert (await guest.ended())[0] == Status.NOT_ALLOWED
        with connected(host) as guest:
            assert (await guest.greet(data, fds))[-1] is True
            guest.seq = seq
            for offset, status in ((PAGE // 2, Status.BAD_AREA), (6 * PAGE, Status.BAD_AREA), (3 * PAGE, Status.OK)):
                socket.send_fds(ours, [bytes(4)], [fd])
                assert (await guest.call(numbers.ADD_PART, 0, LOW + 2 * PAGE, PAGE, offset, 0))[0] == status
            assert await guest.call(calls["read"], handle, 0, areas=beyond) == (0, 16)
            assert any(os.pread(fd, 8, 3 * PAGE)) and not any(os.pread(fd, PAGE, 4 * PAGE))
            await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)
