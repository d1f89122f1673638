"""Names that there are not, and what is none: an error with a sentence, after which the guest goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, desks
from test_clients import run_on

import hostd
from guestd.clients.guest import Guest
from hcall.errors import BadArgument, NoMatch


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as running:
        yield running


WAYS: dict[str, Callable[[Guest[Any], Any], Awaitable[object]]] = {
    "found": lambda guest, name: guest.found(name),
    "bind": lambda guest, name: guest.bind_path(name),
    "unbind": lambda guest, name: guest.unbind(name),
}


@CLIENTS
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", ["none", "desk/none", "\0", " desk", "Desk", "\udc80", "x" * 5000, None, 5, b"desk"])
async def test_the_path_of_no_device(host: hostd.Host, client: str, how: str, name: Any) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        error: tuple[type[Exception], ...] = (NoMatch, BadArgument) if isinstance(name, str) else (TypeError,)
        with pytest.raises(error, match=r"no node|no driver is bound|cannot be sent|is text, not"):
            await WAYS[how](guest, name)
        assert await guest.call(0, 16) is None

    await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20)


@CLIENTS
@pytest.mark.parametrize("handle", [None, "desk", 1.0, b"x"])
async def test_what_is_no_handle_ends_no_session(host: hostd.Host, client: str, handle: Any) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        with pytest.raises(TypeError, match="a handle is a number, not"):
            await guest.properties(handle)
        assert await guest.call(0, 16) is None

    await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20)
