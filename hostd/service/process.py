"""A host as a process of its own, or around a command: signals, logging, readiness, the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import uvloop

from hcall import rendezvous
from hcall.clock import SystemClock
from hcall.kernel import open_files
from hcall.programs.command import Failure, say
from hcall.text import counted

from ..calls.overrun import guard
from ..machine.file import Machine
from ..machine.host import Host
from ..machine.reload import Reloads, Running
from .garbage import collected_when_idle
from .log import apart
from .serve import running
from .sockets import handed_over
from .systemd import Notifier

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

_NOT_FOUND = 127  # exit codes of shells
_SIGNALLED = 128
#: For how long a worker waits for the interpreter before the loop is made to let go of it.  A loop that is busy does so
#: by itself, at each system call, but takes it again before a worker has woken, and the worker's time begins anew: with
#: Python's 5 ms a disk that was written to while another guest sent ACKs took 60 to 120 ms.
_SWITCH_SECONDS = 0.00002
_WORKER_SECONDS = 5.0  # at the end: a flush, say, that was begun


def _daemon(work: Callable[P, int]) -> Callable[P, int]:
    """What *work* and models say, from when they are read until their workers are through, is for the log.

    Workers that are not through in time end with the process.
    """

    @functools.wraps(work)
    def daemon(*args: P.args, **kwargs: P.kwargs) -> int:
        with apart():
            code = work(*args, **kwargs)
            left = _left()
        if left:
            os._exit(code)  # the interpreter would wait for them
        return code

    return daemon


@_daemon
def serve_forever(file: Path, runtime_dir: Path | None, ready_fd: int | None, verbose: bool,
                  trace: Path | None = None) -> int:  # fmt: skip
    """Serve the machine of *file* until SIGTERM or SIGINT; 0.  SIGHUP reads the file again.

    What happens goes to the file *trace*, if given.  Raises MachineError, WrongSocket, AlreadyServed or OSError.
    """
    _log(logging.INFO if verbose else logging.WARNING)
    notifier = Notifier(os.environ)
    directory = runtime_dir or rendezvous.runtime_dir()
    terminal = os.isatty(0)

    async def main() -> None:
        loop, stop, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

        def hung_up() -> None:
            (stop if terminal and not os.isatty(0) else again).set()  # the terminal is gone, or somebody wants a reload

        loop.add_signal_handler(signal.SIGINT, stop.set)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hung_up)
        served = running(machine, directory, given=given, notifier=notifier, trace=trace)
        async with _settled(served) as (host, reloads):
            reloading = loop.create_task(_reload_on(again, reloads))
            say("hostd", f"serving {machine.name!r}, {counted(len(machine.devices), 'device')}, at {host.socket}")
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            notifier.ready(host.summary)
            notifier.watch(host.clock)
            await stop.wait()
            with contextlib.suppress(OSError):  # the terminal may be gone
                say("hostd", "shutting down")
            notifier.tell("STOPPING=1", "STATUS=shutting down")
            reloading.cancel()
        notifier.close()

    open_files.raise_limit()  # a guest takes a few
    with contextlib.ExitStack() as stack:
        given = {name: stack.enter_context(sock) for name, sock in handed_over(os.environ).items()}
        machine = Machine.load(file)
        _run(main())
    return 0


def _run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* in a process that is a host's, and nothing else."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    with guard():
        return uvloop.run(main)


@contextlib.asynccontextmanager
async def _settled(served: AbstractAsyncContextManager[Running]) -> AsyncIterator[Running]:
    """A host that is *served*, in a process that does nothing else."""
    async with served as running:
        _warn_of_few_files(running.host)
        with collected_when_idle(running.host):
            yield running


def _warn_of_few_files(host: Host) -> None:
    wanted, possible = host.machine.limits.guests, host.guests.limits.guests
    if possible < wanted:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        log.warning("%d open files allow %d guests, not %d: raise the limit (ulimit -Hn)", hard, possible, wanted)


async def _reload_on(again: asyncio.Event, reloads: Reloads) -> None:
    while True:
        await again.wait()
        again.clear()
        with contextlib.suppress(Exception):  # the log has it
            await reloads.begin()


@_daemon
def run_captive(file: Path, command: list[str], trace: Path | None = None) -> int:
    """Serve the machine of *file* while *command* runs with HOSTD_SOCKET set; its exit status, as a shell has it.

    What happens goes to the file *trace*, if given.  Raises as `serve_forever`.
    """
    _log(logging.WARNING)
    machine = Machine.load(file)
    open_files.raise_limit()  # a guest takes a few

    async def main() -> int:
        async with _settled(running(machine, trace=trace)) as (host, _):
            loop, terminated = asyncio.get_running_loop(), asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, terminated.set)
            for number in (signal.SIGINT, signal.SIGHUP):  # of the terminal, which tells the command, too: it decides
                loop.add_signal_handler(number, lambda: None)
            environment = {**os.environ, rendezvous.VARIABLE: str(host.socket)}
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, env=environment, preexec_fn=open_files.give_limit
                )
            except OSError as error:
                raise Failure(f"{command[0]}: {error.strerror}", _NOT_FOUND) from None
            passing_on = loop.create_task(_pass_on(terminated, process))
            status = await process.wait()
            passing_on.cancel()
            return status if status >= 0 else _SIGNALLED - status

    return _run(main())


def _left() -> bool:
    """Whether a worker thread of a model is still at work, though it had time to come to an end."""
    clock = SystemClock()  # the loop has ended, and the host's clock with it
    deadline = clock.time() + _WORKER_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - clock.time()))
            if thread.is_alive():
                say("hostd", f"{thread.name} is still at work: it is left behind")
                return True
    return False


async def _pass_on(terminated: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    while True:
        await terminated.wait()
        terminated.clear()
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            process.terminate()


def _log(level: int) -> None:
    logging.basicConfig(level=level, format="hostd: %(message)s")
