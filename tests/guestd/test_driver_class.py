"""What the base classes of drivers take: none of it is lost to an author's name without a word."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import guestd
import hostd
from guestd.bus.known import known_drivers
from guestd.driver import Driver, Op, Signal
from guestd.drivers.net import NetDriver
from guestd.stream import StreamDriver
from hcall.errors import BadArgument, Busy
from hcall.programs.command import Exit, explain
from hcall.programs.plugins import Mistakes

BASES = (Driver, StreamDriver)
METHODS = [
    (base, name) for base in BASES for name, member in vars(base).items()
    if inspect.isfunction(member) and not name.startswith("_")
]  # fmt: skip
CALLS = [
    (base, name) for base in BASES for name, member in vars(base).items() if isinstance(member, Op | Signal)
]  # fmt: skip
HELPERS = ["_read", "_write", "_sync", "_kept", "_spare", "_writers", "_moved", "_take_buffer", "_give_back", "_free"]


def declare(body: str, *bases: type) -> type[Driver]:
    """A class with this body."""
    space: dict[str, Any] = {"Op": Op, "Signal": Signal, "bases": bases or (Driver,)}
    exec(f'class Mine(*bases):\n    compatible = ("hostd,rng",)\n    {body}', space)
    mine: type[Driver] = space["Mine"]
    return mine


def wrong(body: str, *bases: type) -> list[str]:
    """What is said of such a class."""
    with pytest.raises(Mistakes) as error:
        declare(body, *bases)
    return [text for _, text in error.value.mistakes]


@pytest.mark.parametrize("name", HELPERS)
async def test_a_helper_with_the_name_of_the_bases_own_state_works_on_both_clients(host: hostd.Host, name: str) -> None:
    mine = declare(
        f"async def {name}(self): return await self.read(8)\n"
        f"    async def twice(self): return await self.{name}() + await self.{name}()"
    )
    async with guestd.attach(host.socket, drivers=[mine]) as guest:
        assert len(await guest["rng"].twice()) == 16

    def blocking() -> int:
        with guestd.attach_blocking(host.socket, drivers=[mine]) as guest:
            return len(guest["rng"].twice())

    assert await asyncio.to_thread(blocking) == 16


@pytest.mark.parametrize(("base", "name"), METHODS)
def test_a_method_of_a_base_class_is_not_replaced_by_something_else(base: type, name: str) -> None:
    for body in (
        f"{name} = Op[[], int]()",
        f"{name} = Signal()",
        f"{name} = 5",
        f"{name} = None",
        f"async def {name}(self, one, two, three, four): pass",
        f"{name} = property(lambda self: 5)",
        f"async def greet(self): self.{name} = 5",
        f"def greet(self):\n        def inner(): self.{name} += 5",
    ):
        assert [f"Mine.{name}: the name is {base.__name__}'s own, a" in each for each in wrong(body, base)] == [True]


@pytest.mark.parametrize(("base", "name"), METHODS)
def test_a_method_of_a_base_class_may_be_overridden_by_one_that_takes_what_it_takes(base: type, name: str) -> None:
    declare(f"async def {name}(self, *arguments): return await super().{name}(*arguments)", base)


def test_an_override_says_what_it_would_have_to_take() -> None:
    assert wrong("async def load(self, path): pass") == [
        "Mine.load: the name is Driver's own, a method that takes (count, at=0)"
    ]
    assert wrong("def probe(self): pass") == ["Mine.probe: the name is Driver's own, an async def that takes ()"]
    assert wrong("def __init__(self): pass") == ["Mine.__init__: the name is Driver's own, a method that takes (dev)"]
    declare("async def load(self, count, at=0, more=1): pass")


@pytest.mark.parametrize(("base", "name"), CALLS)
def test_a_call_or_signal_of_a_base_class_stays_one(base: type, name: str) -> None:
    own = vars(base)[name]
    other = "Signal()" if isinstance(own, Op) else "Op[[], None]()"
    for body in (f"{name} = {other}", f"{name} = 1", f"def {name}(self): pass", f"def f(self): self.{name} = 1"):
        (said,) = wrong(body, base)
        assert said.startswith(f"Mine.{name}: the name is {base.__name__}'s own, a")
    declare(f"{name} = Op[[int], int]()" if isinstance(own, Op) else f"{name} = Signal()", base)


@pytest.mark.parametrize("name", ["dev", "clock"])
def test_what_a_driver_is_given_is_not_taken(name: str) -> None:
    for body in (f"{name} = Op[[], int]()", f"{name} = 1", f"async def probe(self): self.{name} = 1"):
        assert wrong(body) == [f"Mine.{name}: the name is Driver's own"]
    declare(f"{name}: int")  # for whoever reads it: nothing is taken


def test_all_mistakes_are_told_at_once_and_those_of_a_mixin_too() -> None:
    class Helper:
        def load(self, path: str) -> None:
            self.number = path

    said = wrong("settle = 1\n    dim = Op", Helper, StreamDriver)
    assert [each.split(":")[0] for each in said] == ["Mine.dim", "Mine.load", "Mine.number", "Mine.settle"]
    assert said == wrong("settle = 1\n    dim = Op", StreamDriver, Helper)


def test_whoever_builds_on_a_driver_that_is_shipped_keeps_off_what_is_for_it_alone() -> None:
    for body in ("_told = 1", "async def probe(self): self._free = []", "def _take(self): pass"):
        assert [each.partition(": ")[2] for each in wrong(body, NetDriver)] == ["the name is NetDriver's own"]
    base = declare("async def send(self, frames): await super().send(frames)\n    _mine = 1", NetDriver)
    declare("_mine = 2", base)  # what an author has is his own


def test_the_list_in_the_guide_is_what_the_base_classes_take() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "write-a-driver.md").read_text()
    listed = guide.split("These names are the base class's own:")[1].split("A method may be")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == {
        "compatible", "ids", "wants", "properties", "dev", "clock", *(name for _, name in (*METHODS, *CALLS)),
    }  # fmt: skip


def test_nothing_is_wrong_with_the_drivers_that_are_shipped() -> None:
    from guestd.declared.mistakes import mistakes

    drivers = [driver for driver in known_drivers() if driver.__module__.startswith("guestd.")]
    assert len(drivers) >= 11
    for driver in drivers:
        assert list(mistakes(driver, Driver)) == []


async def test_a_driver_has_errors_of_its_own(host: hostd.Host, tmp_path: Path) -> None:
    class TooCold(BadArgument):
        """Fix the call."""

    class InUse(Busy):
        """Later."""

    class Mine(Driver):
        compatible = ("hostd,rng",)

        async def cool(self) -> None:
            raise TooCold("-300 is colder than cold")

    async with guestd.attach(host.socket, drivers=[Mine]) as guest:
        with pytest.raises(BadArgument, match="colder than cold") as error:
            await guest["rng"].cool()
    assert type(error.value) is TooCold
    assert explain(error.value) == ("-300 is colder than cold (BAD_ARGUMENT)", Exit.FAILED)
    assert explain(InUse("later")) == ("later", Exit.BUSY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("properties", "label"), ("properties", (1,)), ("wants", "FLUSH"), ("wants", (1,)),
        ("compatible", "v,d"), ("compatible", ["v,d"]), ("compatible", (1,)),
        ("ids", (1, 2)), ("ids", (("1", "2"),)), ("ids", ((1, 2, 3),)), ("ids", ((1 << 16, 1),)), ("ids", ((-1, 1),)),
    ],
)  # fmt: skip
def test_what_no_device_can_say_of_itself_is_refused(name: str, value: object) -> None:
    with pytest.raises(Mistakes, match=rf"Mine\.{name} is a tuple"):
        type("Mine", (Driver,), {"compatible": ("test,thing",), name: value})
