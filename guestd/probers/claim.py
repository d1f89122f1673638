"""Probing by claiming: each free device of the machine is opened, looked at, and given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from hcall import numbers
from hcall.errors import Busy, HcallError, IoError, NoMatch, StaleHandle

from .found import Core, Found

_ANY: Final = ""  # the class of all devices


async def probe(core: Core) -> AsyncIterator[Found]:
    """The devices that could be claimed, in the order of their handles; one at a time is held, for a moment.

    What somebody else has is not shown, nor a node without a device.
    """
    root, last = await core(0, numbers.FIRST), 0
    while True:
        try:
            node, handle, *_ = await core(0, numbers.CLAIM, _ANY, last, 0)
        except (NoMatch, Busy, IoError):  # nothing is left that can be had
            return
        if node <= last:
            raise IoError("the host goes round in circles: the same devices again")
        last = node
        try:
            found = await located(core, node, root)
        except StaleHandle:  # it went meanwhile
            continue
        finally:
            with suppress(HcallError):
                await core(handle, numbers.CLOSE)
        yield found


async def located(core: Core, node: int, root: int) -> Found:
    """The device of *node*, with its path from the *root* on."""
    name, compatible, ids = await core(node, numbers.INFO)
    path, last = f"/{name}", node
    while (above := await core(last, numbers.PARENT)) != root:
        if not 0 < above < last:
            raise IoError("the host goes round in circles: a node that is below itself")
        path, last = f"/{(await core(above, numbers.INFO))[0]}{path}", above
    return Found(node, path, name, compatible, ids)
