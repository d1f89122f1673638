"""What a trace has lines of: each of these as JSON, with its name as `event`.  docs/trace.md says what they mean."""

from __future__ import annotations

from typing import Any

import msgspec


class _Event(msgspec.Struct, tag_field="event", gc=False):
    time: float  # seconds since the host started


class Call(_Event, tag="call"):
    """Of a guest, when it is answered, or when it is clear that the answer comes later: then *status* is null."""

    id: int  # of this call in this trace
    guest: str
    device: str | None  # of calls with a handle
    call: str
    args: Any
    data: int  # bytes for the device
    room: int  # bytes for its answer
    status: str | None = None
    answer: Any = None  # a sentence, unless status is OK
    seconds: float | None = None


class Answer(_Event, tag="answer"):
    """That came later, to the call of this *id*."""

    id: int
    guest: str
    device: str | None
    call: str
    status: str | None
    answer: Any
    seconds: float  # since the call


class Interrupt(_Event, tag="interrupt"):
    """That a guest is told of."""

    guest: str
    device: str | None
    vector: str  # its name; of a node, the call that it asks for
    count: int


class Device(msgspec.Struct, gc=False):
    """What became of a node: plug, it is there; leaving, guests are asked to let go of it; unplug, it is gone."""

    event: str
    time: float
    device: str
    compatible: tuple[str, ...]


class Guest(msgspec.Struct, gc=False):
    """What became of a guest: attach, unlink (it may come back), resume, end."""

    event: str
    time: float
    guest: str
    why: str | None  # it has ended
