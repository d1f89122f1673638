"""A start that fails gives back all that it had taken, and a place is looked at before anything is taken."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from raw import attached, served

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hostd.backings.stream import BackedStream
from hostd.device import Device, Feature
from hostd.devices.folder import Folder
from hostd.devices.rng import Rng
from hostd.machine.file import DeviceSpec


class HalfWay(BackedStream):
    """Its command runs when it fails."""

    compatible = "test,half-way"

    def start(self) -> None:
        super().start()
        raise ValueError("not today")


class Threaded(Device):
    """A worker is at work when it fails."""

    compatible = "test,threaded"

    def start(self) -> None:
        self.told = threading.Event()
        self.offload(self.told.wait, 3)
        raise OSError(5, "broken")

    def stop(self) -> None:
        self.told.set()
        raise RuntimeError("what was never there cannot be stopped")


class Ringing(Device):
    """Rings once a second, and has no thought for the end."""

    compatible, starts, rings = "test,ringing", True, 0

    def start(self) -> None:
        self._ring()
        if not self.starts:
            raise ValueError("not today")

    def _ring(self) -> None:
        type(self).rings += 1
        self.clock.call_later(1, self._ring)


class Unfit(Device):
    """Says of itself what cannot be, when it starts."""

    compatible, wrong, stopped = "test,unfit", ("", ""), 0
    A = Feature(3)

    def start(self) -> None:
        setattr(self, *self.wrong)

    def stop(self) -> None:
        type(self).stopped += 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def buried() -> None:
    """Until commands that were killed are gone."""
    for thread in threading.enumerate():
        if thread.name == "cmd:":
            await asyncio.to_thread(thread.join)


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


async def test_a_start_that_fails_behind_that_of_its_base_leaves_nothing(tmp_path: Path) -> None:
    table = {"model": "half.py:HalfWay", "backing": "cmd:exec sleep 60"}
    (tmp_path / "half.py").write_text("from test_start_undone import HalfWay as Base\n\nclass HalfWay(Base): ...\n")
    async with served(tmp_path) as host:
        with pytest.raises(hostd.MachineError, match="not today"):
            host.plug_table("half", table, folder=tmp_path)
        await buried()
        before = descriptors(), children()
        for _ in range(3):
            with pytest.raises(hostd.MachineError, match="not today"):
                host.plug_table("half", table, folder=tmp_path)
        await buried()
        assert (descriptors(), children()) == before and not host.tree.root.children.get("half")


async def test_a_stop_that_fails_after_a_start_that_failed_is_nobodys_business(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as host:
        with pytest.raises(hostd.MachineError, match="broken"):
            host.plug(DeviceSpec("threaded", "threaded", Threaded, {}))
        assert "never there" not in caplog.text


async def test_a_disk_that_is_refused_closes_its_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes a descriptor twice closes somebody else's."""
    closed: list[int] = []
    close = os.close
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    async with served(tmp_path) as host:
        table = {"model": "block", "path": "disk.img"}
        host.plug_table("one", table, folder=tmp_path)
        monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
        with pytest.raises(hostd.MachineError, match="in use"):
            host.plug_table("two", table, folder=tmp_path)
        monkeypatch.undo()
        assert len(closed) == 1


async def test_a_folder_that_is_refused_for_its_tag_takes_none_away(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        table = {"model": "folder", "path": ".", "tag": "files"}
        folder = host.plug_table("one", table, folder=tmp_path).device
        assert isinstance(folder, Folder)
        for _ in range(2):
            with pytest.raises(hostd.MachineError, match="the tag of another folder"):
                host.plug_table("two", table, folder=tmp_path)


@pytest.mark.parametrize("path", ["bus/disk", "bus/deep/er/disk", "bus"])
async def test_a_place_that_leaves_or_is_taken_is_refused_before_anything_is_made(tmp_path: Path, path: str) -> None:
    rng = DeviceSpec("bus/rng", "rng", Rng, {})
    async with served(tmp_path, rng) as host, attached(host) as guest:
        handle, _ = await guest.open("/bus/rng")
        leaves = asyncio.Event()
        host.tree.watchers["test"] = lambda *_: leaves.set()
        unplug = asyncio.ensure_future(host.unplug("/bus"))
        await leaves.wait()
        before = {node.path for node in host.tree.root.walk()}
        with pytest.raises(hostd.MachineError):
            host.plug_table(path, {"model": "block", "path": "new.img", "create": "1M"}, folder=tmp_path)
        assert not (tmp_path / "new.img").exists() and {node.path for node in host.tree.root.walk()} == before
        await guest.core(numbers.CLOSE, handle)
        await unplug


@pytest.mark.parametrize("starts", [True, False])
async def test_no_callback_comes_after_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    monkeypatch.setattr(Ringing, "starts", starts)
    monkeypatch.setattr(Ringing, "rings", 0)
    clock, spec = ManualClock(), DeviceSpec("ringing", "ringing", Ringing, {})
    async with served(tmp_path, clock=clock) as host:
        if starts:
            host.plug(spec)
            clock.turn(3)
            assert Ringing.rings == 4
            await host.unplug("/ringing")
        else:
            with pytest.raises(hostd.MachineError, match="not today"):
                host.plug(spec)
        rings = Ringing.rings
        clock.turn(10)
        assert Ringing.rings == rings


@pytest.mark.parametrize(
    "wrong",
    [
        ("compatible", ["test,unfit"]), ("compatible", "tést"), ("ids", (1, 1 << 16)), ("ids", "ab"), ("offered", 1),
        ("class_code", 1 << 24), ("offered", -1), ("offered", "8"),
    ],
)  # fmt: skip
async def test_what_a_device_says_of_itself_when_it_starts_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, object]
) -> None:
    monkeypatch.setattr(Unfit, "wrong", wrong)
    monkeypatch.setattr(Unfit, "stopped", 0)
    spec = DeviceSpec("bus/unfit", "unfit", Unfit, {})
    async with served(tmp_path) as host:
        with pytest.raises(hostd.MachineError, match=wrong[0]):
            host.plug(spec)
        assert Unfit.stopped == 1 and not host.tree.root.children.get("bus")
        monkeypatch.setattr(Unfit, "wrong", ("compatible", ("test,unfit", "test,other")))
        assert host.plug(spec).compatible == ("test,unfit", "test,other")


async def test_a_link_that_is_refused_for_its_address_takes_none_away(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        table = {"model": "ppp", "backing": "router:office"}
        host.plug_table("one", table)
        for _ in range(2):
            with pytest.raises(hostd.MachineError, match="another link of router:office"):
                host.plug_table("two", table)


async def test_an_image_that_the_filesystem_has_no_room_for_is_not_left_half_made(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        with pytest.raises(hostd.MachineError, match=r"new\.img: File too large"):
            host.plug_table("disk", {"model": "block", "path": "new.img", "create": "4194304T"}, folder=tmp_path)
        assert not (tmp_path / "new.img").exists()
