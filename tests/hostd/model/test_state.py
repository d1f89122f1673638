"""What is declared as State: one for each device, set back by every reset, whatever the model forgets to do."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
from raw import RawGuest, attached, plugged, served

from hcall import numbers
from hcall.errors import Internal, Status
from hostd.backings.named import AnyBacking
from hostd.backings.stream import BackedStream
from hostd.device import Config, Data, Device, Property, Room, Saved, State, action, call
from hostd.machine.file import DeviceSpec
from hostd.stream import Stream


class Note(NamedTuple):
    at: int
    text: str


class Mode(enum.Enum):
    OFF, ON = "off", "on"


@dataclass
class Pen:
    colour: str = "black"
    width: int = 1


class Counted:
    """A kind of an author's own."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def save(self) -> int:
        return self.count

    @classmethod
    def load(cls, saved: int) -> Counted:
        return cls(saved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self.count == other.count

    __hash__ = None  # type: ignore[assignment]  # it changes


class Shelf(Device):
    """One state of every sort."""

    compatible = "test,shelf"
    size = Config(int, 7)
    number, ratio, flag, text, raw = State(int, 3), State(float, 1), State(bool, True), State(str), State(bytes, b"x")
    memory = State(bytearray, lambda: bytearray(4))
    items = State(list[int], [1, 2])
    table = State(dict[int, bytes], {1: b"one"})
    members = State(set[str])
    queue = State(deque[Note], lambda shelf: deque(maxlen=shelf.size))
    pair = State(tuple[int, str], (1, "a"))
    maybe = State(Note, None)
    mode = State(Mode, Mode.OFF)
    pen = State(Pen)
    counted = State(Counted)
    nested = State(dict[str, list[Note]])
    kept = State(int, kept=True)
    room = State(int, lambda shelf: shelf.size)


def fill(shelf: Shelf) -> None:
    shelf.number, shelf.ratio, shelf.flag, shelf.text, shelf.raw = -1, 0.5, False, "ü", b"\0\xff"
    shelf.memory[1:3] = b"ab"
    shelf.items.append(3)
    shelf.table[2] = b"\xff"
    shelf.members |= {"a", "b"}
    shelf.queue.extend(Note(n, str(n)) for n in range(9))
    shelf.pair, shelf.maybe, shelf.mode = (2, "b"), Note(1, "one"), Mode.ON
    shelf.pen.colour = "red"
    shelf.counted.count += 1
    shelf.nested["a"] = [Note(1, "one")]
    shelf.kept, shelf.room = 9, 0


def values(device: Device) -> dict[str, Any]:
    return {name: getattr(device, name) for name in device.declares.states}


def test_each_device_and_each_reset_has_values_of_its_own() -> None:
    one, other = Shelf(), Shelf()
    site = plugged(one)
    fresh = values(Shelf())
    for _ in range(2):
        fill(one)
        assert all(values(one)[name] != value for name, value in fresh.items())
        assert values(other) == fresh
        site.reset()
        assert values(one) == fresh | {"kept": 9} and one.queue.maxlen == 7
    assert type(one.ratio) is float and Shelf(size=2).room == 2


def test_it_is_an_attribute_of_the_device_itself() -> None:
    assert "number" in vars(Shelf()) and not hasattr(State, "__set__")
    assert isinstance(Shelf.number, State)


class Numbered(Shelf):
    number = State(int, 4)
    more = State(int, 1)


class Mixed:
    mixed = State(int, 5)


class Both(Mixed, Numbered):
    pass


def test_what_a_base_declares_or_is_mixed_in_is_set_back_too() -> None:
    both = Both()
    both.number = both.more = both.mixed = both.items = 0  # type: ignore[assignment]
    plugged(both).reset()
    assert (both.number, both.more, both.mixed, both.items) == (4, 1, 5, [1, 2])


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (lambda: State(int, "3"), "its default is no int: '3'"),
        (lambda: State(int, True), "its default cannot be saved and loaded"),
        (lambda: State(str, b"x"), "its default is no str"),
        (lambda: State(bytearray, b"x"), "its default is no bytearray"),
        (lambda: State(list, dict), "its default is no list: {}"),
        (lambda: State(list[int], ["a"]), "its default cannot be saved and loaded: Expected `int`, got `str`"),
        (lambda: State(int, 1 << 64), "its default cannot be saved and loaded: 18446744073709551616 has more than 64"),
        (lambda: State(int, lambda: 1 // 0), "its default cannot be saved and loaded: ZeroDivisionError"),
        (lambda: State(object), "a state is int, float"),
        (lambda: State(threading.Event), "a state is int, float"),
        (lambda: State(list[threading.Event]), "a state is int, float"),
        (lambda: State(5), "a state is int, float"),
        (lambda: State(int, early=True, kept=True), "early, or kept"),
    ],
)
def test_what_is_declared_wrong_is_refused_when_the_class_is_made(member: Callable[[], Any], said: str) -> None:
    with pytest.raises(TypeError, match=rf"Bad\.odd: .*{said}"):
        type("Bad", (Device,), {"odd": member()})


@pytest.mark.parametrize("name", ["site", "clock", "reset", "declares", "save", "load", "revert"])
def test_a_name_of_the_base_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Bad\.{name}: Device has"):
        type("Bad", (Device,), {name: State(int)})
    with pytest.raises(TypeError, match=r"Bad\.space: Stream has"):
        type("Bad", (Stream,), {"space": State(int)})


@pytest.mark.parametrize("name", ["save", "load"])
def test_save_and_load_have_one_signature(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Bad\.{name}: a plain def with"):
        type("Bad", (Device,), {name: lambda self, one, two: None})


def test_check_tells_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text(
        "from hostd.device import State\nfrom hostd.stream import Stream\n\n\nclass Shelf(Stream):\n"
        "    compatible = 'test,shelf'\n    limit = State(int, 3)\n    _own = State(list[int])\n"
        "    cups = State(int, kept=True)\n    said = State(bytes, early=True)\n"
    )
    command = [sys.executable, "-m", "hostd", "check", "shelf.py"]
    run = [subprocess.run([*command, *more], check=True, cwd=tmp_path, capture_output=True, text=True)
           for more in ((), ("--json",))]  # fmt: skip
    assert run[0].stdout.partition("STATE")[2].split("\n")[1:4] == [
        "limit  int", "cups   int    no reset sets it back", "said   bytes  kept for the first guest",
    ]  # fmt: skip
    assert json.loads(run[1].stdout)["states"] == {
        "limit": {"type": "int", "early": False, "kept": False},
        "_own": {"type": "list[int]", "early": False, "kept": False},
        "cups": {"type": "int", "early": False, "kept": True},
        "said": {"type": "bytes", "early": True, "kept": False},
    }


# Saved, and loaded into another device.


def test_what_was_saved_is_plain_and_a_copy_and_comes_back_as_it_was() -> None:
    one, other = Shelf(), Shelf()
    fill(one)
    before = values(one)
    saved = one.save()
    packed = msgpack.packb(saved)
    one.items.append(99)
    one.memory[0] = 99
    one.pen.colour = "blue"
    one.nested["b"] = []
    assert msgpack.packb(saved) == packed
    other.load(msgpack.unpackb(packed))
    fill(again := Shelf())
    assert values(other) == values(again)
    assert [type(value) for value in values(other).values()] == [type(value) for value in before.values()]
    assert other.queue.maxlen == 7 and other.queue[0] == Note(2, "2") and other.pen == Pen("red")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("number"), "number is missing"),
        (lambda state: state.update(more=1), "it has no more"),
        (lambda state: state.update(number="3"), "number: Expected `int`, got `str`"),
        (lambda state: state.update(queue=[[1]]), "queue: .*at `"),
        (lambda state: state.update(maybe=[1, "a", 2]), "maybe: .*"),
        (lambda state: state.update(mode="standby"), "mode: Invalid enum value 'standby'"),
    ],
)
def test_what_was_saved_of_another_shape_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Any]], object], said: str
) -> None:
    one, other = Shelf(), Shelf()
    fill(one)
    saved = one.save()
    change(saved["state"])
    with pytest.raises(ValueError, match=rf"what was saved is of no Shelf as it is now: {said}"):
        other.load(saved)
    assert values(other) == values(Shelf())
    with pytest.raises(ValueError, match="another version"):
        other.load({**one.save(), "version": 2})


