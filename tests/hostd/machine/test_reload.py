"""A reload changes what the file says is different, and nothing else: no handle, no guest, no byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from raw import PATIENCE, RawGuest, attached, connected, hello, until

import guestd
import hostd
from guestd.drivers.block import BlockDriver
from hcall import numbers
from hcall.clock import ManualClock
from hostd.machine.reload import Outcome, Running
from hostd.service.serve import running

NOTHING = Outcome([], [], [], [], [])
DISK = """
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
"""
RNG = '[devices.rng]\nmodel = "rng"\n'
BUS = '[devices.bus]\nmodel = "console"\nbacking = "pty:"\n[devices."bus/rng"]\nmodel = "rng"\n'
PLUGIN = """
import fcntl, os, threading
from pathlib import Path
from hostd.device import Config, Device, Later, call

class Slow(Device):
    compatible = "test,slow"
    path = Config(Path)

    def start(self) -> None:
        self.gate = threading.Event()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.fd)
            raise

    def stop(self) -> None:
        os.close(self.fd)

    @call
    def work(self) -> Later[bool]:
        return self.offload(self.gate.wait, 5)
"""


class Bench:
    """A host, and the file that it reads."""

    def __init__(self, running: Running, file: Path) -> None:
        self.host, self.reloads = running
        self.file = file

    def handles(self) -> dict[str, int]:
        """What there is: node handles by path."""
        return {node.path: node.handle for node in self.host.tree.root.walk() if node.device is not None}

    def write(self, *parts: str) -> None:
        """The file's new text."""
        self.file.write_text("".join(parts))

    async def reload(self, *parts: str) -> Outcome:
        """Write *parts* into the file, and have it read."""
        self.write(*parts)
        async with asyncio.timeout(PATIENCE):
            return await self.reloads.begin()

    @contextlib.asynccontextmanager
    async def holder(self, *paths: str) -> AsyncIterator[tuple[RawGuest, list[int]]]:
        """A guest that has the devices at *paths* open, and gives none back because it is asked to."""
        async with attached(self.host) as guest:
            yield guest, [(await guest.open(path))[0] for path in paths]

    async def leaving(self, *paths: str) -> None:
        """Until guests have been asked to give the devices at *paths* back."""
        nodes = [self.host.tree.find(path) for path in paths]
        asked = asyncio.Event()
        self.host.tree.watchers[self] = lambda *_: asked.set()
        async with asyncio.timeout(PATIENCE):
            while not all(node.leaving for node in nodes):
                asked.clear()
                await asked.wait()
        del self.host.tree.watchers[self]


@contextlib.asynccontextmanager
async def bench(folder: Path, *parts: str, clock: ManualClock | None = None) -> AsyncIterator[Bench]:
    (folder / "m.toml").write_text("".join(parts))
    async with running(folder / "m.toml", folder / "run", clock) as served:
        yield Bench(served, folder / "m.toml")


async def test_a_file_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG, DISK, BUS) as there:
        before = there.handles()
        assert await there.reload(RNG, DISK, BUS) == NOTHING
        assert await there.reload("# other words, another order\n", BUS, RNG, DISK.replace("=", " = ")) == NOTHING
        assert there.handles() == before


async def test_devices_come_go_and_change_and_the_others_do_not_notice(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG, DISK, BUS) as there, guestd.attach(there.host.socket, memory=1 << 20) as guest:
        before = there.handles()
        disk = await guest.bind("disk")
        assert isinstance(disk, BlockDriver)
        await disk.store(b"precious", 4096)
        changed = BUS.replace("pty:", "file:log") + '[devices.new]\nmodel = "rng"\n'
        assert await there.reload(DISK, changed) == Outcome(["/rng"], ["/bus", "/bus/rng"], ["/new"], [], [])
        after = there.handles()
        assert list(after) == ["/disk", "/bus", "/bus/rng", "/new"] and after["/disk"] == before["/disk"]
        assert not set(after.values()) - {after["/disk"]} & set(before.values())
        assert await disk.load(8, 4096) == b"precious"
        assert await there.reload(DISK, changed) == NOTHING


