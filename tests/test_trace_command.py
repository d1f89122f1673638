"""`hostd trace` as a user has it: columns, JSON lines, how it ends, and no control characters of a guest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from raw import attached

import guestd
import hostd
from hcall import numbers
from hostd.commands.tracing import Printer

HEADING = ["TIME", "TOOK", "GUEST", "DEVICE", "WHAT"]
PATIENCE = 20.0


@contextlib.asynccontextmanager
async def command(host: hostd.Host, *words: str, stdout: int = asyncio.subprocess.PIPE) -> AsyncIterator[
    asyncio.subprocess.Process
]:  # fmt: skip
    """`hostd trace`, ended if it has not."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hostd", "trace", "--socket", str(host.socket.parent), *words,
        stdout=stdout, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        if host.trace.readers:
            await nobody_follows(host)


async def nobody_follows(host: hostd.Host) -> None:
    """Until the host has seen that the command has gone: at the next event, or when it looks."""
    async with attached(host) as guest:
        while host.trace.readers:
            await guest.core(numbers.NOP)


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def said(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """How it ended, and what it said."""
    _, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, error.decode()


async def test_what_happens_is_told_in_columns_until_ctrl_c(host: hostd.Host) -> None:
    async with command(host) as process:
        assert (await line(process)).split() == HEADING
        async with guestd.attach(host.socket, name="tester") as guest:
            await (await guest.bind("disk")).load(512)
        lines = []
        while "gone" not in (text := await line(process)):
            lines.append(text)
        process.send_signal(signal.SIGINT)
        assert await said(process) == (0, "")
    assert "tester  -         attached" in lines[0]
    (read,) = [text for text in lines if "read(0)" in text]
    seconds, took, unit, *rest = read.split(None, 5)
    assert float(seconds) > 0 and float(took) > 0 and unit in ("us", "ms")
    assert rest == [
        "tester",
        "/disk",
        "read(0) room 512 B -> " + (repr(bytes(16)) + "... 512 B\n" if "b'" in read else "512\n"),
    ]
    assert len({text.index("/disk") for text in lines if "/disk" in text.split()[:5]}) == 1, "columns are aligned"


async def test_json_is_a_line_for_each_event_as_the_socket_has_them(host: hostd.Host) -> None:
    async with command(host, "disk", "--json") as process, guestd.attach(host.socket, name="tester") as guest:
        disk = await guest.bind("disk")
        first = asyncio.ensure_future(line(process))
        while not first.done():  # nothing tells when it has begun, but for the first line
            await disk.load(512)
        event = json.loads(await first)
        assert (event["event"], event["guest"], event["device"], event["call"]) == ("call", "tester", "/disk", "read")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        rest = (await process.stdout.read()).decode()
        assert all(json.loads(text)["device"] == "/disk" for text in rest.splitlines())


async def test_it_ends_quietly_when_nobody_reads_it_any_more(host: hostd.Host) -> None:
    """As soon as that is so, though nothing happens that could be printed."""
    ours, theirs = os.pipe()
    try:
        async with command(host, stdout=theirs) as process:
            os.close(theirs)
            assert (await asyncio.to_thread(os.read, ours, 4096)).split() == [word.encode() for word in HEADING]
            os.close(ours)
            assert await said(process) == (0, "")
    finally:
        for fd in (ours, theirs):
            with contextlib.suppress(OSError):
                os.close(fd)


async def test_a_host_that_ends_and_a_device_that_is_not_there_are_told(machine_file: Path, tmp_path: Path) -> None:
    async with hostd.serve(machine_file, tmp_path / "run") as host:
        async with command(host, "dsk") as process:
            assert await said(process) == (4, "hostd: no node 'dsk' (did you mean 'disk'?)\n")
        async with contextlib.AsyncExitStack() as stack:
            process = await stack.enter_async_context(command(host))
            await line(process)
            ending = stack.pop_all()
    async with ending:
        assert await said(process) == (3, f"hostd: the hostd at {tmp_path}/run/control.sock hung up\n")
    async with command(host) as process:
        code, text = await said(process)
        assert code == 3 and text.startswith(f"hostd: no hostd answers at {tmp_path}/run/control.sock: ")


CALL = {
    "event": "call", "time": 12.3456789, "id": 7, "guest": "tester", "device": "/disk", "call": "write",
    "args": [4096, "a\x1b[2J", {"bytes": 100, "hex": "1b5d" * 8}, True, None, [1 << 48]], "data": 4096, "room": 0,
    "status": "OK", "answer": 4096, "seconds": 0.0000123,
}  # fmt: skip


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (CALL, '   12.345679  12.3 us  tester  /disk   write(4096, "a\\u001b[2J", b' + repr(b"\x1b]" * 8)[1:]
               + "... 100 B, true, none, (0x1000000000000)) data 4 KiB -> 4096"),
        (CALL | {"args": [], "status": None, "seconds": None},
         "   12.345679           tester  /disk   write() data 4 KiB -> later #7"),
        ({"event": "answer", "time": 13, "id": 7, "guest": "tester", "device": "/disk", "call": "write",
          "status": "NO_SPACE", "answer": "full\x07", "seconds": 1.5},
         "   13.000000    1.5 s  tester  /disk   #7 write -> NO_SPACE: full\\x07"),
        ({"event": "interrupt", "time": 1.0, "guest": "tester", "device": "/disk", "vector": "done", "count": 3},
         "    1.000000           tester  /disk   interrupt done 3"),
        ({"event": "plug", "time": 1.0, "device": "/disk", "compatible": ["a,b", "c"]},
         "    1.000000           -       /disk   plugged a,b, c"),
        ({"event": "end", "time": 1.0, "guest": "tester", "why": "bye\n"},
         "    1.000000           tester  -       gone: bye\\n"),
        ({"event": "lost", "count": 2},
         "                       -       -       2 events lost here: not read fast enough"),
        ({"event": "new", "time": 1.0}, '    1.000000           -       -       {"event": "new", "time": 1.0}'),
    ],
)  # fmt: skip
def test_an_event_is_one_line_without_a_control_character(event: dict[str, object], shown: str) -> None:
    printer = Printer(None, False)
    text = printer.line(event)
    assert text == shown
    assert text.isprintable()


@pytest.mark.parametrize("columns", [40, 60, 79, 80, 120])
def test_lines_fit_the_terminal(columns: int) -> None:
    printer = Printer(columns, False)
    wide = CALL | {"guest": "客人" * 10, "device": "/" + "x" * 50, "args": ["漢" * 60]}
    from rich.cells import cell_len

    least = 8 + 2 + 7 + 2 + 10 + 2 + 10 + 2 + 20  # below that lines break
    assert all(cell_len(printer.line(event)) <= max(columns, least) for event in (CALL, wide, CALL))
    assert printer.line(CALL).index("/disk") == printer.line(CALL | {"guest": "x"}).index("/disk")


def test_colour_is_around_the_line_and_only_at_a_terminal() -> None:
    failed = CALL | {"status": "BUSY", "answer": "later"}
    assert Printer(80, True).line(failed) == f"\x1b[31m{Printer(80, False).line(failed)}\x1b[m"
