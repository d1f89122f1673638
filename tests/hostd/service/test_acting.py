"""The front panel: what the host's user may do with a device, over the control socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import guestd
import hostd
from guestd.driver import Driver, Op, Signal
from hcall.clock import ManualClock
from hcall.errors import BadArgument, LinkLost
from hcall.programs.command import Failure
from hostd.commands.remote import ask
from hostd.device import Device, Irq, Later, action, call
from hostd.machine.file import DeviceSpec
from hostd.machine.host import Host


class Jammed(BadArgument):
    """An error of the model's own."""


class Panel(Device):
    compatible = "test,panel"
    pressed = Irq()

    def start(self) -> None:
        self.log: list[object] = []
        self.began = asyncio.Event()
        self.entered, self.gate = threading.Event(), threading.Event()

    @action
    def press(self, name: str, times: int, hard: bool, force: float) -> str:
        """Press a button."""
        self.log.append((name, times, hard, force))
        self.pressed()
        return f"{name} x {times}"

    @action
    def blink(self, times: int = 3, rate: float = 2, colour: str = "red") -> str:
        return f"{times} x {rate!r} {colour}"

    @action
    def update(self) -> Later[int]:
        self.updating = Later[int]()
        self.began.set()
        return self.updating

    @action
    def update_again(self) -> Later[int]:
        return self.updating

    @action
    def compute(self) -> Later[int] | int:
        return self.offload(sum, (40, 2))

    @action
    def work(self) -> Later[int]:
        def wait() -> int:
            self.entered.set()
            self.gate.wait()
            self.log.append("worked")
            return 1

        return self.offload(wait)

    def stop(self) -> None:
        self.log.append("stop")

    @action
    def jam(self) -> None:
        raise Jammed("it is jammed already")

    @action
    def explode(self) -> None:
        raise SystemExit(3)

    @call
    def arm(self) -> None:
        self.end = self.ender()

    @action
    def fire(self) -> None:
        self.end("the panel was fired")


class PanelDriver(Driver):
    compatible = ("test,panel",)
    arm = Op[[], None]()
    pressed = Signal()


@pytest.fixture
async def panel(machine_file: Path, tmp_path: Path) -> AsyncIterator[tuple[Host, Panel]]:
    async with hostd.serve(machine_file, tmp_path / "run") as host:
        node = host.plug(DeviceSpec("panel", "panel", Panel, {}))
        assert isinstance(node.device, Panel)
        yield host, node.device


async def act(host: Host, name: str | None, *args: object) -> Any:
    return await asyncio.to_thread(ask, str(host.socket), "act", path="/panel", action=name, args=list(args))


async def test_words_and_values_become_what_the_action_takes(panel: tuple[Host, Panel]) -> None:
    host, device = panel
    assert await act(host, "press", "power", "0x10", "true", "1.5") == "power x 16"
    assert await act(host, "press", "7", 2, False, 0.5) == "7 x 2"
    assert device.log == [("power", 16, True, 1.5), ("7", 2, False, 0.5)]
    signatures = [each["signature"] for each in await act(host, None)]
    assert signatures[0] == "press(name: str, times: int, hard: bool, force: float) -> str"


@pytest.mark.parametrize(
    ("name", "args", "code", "says"),
    [
        (
            "pres",
            [],
            2,
            "/panel has no action 'pres' (did you mean 'press'?); it has press, blink",
        ),
        ("arm", [], 2, "/panel has no action 'arm'"),
        ("press", ["a"], 2, "usage: press(name: str, times: int, hard: bool, force: float) -> str"),
        ("press", ["a", "x", "true", "1"], 2, "'x' is no int; usage: press"),
        ("press", ["a", "1", "yes", "1"], 2, "'yes' is no bool; usage: press"),
        ("press", ["a", True, True, 1.0], 2, "True is no int; usage: press"),
        ("jam", [], 1, "it is jammed already"),
        ("explode", [], 1, "the model failed: SystemExit: 3"),
    ],
)
async def test_what_is_wrong_is_one_line(
    panel: tuple[Host, Panel], name: str, args: list[object], code: int, says: str
) -> None:
    host, device = panel
    with pytest.raises(Failure) as failure:
        await act(host, name, *args)
    assert says in str(failure.value) and failure.value.code == code and device.log == []


async def test_an_argument_that_is_left_out_has_its_default(panel: tuple[Host, Panel]) -> None:
    host, _ = panel
    assert await act(host, "blink") == "3 x 2 red"
    assert await act(host, "blink", "4", "1") == "4 x 1.0 red"
    assert await act(host, "blink", 4, 1, "blue") == "4 x 1.0 blue"
    with pytest.raises(Failure, match=r"usage: blink\(times: int = 3, rate: float = 2, colour: str = 'red'\) -> str"):
        await act(host, "blink", 4, 1, "blue", 5)


async def test_an_action_that_takes_time_is_waited_for(panel: tuple[Host, Panel]) -> None:
    host, device = panel
    assert await act(host, "compute") == 42
    for answer, says in ((7, None), (Jammed("it is jammed"), "it is jammed"), (OSError(5, "no paper"), "no paper"),
                         (KeyError("x"), "the model failed: KeyError: 'x'")):  # fmt: skip
        acting = asyncio.ensure_future(act(host, "update"))
        await device.began.wait()
        assert await act(host, "press", "a", 1, True, 1) == "a x 1"  # the host goes on meanwhile
        with pytest.raises(Failure, match="Later of something else"):
            await act(host, "update_again")
        if says is None:
            device.updating.done(7)
            assert await acting == answer
        else:
            assert isinstance(answer, Exception)
            device.updating.fail(answer)
            with pytest.raises(Failure, match=says):
                await acting
        device.began.clear()


async def test_an_action_has_a_time_to_end_in_and_goes_on(tmp_path: Path, machine_file: Path) -> None:
    clock = ManualClock()
    async with hostd.serve(machine_file, tmp_path / "run", clock=clock) as host:
        device: Any = host.plug(DeviceSpec("panel", "panel", Panel, {})).device
        words: dict[str, Any] = {"path": "/panel", "action": "update", "args": [], "timeout": 5}
        acting = asyncio.ensure_future(asyncio.to_thread(ask, str(host.socket), "act", **words))
        await device.began.wait()
        clock.turn(5)
        with pytest.raises(Failure, match=r"/panel: update has not ended within 5 s; it goes on") as failure:
            await acting
        assert failure.value.code == 6
        device.updating.done(1)


async def test_a_device_is_stopped_when_an_action_has_let_go_of_it(panel: tuple[Host, Panel]) -> None:
    host, device = panel
    acting = [asyncio.ensure_future(act(host, name)) for name in ("work", "update")]
    await device.began.wait()
    await asyncio.to_thread(device.entered.wait)
    await host.unplug("/panel")
    assert device.log == [] and not acting[0].done()
    device.gate.set()
    for each in acting:
        with pytest.raises(Failure, match="the device was reset"):
            await each
    assert device.log == ["worked", "stop"]


async def test_an_action_interrupts_and_may_end_the_guests_that_had_the_device(panel: tuple[Host, Panel]) -> None:
    host, _ = panel
    async with (
        guestd.attach(host.socket, name="other") as other,
        guestd.attach(host.socket, drivers=[PanelDriver]) as guest,
    ):
        driver: Any = await guest.bind("panel")
        await driver.arm()
        await act(host, "press", "power", 1, True, 1.0)
        await driver.pressed.wait()
        await guest.unbind("panel")  # it is held responsible even so
        await act(host, "fire")
        with pytest.raises(LinkLost, match="the panel was fired"):
            while True:
                await guest.nop()
        await other.nop()