@pytest.mark.parametrize("value", ["three", 1 << 64, threading.Lock(), object(), {b"a": 1}])
def test_a_value_that_is_not_of_its_kind_is_told_when_it_is_saved(value: object) -> None:
    shelf = Shelf()
    shelf.number = value  # type: ignore[assignment]  # the mistake itself
    with pytest.raises(ValueError, match=r"Shelf\.number cannot be saved"):
        shelf.save()


class Odd(Device):
    """Raises where it is told to."""

    compatible = "test,odd"
    value = State(int, 1)
    wrong: Exception | None = None
    where = ""

    def stop(self) -> None:
        self.stopped = True

    def save(self) -> Saved:
        if self.wrong is not None and self.where == "save":
            raise self.wrong
        return super().save()

    def load(self, saved: Saved) -> None:
        super().load(saved)
        if self.wrong is not None and self.where == "load":
            raise self.wrong


@pytest.mark.parametrize("wrong", [RuntimeError("oops"), SystemExit(1), KeyError("x")])
def test_what_a_model_raises_while_it_is_saved_is_blamed_on_it(
    caplog: pytest.LogCaptureFixture, wrong: Exception
) -> None:
    odd = Odd()
    odd.wrong, odd.where = wrong, "save"
    with pytest.raises(Internal, match=f"the device model raised {type(wrong).__name__}"):
        plugged(odd).save()
    assert "/device" in caplog.text and "save()" in caplog.text and caplog.text.count("Traceback") == 1
    caplog.clear()
    good, _ = plugged(Odd()).save()
    odd.where = "load"
    with pytest.raises(Internal, match=f"the device model raised {type(wrong).__name__}"):
        plugged(odd).load(good, [])
    assert "load()" in caplog.text and odd.stopped  # what it had taken is let go


