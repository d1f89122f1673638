"""Any number of slots that a host may have: all of them under way at once, lost with the link, and answered once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
from raw import PATIENCE, RawGuest, connected, hello, served

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import CALL, REPLY
from hcall.wire import encode
from hostd.device import Device, Later, call
from hostd.machine.file import DeviceSpec


class Keeper(Device):
    """Answers nothing before it is told to."""

    compatible = "test,keeper"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Later[int]] = {}
        self.awaited = 0
        self.all_came = asyncio.Event()

    @call
    def keep(self, n: int) -> Later[int]:
        assert n not in self.kept
        self.kept[n] = Later()
        if len(self.kept) == self.awaited:
            self.all_came.set()
        return self.kept[n]


async def replies(guest: RawGuest, count: int) -> dict[int, tuple[Any, ...]]:
    """So many replies, by slot."""
    found: dict[int, tuple[Any, ...]] = {}
    for _ in range(count):
        message = await guest.receive()
        assert message is not None and message[0] == REPLY and message[1] not in found
        found[message[1]] = message[2:]
    return found


async def back(host: hostd.Host, guest: RawGuest, token: bytes) -> None:
    assert (await guest.greet(hello(token=token)))[-1] is True


@pytest.mark.parametrize("slots", [1, 2, 63, 64, 65, 127, 128, 255, 256, 257, 4096])
@pytest.mark.spec("S-1", "S-2", "S-3", "S-4", "R-2", "R-4")
async def test_all_slots_are_used_at_once_and_each_call_is_answered_once(tmp_path: Path, slots: int) -> None:
    token, random = os.urandom(16), Random(slots)
    async with served(tmp_path, DeviceSpec("keeper", "keeper", Keeper, {}), slots=slots) as host:
        keeper = host.tree.find("/keeper").device
        assert isinstance(keeper, Keeper)
        keeper.awaited = slots
        with connected(host) as guest:
            assert (await guest.greet(hello(token=token)))[4] == slots
            handle, calls = await guest.open("/keeper")
            first = guest.seq + 1
            all_calls = [encode((CALL, n, first + n, calls["keep"], handle, (n,), ())) for n in range(slots)]
            guest.send(b"".join(all_calls))
            async with asyncio.timeout(PATIENCE):
                await keeper.all_came.wait()
        with connected(host) as guest:  # all again, none of which is made again
            await back(host, guest, token)
            guest.send(b"".join(all_calls))
            order = list(keeper.kept)
            random.shuffle(order)
            for n in order[: slots // 2]:
                keeper.kept[n].done(n)
            assert await replies(guest, slots // 2) == {n: (first + n, 0, n) for n in order[: slots // 2]}
        for n in order[slots // 2 :]:  # nobody is there
            keeper.kept[n].done(n)
        with connected(host) as guest:
            await back(host, guest, token)
            guest.send(b"".join(all_calls))
            assert await replies(guest, slots) == {n: (first + n, 0, n) for n in range(slots)}
            last = first + slots
            guest.send(
                b"".join(
                    encode((CALL, n, last + at, numbers.NOP, 0, (), ())) for at, n in enumerate(reversed(range(slots)))
                )
            )
            assert await replies(guest, slots) == {n: (last + slots - 1 - n, 0, None) for n in range(slots)}
            guest.send(encode((CALL, slots, last + slots, numbers.NOP, 0, (), ())))
            assert (await guest.ended())[0] == Status.BAD_ARGUMENT
