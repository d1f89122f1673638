"""A free device of a class, found and opened in one step, after the way of the PS3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from hcall import numbers
from hcall.errors import Busy, HcallError, IoError, NoMatch
from hcall.text import cut

from ...model.later import Later
from ...tree.faces.claim import is_free
from ..account import Account
from .holds import OpenReply, opened
from .registry import call

ClaimReply: TypeAlias = tuple[int, *OpenReply]  # the node comes first


@call(numbers.CLAIM)
def _claim(guest: Account, handle: int, sort: str, after: int, cookie: int) -> Later[ClaimReply]:
    guest.check(cookie)
    guest.enlist(sort)  # before the search: what is given back behind it is told
    later: Later[ClaimReply] = Later()
    guest.owner.go_on(_search(guest, sort, after, cookie, later))
    return later


def _search(guest: Account, sort: str, after: int, cookie: int, later: Later[ClaimReply]) -> Iterator[None]:
    """Open the first that can be; a step for each that is looked at."""
    classes = guest.tree.classes
    refused: HcallError = NoMatch(f"no device that is for you to open is compatible with {cut(sort)!r}")
    while (node := classes.after(sort, after)) is not None:
        after = node.handle
        if guest.may_open(node):
            try:
                if is_free(node):
                    hold = guest.open(node, cookie)
                    classes.forget(guest, sort)
                    later.done((node.handle, *opened(hold)))
                    return
                refused = Busy(f"no device that is compatible with {cut(sort)!r} is free: you are told when one is")
            except IoError as error:  # it has failed: another one may work
                refused = error if isinstance(refused, NoMatch) else refused
            except HcallError as error:  # a limit
                later.fail(error)
                return
        yield
    later.fail(refused)
