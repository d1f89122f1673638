"""What the tests of sessions share: both ends, ready to talk, and values that no message can carry."""

from __future__ import annotations

import datetime
import uuid
from typing import Any, TypeAlias

import msgspec

from hcall.errors import Status
from hcall.messages import BUNDLES, CALL, HELLO, MAGIC, VERSION, WELCOME, Hello, Welcome, end
from hcall.session.guest import GuestSession
from hcall.session.host import HostSession
from hcall.wire import Decoder, encode

Guest: TypeAlias = GuestSession[str]
Session: TypeAlias = HostSession | Guest
HELLO_HERE = Hello(HELLO, MAGIC, VERSION, VERSION, 0, "test", bytes(16), ())
HELLO_WITH_BUNDLES = HELLO_HERE._replace(features=BUNDLES)
LAST_WORD = end(Status.RESET, "over")


def call(slot: object, seq: object, *, number: object = 0x10010, handle: object = 9) -> tuple[object, ...]:
    return (CALL, slot, seq, number, handle, (), ())


def welcome(slots: int = 4, resumed: bool = False, features: int = 0) -> bytes:
    return encode(Welcome(WELCOME, VERSION, features, 1, slots, resumed))


def ready_host(slots: int = 4, hello: Hello = HELLO_HERE) -> HostSession:
    host = HostSession(slots)
    assert host.greet(encode(hello)) == hello
    return host


def ready_guest(slots: int = 4, hello: Hello = HELLO_HERE) -> Guest:
    guest = Guest()
    guest.greet(hello)
    guest.receive(welcome(slots, features=hello.features))
    return guest


def sent(session: Session) -> list[Any]:
    """The messages that wait to be sent, which are taken out."""
    messages: list[Any] = Decoder().feed(b"".join(session.out))
    session.out.clear()
    return messages


def deep(levels: int) -> object:
    """An array in an array, and so on; few bytes, but no recursive code survives enough of them."""
    value: object = ()
    for _ in range(levels):
        value = (value,)
    return value


DEPTHS = (300, 500, 900, 1022, 1023, 1024, 5000)
UNFIT = {
    "string": "x" * 257, "characters": "é" * 129, "bytes": bytes(4097), "array": (None,) * 65,
    "map": {str(n): n for n in range(65)}, "within": ({"key": ["x" * 257]},), "message": (bytes(4096),) * 4,
    "integer": 1 << 64, "object": object(), "set": {1}, "surrogate": "\ud800",
    "moment": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "ready": msgspec.Raw(b"\x01"),
    "uuid": uuid.UUID(int=1), "extension": msgspec.msgpack.Ext(1, b"x"), "words": memoryview(bytes(8192)).cast("Q"),
}  # fmt: skip
