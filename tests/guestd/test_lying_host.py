"""Guests of a host that lies: one clear error, and nobody turns round and round, or believes what cannot be."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS
from fake_host import FIRST_OWN, NODE, OPEN, READ, ROOT, WRITE, lying

import guestd
from guestd.clients.guest import Guest
from guestd.commands.trees import copy_out
from guestd.driver import Driver
from guestd.drivers.folder import File, FolderDriver
from guestd.drivers.hid import HidDriver
from guestd.drivers.net import NetDriver
from guestd.drivers.sysman import SysmanDriver
from hcall import numbers
from hcall.errors import IoError, LinkLost, Status
from hcall.formats.folder import Access, Entry, Fetched, Flag, Kind, pack, pack_fetched
from hcall.messages import IRQ, REPLY
from hcall.wire import encode

SECONDS = 10


async def within(path: Path, client: str, scenario: Any) -> None:
    """Run *scenario* on a guest of the host at *path*, and not for ever."""
    if client == "asyncio":
        async with asyncio.timeout(SECONDS), guestd.attach(path) as guest:
            await scenario(guest)
        return

    def work() -> None:
        with guestd.attach_blocking(path) as guest:
            guest.run(scenario(guest))

    await asyncio.wait_for(asyncio.to_thread(work), SECONDS)


def lines_of(path: Path, *command: str) -> tuple[int, str, str]:
    """What `guestd` says: exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "guestd", command[0], "--socket", str(path), *command[1:]],
        capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


async def walk(guest: Guest[Any]) -> None:
    await guest.walk()


async def properties(guest: Guest[Any]) -> None:
    await guest.properties(NODE)


async def bind(guest: Guest[Any]) -> None:
    await guest.bind_as(await guest.found("thing"), Driver)


async def follow(guest: Guest[Any]) -> None:
    await guest.follow()


CIRCLES = {
    "next": (walk, {numbers.NEXT: NODE}),
    "page": (walk, {numbers.LIST: lambda _, after: (max(after, 1), ())}),
    "property": (properties, {numbers.NEXTPROP: "again"}),
    "changes": (follow, {numbers.CHANGES: (5, ((numbers.ADDED, NODE, ROOT),))}),
    "parent": (follow, {
        numbers.PARENT: NODE,
        numbers.CHANGES: lambda _, since: (since + 1, ((numbers.ADDED, NODE, ROOT),)),
    }),
}  # fmt: skip


@CLIENTS
@pytest.mark.parametrize(("scenario", "lies"), CIRCLES.values(), ids=CIRCLES)
async def test_a_tree_that_goes_round_in_circles_is_noticed(
    tmp_path: Path, client: str, scenario: Any, lies: Mapping[int, Any]
) -> None:
    with lying(tmp_path, lies) as host, pytest.raises(IoError, match="round in circles"):
        await within(host.path, client, scenario)


