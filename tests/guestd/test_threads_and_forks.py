"""Guests that more than one thread, or more than one process, has its hands on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, blocking, desk, desks
from raw import bystander, in_thread, settled, until

import guestd
import hostd
from hcall.errors import LinkLost


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as host:
        yield host


# Threads.


async def test_a_blocking_guest_that_another_thread_is_waiting_in_refuses(host: hostd.Host) -> None:
    guests: list[Any] = []

    def work() -> None:
        with blocking(host) as guest:
            guests.append(guest)
            driver = guest.bind("desk")
            assert guest.run(driver.late()) == 7
            assert guest["desk"].same(3) == 3

    def intrude() -> None:
        for attempt in (guests[0].nop, lambda: guests[0]["other"], lambda: guests[0].call(0, 16), guests[0].wait):
            with pytest.raises(RuntimeError, match="in use by another thread: attach one for each thread"):
                attempt()

    async with bystander(host) as other:
        working = asyncio.create_task(in_thread(host, work))
        while not desk(host).waiting:  # its call is here: it waits
            await settled(other)
        await asyncio.to_thread(intrude)
        desk(host).waiting.pop().done(7)
        await working


async def test_a_blocking_guest_may_go_from_one_thread_to_the_next(host: hostd.Host) -> None:
    def work() -> None:
        with blocking(host) as guest:
            for n in range(3):
                with ThreadPoolExecutor(1) as other:
                    assert other.submit(guest["desk"].same, n).result() == n
            guest.nop()

    await in_thread(host, work)


async def test_a_guest_of_a_loop_refuses_other_threads(host: hostd.Host) -> None:
    async with guestd.attach(host.socket, memory=4096) as guest:
        for attempt in (guest.nop, lambda: guest.call(0, 16)):
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(attempt)
        future = await asyncio.to_thread(asyncio.run_coroutine_threadsafe, guest.walk(), asyncio.get_running_loop())
        assert len(await asyncio.wrap_future(future)) == 4
    await until(host, lambda: not host.guests.by_token)


# Forks.


def forked(work: Callable[[], None]) -> int:
    """The exit code of a child that does *work* and nothing else."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print("in the child:", type(error), error, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
async def test_a_forked_child_has_no_guest_and_ends_none(host: hostd.Host) -> None:
    def child(guest: Any, driver: Any) -> None:
        for attempt in (guest.nop, lambda: guest.run(driver.same(1)), lambda: guest.bind("other"), guest.wait):
            with pytest.raises(LinkLost, match=f"is of process {os.getppid()}"):
                attempt()
        for alloc in (lambda: guest.ram.alloc(1), lambda: guest.run(driver.load(1))):
            with pytest.raises(LinkLost, match=f"is of process {os.getppid()}"):
                alloc()  # it is the parent's memory, of which the next page is free there, too
        guest.detach()
        guest.detach()

    def work() -> None:
        with blocking(host) as guest:
            driver = guest.bind("desk")
            late = driver.late()
            guest.nop()
            assert forked(lambda: child(guest, driver)) == 0
            loop.call_soon_threadsafe(lambda: desk(host).waiting.pop().done(5))
            assert guest.run(late) == 5 and guest.resumed == 0

    loop = asyncio.get_running_loop()
    await in_thread(host, work)


DOOMED = """
import asyncio, os, sys, guestd
client, path = sys.argv[1:]

def fork():
    child = os.fork()
    if not child:
        os.read(0, 1)  # until the test ends
        os._exit(0)
    print(child, flush=True)

async def attach():
    async with guestd.attach(path, name="doomed", memory=4096) as guest:
        fork()
        await guest.happened()

if client == "asyncio":
    asyncio.run(attach())
with guestd.attach_blocking(path, name="doomed", memory=4096) as guest:
    fork()
    guest.wait()
"""


@CLIENTS
async def test_the_host_sees_that_a_guest_is_dead_though_its_child_lives(host: hostd.Host, client: str) -> None:
    words = [sys.executable, "-c", DOOMED, client, str(host.socket)]
    with await asyncio.to_thread(subprocess.Popen, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(await asyncio.to_thread(process.stdout.readline))
        assert [guest.name for guest in host.guests.by_token.values()] == ["doomed"]
        process.kill()
        await until(host, lambda: not host.guests.by_token)
        os.kill(child, 0)  # it is there
