"""`isolate = true`: the model is in a process of its own, and whatever becomes of that, all others go on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from moving import until
from raw import ADDRESS, LIVE, RawGuest, attached, bystander

import hostd
from hcall import numbers
from hcall.clock import Clock, ManualClock
from hcall.errors import Status
from hcall.programs.mistakes import InUse
from hostd.commands.shipped import shipped
from hostd.isolated.process import Process
from hostd.isolated.proxy import process_of
from hostd.machine.file import Machine, MachineError

NEEDS_RESET = 64
ODD = '''
import os, signal, sys, time
from hcall.errors import BadArgument, Busy
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, Saved, State, action, call

class Odd(Device):
    """Does what a guest says."""

    compatible = "test,odd"
    size = Config(int, 3)
    MORE, LESS = Feature(0), Feature(1)
    told, pair = Property(int), Property(tuple)
    rang = Irq()
    count, kept = State(int), State(int, kept=True)

    def start(self) -> None:
        self.offered &= ~self.LESS.mask
        self.told, self.pair = 0, (1, "two", b"3")
        self.later = Later()

    def check_keys(self) -> None:
        if self.size > 9:
            raise ValueError("that is large")

    def tick(self) -> None:
        if self.told:
            self.told += 1

    @call(again=True)
    def pid(self) -> int:
        return os.getpid()

    @call
    def bump(self) -> int:
        self.count += 1
        self.told = 10 * self.count
        self.rang()
        return self.count

    def read(self, into: Room, at: int) -> int:
        return into.put(b"in" * at)

    @call
    def upper(self, into: Room, data: Data) -> int:
        return into.put(data.get().upper())

    @call
    def again(self, into: Room, data: Data, times: int) -> int:
        """All pieces, in their order."""
        return into.put(b"".join(bytes(piece) for piece in data) * times)

    @call
    def begin(self) -> Later[int]:
        self.later = Later()
        return self.later

    @call
    def finish(self, value: int) -> None:
        self.later.done(value)

    @call
    def work(self, data: Data, seconds: float) -> Later[bytes]:
        def slowly() -> bytes:
            time.sleep(seconds)
            return data.get()
        return self.offload(slowly)

    @call
    def wrong(self, how: str) -> object:
        if how == "argument":
            raise BadArgument("not that")
        if how == "disk":
            raise OSError(28, "no room", "/a/file")
        if how == "type":
            return {1, 2}
        if how == "loop":
            while True:
                pass
        return [][1]

    @call
    def die(self, how: int) -> None:
        if how > 0:
            os.kill(os.getpid(), how)
        os._exit(-how)

    @call
    def say(self, text: str) -> None:
        print(text, flush=True)
        self.complain(f"{text}, too")

    @action
    def push(self, hard: bool = False) -> str:
        if hard:
            raise Busy("too hard")
        self.rang()
        return f"pushed {self.size}"
'''


def machine(folder: Path, **config: Any) -> Machine:
    (folder / "odd.py").write_text(ODD)
    table = {"model": "odd.py", "isolate": True, **config}
    return Machine.from_tables({"devices": {"odd": table, "rng": {"model": "rng"}}}, folder)


@contextlib.asynccontextmanager
async def served(folder: Path, clock: Clock | None = None, **config: Any) -> AsyncIterator[hostd.Host]:
    async with hostd.serve(machine(folder, **config), folder / "run", clock) as host:
        yield host


def process(host: hostd.Host, path: str = "/odd") -> Process:
    found = process_of(host.tree.find(path).device)
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def opened(host: hostd.Host, regions: int = 0) -> AsyncIterator[tuple[RawGuest, int, dict[str, int]]]:
    async with attached(host, regions) as guest:
        handle, calls = await guest.open("/odd", features=1)
        yield guest, handle, calls


def counts(host: hostd.Host, path: str = "/odd") -> int:
    """How often vector 0 was raised on the open handles."""
    plugged = host.tree.find(path).plugged
    assert plugged is not None
    return sum(hold.counts[0] for hold in plugged.holds)  # type: ignore[attr-defined]  # of a guest's


def mapped(host: hostd.Host) -> int:
    """How many regions of guests the process has."""
    return Path(f"/proc/{process(host).pid}/maps").read_text().count("memfd:raw")


def lives(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


async def negotiate(guest: RawGuest, handle: int) -> tuple[int, Any]:
    """Reset the device, and set it up again; the last answer."""
    for status in (0, *LIVE):
        answer = await guest.call(numbers.SET_STATUS, handle, status)
    return answer


async def test_a_device_there_is_as_one_here(tmp_path: Path) -> None:
    async with served(tmp_path) as host, opened(host) as (guest, handle, calls):
        assert await guest.call(calls["pid"], handle) == (0, process(host).pid) != (0, os.getpid())
        assert await guest.call(calls["bump"], handle) == (0, 1)
        assert counts(host) == 1
        node = host.tree.find("/odd")
        assert node.properties()["told"] == 10 and node.properties()["pair"] == (1, "two", b"3")
        assert node.device is not None and node.device.offered == 1
        assert await guest.call(calls["read"], handle, 2, areas=(10,)) == (0, b"inin")
        await negotiate(guest, handle)
        assert await guest.call(calls["bump"], handle) == (0, 1)  # a reset set it back
        begun = guest.next_call(calls["begin"], handle, slot=1)
        guest.send(begun)
        guest.send(guest.next_call(calls["finish"], handle, (7,)))
        assert {await guest.reply(), await guest.reply()} == {(0, 7), (0, None)}


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("argument", Status.BAD_ARGUMENT, "not that"),
        ("disk", Status.NO_SPACE, "no room"),
        ("type", Status.INTERNAL, "the device model raised TypeError"),
        ("index", Status.INTERNAL, "the device model raised IndexError"),
        ("loop", Status.INTERNAL, "the device model took longer than 1 s in wrong()"),
    ],
)
async def test_what_a_model_raises_there_is_told_as_if_it_were_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, status: Status, text: str
) -> None:
    async with served(tmp_path) as host, bystander(host), opened(host) as (guest, handle, calls):
        assert await guest.call(calls["wrong"], handle, how) == (status, text)
        assert await guest.call(calls["bump"], handle) == (0, 1)
    told = [record for record in caplog.records if "wrong()" in record.message]
    assert len(told) == (how != "argument") and all("for guest 'raw'" in record.message for record in told)
    if how == "index":
        assert "list index out of range" in told[0].message and "odd.py" in caplog.text


async def test_areas_are_the_memory_of_the_guest(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        async with opened(host, regions=3) as (guest, handle, calls):
            assert os.pwrite(guest.fds[0], b"one", 10) == os.pwrite(guest.fds[2], b"three", 4091) - 2
            areas = ((ADDRESS + 4093, 8, 1), (ADDRESS + 10, 3, 0), b" and ", (ADDRESS + 3 * 4096 - 5, 5, 0))
            assert await guest.call(calls["again"], handle, 2, areas=areas) == (0, 8)
            assert os.pread(guest.fds[0], 3, 4093) + os.pread(guest.fds[1], 5, 0) == b"one and "
            beyond = ((ADDRESS + 3 * 4096, 1, 1), b"")
            assert (await guest.call(calls["upper"], handle, areas=beyond))[0] == Status.BAD_AREA
            assert mapped(host) == 3
            assert await guest.call(numbers.REMOVE_MEMORY, 0, ADDRESS) == (0, None)
            await until(lambda: mapped(host) == 2)
        await until(lambda: mapped(host) == 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, -3])
async def test_a_process_that_dies_fails_its_calls_and_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: int
) -> None:
    async with served(tmp_path) as host, bystander(host), opened(host) as (guest, handle, calls):
        before = process(host).pid
        guest.send(guest.next_call(calls["begin"], handle, slot=1))
        guest.send(guest.next_call(calls["die"], handle, (int(how),)))
        for _ in range(2):
            status, text = await guest.reply()
            how_told = "exit code 3" if how == -3 else signal.Signals(how).name
            assert (status, text) == (Status.IO_ERROR, f"/odd: its process has ended: {how_told}")
        assert await guest.core(numbers.GET_STATUS, handle) & NEEDS_RESET
        assert (await guest.call(calls["bump"], handle))[0] == Status.IO_ERROR
        await until(lambda: process(host).pid is not None)
        assert await negotiate(guest, handle) == (0, 15)
        assert await guest.call(calls["bump"], handle) == (0, 1)
        assert process(host).pid != before and process(host).starts == 2
    assert any("it is started again now" in record.message for record in caplog.records)


async def test_one_that_dies_again_and_again_is_started_ever_more_seldom(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls):
        for deaths, seconds in enumerate((0, 1, 2, 4, 8, 16, 32, 60, 60), 1):
            assert (await guest.call(calls["die"], handle, -1))[0] == Status.IO_ERROR
            assert process(host).pid is None
            assert (await guest.call(numbers.SET_STATUS, handle, 0))[0] == Status.IO_ERROR  # there is none to reset
            clock.turn(seconds - 0.001 if seconds else 0)
            assert process(host).starts == deaths + (seconds == 0)
            clock.turn(0.002)
            assert process(host).starts == deaths + 1
            assert await negotiate(guest, handle) == (0, 15)
            assert await guest.call(calls["bump"], handle) == (0, 1)


async def test_one_that_hangs_is_ended_and_all_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls), bystander(host) as other:
        begun = process(host).pid
        assert begun is not None
        os.kill(begun, signal.SIGSTOP)
        guest.send(guest.next_call(calls["bump"], handle))
        clock.turn(3600)  # all at once: nothing was read meanwhile, so nobody was late
        await other.core(numbers.NOP)
        assert process(host).pid == begun
        while process(host).pid == begun:
            clock.turn(1)
            await other.core(numbers.NOP)
        assert await guest.reply() == (Status.IO_ERROR, "/odd: its process has ended: it did nothing for 5 s")
        clock.turn(0)
        assert await negotiate(guest, handle) == (0, 15)
        assert await guest.call(calls["bump"], handle) == (0, 1)
    assert "it did nothing for 5 s; it is started again now" in caplog.text


async def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls):
        guest.send(guest.next_call(calls["begin"], handle, slot=1))
        await guest.call(calls["pid"], handle)
        clock.turn(61)
        assert await guest.reply() == (Status.INTERNAL, "the device model gave no answer within 60 s")
        assert await guest.call(calls["bump"], handle) == (0, 1)


async def test_a_reset_answers_at_once_what_no_worker_has_in_hand(tmp_path: Path) -> None:
    async with served(tmp_path) as host, opened(host, regions=1) as (guest, handle, calls):
        guest.send(guest.next_call(calls["begin"], handle, slot=1))
        guest.send(guest.next_call(calls["work"], handle, (0.05,), ((ADDRESS, 4, 0),), slot=2))
        answers = [await guest.call(numbers.SET_STATUS, handle, 0), await guest.reply(), await guest.reply()]
        assert sorted(answers)[0] == (0, 0) and [status for status, _ in sorted(answers)[1:]] == [Status.RESET] * 2


async def test_it_is_refused_where_a_device_here_would_be(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"devices.odd: that is large"):
        machine(tmp_path, size=10)
    with pytest.raises(MachineError, match=r"devices.odd.isolate: must be true or false, not a whole number"):
        machine(tmp_path, isolate=1)
    with pytest.raises(MachineError, match="on a switch with others"):
        Machine.from_tables({"devices": {"net": {"model": "net", "isolate": True}}}, tmp_path)
    with pytest.raises(MachineError, match="a tag is one folder's"):
        table = {"model": "folder", "path": ".", "tag": "x", "isolate": True}
        Machine.from_tables({"devices": {"folder": table}}, tmp_path)
    with pytest.raises(MachineError, match="router:lan joins links of one host"):
        table = {"model": "ppp", "backing": "router:lan", "isolate": True}
        Machine.from_tables({"devices": {"ppp": table}}, tmp_path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("raise ValueError('no such thing')", "devices.bad: no such thing"),
        ("raise OSError(16, 'taken', 'it')", "devices.bad: it: taken"),
        ("[][1]", "the model failed to start: IndexError: list index out of range"),
        ("import os; os._exit(4)", "devices.bad: its process has ended: exit code 4"),
        ("self.common['x'] = self", "isolate = true: it has something in common with other devices of its host"),
    ],
)
async def test_one_that_does_not_start_is_refused_with_its_sentence(tmp_path: Path, start: str, said: str) -> None:
    (tmp_path / "bad.py").write_text(
        "from hostd.device import Device\nclass Bad(Device):\n    compatible = 'test,bad'\n"
        f"    def start(self):\n        {start}\n"
    )
    table = {"model": "bad.py", "isolate": True}
    async with served(tmp_path) as host:
        spec = host.read("bad", table, folder=tmp_path)
        with pytest.raises(MachineError) as refused:
            await host.bring(spec)
        assert said in str(refused.value) and isinstance(refused.value, InUse) == ("16" in start)
        with pytest.raises(MachineError) as refused:
            host.plug(spec)  # which waits
        assert said in str(refused.value)
        assert set(host.tree.root.children) == {"odd", "rng"}


async def test_what_it_prints_and_complains_of_has_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(tmp_path) as host, opened(host) as (guest, handle, calls):
        await guest.core(calls["say"], handle, "\x1b[31mred")
        await until(lambda: len([each for each in caplog.messages if "red" in each]) == 2)
    assert {"/odd: \\x1b[31mred", "/odd: \\x1b[31mred, too"} <= set(caplog.messages)


async def test_the_hosts_user_acts_ticks_and_looks(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls):
        plugged = host.tree.find("/odd").plugged
        assert plugged is not None
        push = plugged.device.declares.actions[0]
        answers: list[object] = []
        for args in ((), (True,)):
            plugged.act(push, *args).then(answers.append)  # type: ignore[attr-defined]  # it comes later
        await until(lambda: len(answers) == 2)
        assert answers[0] == "pushed 3" and str(answers[1]) == "too hard" and counts(host) == 1
        await guest.core(calls["bump"], handle)
        clock.turn(2)
        await until(lambda: host.tree.find("/odd").properties()["told"] == 12)


async def test_a_host_that_goes_on_elsewhere_has_what_was_there(tmp_path: Path) -> None:
    at = machine(tmp_path)
    async with hostd.serve(at, tmp_path / "run") as host:
        async with opened(host) as (guest, handle, calls):
            await guest.core(calls["bump"], handle)
            saved, fds = host.save()
            theirs = [os.dup(fd) for fd in fds]
        host.cede()
    async with hostd.serve(at, tmp_path / "run", saved=saved, fds=theirs) as host:
        plugged = host.tree.find("/odd").plugged
        assert plugged is not None
        assert plugged.save()[0]["behind"]["_Isolated__process"]["known"]["device"]["device"]["state"]["count"] == 1


def write(file: Path) -> None:
    """The machine that has every device, each of which is isolated that can be."""
    first, *tables = shipped("machines/all.toml").read_text().split("[devices.")
    tables = [table if table.startswith("net") else f"{table}\nisolate = true\n" for table in tables]
    file.write_text("[devices.".join([first, *tables]))


async def test_every_shipped_device_shows_there_what_it_shows_here(tmp_path: Path) -> None:
    write(tmp_path / "all.toml")
    async with hostd.serve(tmp_path / "all.toml", tmp_path / "run") as host:
        guest = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "guestd.commands.demo_all", str(host.socket), str(tmp_path),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        shown, _ = await guest.communicate()
        assert shown.count(b'"ok": true') == len(shown.splitlines()) > 10, shown.decode()
        there = [node for node in host.tree.root.walk() if process_of(node.device) is not None]
        assert len(there) == len([node for node in host.tree.root.walk() if node.device is not None]) - 2
        pids = {process(host, node.path).pid for node in there}
    assert not any(map(lives, pids))
