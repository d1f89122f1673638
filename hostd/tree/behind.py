"""What stands behind a device by its keys, as it is carried over to another one: what it knows, and its descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from hcall.saved import Saved, check

from ..backing import Carried
from ..device import Device

VERSION: Final = 1  # of what is saved of a device in its place

#: `Plugged.invoke`.
Invoke: TypeAlias = Callable[..., Any]


def behind(device: Device) -> dict[str, Carried]:
    """What can be carried over, by key."""
    values = ((name, getattr(device, name)) for name in device.declares.keys)
    return {name: value for name, value in values if isinstance(value, Carried)}


def save(device: Device, invoke: Invoke) -> tuple[Saved, list[int]]:
    """What `adopt` needs, and the descriptors, which stay theirs.  Raises Internal."""
    saved, fds = {}, list[int]()
    for name, carried in behind(device).items():
        known, own = invoke(carried.save)
        saved[name] = {"sort": type(carried).__name__, "known": known, "fds": len(own)}
        fds += own
    return saved, fds


def adopt(device: Device, plugged: Saved, fds: Sequence[int], invoke: Invoke) -> None:
    """Give what stands behind *device* what was saved of it, and its *fds*, which are closed if that does not go well.

    *plugged* is what `Plugged.save` gave.  Raises ValueError if it was saved of something else.
    """
    there = behind(device)
    try:
        check(plugged, VERSION)
        saved: Mapping[str, Any] = plugged["behind"]
        if saved.keys() != there.keys() or sum(each["fds"] for each in saved.values()) != len(fds):
            raise ValueError(
                f"what was saved stood behind another sort of device, or its {len(fds)} descriptors are not"
            )
        for name, carried in there.items():
            sort, known, count = saved[name]["sort"], saved[name]["known"], saved[name]["fds"]
            if sort != type(carried).__name__:
                raise ValueError(f"{name} was a {sort} when it was saved, and is a {type(carried).__name__}")
            invoke(carried.adopt, known, fds[:count], may=(ValueError,))
            fds = fds[count:]
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