async def test_what_stands_above_is_plugged_first_and_empty_places_go(tmp_path: Path) -> None:
    below = '[devices."bus/slot/rng"]\nmodel = "rng"\n'
    above = '[devices.bus]\nmodel = "rng"\n'
    async with bench(tmp_path, below) as there:
        assert await there.reload(below, above) == Outcome([], ["/bus/slot/rng"], ["/bus"], [], [])
        assert await there.reload(below) == Outcome(["/bus"], ["/bus/slot/rng"], [], [], [])
        assert await there.reload(above) == Outcome(["/bus/slot/rng"], [], ["/bus"], [], [])
        assert await there.reload(below, RNG) == Outcome(["/bus"], [], ["/rng", "/bus/slot/rng"], [], [])
        assert await there.reload(RNG) == Outcome(["/bus/slot/rng"], [], [], [], [])
        assert [node.path for node in there.host.tree.root.walk()] == ["/", "/rng"]


async def test_what_was_plugged_by_hand_stays(tmp_path: Path) -> None:
    async with bench(tmp_path, BUS) as there:
        for path in ("hand", "bus/hand", "bus/rng/hand"):
            there.host.plug_table(path, {"model": "rng"})
        before = there.handles()
        assert await there.reload(BUS, RNG) == Outcome([], [], ["/rng"], [], [])
        assert before.items() <= there.handles().items()
        outcome = await there.reload(BUS.replace("pty:", "file:log"))
        assert outcome == Outcome(["/rng"], ["/bus", "/bus/rng", "/bus/hand", "/bus/rng/hand"], [], [], [])
        assert there.handles()["/hand"] == before["/hand"]
        assert await there.reload("") == Outcome(["/bus", "/bus/rng"], ["/bus/hand", "/bus/rng/hand"], [], [], [])
        assert set(there.handles()) == {"/hand", "/bus/hand", "/bus/rng/hand"}


async def test_a_device_by_hand_becomes_the_files_when_the_file_names_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as there:
        there.host.plug_table("rng", {"model": "rng"})
        there.host.plug_table("other", {"model": "rng"})
        before = there.handles()
        other = '[devices.other]\nmodel = "console"\nbacking = "pty:"\n'
        assert await there.reload(RNG, other) == Outcome([], ["/other"], [], [], [])
        assert there.handles()["/rng"] == before["/rng"]
        assert await there.reload() == Outcome(["/rng", "/other"], [], [], [], [])


async def test_what_was_unplugged_by_hand_comes_back(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG, BUS) as there:
        await there.host.unplug("/bus")
        assert await there.reload(RNG, BUS) == Outcome([], [], ["/bus", "/bus/rng"], [], [])


async def test_a_file_with_mistakes_changes_nothing_and_all_are_told(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG, DISK) as there:
        before, machine = there.handles(), there.host.machine
        with pytest.raises(hostd.MachineError) as caught:
            await there.reload('[devices.a]\nmodel = "blok"\n[devices.b]\nmodel = "rng"\nx = 1\n')
        assert [line.split(": ")[1] for line in caught.value.lines] == ["devices.a.model", "devices.b.x"]
        with pytest.raises(hostd.MachineError, match="Expected"):
            await there.reload("[devices")
        there.file.unlink()
        with pytest.raises(hostd.MachineError, match="No such file"):
            await there.reloads.begin()
        assert there.handles() == before and there.host.machine is machine
        assert await there.reload(RNG, DISK) == NOTHING


async def test_a_machine_that_is_no_file_cannot_be_read_again() -> None:
    async with running(hostd.Machine()) as (_, reloads):
        with pytest.raises(hostd.MachineError, match="no machine file"):
            await reloads.begin()


async def test_a_device_that_does_not_start_is_told_and_tried_again_the_next_time(tmp_path: Path) -> None:
    missing = DISK.replace('create = "1M"', "")
    async with bench(tmp_path) as there:
        outcome = await there.reload(missing, RNG)
        assert outcome.added == ["/rng"] and len(outcome.failed) == 1
        assert outcome.failed[0].startswith(f"{there.file}: devices.disk: ") and "No such file" in outcome.failed[0]
        (tmp_path / "disk.img").write_bytes(bytes(512))
        assert await there.reload(missing, RNG) == Outcome([], [], ["/disk"], [], [])
        (tmp_path / "disk.img").unlink()
        outcome = await there.reload(missing + "read_only = true\n", RNG)
        assert len(outcome.failed) == 1 and outcome.replaced == outcome.removed == []
        assert set(there.handles()) == {"/rng"}


