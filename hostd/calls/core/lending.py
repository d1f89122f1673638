"""Memory that a guest lends, and its leave."""

from __future__ import annotations

from hcall import numbers
from hcall.errors import BadArgument, HcallError

from ...model.later import Later
from ..account import Account
from ..memory import Lent
from .registry import call


def _add(guest: Account, fd_id: int, address: int, size: int, offset: int | None = None) -> Later[None]:
    later: Later[None] = Later()

    def lent(lent: Lent | BadArgument) -> None:
        try:
            if isinstance(lent, BadArgument):
                raise lent
            guest.memory.add(address, size, lent)
        except HcallError as error:
            later.fail(error)
        else:
            later.done(None)

    guest.owner.lend(fd_id, address, size, offset, lent)
    return later


@call(numbers.ADD_MEMORY)
def _add_memory(guest: Account, handle: int, address: int, size: int, fd_id: int) -> Later[None]:
    return _add(guest, fd_id, address, size)


@call(numbers.ADD_PART)
def _add_part(guest: Account, handle: int, address: int, size: int, offset: int, fd_id: int) -> Later[None]:
    return _add(guest, fd_id, address, size, offset)


@call(numbers.REMOVE_MEMORY)
def _remove_memory(guest: Account, handle: int, address: int) -> None:
    guest.memory.remove(address)


@call(numbers.DETACH)
def _detach(guest: Account, handle: int) -> Later[None]:
    later: Later[None] = Later()
    guest.owner.detach(lambda: later.done(None))
    return later