@CLIENTS
async def test_a_node_that_is_its_own_child_is_seen_once(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        assert [found.node for found in await guest.walk()] == [ROOT, NODE]

    with lying(tmp_path, {numbers.CHILD: NODE}) as host:
        await within(host.path, client, scenario)


NO_ANSWERS = {
    "info": (walk, numbers.INFO, 5),
    "ids": (walk, numbers.INFO, ("thing", ("a,b",), "ids")),
    "child": (walk, numbers.CHILD, "first"),
    "page": (walk, numbers.LIST, (0, (((1,), (0,), ("",), (), ("0",)),))),
    "changes": (walk, numbers.CHANGES, None),
    "change": (follow, numbers.CHANGES, lambda _, since: (since + 1, ((99, NODE, ROOT),))),
    "property": (properties, numbers.NEXTPROP, 7),
    "open": (bind, numbers.OPEN, 7),
    "bit": (bind, numbers.OPEN, (OPEN, {}, {}, {"RO": 1 << 62})),
    "status": (bind, numbers.SET_STATUS, "ready"),
}


@CLIENTS
@pytest.mark.parametrize(("scenario", "number", "lie"), NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_an_answer_of_the_core_that_is_none_is_an_io_error(
    tmp_path: Path, client: str, scenario: Any, number: int, lie: object
) -> None:
    with lying(tmp_path, {number: lie}) as host, pytest.raises(IoError, match="of the core is none"):
        await within(host.path, client, scenario)


NO_PLACE = {
    "twice": (0, [((ROOT, 0), (0, ROOT), ("", "a"), [((), (0, 0))], (0, 0))]),
    "back": (0, [((ROOT, 5, -1), (0, ROOT, 0), ("", "a", "b"), [((), (0, 0))], (0, 0, 0))]),
    "behind the end": (NODE, [((ROOT, 5), (0, ROOT), ("", "a"), [((), (0, 0))], (0, 0))]),
    "above itself": (0, [((ROOT, 1), (0, 2), ("", "a"), [((), (0, 0))], (0, 0))]),
    "below nothing": (0, [((ROOT, 1), (0, -1), ("", "a"), [((), (0, 0))], (0, 0))]),
    "two roots": (0, [((ROOT, 1), (0, 0), ("", "a"), [((), (0, 0))], (0, 0))]),
    "no root": (0, [((NODE,), (ROOT,), ("a",), [((), (0, 0))], (0,))]),
    "no name": (0, [((ROOT, 1), (0, ROOT), ("",), [((), (0, 0))], (0, 0))]),
    "no sort": (0, [((ROOT,), (0,), ("",), [((), (0, 0))], (1,))]),
}


@CLIENTS
@pytest.mark.parametrize("lie", NO_PLACE.values(), ids=NO_PLACE)
async def test_a_page_that_cannot_be_is_an_io_error(tmp_path: Path, client: str, lie: object) -> None:
    with lying(tmp_path, {numbers.LIST: lie}) as host, pytest.raises(IoError, match="the host lists"):
        await within(host.path, client, walk)


@CLIENTS
@pytest.mark.parametrize("lie", [-1, 4097, True, "text", b"within the message", None])
@pytest.mark.spec("A-6")
async def test_a_count_that_cannot_be_ends_the_session(tmp_path: Path, client: str, lie: object) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_as(await guest.found("thing"), Driver)
        with guest.ram.alloc(4096) as buffer:
            await driver.read_into(buffer)

    with lying(tmp_path, {READ: lie}) as host, pytest.raises(LinkLost, match="does not fit the room there was"):
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.parametrize("lie", [bytes(17), "text", 16, None])
@pytest.mark.spec("A-6")
async def test_bytes_that_nobody_had_asked_for_end_it_as_well(tmp_path: Path, client: str, lie: object) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_as(await guest.found("thing"), Driver)
        await driver.read(16)

    with lying(tmp_path, {READ: lie}) as host, pytest.raises(LinkLost, match="does not fit the room there was"):
        await within(host.path, client, scenario)


@CLIENTS
async def test_counts_that_can_be_are_taken(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_as(await guest.found("thing"), Driver)
        assert await driver.read(16) == bytes(16)
        with guest.ram.alloc(4096) as buffer:
            assert await driver.read_into(buffer) == 4096

    def whole(areas: Any, _: int) -> object:
        return bytes(areas[0]) if type(areas[0]) is int else areas[0][1]

    with lying(tmp_path, {READ: whole}) as host:
        await within(host.path, client, scenario)


@pytest.mark.parametrize("compatible", ["hostd,console", "hostd,block"])
@pytest.mark.parametrize("lie", [0, -3, "all"])
async def test_a_write_that_makes_no_progress_fails(tmp_path: Path, compatible: str, lie: object) -> None:
    calls = {"set_param": FIRST_OWN}
    with lying(tmp_path, {WRITE: lie, numbers.GETPROP: 1 << 20}, compatible, calls) as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path) as guest:
            driver = await guest.bind("thing")
            for data in (b"little", bytes(10_000)):
                with pytest.raises(IoError, match="takes nothing"):
                    await driver.write_all(data)


async def test_so_does_one_to_a_file(tmp_path: Path) -> None:
    calls = {"open_file": FIRST_OWN, "write_file": FIRST_OWN + 1, "close_file": FIRST_OWN + 2}
    lies = {FIRST_OWN: (1, 0, 0o644), FIRST_OWN + 1: 0, numbers.GETPROP: "tag"}
    with lying(tmp_path, lies, "hostd,folder", calls) as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path) as guest:
            shared = await guest.bind("thing")
            assert isinstance(shared, FolderDriver)
            file: File = await shared.open("file", Access.WRITE)
            for data in (b"little", bytes(10_000)):
                with pytest.raises(IoError, match="takes nothing"):
                    await file.write_all(data)


@pytest.mark.parametrize("compatible", ["hostd,block", "hostd,net", "hostd,tty", "hostd,ppp", "hostd,folder"])
async def test_a_property_of_another_type_is_an_io_error(tmp_path: Path, compatible: str) -> None:
    with lying(tmp_path, {numbers.GETPROP: (1, 2)}, compatible, {"set_param": FIRST_OWN}) as host:
        async with guestd.attach(host.path) as guest:
            with pytest.raises(IoError, match=r"its property .* is a tuple, and no"):
                await guest.bind("thing")


async def test_frames_of_wrong_lengths_are_an_io_error_and_their_memory_is_free_again(tmp_path: Path) -> None:
    properties = {"mac-address": "02:00:00:00:00:01", "max-frame-size": 1518}
    with lying(tmp_path, {numbers.GETPROP: lambda _, name: properties[name], READ: 6}, "hostd,net") as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path, memory=4 << 20, drivers=[NetDriver]) as guest:
            card = await guest.bind("thing")
            assert isinstance(card, NetDriver)
            for _ in range(3):  # there is memory for two
                lent = await card.poll()
                lent.batch[:] = b"\xff\xff\0\0ab"
                with pytest.raises(IoError, match="no batch"), lent:
                    raise AssertionError("there are no frames")


