"""`python -m hostd.machine.isolated PARENT FD LANE`: the process of one device, see `hostd.isolated`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

import uvloop

from hcall.clock import Clock, LoopClock

from ..calls.overrun import guard
from ..guests.attended import Attended
from ..isolated.channel import Channel
from ..isolated.errors import packed
from ..isolated.inside import Calls, Inside, Logged
from .file import read_device
from .identity import Identity

_PING_SECONDS: Final = 1.5  # from one ping to the next, at most, while the daemon goes on
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


async def _serve(sock: socket.socket, lane: socket.socket) -> None:
    """Until the daemon says stop, or is gone."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    channel = Channel(sock, lane)
    calls: list[Calls] = []

    def readable() -> None:
        try:
            for message, fds in channel.receive():
                if calls:
                    calls[0].take(message, fds)
                else:
                    calls.append(_made(channel, message[1:], fds, ended))
        except EOFError:
            loop.remove_reader(sock)
            ended.set()
            if calls:
                calls[0].take(["stop"], [])
        except _Refused:
            ended.set()

    loop.add_reader(sock, readable)
    await ended.wait()
    loop.remove_reader(sock)
    channel.close()


class _Led(Attended):
    """The clock of the guests, as the daemon tells it with each ping: it stands while that stands."""

    def __init__(self, clock: Clock, time: float) -> None:
        self.clock = clock
        self._told, self._beaten = time, clock.time()

    def tell(self, time: float) -> None:
        """It is *time* there."""
        self._told, self._beaten = max(time, self.time()), self.clock.time()

    def time(self) -> float:
        """Seconds."""
        return self._told + min(self.clock.time() - self._beaten, _PING_SECONDS)

    def close(self) -> None:
        """It goes by itself."""


class _Refused(Exception):
    """The device did not start; the daemon was told."""


def _made(channel: Channel, made_of: list[Any], fds: list[int], ended: asyncio.Event) -> Calls:
    """The device, started.  Raises _Refused."""
    path, model, table, folder, seed, level, environment, time, saved = made_of
    os.environb.clear()
    os.environb.update(environment)  # the daemon's, without what leads to its modules
    logging.basicConfig(level=level, format="%(message)s", handlers=[Logged(channel)])
    try:
        spec = read_device(path.strip("/"), {"model": model, **table}, Path(folder), {})
        clock = LoopClock()
        led = _Led(clock, time)
        plugged = Inside(spec.device(**spec.config), path, clock, Identity(seed).source(path), channel, led)
        plugged.begin(saved, fds)
    except BaseException as error:
        channel.send("refused", packed(error))
        raise _Refused from error
    channel.send("started")
    return Calls(plugged, channel, ended.set, led.tell)


def _end_with(parent: int) -> None:
    """This process does not outlive the daemon, whatever its model does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """The program."""
    parent, *fds = map(int, sys.argv[1:])
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the daemon decides
    faulthandler.enable()
    with contextlib.suppress(KeyboardInterrupt), guard():
        uvloop.run(_serve(*(socket.socket(fileno=fd) for fd in fds)))


if __name__ == "__main__":
    main()
