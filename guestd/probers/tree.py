"""Probing as open firmware does it: the first node, its first child, the next one (IEEE 1275, 6.3.2.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hcall import numbers
from hcall.errors import IoError, StaleHandle

from .found import Core, Found


async def probe(core: Core) -> AsyncIterator[Found]:
    """All nodes, parents first, whatever is plugged and unplugged meanwhile.

    It ends, shows no node twice and misses none that is there throughout: siblings stand in the order of their
    handles.  Nodes that come after it began are not shown: CHANGES tells of them.
    """
    ceiling, _ = await core(0, numbers.CHANGES, 0)  # handles from here on come later
    async for found in _below(core, await core(0, numbers.FIRST), "", ceiling):
        yield found


async def _below(core: Core, node: int, folder: str, ceiling: int) -> AsyncIterator[Found]:
    try:
        name, compatible, ids = await core(node, numbers.INFO)
        path = folder and f"{folder.rstrip('/')}/{name}"
        yield Found(node, path or "/", name, compatible, ids)
        last, child = node, await core(node, numbers.CHILD)  # a node is older than what is below it
        while child and child < ceiling:
            if child > last:
                async for found in _below(core, child, path or "/", ceiling):
                    yield found
                last = child
            try:
                before, child = child, await core(child, numbers.NEXT)
                if child and child <= before:
                    raise IoError(f"the host goes round in circles at {path or '/'}")
            except StaleHandle:  # it went: begin again, and pass over what was seen
                child = await core(node, numbers.CHILD)
    except StaleHandle:
        return  # the node itself went
