"""The tree by the page: all that a prober asks of many nodes, in one answer."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Final, TypeAlias

from hcall import numbers
from hcall.wire import MAX_ITEMS, MAX_MESSAGE, encode_plain

from ...tree.node import Node
from ..account import Account
from .registry import call

#: Differences of handles and of parents, names, sorts of devices, and which of these each node is.
Sort: TypeAlias = tuple[tuple[str, ...], tuple[int, int]]  # compatible, ids
Group: TypeAlias = tuple[list[int], list[int], list[str], list[Sort], list[int]]

_LOOKS: Final = 640  # nodes that a call looks at: 0.5 ms, with all that its answer goes through
_ASKS: Final = 64  # of somebody of whom the policy is asked for each, which takes up to 6 us
_FRAME: Final = 64  # bytes of a REPLY around the groups


@call(numbers.LIST)
def _list(guest: Account, handle: int, after: int) -> tuple[int, list[Group]]:
    sees = guest.owner.sees
    looks = _LOOKS if sees is None else _ASKS
    found = guest.tree.following(after, looks + 1)
    looked = found[:looks]
    left = looked if sees is None else [node for node in looked if sees(node.path)]
    groups: list[Group] = []
    count, room, last, above = MAX_ITEMS, MAX_MESSAGE - _FRAME, 0, 0
    while left and count and len(groups) < MAX_ITEMS:
        some = left[:count]
        group = _group(some, last, above)
        size = len(encode_plain(group))
        if size > room:
            count //= 2
            continue
        groups.append(group)
        room -= size
        left = left[count:]
        last, above = last + sum(group[0]), above + sum(group[1])
    if left:
        return last, groups
    return looked[-1].handle if len(found) > len(looked) else 0, groups


def _group(nodes: Sequence[Node], last: int, above: int) -> Group:
    """*nodes* behind one whose handle is *last*, and the handle of its parent *above*."""
    handles = [node.handle for node in nodes]
    parents = [0 if node.parent is None else node.parent.handle for node in nodes]
    sorts: dict[Sort, int] = {}
    kinds = [sorts.setdefault((node.compatible, node.ids), len(sorts)) for node in nodes]
    return (
        list(map(operator.sub, handles, [last, *handles])), list(map(operator.sub, parents, [above, *parents])),
        [node.name for node in nodes], list(sorts), kinds,
    )  # fmt: skip
