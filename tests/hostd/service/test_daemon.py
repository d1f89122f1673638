"""A daemon: one to a runtime directory, right permissions, honest errors, and a clean end for every guest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raw import PATIENCE, attached, bystander, connected, hello, served, settled

import guestd
import hostd
from hcall import numbers
from hcall.errors import LinkLost, NoMatch, Status
from hcall.messages import END, REPLY
from hostd.device import Device, Later, call
from hostd.machine.file import DeviceSpec
from hostd.service.sockets import AlreadyServed, listeners


class Slow(Device):
    """Its calls wait: for ever, and for a worker."""

    compatible = "test,slow"

    def start(self) -> None:
        self.gate = threading.Event()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    @call
    def late(self) -> Later[int]:
        return Later()

    @call
    def work(self) -> Later[bool]:
        return self.offload(self.gate.wait, 3)


SLOW = DeviceSpec("slow", "slow", Slow, {})


def sockets(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("run/*.sock")]


async def test_a_second_daemon_is_refused_and_the_first_goes_on(machine_file: Path, tmp_path: Path) -> None:
    async with served(tmp_path) as host, bystander(host):
        for _ in range(2):
            with pytest.raises(AlreadyServed, match=str(tmp_path / "run")):
                async with hostd.serve(machine_file, tmp_path / "run"):
                    raise AssertionError("two hosts serve one directory")
        async with guestd.attach(host.socket) as guest:
            await guest.nop()
    async with served(tmp_path) as heir, bystander(heir):
        assert heir.socket == host.socket and heir.tree is not host.tree


async def test_sockets_of_a_killed_daemon_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("guest.sock", "control.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "run" / name))
    async with served(tmp_path) as host, bystander(host):
        pass
    assert not sockets(tmp_path)


@pytest.mark.parametrize("name", ["guest.sock", "control.sock"])
async def test_a_living_socket_of_somebody_else_is_not_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(tmp_path / "run" / name))
        foreign.listen()
        with pytest.raises(AlreadyServed, match=name):
            async with served(tmp_path):
                raise AssertionError("a living socket was taken")
        assert sockets(tmp_path) == [name]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "run" / name))


async def test_somebody_elses_full_queue_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = str(tmp_path / "run" / "guest.sock")

    def start() -> None:
        with listeners(tmp_path / "run"):
            raise AssertionError("a living socket was taken")

    with socket.socket(socket.AF_UNIX) as foreign, socket.socket(socket.AF_UNIX) as client:
        foreign.bind(path)
        foreign.listen(0)
        client.connect(path)
        starting = asyncio.create_task(asyncio.to_thread(start))
        done, _ = await asyncio.wait([starting], timeout=1)
        foreign.close()  # whoever still waits is let go
        error = (await asyncio.gather(starting, return_exceptions=True))[0]
        assert done and isinstance(error, AlreadyServed)


async def test_a_file_that_is_no_socket_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "guest.sock").write_text("precious")
    with pytest.raises(OSError, match=r"guest\.sock"):
        async with served(tmp_path):
            raise AssertionError("a file was replaced")
    assert (tmp_path / "run" / "guest.sock").read_text() == "precious"


async def test_a_directory_that_others_may_write_to_is_not_served_from(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(PermissionError, match=f"{tmp_path / 'run'} is not yours alone"):
        async with served(tmp_path):
            raise AssertionError("whoever likes replaces control.sock")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("what", ["link", "pipe", *(["other"] if os.getuid() == 0 else [])])
async def test_a_lock_that_is_no_file_of_ones_own_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "run").mkdir()
    lock, target = tmp_path / "run" / "hostd.lock", tmp_path / "target"
    if what == "link":
        lock.symlink_to(target)
    elif what == "pipe":
        os.mkfifo(lock)
    else:
        lock.touch()
        os.chown(lock, 54321, 54321)
    with pytest.raises(PermissionError, match=f"{lock} is "):
        async with served(tmp_path):
            raise AssertionError("it was taken")
    assert not target.exists() and not sockets(tmp_path)


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_permissions_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        async with served(tmp_path) as host:
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in host.socket.parent.iterdir()}
            assert os.umask(umask) == umask
            assert stat.S_IMODE(host.socket.parent.stat().st_mode) == 0o700
            assert modes["guest.sock"] == 0o660 and modes["control.sock"] == 0o600
    finally:
        os.umask(before)


MISSING = "no-such.img"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (f'model = "block"\npath = "{MISSING}"', ["devices.disk", MISSING, "No such file"]),
        ('model = "block"\npath = "."', ["devices.disk", "directory"]),
        ('model = "block"\npath = "/dev/null"', ["devices.disk", "/dev/null", "neither a file nor a block device"]),
        ('model = "console"\nbacking = "file:no/such/folder"', ["devices.disk", "no/such/folder", "No such file"]),
        ('model = "block"', ["devices.disk", "path"]),
        ('model = "blok"', ["devices.disk.model", "block"]),
    ],
    ids=["missing", "folder", "null", "log", "no path", "no model"],
)
async def test_a_device_that_cannot_start_is_named_with_its_place_and_nothing_is_served(
    tmp_path: Path, table: str, words: list[str]
) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(f'[devices.rng]\nmodel = "rng"\n[devices.disk]\n{table}\n')
    with pytest.raises(hostd.MachineError) as caught:
        async with hostd.serve(file, tmp_path / "run"):
            raise AssertionError("it is served")
    (line,) = caught.value.lines
    assert all(word in line for word in [str(file), *words]), line
    assert not sockets(tmp_path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
async def test_an_image_that_may_not_be_read_is_named_with_its_place(tmp_path: Path) -> None:
    image, file = tmp_path / "disk.img", tmp_path / "machine.toml"
    image.write_bytes(bytes(512))
    image.chmod(0)
    file.write_text('[devices.disk]\nmodel = "block"\npath = "disk.img"\n')
    with pytest.raises(hostd.MachineError, match=r"devices\.disk: .*disk\.img: Permission denied"):
        async with hostd.serve(file, tmp_path / "run"):
            raise AssertionError("it is served")


async def test_two_disks_on_one_image_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text("".join(f'[devices.{n}]\nmodel = "block"\npath = "d.img"\ncreate = "1M"\n' for n in ("a", "b")))
    with pytest.raises(hostd.MachineError, match=r"devices\.b: .*in use"):
        async with hostd.serve(file, tmp_path / "run"):
            raise AssertionError("it is served")


@contextlib.asynccontextmanager
async def served_until_told(directory: Path) -> AsyncIterator[tuple[hostd.Host, Callable[[], asyncio.Task[None]]]]:
    """A host with a slow device, and what ends it while guests are there."""
    told = asyncio.Event()
    serving: asyncio.Future[hostd.Host] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with hostd.serve(hostd.Machine(devices=(SLOW,)), directory / "run") as host:
            serving.set_result(host)
            await told.wait()

    task = asyncio.create_task(serve())

    def finish() -> asyncio.Task[None]:
        told.set()
        return task

    try:
        async with asyncio.timeout(PATIENCE):
            yield await serving, finish
    finally:
        await finish()


@pytest.mark.spec("X-3")
async def test_the_end_of_a_host_answers_every_call_and_says_goodbye(tmp_path: Path) -> None:
    async with served_until_told(tmp_path) as (host, finish):
        device = host.tree.find("/slow").device
        assert isinstance(device, Slow)
        with connected(host) as guest, connected(host) as idle:
            await guest.greet(hello())
            await idle.greet(hello())
            handle, calls = await guest.open("/slow")
            guest.send(guest.next_call(calls["late"], handle) + guest.next_call(calls["work"], handle, slot=1))
            await settled(idle)
            ending = finish()
            assert (await guest.reply())[0] == Status.RESET  # no thread works on that one
            assert not device.stopped
            device.gate.set()
            reply, last = await guest.rest()
            assert (reply[0], reply[3]) == (REPLY, Status.RESET) and last[:2] == (END, Status.RESET)
            assert (await idle.ended())[0] == Status.RESET
            await ending
            assert device.stopped


async def test_guests_of_the_library_learn_of_the_end(tmp_path: Path) -> None:
    async with served_until_told(tmp_path) as (host, finish), guestd.attach(host.socket) as guest:
        await guest.nop()
        await finish()
        with pytest.raises(LinkLost, match="shutting down"):
            await guest.nop()


async def test_a_host_without_a_directory_makes_one_and_takes_it_away(machine_file: Path) -> None:
    async with hostd.serve(machine_file) as host:
        directory = host.socket.parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        async with attached(host) as guest:
            await guest.core(numbers.NOP)
    assert not directory.exists()


async def test_an_unplug_whose_asker_went_away_is_done_all_the_same(host: hostd.Host) -> None:
    async with guestd.attach(host.socket, drivers=[]) as guest:
        await guest.core((await guest.found("disk")).node, numbers.OPEN, 0)
        leaves = asyncio.Event()
        host.tree.watchers["test"] = lambda *_: leaves.set()
        unplug = asyncio.ensure_future(host.unplug("/disk", within=60))
        await leaves.wait()
        unplug.cancel()
        await asyncio.gather(unplug, return_exceptions=True)
        with pytest.raises(NoMatch):
            host.tree.find("/disk")


async def test_two_hosts_of_one_machine_share_no_backing(tmp_path: Path) -> None:
    tables = {"devices": {"console": {"model": "console", "backing": "pty:"}}}
    machine = hostd.Machine.from_tables(tables, tmp_path)
    async with hostd.serve(machine) as one, hostd.serve(machine) as other:
        ends = {host.tree.find("/console").properties()["endpoint"] for host in (one, other)}
        assert len(ends) == 2