async def test_two_disks_can_swap_their_images(tmp_path: Path) -> None:
    def disk(name: str, image: str) -> str:
        return DISK.replace("devices.disk", f"devices.{name}").replace("disk.img", image)

    async with bench(tmp_path, disk("a", "one"), disk("b", "two")) as there:
        outcome = await there.reload(disk("a", "two"), disk("b", "one"))
        assert outcome == Outcome([], ["/a", "/b"], [], [], [])


async def test_a_model_that_was_edited_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PLUGIN)
    table = '[devices.slow]\nmodel = "slow.py"\npath = "lock"\n'
    async with bench(tmp_path, table, RNG) as there:
        assert await there.reload(table, RNG) == NOTHING
        (tmp_path / "slow.py").write_text(PLUGIN.replace("test,slow", "test,slower"))
        assert await there.reload(table, RNG) == Outcome([], ["/slow"], [], [], [])
        assert there.host.tree.find("/slow").compatible == ("test,slower",)


async def test_name_limits_and_what_the_process_does_wait_for_a_restart(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG) as there:
        for _ in range(2):
            outcome = await there.reload('[machine]\nname = "new"\n[limits]\nguests = 7\n[host]\nspin = true\n', RNG)
            name, limits, process = outcome.restart
            assert "machine.name: changed" in name and "limits: changed" in limits and "host: changed" in process
        assert not there.host.machine.spin and there.host.guests.awake is None
        assert there.host.machine.name == "machine" and there.host.machine.limits.guests == 2048
        assert await there.reload(RNG) == NOTHING


async def test_guests_are_asked_all_at_once_and_have_a_bounded_time(tmp_path: Path) -> None:
    clock, second = ManualClock(), DISK.replace("disk", "second")
    async with bench(tmp_path, RNG, DISK, second, clock=clock) as there, there.holder("/disk", "/second") as held:
        guest, (first, _) = held
        there.write(RNG, second.replace("second.img", "third.img"))
        task = there.reloads.begin()
        await there.leaving("/disk", "/second")
        await guest.core(numbers.CLOSE, first)
        assert not task.done()
        clock.turn(5)
        async with asyncio.timeout(PATIENCE):
            assert await task == Outcome(["/disk"], ["/second"], [], [], [])


async def test_an_image_is_let_go_of_before_it_is_used_again(tmp_path: Path) -> None:
    """A worker thread is still at it when the time of its guest is over."""
    (tmp_path / "slow.py").write_text(PLUGIN)
    table = '[devices.slow]\nmodel = "slow.py"\npath = "lock"\n'
    clock = ManualClock()
    async with bench(tmp_path, table, clock=clock) as there, there.holder() as (guest, _):
        handle, calls = await guest.open("/slow")
        guest.send(guest.next_call(calls["work"], handle))
        node = there.host.tree.find("/slow")
        there.write(table.replace("slow.py", "./slow.py"))
        task = there.reloads.begin()
        await there.leaving("/slow")
        clock.turn(5)
        await until(there.host, lambda: node.gone)
        assert not task.done()
        node.device.gate.set()  # type: ignore[union-attr]  # the device of PLUGIN
        async with asyncio.timeout(PATIENCE):
            assert await task == Outcome([], ["/slow"], [], [], [])


async def test_two_reloads_go_one_after_the_other(tmp_path: Path) -> None:
    async with bench(tmp_path, RNG, DISK) as there, there.holder("/disk") as (guest, (handle,)):
        there.write()
        first = there.reloads.begin()
        await there.leaving("/disk")
        there.write(DISK)
        second = there.reloads.begin()
        assert second is not first and there.reloads.begin() is second
        await guest.core(numbers.NOP)
        assert not first.done() and not second.done()
        await guest.core(numbers.CLOSE, handle)
        async with asyncio.timeout(PATIENCE):
            assert await first == Outcome(["/rng", "/disk"], [], [], [], [])
            assert await second == Outcome([], [], ["/disk"], [], [])


