"""The device author's page: what may be declared, what numbers it gets, and how work in a thread is answered."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import guestd
import hostd
from guestd.driver import Driver, Op
from hcall import numbers
from hcall.errors import HcallError, Internal, NoSpace, NoSuchCall, NotAllowed, ReadOnly, Reset
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, call
from hostd.machine.file import DeviceSpec
from hostd.stream import Stream


def declare(**members: Any) -> type[Device]:
    return types.new_class("Model", (Device,), exec_body=lambda body: body.update(members))


class Wrong:
    """Methods that no device may have."""

    def unannotated(self, at: int, what): ...  # type: ignore[no-untyped-def]  # the mistake itself
    def two_rooms(self, one: Room, other: Room) -> int: ...  # type: ignore[empty-body]
    def area_last(self, at: int, into: Room) -> int: ...  # type: ignore[empty-body]
    def data_before_room(self, data: Data, into: Room) -> int: ...  # type: ignore[empty-body]
    def a_list(self, values: list[int]) -> None: ...
    def keyword_only(self, *, value: int) -> None: ...
    def read_without_at(self, into: Room) -> int: ...  # type: ignore[empty-body]
    def read_of_data(self, into: Data, at: int) -> int: ...  # type: ignore[empty-body]
    def sync_with_argument(self, at: int) -> None: ...
    def right(self) -> None: ...


@pytest.mark.parametrize(
    "wrong", ["unannotated", "two_rooms", "area_last", "data_before_room", "a_list", "keyword_only"]
)
def test_a_call_whose_arguments_are_not_the_wires_is_refused_when_declared(wrong: str) -> None:
    with pytest.raises(TypeError, match=rf"Wrong\.{wrong}: annotate every argument"):
        declare(bad=call(vars(Wrong)[wrong]))


@pytest.mark.parametrize(
    ("verb", "wrong", "expected"),
    [
        ("read", "read_without_at", "Room, int"),
        ("read", "read_of_data", "Room, int"),
        ("write", "read_without_at", "Data, int"),
        ("sync", "sync_with_argument", ""),
        ("map", "sync_with_argument", "int, int, int"),
    ],
)
def test_a_verb_has_one_signature(verb: str, wrong: str, expected: str) -> None:
    with pytest.raises(TypeError, match=rf"the verb {verb} takes \({expected}\)"):
        declare(**{verb: vars(Wrong)[wrong]})


@pytest.mark.spec("B-3")
def test_a_device_has_at_most_32_vectors_and_60_calls() -> None:
    assert len(declare(**{f"irq{n}": Irq() for n in range(32)}).declares.irqs) == 32
    with pytest.raises(TypeError, match="at most 32 vectors and 60 calls"):
        declare(**{f"irq{n}": Irq() for n in range(33)})
    calls = {f"call{n}": call(types.FunctionType(Wrong.right.__code__, globals(), f"call{n}")) for n in range(61)}
    for function in calls.values():
        function.__annotations__ = {"return": None}
    with pytest.raises(TypeError, match="at most 32 vectors and 60 calls"):
        declare(**calls)
    del calls["call60"]
    assert len(declare(**calls).declares.handlers) == 60


class Modem(Stream):
    """Adds to a stream, and has its own idea of one call and one verb."""

    compatible = "test,modem"
    carrier = Irq()

    @call
    def dial(self, number: str) -> None:
        pass

    @call
    def get_param(self, param: int) -> int:
        return 7

    def sync(self) -> None:
        pass


def test_a_subclass_keeps_the_numbers_of_its_base_and_goes_on_after_them() -> None:
    base = {handler.name: handler.number for handler in Stream.declares.handlers}
    assert base == {"read": 1, "write": 2, "wait_read": 128, "wait_write": 129, "get_param": 16, "set_param": 17}
    assert {handler.name: handler.number for handler in Modem.declares.handlers} == base | {"dial": 18, "sync": 3}
    assert Stream.declares.irqs == ("rx_ready", "tx_ready", "disconnected")
    assert Modem.declares.irqs == (*Stream.declares.irqs, "carrier")


class Volume(int):
    """A kind with a parser."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> Volume:
        if text == "loud":
            return cls(11)
        raise ValueError(f"{text!r} is no volume: loud, in {folder}")


class Radio(Device):
    compatible = "test,radio"
    station = Config(str)
    volume = Config(Volume, "loud")
    aerial = Config(Path, "aerial")
    stereo = Config(bool, True)
    presets = Config(int, 3)
    gain = Config(float, 1, bounds=(0, 2.5))
    wheel = Config(int, 5, bounds=(1, 10))
    stations = Config(list[str], ["one"])
    levels = Config(list[float], [], bounds=(0.0, 1.0))
    records = Config(list[Path], [])
    volumes = Config(list[Volume], ["loud"])
    mixed = Config(list, [])
    tuned = Property(int)


