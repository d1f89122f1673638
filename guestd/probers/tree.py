"""Probing as open firmware does it: the first node, its first child, the next one (IEEE 1275, 6.3.2.2).

By the page, where the host can list nodes; else node by node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import accumulate
from typing import Any

from hcall import numbers
from hcall.errors import IoError, NoSuchCall, StaleHandle

from .found import Core, Found


async def probe(core: Core) -> AsyncIterator[Found]:
    """All nodes, parents first, whatever is plugged and unplugged meanwhile.

    It ends, shows no node twice and misses none that is there throughout: nodes are listed, and siblings stand, in the
    order of their handles.  Nodes that come after it began are not shown: CHANGES tells of them.
    """
    ceiling, _ = await core(0, numbers.CHANGES, 0)  # handles from here on come later
    try:
        nodes = await _listed(core, ceiling)
    except NoSuchCall:
        async for found in _below(core, await core(0, numbers.FIRST), "", ceiling):
            yield found
        return
    for found in _parents_first(nodes):
        yield found


async def _listed(core: Core, ceiling: int) -> dict[int, list[Found]]:
    """All nodes with handles below *ceiling*, in their order, by the handle of the parent; their paths are missing."""
    below: dict[int, list[Found]] = {}
    after = last = 0
    while True:
        following, groups = await core(0, numbers.LIST, after)
        for parent, found in _read(groups):
            in_order = last < found.node <= (following or found.node) and 0 <= parent < found.node
            if not in_order or (parent == 0) is not (last == 0):  # the first is the root, and no other
                raise IoError(f"the host lists the node {found.node:#x} where it does not belong")
            last = found.node
            if last < ceiling:
                below.setdefault(parent, []).append(found)
        if not following or last >= ceiling:
            return below
        if following <= after:
            raise IoError("the host goes round in circles: the same nodes again")
        after = following


def _read(groups: Any) -> Iterator[tuple[int, Found]]:
    """The nodes of a page, and the handle of the parent of each."""
    last = above = 0
    try:
        for handles, parents, names, sorts, kinds in groups:
            rows = zip(
                accumulate((last, *handles)), accumulate((above, *parents)), ("", *names), (0, *kinds), strict=True
            )
            next(rows)
            for last, above, name, kind in rows:
                yield above, Found(last, "", name, *sorts[kind])
    except (ValueError, IndexError):
        raise IoError("the host lists nodes that are not whole") from None


def _parents_first(below: dict[int, list[Found]]) -> Iterator[Found]:
    """All that stand below the root, and that, with their paths."""
    left = [("/", root) for root in below.get(0, ())]
    while left:
        path, (node, _, name, compatible, ids) = left.pop()
        yield Found(node, path, name, compatible, ids)
        left += [(f"{path.rstrip('/')}/{each.name}", each) for each in reversed(below.get(node, ()))]


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
