"""The shapes of HELLO, WELCOME and END: what is one, and what each other thing is refused as."""

from __future__ import annotations

from typing import Any

import pytest

from hcall.errors import ProtocolViolation, Status
from hcall.messages import END, HELLO, WELCOME, End, Hello, Welcome, end

TOKEN = bytes(range(16))
GOOD: tuple[Any, ...] = (4, "hcall", 1, 1, 1, "name", TOKEN, ((0, 4096), (1 << 32, 8192)))


def but(place: int, value: object) -> tuple[object, ...]:
    """HELLO with another *value* at one place."""
    return (*GOOD[:place], value, *GOOD[place + 1 :])


@pytest.mark.parametrize(
    "message",
    [GOOD, but(2, 0), but(2, -3), but(3, 99), but(4, 0), but(4, (1 << 64) - 1), but(5, ""), but(7, ()),
     but(7, ((-1, 0),)), but(7, ((0, 4096, 8192), (4096, 4096)))],
    ids=repr,
)  # fmt: skip
def test_a_hello_is_what_it_says(message: tuple[Any, ...]) -> None:
    """Whether there can be such regions is for the memory to say."""
    hello = Hello.check(message)
    assert tuple(hello) == message and type(hello) is Hello
    assert (hello.name, hello.token, hello.regions) == message[5:]


NO_HELLO: list[object] = [
    5, None, "hcall", (), (4,), (4, "hcall"), (4, "hcall", 1), {4: "hcall"}, but(0, 0), but(0, 5), but(1, "HCALL"),
    but(1, b"hcall"), but(1, 1), GOOD[:7], (*GOOD, 0), but(4, True), but(4, "1"), but(5, b"name"), but(5, 5),
    but(6, "0123456789abcdef"), but(6, TOKEN[:15]), but(6, TOKEN + b"x"), but(6, b""), but(6, 16), but(7, None),
    but(7, 5), but(7, (5,)), but(7, ((0,),)), but(7, ((0, 1, 2, 3),)), but(7, ((0, 1, True),)), but(7, ((0, True),)),
    but(7, ((0.0, 4096),)),
    but(7, ((0, 4096), None)), but(7, b""), but(7, {}), but(0, 4.0), but(2, True), but(3, True), but(2, "1"),
    but(3, None), but(2, 1.0), but(2, "2"), (4, "hcall", None, 2), (4, "hcall", 2, True), but(4, -1),
]  # fmt: skip


def test_what_is_no_hello_is_a_bad_argument() -> None:
    for message in NO_HELLO:
        with pytest.raises(ProtocolViolation) as caught:
            pytest.fail(f"{Hello.check(message)} was taken")
        assert caught.value.status is Status.BAD_ARGUMENT, message


@pytest.mark.parametrize(
    "message",
    [but(2, 2), but(3, 0), (*but(2, 2)[:3], 3), (4, "hcall", 2, 2), (4, "hcall", 2, 3, "of", "another", "shape"),
     (4, "hcall", 0, 0), (4, "hcall", -1, 0)],
    ids=repr,
)  # fmt: skip
@pytest.mark.spec("H-3", "F-5")
def test_another_version_is_told_so_whatever_its_shape(message: object) -> None:
    with pytest.raises(ProtocolViolation, match="version 1") as caught:
        Hello.check(message)
    assert caught.value.status is Status.NOT_ALLOWED


def test_welcome_and_end_are_what_they_say() -> None:
    welcome = Welcome.check((5, 1, 1, 7, 64, False))
    assert (welcome.kind, welcome.version, welcome.features, welcome.epoch) == (WELCOME, 1, 1, 7)
    assert (welcome.slots, welcome.resumed) == (64, False)
    last = End.check((6, 14, "over", 1, 2))
    assert (last.kind, last.status, last.text, last.lowest, last.highest) == (END, Status.RESET, "over", 1, 2)
    assert end(Status.BUSY, "full") == (6, 2, "full", 1, 1)


@pytest.mark.parametrize(
    ("kind", "good"), [(Welcome, (5, 1, 1, 7, 64, True)), (End, (6, 14, "over", 1, 2))], ids=["welcome", "end"]
)
@pytest.mark.spec("K-1")
def test_each_place_of_welcome_and_end_has_its_type(kind: type[Welcome] | type[End], good: tuple[object, ...]) -> None:
    for place, value in enumerate(good):
        wrongs: list[object] = [None, 1.0, b"", (), {}, True, 1, "text"]
        for wrong in wrongs:
            if type(wrong) is not type(value):
                with pytest.raises(ProtocolViolation):
                    kind.check((*good[:place], wrong, *good[place + 1 :]))
    for wrong_size in (good[:-1], (*good, 0), (good[0],)):
        with pytest.raises(ProtocolViolation):
            kind.check(wrong_size)


@pytest.mark.parametrize(
    ("place", "good", "bad"),
    [(2, (0, (1 << 64) - 1), (-1,)), (3, (1, 32767), (0, -1, 32768)), (4, (1, 4096), (0, -1, 4097))],
    ids=["features", "epoch", "slots"],
)  # fmt: skip
def test_the_numbers_of_a_welcome_have_bounds(place: int, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    message = (5, 1, 1, 7, 64, False)
    for number in good:
        assert Welcome.check((*message[:place], number, *message[place + 1 :]))[place] == number
    for number in bad:
        with pytest.raises(ProtocolViolation):
            Welcome.check((*message[:place], number, *message[place + 1 :]))


@pytest.mark.spec("H-6")
def test_a_host_that_welcomes_in_another_version_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="version 1 only, not 2"):
        Welcome.check((5, 2, 1, 7, 64, False))


def test_the_kinds_are_those_of_the_wire() -> None:
    assert (HELLO, WELCOME, END) == (4, 5, 6)
