"""Every way in which an image of a disk can fail."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_end import SIZE, disk, image, pattern

import hostd
from guestd.drivers.block import BlockDriver
from hcall.errors import IoError, NoSpace
from hostd import Machine, MachineError


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
)
async def test_an_image_has_one_writer_or_many_readers(tmp_path: Path, one: bool, other: bool, both: bool) -> None:
    path = image(tmp_path, bytes(SIZE))
    async with disk(tmp_path, read_only=one) as (host, guest, _):
        table = {"model": "block", "path": str(path), "read_only": other}
        if both:
            host.plug_table("second", table)
            assert await guest["second"].load(SIZE) == bytes(SIZE)
            return
        with pytest.raises(MachineError, match=f"{path}: in use by another device or process"):
            host.plug_table("second", table)
        await host.unplug("/disk", surprise=True)
        host.plug_table("second", table)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may open everything: be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def no_permission(path: Path) -> None:
    path.touch(mode=0)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "directory|neither a file nor a block device"),
        (lambda path: path.symlink_to("/dev/null"), "neither a file nor a block device"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (no_permission, "Permission denied"),
        (os.mkfifo, "neither a file nor a block device"),
    ],
    ids=["missing", "directory", "character device", "loop", "no permission", "pipe"],
)
async def test_what_cannot_be_a_disk_is_refused_in_one_line(
    tmp_path: Path, prepare: Callable[[Path], object], says: str, read_only: bool
) -> None:
    path = tmp_path / "disk.img"
    prepare(path)

    def too_long(*_: object) -> None:
        raise TimeoutError("the host waits for somebody to write into the pipe")

    before = signal.signal(signal.SIGALRM, too_long)
    async with hostd.serve(Machine(), tmp_path / "run") as host:
        signal.setitimer(signal.ITIMER_REAL, 1)
        try:
            user = as_nobody() if prepare is no_permission else contextlib.nullcontext()
            with user, pytest.raises(MachineError, match=says) as error:
                host.plug_table("disk", {"model": "block", "path": str(path), "read_only": read_only})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert str(error.value).startswith(f"plug: devices.disk: {path}: ") and "\n" not in str(error.value)
        assert not host.tree.root.children


@pytest.mark.spec("BLK-3", "BLK-4")
async def test_after_a_flush_that_failed_a_disk_stays_failed_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path, pattern(SIZE))
    image_of_other = tmp_path / "other.img"
    image_of_other.write_bytes(bytes(SIZE))
    async with disk(tmp_path) as (host, guest, driver):
        host.plug_table("other", {"model": "block", "path": str(image_of_other)})

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, "the disk is broken")

        # No file at hand fails a flush: that takes a broken disk, or root and a device mapper.
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(IoError, match="broken"):
                await driver.sync()
        await guest.unbind("disk")
        again = await guest.bind("disk")  # a reset does not bring back what the kernel has dropped
        assert isinstance(again, BlockDriver)
        for call in (again.sync(), again.write(b"x"), again.store(b"x" * 100_000), again.discard(0, 512),
                     again.write_zeroes(0, 512)):  # fmt: skip
            with pytest.raises(IoError):
                await call
        assert await again.load(SIZE) == pattern(SIZE)
        await guest["other"].store(b"fine")
        await guest["other"].sync()
    assert image_of_other.read_bytes()[:4] == b"fine"


@pytest.mark.parametrize("length", [4096, 64 * 1024, 256 * 1024])
async def test_a_write_that_fails_half_way_is_an_error_and_the_disk_goes_on(tmp_path: Path, length: int) -> None:
    limit = 8 << 20
    path = tmp_path / "disk.img"
    async with disk(tmp_path, create="16M") as (_, _, driver):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # the kernel cuts a write there, and fails the next
        try:
            with pytest.raises(NoSpace):
                await driver.store(b"x" * length, limit - length // 2)
            await driver.store(b"before", 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await driver.load(length, limit - length // 2) == (b"x" * (length // 2)).ljust(length, b"\0")
        await driver.store(b"after", limit)
        await driver.sync()
    with path.open("rb") as file:
        assert file.read(6) == b"before"
        file.seek(limit)
        assert file.read(6) == b"after\0"


async def test_stopping_lets_go_of_the_image(tmp_path: Path) -> None:
    path = image(tmp_path, bytes(SIZE))
    async with disk(tmp_path):
        with path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
