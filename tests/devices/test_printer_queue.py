"""The printer before a raw print queue: one connection for each job, and every way in which a queue can fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.drivers.printer import PrinterDriver
from hcall.clock import ManualClock
from hcall.errors import IoError
from hostd import Machine
from hostd.commands.remote import ask

SECONDS = 10  # after which a test says that something hangs
PAGE = bytes(range(256)) * 20_000  # 5 MB: more than sockets buffer


class Queue:
    """A print queue at port 9100, more or less."""

    ends_first = False

    def __init__(self, limit: int | None = None, answer: bytes = b"", opened: asyncio.Event | None = None) -> None:
        """It hangs up after *limit* bytes, answers each job, and reads when *opened*."""
        self.jobs: list[bytes] = []
        self._limit, self._answer, self._opened = limit, answer, opened
        self.joined, self.broken = asyncio.Event(), asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.joined.set()
        try:
            writer.write(self._answer)
            if self.ends_first:
                writer.write_eof()
            if self._opened is not None:
                await self._opened.wait()
            if self._limit is not None:
                await reader.readexactly(self._limit)
                return
            self.jobs.append(await reader.read())
        except ConnectionError:
            self.broken.set()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def listening(queue: Callable[..., Awaitable[None]]) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what it does not read does not come far
    server = await asyncio.start_server(queue, sock=listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def printing(folder: Path, port: int, clock: ManualClock | None = None) -> AsyncIterator[PrinterDriver]:
    table = {"model": "printer", "spool": f"socket://127.0.0.1:{port}"}
    machine = Machine.from_tables({"devices": {"printer": table}}, folder)
    async with hostd.serve(machine, folder / "run", clock) as host, guestd.attach(host.socket) as guest:
        driver = await guest.bind("printer")
        assert isinstance(driver, PrinterDriver)
        async with asyncio.timeout(SECONDS):
            yield driver


async def test_each_job_is_one_connection_with_every_byte(tmp_path: Path) -> None:
    queue = Queue(answer=b"@PJL INFO STATUS\r\n" * 100)  # what a printer says back is of no interest
    async with listening(queue) as port, printing(tmp_path, port) as printer:
        for job in (b"first", PAGE, b"third"):
            await printer.print_job(job)
    assert queue.jobs == [b"first", PAGE, b"third"]


async def test_nothing_is_sent_of_a_job_that_is_not_finished(tmp_path: Path) -> None:
    queue = Queue()
    async with listening(queue) as port:
        async with printing(tmp_path, port) as printer:
            await printer.write_all(b"half")
        async with printing(tmp_path, port) as printer:
            await printer.print_job(b"whole")
    assert queue.jobs == [b"whole"]


async def test_a_queue_that_is_down_fails_the_job_and_the_next_one_is_printed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with printing(tmp_path, port) as printer:
        with pytest.raises(IoError, match=r"job 1: .*([Rr]efused|Connect call failed)"):
            await printer.print_job(b"lost")
        assert await printer.status() == 0x10
        queue = Queue()
        server = await asyncio.start_server(queue, "127.0.0.1", port)
        assert await printer.print_job(b"printed") == 2
        assert await printer.status() == 0x18
        server.close()
    assert queue.jobs == [b"printed"]


@pytest.mark.parametrize("limit", [0, 1, 1_000_000])
async def test_a_queue_that_hangs_up_fails_the_job_which_is_not_sent_again(tmp_path: Path, limit: int) -> None:
    queue = Queue(limit)
    async with listening(queue) as port, printing(tmp_path, port) as printer:
        with pytest.raises(IoError, match="hung up before the end"):
            await printer.print_job(PAGE)
        queue._limit = None
        await printer.print_job(b"next")
    assert queue.jobs == [b"next"]


@pytest.mark.parametrize("steps", range(6))
async def test_a_queue_that_hangs_up_at_any_step_of_the_connection_fails_the_job(
    tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()

    def close(peer: socket.socket, later: int) -> None:
        if later:
            loop.call_soon(close, peer, later - 1)
        else:
            peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            peer, _ = listener.accept()
            close(peer, steps)

        async with printing(tmp_path, listener.getsockname()[1]) as printer:
            loop.add_reader(listener, hang_up)
            try:
                with pytest.raises(IoError, match="job 1"):
                    await printer.print_job(b"lost")
            finally:
                loop.remove_reader(listener)
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_a_queue_that_says_its_end_before_the_jobs_end_has_failed_it(tmp_path: Path) -> None:
    queue = Queue(opened=asyncio.Event())
    queue.ends_first = True
    async with listening(queue) as port, printing(tmp_path, port) as printer:
        with pytest.raises(IoError, match="hung up before the end"):
            await printer.print_job(PAGE)
        assert queue._opened is not None
        queue._opened.set()
        await queue.broken.wait()
    assert queue.jobs == []


async def test_a_queue_that_takes_nothing_is_given_up_after_five_minutes(tmp_path: Path) -> None:
    clock, opened = ManualClock(), asyncio.Event()
    queue = Queue(opened=opened)
    async with listening(queue) as port, printing(tmp_path, port, clock) as printer:
        await printer.write_all(PAGE)
        await printer.finish()
        await stuck(queue, printer)
        clock.turn(299)
        assert await printer.status() == 0x98
        clock.turn(1)
        assert await printer.ended() == "the print queue took nothing for 300 s"
        opened.set()
        await queue.broken.wait()  # it was told that this was not the end of a job
        await printer.print_job(b"next")
    assert queue.jobs == [b"next"]


async def test_the_front_panel_sends_nothing_twice(tmp_path: Path) -> None:
    opened = asyncio.Event()
    queue = Queue(opened=opened)
    async with listening(queue) as port, printing(tmp_path, port) as printer:
        await printer.write_all(PAGE)
        await printer.finish()
        await stuck(queue, printer)
        for action in ("paper_out", "load_paper", "offline", "online"):
            await asyncio.to_thread(ask, str(tmp_path / "run"), "act", path="/printer", action=action, args=[])
        opened.set()
        assert await printer.ended() == ""
    assert queue.jobs == [PAGE]


async def stuck(queue: Queue, printer: PrinterDriver) -> None:
    """Until the connection takes no more."""
    await queue.joined.wait()
    for _ in range(50):  # round trips: the host has its hands free, and sends what it can
        await printer.status()


async def test_a_queue_that_is_slow_has_all_the_time_it_needs(tmp_path: Path) -> None:
    clock, queue, go, came = ManualClock(), Queue(), asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue.joined.set()
        data = b""
        for _ in range(4):
            await go.acquire()
            data += await reader.readexactly(1_000_000)
            came.release()
        queue.jobs.append(data + await reader.read())
        writer.close()

    async with listening(slow) as port, printing(tmp_path, port, clock) as printer:
        await printer.write_all(PAGE)
        await printer.finish()
        for _ in range(4):
            await stuck(queue, printer)
            clock.turn(299)
            go.release()
            await came.acquire()
        assert await printer.ended() == ""
    assert queue.jobs == [PAGE]


async def test_a_soft_reset_breaks_the_connection_off(tmp_path: Path) -> None:
    opened = asyncio.Event()
    queue = Queue(opened=opened)
    async with listening(queue) as port, printing(tmp_path, port) as printer:
        await printer.write_all(PAGE)
        await printer.finish()
        await stuck(queue, printer)
        await printer.soft_reset()
        assert await printer.ended() == "dropped by a soft reset"
        opened.set()
        await queue.broken.wait()
    assert queue.jobs == []


async def test_a_soft_reset_gives_up_a_connection_that_does_not_come_about(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(full.getsockname())
        async with printing(tmp_path, full.getsockname()[1]) as printer:
            await printer.write_all(b"nowhere")
            await printer.finish()
            assert await printer.status() == 0x98
            await printer.soft_reset()
            assert await printer.ended() == "dropped by a soft reset"
            assert await printer.status() == 0x18


@pytest.mark.parametrize("turns", range(4))
async def test_a_guest_that_leaves_while_its_job_is_on_its_way_leaves_nothing(tmp_path: Path, turns: int) -> None:
    queue = Queue()
    async with listening(queue) as port:
        async with printing(tmp_path, port) as printer:
            await printer.write_all(b"short")
            await printer.finish()
            for _ in range(turns):
                await printer.status()
        async with printing(tmp_path, port) as printer:
            await printer.print_job(b"next")
    assert [job for job in queue.jobs if job] in ([b"next"], [b"short", b"next"])  # an empty connection is no job