async def test_a_keyboard_that_has_ended_says_so(tmp_path: Path) -> None:
    with lying(tmp_path, {READ: b""}, "hostd,hid") as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path) as guest:
            keys = await guest.bind("thing")
            assert isinstance(keys, HidDriver)
            with pytest.raises(IoError, match="ended"):
                await keys.events()


async def test_a_system_manager_that_says_no_message_is_an_io_error(tmp_path: Path) -> None:
    lies = {READ: b"\xff" * 64, WRITE: lambda areas, *_: len(areas[0])}
    with lying(tmp_path, lies, "hostd,sysman", {"set_param": FIRST_OWN}) as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path) as guest:
            manager = await guest.bind("thing")
            assert isinstance(manager, SysmanDriver)
            with pytest.raises(IoError, match="no message"):
                await manager.event()


class LyingFolder:
    """A folder of which every listing is *listing*."""

    CALLS = ("stat", "open_dir", "read_dir", "close_file", "open_file")

    def __init__(self, listing: bytes, call: str = "read_dir") -> None:
        names = (call if name == "read_dir" else name for name in self.CALLS)
        self.calls = {name: FIRST_OWN + n for n, name in enumerate(names)}
        self.guest: guestd.AsyncGuest  # whose memory it fills
        self._listing = listing
        answers = ((int(Kind.FOLDER), 1, 0, 0o755, 0), 1, self._list, None, (1, 0, 0o644))
        self.lies: dict[int, Any] = {numbers.GETPROP: "tag", **dict(zip(self.calls.values(), answers, strict=True))}

    def _list(self, areas: Any, *_: int) -> int:
        memory = self.guest.ram.first
        start = areas[0][0] - memory.start
        memory.map[start : start + len(self._listing)] = self._listing
        return len(self._listing)

    async def copy(self, folder: Path, target: Path) -> None:
        """Copy all of it to *target*."""
        with lying(folder, self.lies, "hostd,folder", self.calls) as host:
            async with asyncio.timeout(SECONDS), guestd.attach(host.path) as self.guest:
                shared = await self.guest.bind("thing")
                assert isinstance(shared, FolderDriver)
                await copy_out(shared, "", target)


def listing(call: str, name: bytes, size: int = 4) -> bytes:
    """Of one file, as *call* gives it."""
    if call == "read_dir":
        return pack([Entry(1, 1, Kind.FILE, name)])
    return pack_fetched([Fetched(1, 1, size, 0, 0o644, Kind.FILE, Flag.STAT | Flag.DATA, name, b"evil")])


