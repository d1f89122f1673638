"""The guest's half of `hostd demo`: `python -m guestd.commands.demo SOCKET ARCHIVE-BYTES`.

Each line on standard output is a JSON object: `say` something, a `fact` for the end, or something that the `host` is to
do, which is answered by a line on standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Awaitable
from typing import Any

import uvloop

from hcall.errors import HcallError
from hcall.text import shown

from ..clients.asynchronous import AsyncGuest, attach
from ..drivers.block import BlockDriver
from ..drivers.console import ConsoleDriver


def _emit(**event: object) -> None:
    print(json.dumps(event), flush=True)


def _say(step: str, text: str) -> None:
    _emit(step=step, say=text)


async def _have_host(do: str) -> None:
    _emit(host=do)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def _story(socket: str, length: int) -> None:
    async with attach(socket, name="demo") as guest:
        _say("guest", f"pid {os.getpid()} is attached")
        await _tree(guest)
        await _console(guest)
        data = await _disk(guest, length)
        await _entropy(guest)
        await _hotplug(guest)
        await _cut(guest, data)
        await _have_host("status")


async def _tree(guest: AsyncGuest) -> None:
    for found in await guest.walk():
        ids = " {:04x}:{:04x}".format(*found.ids) if found.compatible else ""
        _say("probe", f"{found.path:10} {shown(found.compatible)}{ids}".rstrip())


async def _console(guest: AsyncGuest) -> None:
    """A real shell answers."""
    console = await guest.bind("console")
    assert isinstance(console, ConsoleDriver)
    await console.set_winsize(100, 30)
    await console.write_all(b"stty -echo; PS1=; echo ready\n")
    await console.read_until(b"ready\r\n")
    await console.read_until(b"ready\r\n")
    await console.write_all(b"uname -s; stty size; echo $((6 * 7))\n")
    answer = [(await console.read_until(b"\r\n")).decode().strip() for _ in range(3)]
    if answer[1:] != ["30 100", "42"]:
        raise AssertionError(f"the shell answered {answer}")
    _say("console", f"a shell on {answer[0]}, its terminal {answer[1]}, says 6 * 7 = {answer[2]}")
    waiting = asyncio.ensure_future(console.rx_ready.wait())
    await console.write_all(b"sleep 0.05; echo later\n")
    await waiting
    if await console.read_until(b"later\r\n") != b"later\r\n":
        raise AssertionError("the shell said something else")
    _say("interrupt", "rx_ready came when the shell had something to say")
    _emit(fact={"shell": answer})


async def _disk(guest: AsyncGuest, length: int) -> bytes:
    """Read the archive, unpack it, and write it back behind itself."""
    disk = await guest.bind("disk")
    assert isinstance(disk, BlockDriver)
    data = await disk.load(length)
    unpacked = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            unpacked[member.name] = hashlib.sha256(file.read()).hexdigest()
    _say("disk", f"{length} bytes read through guest memory, {len(unpacked)} files unpacked")
    at = -(-length // 4096) * 4096
    await disk.store(data, at)
    await disk.sync()
    _say("disk", f"written back at byte {at} and flushed")
    _emit(fact={"unpacked": unpacked, "written_at": at})
    return data


async def _entropy(guest: AsyncGuest) -> None:
    entropy = await guest["rng"].getrandom(32)
    _say("rng", entropy.hex())
    _emit(fact={"entropy": entropy.hex()})


async def _hotplug(guest: AsyncGuest) -> None:
    """The device goes, and the driver with it; it comes back, and is bound again."""
    for do, happens in (("unplug", "was given back and is gone"), ("plug", "is there again")):
        await _have_host(do)
        while not any(path == "/rng" for _, path in await guest.happened()):
            pass
        _say("hotplug", f"/rng {happens}")
    await guest["rng"].getrandom(1)


async def _cut(guest: AsyncGuest, data: bytes) -> None:
    """Cut the link under 64 calls: each is answered, once."""
    disk = await guest.bind("disk")
    assert isinstance(disk, BlockDriver)
    size = min(4096, len(data))
    calls: list[Awaitable[Any]] = [disk.read(size, at * 512) for at in range(32)]
    calls += [guest["rng"].getrandom(64) for _ in range(32)]
    guest.cut()
    answers = await asyncio.gather(*calls)
    for at, answer in enumerate(answers[:32]):
        if answer != data[at * 512 : at * 512 + size]:
            raise AssertionError(f"the read at {at * 512} came back wrong")
    _say("link", f"cut under {len(answers)} calls and resumed: each answered once, {guest.resumed} resume")
    _emit(fact={"resumed": guest.resumed})


def main() -> int:
    """The entry point."""
    try:
        uvloop.run(_story(sys.argv[1], int(sys.argv[2])))
    except (HcallError, OSError, AssertionError) as error:
        print(f"guestd: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