async def test_a_reload_whose_asker_went_away_is_done_all_the_same(tmp_path: Path) -> None:
    async with bench(tmp_path, DISK) as there, there.holder("/disk") as (guest, (handle,)):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "run" / "control.sock"))
        there.write(RNG)
        writer.write(b'{"do": "reload"}\n')
        await there.leaving("/disk")
        asked = [task for task in asyncio.all_tasks() if "Control._client" in repr(task)]
        writer.close()
        await writer.wait_closed()
        assert asked and not (await asyncio.wait(asked, timeout=PATIENCE))[1]
        await guest.core(numbers.CLOSE, handle)
        assert await there.reload(RNG) == NOTHING  # after the one before
        assert set(there.handles()) == {"/rng"}


async def test_a_device_that_is_being_unplugged_by_hand_comes_back(tmp_path: Path) -> None:
    async with bench(tmp_path, DISK) as there, there.holder("/disk") as (guest, (handle,)):
        unplug = asyncio.ensure_future(there.host.unplug("/disk"))
        await there.leaving("/disk")
        reload = there.reloads.begin()
        await guest.core(numbers.CLOSE, handle)
        async with asyncio.timeout(PATIENCE):
            assert await reload == Outcome([], ["/disk"], [], [], []) and await unplug


async def test_the_end_of_a_host_ends_its_reloads(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        there = await stack.enter_async_context(bench(tmp_path, DISK))
        with connected(there.host) as guest:
            await guest.greet(hello())
            await guest.open("/disk")
            there.write()
            under_way = there.reloads.begin()
            await there.leaving("/disk")
            waiting = there.reloads.begin()
            await stack.aclose()
            assert under_way.cancelled() and waiting.cancelled()


def test_the_command_and_a_guest_that_does_not_notice(tmp_path: Path) -> None:
    """Real processes: one line for each device, and the bytes of an untouched disk, on the same handle."""
    file, runtime = tmp_path / "m.toml", tmp_path / "run"

    def reload(*parts: str, option: str = "") -> tuple[int, str, list[str]]:
        file.write_text("".join(parts))
        done = subprocess.run(
            [sys.executable, "-m", "hostd", "reload", "--socket", str(runtime), *filter(None, [option])],
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr.splitlines()

    file.write_text(RNG + DISK)
    ready, fd = os.pipe()
    host = subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", str(file), "--runtime-dir", str(runtime), "--ready-fd", str(fd)],
        stderr=subprocess.PIPE, pass_fds=[fd], text=True,
    )  # fmt: skip
    os.close(fd)
    try:
        assert os.read(ready, 99) == b"ready\n"
        with guestd.attach_blocking(runtime, memory=1 << 20) as guest:
            disk = guest.bind("disk")
            assert isinstance(disk, BlockDriver)
            guest.run(disk.store(b"precious", 4096))
            assert reload(RNG, DISK) == (0, "nothing changed\n", [])
            new = RNG.replace("rng]", "new]")
            assert reload(DISK, new, "[limits]\nguests = 3\n") == (
                0, "removed /rng\nadded /new\n",
                [f"hostd: {file}: limits: changed; takes effect when hostd is started again"],
            )  # fmt: skip
            code, said, errors = reload(DISK, new, 'x = 1\n[devices.y]\nmodel = "rgn"\n')
            assert (code, said, len(errors)) == (78, "", 2) and all(str(file) in line for line in errors)
            code, said, errors = reload(DISK, BUS, new + '[devices.lost]\nmodel = "block"\npath = "none"\n')
            assert (code, said) == (78, "added /bus\nadded /bus/rng\n") and "devices.lost" in errors[0]
            code, said, errors = reload(DISK, BUS.replace("pty:", "file:log"), option="--json")
            assert (code, errors) == (0, []) and json.loads(said) == {
                "removed": ["/new"], "replaced": ["/bus", "/bus/rng"], "added": [], "failed": [], "restart": [],
                "changed": [],
            }  # fmt: skip
            assert guest.run(disk.load(8, 4096)) == b"precious"
    finally:
        os.close(ready)
        host.terminate()
        log = host.communicate(timeout=20)[1]
    assert host.returncode == 0 and log.count("hostd: reload: ") == 3, log