@pytest.mark.parametrize("call", ["read_dir", "fetch_dir"])
@pytest.mark.parametrize("name", [b"../evil", b"..", b"/evil", b"a/b", b".", b"nul\0", b""])
def test_a_copy_writes_nothing_outside_its_target(tmp_path: Path, name: bytes, call: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(IoError, match="lists what it must not"):
        asyncio.run(LyingFolder(listing(call, name), call).copy(tmp_path, inner / "target"))
    assert {each.name for each in tmp_path.iterdir()} == {"inner", "fake.sock"}
    assert [each.name for each in inner.rglob("*")] == ["target"]


@pytest.mark.parametrize("size", [5, 1 << 63])
def test_bytes_of_a_file_that_are_not_there_are_not_written(tmp_path: Path, size: int) -> None:
    with pytest.raises(IoError, match="lists what it must not"):
        asyncio.run(LyingFolder(listing("fetch_dir", b"file", size), "fetch_dir").copy(tmp_path, tmp_path / "target"))
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("call", ["read_dir", "fetch_dir"])
def test_a_folder_that_never_ends_is_noticed(tmp_path: Path, call: str) -> None:
    with pytest.raises(IoError, match="again and again"):
        asyncio.run(LyingFolder(listing(call, b"again"), call).copy(tmp_path, tmp_path / "target"))


async def test_a_flood_of_hints_makes_one_task_not_one_for_each(tmp_path: Path) -> None:
    asked = 0

    def changes(_: int, since: int) -> Any:
        nonlocal asked
        asked += 1
        return (1000, None) if asked == 1 else bytearray()  # never: somebody follows, and waits

    def hint(*_: object) -> bytearray:
        return bytearray(encode((IRQ, ROOT, 0, 1)) + encode((IRQ, ROOT, 0, 2)))

    lies = {numbers.CHANGES: changes, numbers.NOP: None, numbers.PARENT: hint}
    with lying(tmp_path, lies) as host:
        async with asyncio.timeout(SECONDS), guestd.attach(host.path) as guest:
            for _ in range(50):
                asking = asyncio.ensure_future(guest.core(NODE, numbers.PARENT))
                await guest.nop()
                asking.cancel()
            assert len(guest._tasks) == 1


NASTY = "\x1b[2J\x07evil"
SHOWN = r"\x1b[2J\x07evil"


@pytest.mark.parametrize("command", [("probe",), ("shell", "ls"), ("shell", "dev thing", "words")])
async def test_what_the_host_says_does_nothing_to_the_terminal(tmp_path: Path, command: tuple[str, ...]) -> None:
    def info(node: int) -> object:
        return (NASTY, ("test,thing",), (1, 2)) if node == NODE else ("", (), (0, 0))

    lies = {numbers.INFO: info, numbers.OPEN: (OPEN, {NASTY: READ}, {}, {})}
    with lying(tmp_path, lies) as host:
        code, out, errors = await asyncio.to_thread(lines_of, host.path, *command)
    assert (code, errors) == (0, "") and SHOWN in out and "\x1b" not in out


async def test_nor_do_its_errors(tmp_path: Path) -> None:
    def refuse(*_: object) -> bytearray:
        return bytearray(encode((REPLY, 0, 2, int(Status.NO_MATCH), NASTY)))

    with lying(tmp_path, {numbers.FIND: refuse}) as host:
        code, out, errors = await asyncio.to_thread(lines_of, host.path, "read", "thing")
    assert (code, out, errors) == (4, "", f"guestd: {SHOWN}\n")


async def test_a_driver_that_fails_while_it_attends_is_said(tmp_path: Path) -> None:
    calls = {"get_timeout": FIRST_OWN}
    with lying(tmp_path, {WRITE: 1, FIRST_OWN: "soon"}, "hostd,watchdog", calls) as host:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "guestd", "attach", "--socket", str(host.path), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(SECONDS):
                assert await process.stdout.readline() == b"/thing: bound to WatchdogDriver\n"
                assert (await process.stdout.readline()).startswith(
                    b"/thing: thing answers get_timeout with what is none: "
                )
        finally:
            process.terminate()
            await process.wait()
