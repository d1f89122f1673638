"""The printer with its driver, on real folders and connections: every job whole, once, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import guestd
import hostd
from guestd.drivers.printer import PrinterDriver
from hcall.errors import Busy, IoError, NoSpace, NotAllowed, WouldBlock
from hostd import Machine
from hostd.devices.printer import Printer

SECONDS = 10  # after which a test says that something hangs
HEALTHY, BUSY, PAPER_OUT, SELECTED, NOT_ERROR = 0x18, 0x80, 0x20, 0x10, 0x08
PAGE = bytes(range(256)) * 300  # 75 KiB: more than the buffer of a stream
Printing: TypeAlias = "tuple[Printer, PrinterDriver]"


@contextlib.asynccontextmanager
async def served(folder: Path, spool: str, **config: object) -> AsyncIterator[hostd.Host]:
    machine = Machine.from_tables({"devices": {"printer": {"model": "printer", "spool": spool, **config}}}, folder)
    async with hostd.serve(machine, folder / "run") as host, asyncio.timeout(SECONDS):
        yield host


@contextlib.asynccontextmanager
async def printing(folder: Path, spool: str = "spool:jobs", **config: object) -> AsyncIterator[Printing]:
    async with served(folder, spool, **config) as host, guestd.attach(host.socket) as guest:
        yield model(host), await bound(guest)


def model(host: hostd.Host) -> Printer:
    device = host.tree.find("/printer").device
    assert isinstance(device, Printer)
    return device


async def bound(guest: guestd.AsyncGuest) -> PrinterDriver:
    driver = await guest.bind("printer")
    assert isinstance(driver, PrinterDriver)
    return driver


def spooled(folder: Path) -> dict[str, bytes]:
    """Whatever is in the folder of jobs, hidden or not."""
    return {path.name: path.read_bytes() for path in sorted((folder / "jobs").iterdir())}


# Jobs and files.


@pytest.mark.spec("PRN-1")
async def test_each_job_becomes_one_file_with_every_byte(tmp_path: Path) -> None:
    async with printing(tmp_path) as (_, printer):
        assert await printer.status() == HEALTHY
        assert [await printer.print_job(data) for data in (b"first", PAGE, b"\0")] == [1, 2, 3]
        assert await printer.status() == HEALTHY
    assert spooled(tmp_path) == {"job-000001": b"first", "job-000002": PAGE, "job-000003": b"\0"}


@pytest.mark.parametrize("client", ["asyncio", "blocking"])
async def test_jobs_that_are_printed_at_once_are_not_mixed(tmp_path: Path, client: str) -> None:
    jobs = [bytes([ord("a") + n]) * 150_000 for n in range(5)]  # more than is waiting in it at once

    def blocking() -> list[int]:
        with guestd.attach_blocking(host.socket) as guest:
            printer: Any = guest.bind("printer")
            return guest.gather(*map(printer.print_job, jobs))

    async with served(tmp_path, "spool:jobs") as host:
        if client == "blocking":
            numbers = await asyncio.to_thread(blocking)
        else:
            async with guestd.attach(host.socket) as guest:
                printer = await bound(guest)
                numbers = await asyncio.gather(*map(printer.print_job, jobs))
    assert numbers == [1, 2, 3, 4, 5]
    assert list(spooled(tmp_path).values()) == jobs


@pytest.mark.spec("PRN-1")
async def test_nothing_shows_before_a_job_is_finished(tmp_path: Path) -> None:
    async with printing(tmp_path) as (_, printer):
        for byte in b"page":
            await printer.write_all(bytes([byte]))
        assert not list((tmp_path / "jobs").glob("[!.]*"))
        with pytest.raises(NotAllowed, match="no job was finished"):
            await printer.outcome()
        assert await printer.finish() == 1
        await printer.job_ended.wait()
        assert await printer.outcome() == (1, "")
        assert spooled(tmp_path) == {"job-000001": b"page"}


@pytest.mark.spec("PRN-4")
async def test_a_guest_that_vanishes_leaves_no_half_job_and_nothing_to_the_next_one(tmp_path: Path) -> None:
    async with served(tmp_path, "spool:jobs") as host:
        async with guestd.attach(host.socket) as guest:
            printer = await bound(guest)
            await printer.print_job(b"whole")
            await printer.set_abort_mode(True)
            await printer.write_all(b"secret half")
        async with guestd.attach(host.socket) as guest:
            printer = await bound(guest)
            assert spooled(tmp_path) == {"job-000001": b"whole"}
            with pytest.raises(NotAllowed):
                await printer.outcome()
            assert await printer.print_job(b"mine") == 1
    assert spooled(tmp_path) == {"job-000001": b"whole", "job-000002": b"mine"}


async def test_names_go_on_where_they_were_and_never_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in ("job-000007", "job-note", "job-000009"):
        (tmp_path / "jobs" / name).write_bytes(b"old")
    async with printing(tmp_path) as (_, printer):
        (tmp_path / "jobs" / "job-000010").write_bytes(b"of another printer")
        await printer.print_job(b"new")
    assert spooled(tmp_path)["job-000010"] == b"of another printer" and spooled(tmp_path)["job-000011"] == b"new"


async def test_two_printers_share_a_folder(tmp_path: Path) -> None:
    devices = {name: {"model": "printer", "spool": "spool:jobs"} for name in ("one", "two")}
    machine = Machine.from_tables({"devices": devices}, tmp_path)
    async with hostd.serve(machine, tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        await guest["one"].write_all(b"1")  # at work while the other prints
        for _ in range(3):
            await guest["two"].print_job(b"2")
        await guest["one"].print_job(b"1")
    assert list(spooled(tmp_path).values()) == [b"2", b"2", b"2", b"11"]


async def test_a_printer_that_is_plugged_in_leaves_alone_what_another_is_writing(tmp_path: Path) -> None:
    async with served(tmp_path, "spool:jobs") as host, guestd.attach(host.socket) as guest:
        printer = await bound(guest)
        await printer.write_all(b"be")
        host.plug_table("second", {"model": "printer", "spool": f"spool:{tmp_path / 'jobs'}"})
        await printer.print_job(b"gun")
    assert spooled(tmp_path) == {"job-000001": b"begun"}


async def test_what_a_host_left_that_was_killed_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in (".hostd-0123.part", "job-000001", ".other.part"):
        (tmp_path / "jobs" / name).write_bytes(b"x")
    async with printing(tmp_path):
        assert sorted(spooled(tmp_path)) == [".other.part", "job-000001"]


async def test_a_lost_link_prints_nothing_twice(tmp_path: Path) -> None:
    async with served(tmp_path, "spool:jobs") as host, guestd.attach(host.socket) as guest:
        printer = await bound(guest)
        for turn in range(20):
            work = asyncio.ensure_future(printer.print_job(b"%d " % turn * 2000))
            for _ in range(turn):
                await asyncio.sleep(0)
            guest.cut()
            await work
        assert guest.resumed
    assert list(spooled(tmp_path).values()) == [b"%d " % turn * 2000 for turn in range(20)]


# What goes wrong on the host.


@pytest.mark.spec("PRN-3")
async def test_a_full_disk_fails_the_job_and_the_next_one_is_printed(tmp_path: Path) -> None:
    async with printing(tmp_path) as (_, printer):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            with pytest.raises(NoSpace):
                await printer.write_all(PAGE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await printer.status_changed.wait()
        assert await printer.status() == SELECTED
        with pytest.raises(NoSpace):
            await printer.write(b"more of it")
        with pytest.raises(NoSpace):
            await printer.finish()
        assert await printer.status() == SELECTED and spooled(tmp_path) == {}
        await printer.print_job(PAGE)
        assert await printer.status() == HEALTHY
    assert spooled(tmp_path) == {"job-000001": PAGE}


async def test_a_job_that_failed_is_in_the_log_once_however_often_its_guest_tries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with printing(tmp_path, max_job=10) as (_, printer):
        for _ in range(5):
            with pytest.raises(NoSpace, match="10 bytes at most"):
                await printer.write(b"too long a job")
        assert [record.getMessage() for record in caplog.records if "10 bytes at most" in record.getMessage()] == [
            f"/printer: {tmp_path}/jobs: a job has failed: a job has 10 bytes at most"
        ]


async def test_a_job_has_a_bound(tmp_path: Path) -> None:
    async with printing(tmp_path, max_job=1000) as (_, printer):
        with pytest.raises(NoSpace, match="1000 bytes at most"):
            await printer.print_job(bytes(1001))
        await printer.print_job(bytes(1000))
    assert spooled(tmp_path) == {"job-000001": bytes(1000)}


async def test_a_folder_that_goes_away_fails_jobs_until_it_is_back(tmp_path: Path) -> None:
    async with printing(tmp_path) as (_, printer):
        await printer.write_all(b"half")
        shutil.rmtree(tmp_path / "jobs")
        await printer.finish()
        assert "No such file" in await printer.ended()
        assert await printer.status() == SELECTED
        with pytest.raises(IoError, match="No such file"):
            await printer.print_job(b"another")
        await printer.soft_reset()
        assert await printer.status() == HEALTHY
        with pytest.raises(IoError):
            await printer.write_all(b"more")
        assert await printer.status() == SELECTED
        (tmp_path / "jobs").mkdir()
        with pytest.raises(IoError):
            await printer.finish()
        assert await printer.status() == SELECTED
        await printer.write_all(b"th")
        assert await printer.status() == HEALTHY
        await printer.print_job(b"ird")
    assert list(spooled(tmp_path).values()) == [b"third"]


@pytest.mark.spec("PRN-3", "PRN-4")
async def test_a_soft_reset_drops_what_is_unfinished_and_clears_what_failed(tmp_path: Path) -> None:
    async with printing(tmp_path, max_job=10) as (_, printer):
        await printer.write_all(b"gone")
        await printer.soft_reset()
        with pytest.raises(NotAllowed, match="no job has begun"):
            await printer.finish()
        with pytest.raises(NoSpace):
            await printer.write_all(b"too long a job")
        await printer.soft_reset()
        assert await printer.status() == HEALTHY
        await printer.print_job(b"kept")
    assert spooled(tmp_path) == {"job-000001": b"kept"}


@pytest.mark.parametrize(
    "spool", ["jobs", "spool:", "socket://nowhere", "socket://host:99999", "socket://host:0", "tcp:host:1"]
)
def test_a_spool_that_is_none_is_refused(tmp_path: Path, spool: str) -> None:
    with pytest.raises(hostd.MachineError, match=r"spool|HOST:PORT"):
        Machine.from_tables({"devices": {"printer": {"model": "printer", "spool": spool}}}, tmp_path)


# The front panel.


@pytest.mark.spec("PRN-5", "PRN-7")
async def test_without_paper_the_stream_stalls_and_goes_on_when_there_is_some(tmp_path: Path) -> None:
    async with printing(tmp_path) as (panel, printer):
        panel.paper_out()
        await printer.status_changed.wait()
        assert await printer.status() == NOT_ERROR | SELECTED | PAPER_OUT | BUSY
        work = asyncio.ensure_future(printer.print_job(PAGE))
        while await printer.get_param(6) < 1 << 16:  # TX_BYTES: until the buffer is full
            pass
        with pytest.raises(WouldBlock):
            await printer.write(b"x")
        assert not work.done() and spooled(tmp_path) == {}
        panel.load_paper()
        assert await work == 1
        assert await printer.status() == HEALTHY
    assert spooled(tmp_path) == {"job-000001": PAGE}


@pytest.mark.spec("PRN-2")
async def test_a_job_that_is_finished_while_the_printer_is_offline_ends_when_it_is_online(tmp_path: Path) -> None:
    async with printing(tmp_path) as (panel, printer):
        panel.offline()
        assert await printer.status() == NOT_ERROR | BUSY
        await printer.write_all(b"patience")
        assert await printer.finish() == 1
        with pytest.raises(WouldBlock):
            await printer.outcome()
        for refused in (printer.finish(), printer.write(b"the next one")):
            with pytest.raises(Busy, match="on its way"):
                await refused
        panel.online()
        assert await printer.ended() == ""
    assert spooled(tmp_path) == {"job-000001": b"patience"}


@pytest.mark.parametrize(("action", "says"), [("paper_out", "out of paper"), ("offline", "offline")])
@pytest.mark.spec("PRN-7")
async def test_in_abort_mode_a_write_fails_and_takes_nothing(tmp_path: Path, action: str, says: str) -> None:
    async with printing(tmp_path) as (panel, printer):
        await printer.set_abort_mode(True)
        await printer.write_all(b"one ")
        getattr(panel, action)()
        with pytest.raises(IoError, match=says):
            await printer.write(b"lost")
        panel.load_paper()
        panel.online()
        await printer.print_job(b"two")
    assert spooled(tmp_path) == {"job-000001": b"one two"}


async def test_abort_mode_does_not_wait_for_what_is_buffered_either(tmp_path: Path) -> None:
    async with printing(tmp_path) as (panel, printer):
        panel.paper_out()
        await printer.write_all(b"waits")
        await printer.set_abort_mode(True)
        with pytest.raises(IoError, match="out of paper"):
            await printer.finish()
        await printer.soft_reset()
        panel.load_paper()
    assert spooled(tmp_path) == {}


async def test_a_reset_while_a_finished_job_waits_for_paper_says_that_it_was_dropped(tmp_path: Path) -> None:
    async with printing(tmp_path) as (panel, printer):
        panel.paper_out()
        await printer.write_all(b"waits")
        await printer.finish()
        await printer.soft_reset()
        assert await printer.ended() == "dropped by a soft reset"
        panel.load_paper()
        await printer.print_job(b"next")
    assert spooled(tmp_path) == {"job-000001": b"next"}


# What it says it is.


@pytest.mark.spec("PRN-6")
async def test_the_device_id_has_its_length_in_front(tmp_path: Path) -> None:
    async with printing(tmp_path, device_id="MFG:Acme;MDL:One;CMD:PCL,PS;") as (_, printer):
        assert await printer.get_device_id() == b"\x00\x1eMFG:Acme;MDL:One;CMD:PCL,PS;"
        assert await printer.device_id() == {"MFG": "Acme", "MDL": "One", "CMD": "PCL,PS"}


@pytest.mark.parametrize("text", ["", "MFG:x", "MFG:\xe9;", "MFG:\n;", "M:" + "x" * 1020 + ";"])
def test_a_device_id_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    table = {"model": "printer", "spool": "spool:jobs", "device_id": text}
    with pytest.raises(hostd.MachineError, match="is no device id"):
        Machine.from_tables({"devices": {"printer": table}}, tmp_path)


def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path, "spool:jobs") as host:

            def blocking() -> int:
                with guestd.attach_blocking(host.socket) as guest:
                    number: int = guest["printer"].print_job(PAGE)
                    return number

            assert await asyncio.to_thread(blocking) == 1

    asyncio.run(scenario())
    assert spooled(tmp_path) == {"job-000001": PAGE}
