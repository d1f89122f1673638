"""The quiet guest: it does something small about a thousand times a second, and notes how long each call takes."""

from __future__ import annotations

import mmap
import socket
import struct
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from guestd.clients.blocking import attach_blocking  # now: the canary's user may not be let to where modules are
from guestd.drivers.block import BlockDriver
from guestd.drivers.rng import RngDriver
from guestd.drivers.watchdog import WatchdogDriver

from .people import Person, say, until
from .stage import URGENT

_PAUSE: Final = 0.003  # seconds after three calls
_PAGE: Final = 4096
_HEAD, _RECORD = struct.Struct("<Qd"), struct.Struct("<dd")  # records, begin of the call under way; begin, seconds
_RECORDS: Final = 1 << 20
_START: Final = 30.0  # seconds
_FAILED: Final = -1.0  # instead of seconds
_DRIVERS: Final = (RngDriver, BlockDriver, WatchdogDriver)


class Waits(NamedTuple):
    """Of the calls that were under way in some time: seconds."""

    calls: int
    p50: float
    p99: float
    worst: float
    failed: int


class Canary:
    """A process of the user *uid*."""

    def __init__(self, path: Path, uid: int | None, spin: bool = False) -> None:
        """Attach at *path*, and leave the watchdog running, with an hour to go."""
        self._notes = mmap.mmap(-1, _HEAD.size + _RECORDS * _RECORD.size)
        self._person = Person(lambda sock: _sing(sock, path, self._notes, spin), uid, URGENT)
        try:
            self._person.hear(_START)
            assert until(lambda: _HEAD.unpack_from(self._notes)[0] > 3, _START)
        except BaseException:
            self.close()
            raise

    def waits(self, since: float, to: float | None = None) -> Waits:
        """Of calls that were under way between these times, one that has no answer yet, too."""
        now = time.monotonic()
        count, begun = _HEAD.unpack_from(self._notes)
        data = self._notes[_HEAD.size : _HEAD.size + min(count, _RECORDS) * _RECORD.size]
        records = list(_RECORD.iter_unpack(data))
        if begun:
            records.append((begun, now - begun))
        took = [(at, wait) for at, wait in records if at + max(wait, 0.0) >= since and at <= (to or now)]
        waits = sorted(wait for _, wait in took if wait != _FAILED)
        if not waits:
            return Waits(len(took), 0.0, 0.0, 0.0, len(took))
        return Waits(
            len(took), waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1], len(took) - len(waits)
        )

    def close(self) -> None:
        """End it."""
        self._person.end()
        self._notes.close()


def _sing(sock: socket.socket, path: Path, notes: mmap.mmap, spin: bool) -> None:
    """Until it is killed."""
    here = False
    while True:
        try:
            with attach_blocking(path, memory=1 << 20, name="canary", drivers=_DRIVERS, spin=spin) as guest:

                async def calls() -> None:
                    nonlocal here
                    dog: Any = await guest.bind_path("/watchdog")
                    await dog.set_timeout(3600)
                    await guest.unbind("watchdog")
                    rng, disk = await guest.bind_path("/rng"), await guest.bind_path("/calm")
                    if not here:
                        here = True
                        say(sock, "here")
                    page = bytes(_PAGE)
                    while True:
                        for make in (lambda: rng.read(16), lambda: disk.read(_PAGE), lambda: disk.write(page)):
                            begun = time.monotonic()
                            _HEAD.pack_into(notes, 0, _HEAD.unpack_from(notes)[0], begun)
                            await make()
                            _note(notes, begun, time.monotonic() - begun)
                        time.sleep(_PAUSE)  # noqa: ASYNC251 - there is no loop

                guest.run(calls())
        except Exception:
            if not here:
                raise
            _note(notes, time.monotonic(), _FAILED)
            time.sleep(0.05)


def _note(notes: mmap.mmap, begun: float, seconds: float) -> None:
    count, _ = _HEAD.unpack_from(notes)
    if count < _RECORDS:
        _RECORD.pack_into(notes, _HEAD.size + count * _RECORD.size, begun, seconds)
        _HEAD.pack_into(notes, 0, count + 1, 0.0)
