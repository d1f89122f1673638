"""A host as a process of its own, or around a command: signals, logging, readiness."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import uvloop

from protocol import rendezvous
from protocol.command import Failure, say

from .daemon import serve
from .machine import Machine

_NOT_FOUND = 127  # exit codes of shells
_SIGNALLED = 128


def serve_forever(file: Path, runtime_dir: Path | None, ready_fd: int | None, verbose: bool) -> int:
    """Serve the machine of *file* until SIGTERM or SIGINT; 0.  Raises MachineError, AlreadyServed or OSError."""
    _log(logging.INFO if verbose else logging.WARNING)
    machine = Machine.load(file)

    async def main() -> None:
        stop = asyncio.Event()
        _on_signals(stop.set)
        async with serve(machine, runtime_dir or rendezvous.runtime_dir()) as host:
            say("hostd", f"serving {machine.name!r}, {len(machine.devices)} devices, at {host.socket}")
            if ready_fd is not None:
                os.write(ready_fd, b"ready\n")
                os.close(ready_fd)
            await stop.wait()
            say("hostd", "shutting down")

    uvloop.run(main())
    return 0


def run_captive(file: Path, command: list[str]) -> int:
    """Serve the machine of *file* while *command* runs with HOSTD_SOCKET set; its exit status, as a shell has it."""
    _log(logging.WARNING)
    machine = Machine.load(file)

    async def main() -> int:
        async with serve(machine) as host:
            environment = {**os.environ, rendezvous.VARIABLE: str(host.socket)}
            try:
                process = await asyncio.create_subprocess_exec(*command, env=environment)
            except OSError as error:
                raise Failure(f"{command[0]}: {error.strerror}", _NOT_FOUND) from None
            _on_signals(process.terminate)
            status = await process.wait()
            return status if status >= 0 else _SIGNALLED - status

    return uvloop.run(main())


def _log(level: int) -> None:
    logging.basicConfig(level=level, format="hostd: %(message)s")


def _on_signals(action: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, action)
