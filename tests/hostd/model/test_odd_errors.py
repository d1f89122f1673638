"""An error of a class of the model's own may be anything: whoever has to tell of it can, and nothing else ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest
from raw import attached, served

import hostd
from hcall.errors import BadArgument, IoError, Status
from hcall.programs.command import Failure, explain
from hostd.commands.remote import ask
from hostd.device import Config, Device, Later, action, call
from hostd.machine.file import DeviceSpec


def _mute(self: object) -> NoReturn:
    raise RuntimeError("it has no words")


class Mute(Exception):
    __str__ = __repr__ = _mute


class MuteValue(ValueError):
    __str__ = __repr__ = _mute


class MuteFile(OSError):
    __str__ = __repr__ = _mute
    strerror = property(_mute)  # type: ignore[assignment]
    errno = property(_mute)  # type: ignore[assignment]


class MuteEnd(BaseException):
    __str__ = __repr__ = _mute


class Listed(OSError):
    errno = property(lambda self: [])  # type: ignore[assignment]  # nothing to look up by


class Both(BadArgument, OSError):
    """A sort of two: to the guest it is what it says."""


class Cold(BadArgument):
    pass


class Colder(Cold):
    pass


INTERNAL, IO, BAD = Status.INTERNAL, Status.IO_ERROR, Status.BAD_ARGUMENT
ODD: dict[str, tuple[Callable[[], BaseException], Status, str]] = {
    "mute": (Mute, INTERNAL, "the device model raised Mute"),
    "mute-value": (MuteValue, INTERNAL, "the device model raised MuteValue"),
    "mute-end": (MuteEnd, INTERNAL, "the device model raised MuteEnd"),
    "long-name": (type("X" * 300, (Exception,), {}), INTERNAL, f"the device model raised {'X' * (256 - 24)}"),
    "mute-file": (MuteFile, IO, "the backing failed"),
    "number": (lambda: OSError(5, 17), IO, "the backing failed"),
    "bytes": (lambda: OSError(5, b"broken"), IO, "the backing failed"),
    "list": (lambda: OSError([], "broken"), IO, "broken"),
    "listed": (lambda: Listed(5, "broken"), IO, "broken"),
    "file-name": (lambda: OSError(5, "\udc80 is broken"), IO, "? is broken"),
    "surrogate": (lambda: BadArgument("\udc80 is bad"), BAD, "? is bad"),
    "both": (lambda: Both("too much"), BAD, "too much"),
    "twice": (lambda: Colder("too cold"), BAD, "too cold"),
}


class Odd(Device):
    """Fails where it is told to."""

    compatible = "test,odd"
    wrong: ClassVar[dict[str, str]] = {}
    key = Config(str, "")

    def _go(self, where: str) -> None:
        if where in self.wrong:
            raise ODD[self.wrong[where]][0]()

    def check_keys(self) -> None:
        self._go("check_keys")

    def start(self) -> None:
        self._go("start")

    def tick(self) -> None:
        self._go("tick")

    def stop(self) -> None:
        self._go("stop")

    @call
    def now(self, what: str) -> None:
        raise ODD[what][0]()

    @call
    def in_a_worker(self, what: str) -> Later[None]:
        return self.offload(self.now, what)

    @action
    def press(self, what: str) -> None:
        raise ODD[what][0]()

    @action
    def press_slowly(self, what: str) -> Later[None]:
        return self.offload(self.now, what)


ODD_SPEC = DeviceSpec("odd", "odd", Odd, {})
each_sort = pytest.mark.parametrize("sort", ODD)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(Odd, "wrong", found)
    return found


@each_sort
@pytest.mark.parametrize("how", ["now", "in_a_worker"])
async def test_its_call_is_answered_and_so_is_the_next(tmp_path: Path, sort: str, how: str) -> None:
    _, status, text = ODD[sort]
    async with served(tmp_path, ODD_SPEC) as host, attached(host) as guest:
        handle, calls = await guest.open("/odd")
        for _ in range(3):
            assert await guest.call(calls[how], handle, sort) == (status, text)


@each_sort
@pytest.mark.parametrize("how", ["press", "press_slowly"])
async def test_whoever_acts_is_told(tmp_path: Path, sort: str, how: str) -> None:
    async with served(tmp_path, ODD_SPEC) as host:
        with pytest.raises(Failure) as told:
            await asyncio.to_thread(ask, str(host.socket), "act", path="/odd", action=how, args=[sort])
        assert str(told.value) and told.value.code == 1


@each_sort
@pytest.mark.parametrize("where", ["check_keys", "start", "stop", "tick"])
async def test_a_hook_that_raises_it_is_told_of(tmp_path: Path, sort: str, where: str, wrong: dict[str, str]) -> None:
    async with served(tmp_path) as host:
        wrong[where] = sort
        if where in ("check_keys", "start"):
            with pytest.raises(hostd.MachineError, match=r"devices\.odd: ."):
                host.plug(ODD_SPEC)
        else:
            node = host.plug(ODD_SPEC)
            host._tick()  # once a second
            assert node.failed is (where == "tick")
            await host.unplug("/odd")
        wrong.clear()
        host.plug(ODD_SPEC)


class MuteKind:
    @classmethod
    def parse(cls, text: str, folder: Path) -> Any:
        raise (MuteValue if text == "value" else MuteEnd)


@pytest.mark.parametrize("text", ["value", "end"])
async def test_a_key_that_raises_it_is_a_mistake_of_the_file(tmp_path: Path, text: str) -> None:
    Keyed = type("Keyed", (Device,), {"compatible": "test,keyed", "odd": Config(MuteKind)})
    assert Keyed.declares.keys["odd"].mistake() is None
    (tmp_path / "keyed.py").write_text(
        "from test_odd_errors import *\n\nclass Keyed(Device):\n    compatible = 'test,keyed'\n"
        "    odd, many = Config(MuteKind), Config(list[MuteKind], [])\n"
    )
    async with served(tmp_path) as host:
        for table in ({"odd": text}, {"odd": "end", "many": [text]}):
            with pytest.raises(hostd.MachineError, match="cannot"):
                host.plug_table("keyed", {"model": "keyed.py:Keyed"} | table, folder=tmp_path)


@pytest.mark.parametrize("error", [Mute(), MuteValue(), MuteFile(), IoError("\udc80")])
def test_a_command_can_explain_it(error: Exception) -> None:
    text, code = explain(error)
    assert text and code == 1