def test_config_values_are_given_or_converted_from_the_default() -> None:
    radio = Radio(station="BBC", presets=5)
    assert (radio.station, radio.volume, radio.stereo, radio.presets) == ("BBC", 11, True, 5)
    assert type(radio.volume) is Volume and radio.aerial == Path("aerial")
    assert (radio.gain, radio.stations, radio.volumes) == (1.0, ["one"], [11]) and type(radio.gain) is float
    radio.stations.append("two")
    assert Radio(station="BBC").stations == ["one"]


@pytest.mark.parametrize(
    ("config", "text"), [({}, "Radio needs station"), ({"station": "BBC", "statoin": 1}, "Radio has no statoin")]
)
def test_config_that_is_missing_or_unknown_is_an_error(config: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Radio(**config)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (Radio.station, "BBC", "BBC"),
        (Radio.stereo, False, False),
        (Radio.presets, 0, 0),
        (Radio.aerial, "roof/rod", Path("/etc/roof/rod")),
        (Radio.aerial, "/dev/rod", Path("/dev/rod")),
        (Radio.volume, "loud", 11),
        (Radio.gain, 2.5, 2.5),
        (Radio.gain, 0, 0.0),
        (Radio.wheel, 10, 10),
        (Radio.stations, ["a", "b"], ["a", "b"]),
        (Radio.levels, [0, 0.5, 1], [0.0, 0.5, 1.0]),
        (Radio.records, ["a", "/b"], [Path("/etc/a"), Path("/b")]),
        (Radio.volumes, ["loud", "loud"], [11, 11]),
        (Radio.mixed, [1, "a", True, 0.5], [1, "a", True, 0.5]),
    ],
)
def test_config_is_converted_from_what_the_file_says(key: Config[Any], value: object, expected: object) -> None:
    assert key.convert(value, Path("/etc")) == expected


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        (Radio.station, 3, "must be a string, not a whole number"),
        (Radio.stereo, 1, "must be true or false, not a whole number"),
        (Radio.presets, True, "must be a whole number, not true or false"),
        (Radio.presets, 1.0, "must be a whole number, not a number with a point"),
        (Radio.aerial, ["a"], "must be a string, not an array"),
        (Radio.volume, 11, "must be a string, not a whole number"),
        (Radio.gain, "1.0", "must be a number, not a string"),
        (Radio.gain, True, "must be a number, not true or false"),
        (Radio.gain, 2.6, r"must be 0 to 2\.5, not 2\.6"),
        (Radio.gain, -1, "must be 0 to 2.5, not -1.0"),
        (Radio.gain, math.nan, "must be a number, not nan"),
        (Radio.gain, math.inf, "must be a number, not inf"),
        (Radio.gain, 10**400, "must be a number that is not as large as that"),
        (Radio.wheel, 11, "must be 1 to 10, not 11"),
        (Radio.stations, "a", "must be an array, not a string"),
        (Radio.stations, ["a", 1], "item 2 of it must be a string, not a whole number"),
        (Radio.levels, [0.5, 1, 1.5], r"item 3 of it must be 0\.0 to 1\.0, not 1\.5"),
        (Radio.volumes, ["soft"], "item 1 of it 'soft' is no volume"),
        (Radio.mixed, [1, [2]], "item 2 of it must be true, false, a number or a string, not an array"),
        (Radio.mixed, [{}], "item 1 of it must be true, false, a number or a string, not a table"),
        (Radio.volume, "soft", "'soft' is no volume: loud, in /etc"),
    ],
)
def test_config_of_the_wrong_type_says_what_it_must_be(key: Config[Any], value: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        key.convert(value, Path("/etc"))


def test_a_property_has_its_type_and_no_value_before_it_is_set() -> None:
    radio = Radio(station="BBC")
    with pytest.raises(AttributeError, match=r"Radio\.tuned has no value yet"):
        _ = radio.tuned
    with pytest.raises(TypeError, match="tuned is int, not str"):
        radio.tuned = "98.5"  # type: ignore[assignment]  # the mistake itself
    radio.tuned = 98
    assert radio.tuned == 98


class Bench(Device):
    """Holds worker threads at a gate, and keeps a record of what happened in which order."""

    compatible = "test,bench"
    TURBO, BROKEN = Feature(3), Feature(4)

    def start(self) -> None:
        self.record: list[str] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.stopped = threading.Event()
        self.offered &= ~self.BROKEN.mask

    def stop(self) -> None:
        self.record.append("stop")
        self.stopped.set()

    def _work(self) -> None:
        self.entered.release()
        self.gate.wait()
        self.record.append("work")

    @call
    def hold(self) -> Later[None]:
        return self.offload(self._work)

    @call
    def where(self) -> Later[bool]:
        return self.offload(lambda: threading.current_thread() is not threading.main_thread())

    @call
    def fail(self, how: str) -> Later[None]:
        def work() -> None:
            raise ERRORS[how][0]()

        return self.offload(work)

    @call(needs=TURBO)
    def fast(self) -> int:
        return 1

    @call(needs=BROKEN)
    def broken(self) -> int:
        return 2

    @call(early=True)
    def early(self) -> int:
        return 3


ERRORS: dict[str, tuple[Callable[[], BaseException], type[HcallError]]] = {
    "full": (lambda: OSError(errno.ENOSPC, "no space"), NoSpace),
    "ours": (lambda: ReadOnly("it is sealed"), ReadOnly),
    "bug": (lambda: KeyError("oops"), Internal),
    "exit": (lambda: SystemExit(1), Internal),
}


class BenchDriver(Driver):
    compatible = ("test,bench",)
    hold, where, broken = Op[[], None](), Op[[], bool](), Op[[], int]()
    fail = Op[[str], None]()
    fast, early = Op[[], int](), Op[[], int]()


class TurboDriver(BenchDriver):
    wants = ("TURBO", "BROKEN", "UNHEARD_OF")


def plug(host: hostd.Host) -> Bench:
    device = host.plug(DeviceSpec("bench", "bench", Bench, {})).device
    assert isinstance(device, Bench)
    return device


async def bound(guest: guestd.AsyncGuest) -> BenchDriver:
    driver = await guest.bind("bench")
    assert isinstance(driver, BenchDriver)
    return driver


async def test_offloaded_work_runs_in_a_thread_and_its_outcome_is_the_answer(
    host: hostd.Host, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(
        logging.CRITICAL, "hostd.tree.complaints"
    )  # pytest keeps the frames of a logged traceback, and their guest
    plug(host)
    async with guestd.attach(host.socket, drivers=[BenchDriver]) as guest:
        bench = await bound(guest)
        assert await bench.where() is True
        for how, (_, expected) in ERRORS.items():
            with pytest.raises(expected):
                await bench.fail(how)


@pytest.mark.parametrize("how", ["unplug", "close", "reset", "detach"])
async def test_a_device_is_not_let_go_of_before_its_threads_are_done(host: hostd.Host, how: str) -> None:
    device = plug(host)
    async with guestd.attach(host.socket, drivers=[BenchDriver]) as guest:
        bench = await bound(guest)
        calls = [asyncio.ensure_future(bench.hold()) for _ in range(5)]
        for _ in range(4):  # the threads of one device: the fifth waits for one of them
            await asyncio.to_thread(device.entered.acquire)
        if how == "unplug":
            await host.unplug("/bench", surprise=True)
            ending: asyncio.Future[Any] = asyncio.ensure_future(guest.call(0, numbers.NOP))
        elif how == "detach":
            ending = asyncio.ensure_future(guest.call(0, numbers.DETACH))
        elif how == "close":
            ending = asyncio.ensure_future(bench.dev.close())  # type: ignore[attr-defined]
        else:
            ending = asyncio.ensure_future(guest.core(bench.dev.handle, numbers.SET_STATUS, 0))  # type: ignore[attr-defined]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert done == {calls[4]} and isinstance(calls[4].exception(), Reset)
        assert device.record == [] and (how == "unplug" or not ending.done())
        device.gate.set()
        assert [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)] == [Reset] * 5
        await ending
        if how != "unplug":
            assert device.record == ["work"] * 4
            await host.unplug("/bench", surprise=True)
        await asyncio.to_thread(device.stopped.wait, 5)
        assert device.record == ["work"] * 4 + ["stop"]


@pytest.mark.spec("O-2")
async def test_a_call_that_needs_a_feature_is_there_only_if_it_was_offered_and_accepted(host: hostd.Host) -> None:
    plug(host)
    for driver, there in ((BenchDriver, False), (TurboDriver, True)):
        async with guestd.attach(host.socket, drivers=[driver]) as guest:
            bench = await bound(guest)
            assert bench.dev.features == ({"TURBO"} if there else set())
            with pytest.raises(NoSuchCall, match="feature"):
                await bench.broken()
            if there:
                assert await bench.fast() == 1
            else:
                with pytest.raises(NoSuchCall, match="feature"):
                    await bench.fast()


@pytest.mark.spec("N-7")
async def test_only_an_early_call_works_before_driver_ok(host: hostd.Host) -> None:
    plug(host)
    async with guestd.attach(host.socket) as guest:
        handle, calls, _, _ = await guest.core((await guest.found("bench")).node, numbers.OPEN, 0)
        assert await guest.call(handle, calls["early"]) == 3
        with pytest.raises(NotAllowed, match="DRIVER_OK"):
            await guest.call(handle, calls["where"])
