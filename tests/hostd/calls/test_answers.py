"""What a handler returns is checked against its annotation, and within tuples, lists and maps, too."""

from __future__ import annotations

import datetime
import enum
import errno
import itertools
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from raw import attached, bystander, served

from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hostd.device import Device, Later, call
from hostd.machine.file import DeviceSpec


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Place(NamedTuple):
    x: int
    name: str


class Number:
    """As those of numpy: no int, but of use as one."""

    def __index__(self) -> int:
        return 3


class Whole(int):
    """Still an int."""


class Failing(Device):
    compatible = "test,failing"

    @call
    def fail(self, number: int) -> None:
        raise OSError(number, os.strerror(number))


Pair: typing.TypeAlias = tuple[int, Place]
RIGHT: list[tuple[Any, object, object]] = [
    # annotation, answer, what the guest gets
    (int, 3, 3),
    (int, Whole(3), 3),
    (int, Level.LOW, 1),
    (float, 1.5, 1.5),
    (float, 1, 1),
    (bool, True, True),
    (None, None, None),
    (str, Mode.FAST, "fast"),
    (bytes, b"a", b"a"),
    (bytes, bytearray(b"a"), b"a"),
    (bytes, memoryview(b"a"), b"a"),
    (Level, Level.LOW, 1),
    (Level, 1, 1),
    (Place, Place(1, "a"), (1, "a")),
    (Place, (1, "a"), (1, "a")),
    (Pair, (1, Place(1, "a")), (1, (1, "a"))),
    (tuple[int, ...], (), ()),
    (list[int], [1, 2], (1, 2)),
    (list[int], (1, 2), (1, 2)),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[str, list[bytes]], {"a": [b"b"]}, {"a": (b"b",)}),
    (int | None, None, None),
    (int | str, "a", "a"),
    (int | bool, True, True),
    (Literal["on", "off"], "on", "on"),
    (object, True, True),
    (object, (1, None), (1, None)),
    (Any, {"a": [None, 1.5]}, {"a": (None, 1.5)}),
]
WRONG: list[tuple[Any, object, str]] = [
    # annotation, answer, what is said about them
    (int, None, "None, not int"),
    (int, True, "bool, not int"),
    (int, 1.0, "float, not int"),
    (int, "1", "str, not int"),
    (int, Number(), "Number, not int"),
    (int, ValueError, "type, not int"),
    (float, True, "bool, not float"),
    (float, "1.5", "str, not float"),
    (bool, 1, "int, not bool"),
    (None, 0, "int, not None"),
    (str, b"a", "bytes, not str"),
    (bytes, "text", "str, not bytes"),  # nor what that is the base64 of
    (bytes, [97], "list, not bytes"),
    (Level, 2, "int, not Level"),
    (Place, (1, 2), "tuple, not Place"),
    (Place, (1,), "tuple, not Place"),
    (Pair, (1, (2, b"a")), "tuple, not tuple[int, Place]"),
    (tuple[int, int], (1, True), "tuple, not tuple[int, int]"),
    (tuple[int, int], (1, 2, 3), "tuple, not tuple[int, int]"),
    (tuple[bytes, ...], ("text",), "tuple, not tuple[bytes, ...]"),
    (list[int], [1, "a"], "list, not list[int]"),
    (list[int], iter([1]), "list_iterator, not list[int]"),
    (dict[str, int], {1: 1}, "dict, not dict[str, int]"),
    (dict[str, int], {"a": "1"}, "dict, not dict[str, int]"),
    (int | None, "a", "str, not int | None"),
    (int | Level, "a", "str, not int | Level"),
    (bytes | str, 1, "int, not bytes | str"),
    (int | str, b"a", "bytes, not int | str"),
    (Literal["on", "off"], "of", "str, not Literal['on', 'off']"),
]
UNSENDABLE = [
    {1}, object(), datetime.date(2000, 1, 1), 1 << 64, -(1 << 64), "\ud800", "x" * 257, bytes(4097), [0] * 65,
    dict.fromkeys(range(65)), (bytes(4096),) * 4, (1, [{"a": {2}}]), enum.Enum("Colour", "RED")(1), Exception, print,
]  # fmt: skip


def returning(kind: Any, answer: object) -> DeviceSpec:
    """A device with two calls that return *answer*, and say that they return *kind*."""

    def now(self: Device) -> object:
        return answer

    def later(self: Device) -> object:
        result: Later[object] = Later()
        result.done(answer)
        return result

    now.__annotations__ = {"return": kind}
    later.__annotations__ = {"return": Later[kind]}
    members = {"compatible": "test,returning", "now": call(now), "later": call(later)}
    model = types.new_class("Returning", (Device,), exec_body=lambda body: body.update(members))
    return DeviceSpec("it", "it", model, {})


async def answers(folder: Path, kind: Any, answer: object) -> list[tuple[int, Any]]:
    """What a guest gets from each of the two; another guest goes on as before."""
    async with served(folder, returning(kind, answer)) as host, bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/it")
        return [await guest.call(calls[name], handle) for name in ("now", "later")]


@pytest.mark.parametrize(("kind", "answer", "got"), RIGHT, ids=itertools.count())
async def test_an_answer_of_the_declared_type_is_given(tmp_path: Path, kind: Any, answer: object, got: object) -> None:
    first, second = await answers(tmp_path, kind, answer)
    assert first == second == (0, got) and type(first[1]) is type(got)


@pytest.mark.parametrize(("kind", "answer", "text"), WRONG, ids=itertools.count())
async def test_an_answer_of_another_type_is_internal_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Any, answer: object, text: str
) -> None:
    assert await answers(tmp_path, kind, answer) == [(Status.INTERNAL, f"the device model returned {text}")] * 2
    for name in ("now()", "later()"):
        assert f"/it: {name} failed for guest 'raw': the device model returned {text}" in caplog.messages


async def test_a_backing_that_fails_again_and_again_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    spec = DeviceSpec("it", "it", Failing, {})
    async with served(tmp_path, spec, clock=clock) as host, attached(host) as guest:
        for n in (1, 2):  # opened anew, it is another guest's, or another try
            handle, calls = await guest.open("/it")
            for number in (errno.ENOSPC, errno.ENOSPC, errno.EIO, errno.EIO):
                assert (await guest.call(calls["fail"], handle, number))[1] == os.strerror(number)
            assert await guest.core(numbers.CLOSE, handle) == 0
            told = [record.message for record in caplog.records if record.levelname == "WARNING"]
            assert (
                told
                == [
                    "/it: fail() failed for guest 'raw': No space left on device",
                    "/it: fail() failed for guest 'raw': Input/output error",
                    "/it: fail() failed once more: No space left on device",
                    "/it: fail() failed once more: Input/output error",
                ]
                * n
            )
            clock.turn(10)


@pytest.mark.parametrize("answer", UNSENDABLE, ids=itertools.count())
@pytest.mark.parametrize("kind", ["nothing said", "object"])
async def test_what_no_message_can_carry_is_internal(tmp_path: Path, kind: str, answer: object) -> None:
    for status, text in await answers(tmp_path, Any if kind == "nothing said" else object, answer):
        assert status == Status.INTERNAL and 0 < len(text.encode()) <= 256