def test_what_a_model_says_of_what_was_saved_is_told_as_it_is() -> None:
    odd = Odd()
    odd.wrong, odd.where = ValueError("too old"), "load"
    good, _ = plugged(Odd()).save()
    with pytest.raises(ValueError, match="too old"):
        plugged(odd).load(good, [])
    assert odd.stopped


def test_a_device_that_has_failed_or_was_used_is_so_elsewhere() -> None:
    site = plugged(Odd())
    site.failed = site.used = True
    saved, fds = site.save()
    again = plugged(Odd())
    again.load(saved, fds)
    assert again.failed and again.used
    again.reset()
    assert not again.failed and not again.used


# The next guest sees nothing of the last.


class Forgetful(Stream):
    """A stream whose author has remembered nothing: no hook calls that of the base."""

    compatible = "test,forgetful"
    secret, cups = State(str), State(int, kept=True)
    told = Property(str)
    fails = False

    def reset(self) -> None:
        if self.fails:
            raise RuntimeError("as the test wants it")

    def written(self, data: bytes) -> int:
        return self.send(data.upper())

    @call
    def keep(self, text: str) -> None:
        self.secret = text

    @call
    def reply(self, text: str) -> None:
        self.send(text.encode())

    @call(early=True)
    def reply_early(self, text: str) -> None:
        self.send(text.encode())

    @call
    def end(self) -> None:
        self.hang_up()

    @call(again=True)
    def kept(self) -> str:
        return f"{self.secret} {self.waiting} {self.space} {self.hung_up}"

    @action
    def pour(self) -> int:
        self.cups += 1
        return self.cups


class Heir(Forgetful):
    """Declared by somebody else."""

    more = State(list[str])

    @call
    def keep(self, text: str) -> None:
        self.more.append(text)
        super().keep(text)

    @call(again=True)
    def kept(self) -> str:
        return f"{super().kept()} {self.more}"


class Party(Heir):
    """Many at once."""

    shared = True


NOTHING = {Forgetful: " 0 65536 False", Heir: " 0 65536 False []", Party: " 0 65536 False []"}
USES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "keep": (("keep", "one's secret"),),
    "reply": (("reply", "one's secret"),),
    "write": (("write", 0),),
    "params": (("set_param", 1, 5), ("set_param", 2, 0)),
    "end": (("reply", "one's secret"), ("end",)),
}


@pytest.mark.parametrize("model", NOTHING)
@pytest.mark.parametrize("use", USES)
@pytest.mark.spec("STR-6")
async def test_nothing_of_a_guest_is_there_for_the_next(tmp_path: Path, model: type[Forgetful], use: str) -> None:
    async with served(tmp_path, DeviceSpec("it", "it", model, {})) as host:
        device: Any = host.tree.find("/it").device
        device.pour()
        for how in ("close", "reset", "failing reset"):
            async with attached(host) as guest:
                handle, calls = await guest.open("/it")
                for name, *arguments in USES[use]:
                    status, _ = await guest.call(
                        calls[name], handle, *arguments, areas=(b"secret",) * (name == "write")
                    )
                    assert status == Status.OK
                device.fails = how == "failing reset"
                if how == "reset":
                    await guest.core(numbers.SET_STATUS, handle, 0)
                elif how == "close":
                    await guest.core(numbers.CLOSE, handle)
            device.fails = False
            async with attached(host) as guest:
                handle, calls = await guest.open("/it")
                assert await guest.call(calls["kept"], handle) == (Status.OK, NOTHING[model])
                assert [(await guest.call(calls["get_param"], handle, n))[1] for n in range(8)] == [
                    1, 65535, 7, 65536, 0, 65536, 0, 1,
                ]  # fmt: skip
                assert (await guest.call(calls["read"], handle, 0, areas=(10,)))[0] == Status.WOULD_BLOCK
        assert device.cups == 1


