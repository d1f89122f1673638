"""`isolate = true`: the model is in a process of its own, and all is as if it were here."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clumsy import ask
from isolated_end import counts, lives, machine, mapped, negotiate, opened, process, served
from moving import until
from raw import ADDRESS, bystander

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.programs.mistakes import InUse
from hostd.commands.remote import model_of
from hostd.commands.shipped import shipped
from hostd.isolated.proxy import process_of
from hostd.machine.file import Machine, MachineError


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


async def test_who_looks_sees_which_are_isolated(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        about = {each["path"]: each for each in await ask(host, "ls")}
        assert about["/rng"]["process"] is None and model_of(about["/rng"]) == "rng"
        assert about["/odd"]["process"] == {"pid": process(host).pid, "starts": 1}
        assert model_of(about["/odd"]) == "odd.py (isolated)"
        assert [each["device"] for each in (await ask(host, "status"))["processes"]] == ["/odd"]


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