@pytest.mark.spec("STR-6")
async def test_neither_is_what_an_early_call_left(tmp_path: Path) -> None:
    async with served(tmp_path, DeviceSpec("it", "it", Forgetful, {})) as host:
        for _ in range(2):
            async with attached(host) as guest:
                node = await guest.core(numbers.FIND, 0, "/it")
                handle, calls, *_ = await guest.core(numbers.OPEN, node, 0)
                assert await guest.call(calls["reply_early"], handle, "secret") == (Status.OK, None)
            async with attached(host) as guest:
                handle, calls = await guest.open("/it")
                assert (await guest.call(calls["read"], handle, 0, areas=(10,)))[0] == Status.WOULD_BLOCK


@pytest.mark.spec("STR-6")
async def test_what_came_before_anybody_used_it_is_there_for_the_first_who_does(tmp_path: Path) -> None:
    async with served(tmp_path, DeviceSpec("it", "it", Forgetful, {})) as host:
        device: Any = host.tree.find("/it").device
        device.send(b"boot ")
        for _ in range(3):  # to look changes nothing
            async with attached(host) as guest:
                handle, calls = await guest.open("/it")
                assert await guest.call(calls["kept"], handle) == (Status.OK, " 0 65531 False")
        device.send(b"messages")
        async with attached(host) as guest:
            handle, calls = await guest.open("/it")
            assert await guest.call(calls["read"], handle, 0, areas=(4,)) == (Status.OK, b"boot")
        async with attached(host) as guest:
            handle, calls = await guest.open("/it")
            assert (await guest.call(calls["read"], handle, 0, areas=(10,)))[0] == Status.WOULD_BLOCK


class Switched(BackedStream):
    """A call of its own does something to what stands behind it, and its reset forgets the base's."""

    compatible = "test,switched"

    def reset(self) -> None: ...

    @call
    def wake(self, byte: int) -> None:
        self.backing.write(bytes([byte]))


async def pid(guest: RawGuest) -> str:
    node = await guest.core(numbers.FIND, 0, "/it")
    return str(await guest.core(numbers.GETPROP, node, "endpoint")).partition(":")[0]


async def test_what_stands_behind_a_stream_is_the_next_guests_after_any_call_that_changes_something(
    tmp_path: Path,
) -> None:
    spec = DeviceSpec("it", "it", Switched, {"backing": AnyBacking.parse("cmd:cat", tmp_path)})
    async with served(tmp_path, spec) as host:
        pids = []
        for call_it in (False, False, True, False):
            async with attached(host) as guest:
                handle, calls = await guest.open("/it")
                pids.append(await pid(guest))
                if call_it:
                    assert (await guest.call(calls["wake"], handle, 10))[0] == Status.OK
        assert pids[0] == pids[1] == pids[2] != pids[3]


class Slate(Device):
    """No stream, many guests."""

    compatible, shared = "test,slate", True
    text = State(bytearray)

    def write(self, data: Data, at: int) -> int:
        self.text += data.get()
        return data.nbytes

    def read(self, into: Room, at: int) -> int:
        return into.put(self.text[at : at + into.nbytes])


async def test_a_shared_device_is_as_new_when_the_last_has_gone(tmp_path: Path) -> None:
    async with served(tmp_path, DeviceSpec("it", "it", Slate, {})) as host:
        async with attached(host) as one:
            handle, calls = await one.open("/it")
            assert await one.call(calls["write"], handle, 0, areas=(b"secret",)) == (Status.OK, 6)
            async with attached(host) as two:
                theirs, _ = await two.open("/it")
                assert await two.call(calls["read"], theirs, 0, areas=(10,)) == (Status.OK, b"secret")
            assert await one.call(calls["read"], handle, 0, areas=(10,)) == (Status.OK, b"secret")
        async with attached(host) as three:
            handle, calls = await three.open("/it")
            assert await three.call(calls["read"], handle, 0, areas=(10,)) == (Status.OK, b"")


def test_only_the_first_use_has_to_be_noted() -> None:
    device = Forgetful()
    site = plugged(device)
    table, numbers_of = site.tables.of(0), site.calls
    before = dict(table)
    site.tables.method(numbers_of["kept"])()
    assert not site.used and table == before
    site.tables.method(numbers_of["keep"])("x")
    assert site.used and all(site.tables.method(number) == getattr(device, name) for name, number in numbers_of.items())
    after = dict(table)
    assert after != before and after.keys() == before.keys()
    site.reset()
    assert not site.used and device.secret == "" and table == before
    site.tables.method(numbers_of["keep"])("y")
    assert site.used and table == after
