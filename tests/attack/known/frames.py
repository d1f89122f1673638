"""Messages that are changed with an eye for what they mean: calls of every device with odd values, and broken bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack
from raw import ADDRESS, PAGE

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import ACK, CALL, CALLS, IRQ, REPLIES, REPLY
from hostd.model.areas import Room

from ..enemy import SLOTS, Attacker, Enemy, Fault, Refused
from ..room import attack
from ..stage import EVERYTHING, QUIET

_PAGES: Final = 64
_WAITING: Final = ("wait_read", "wait_write")
_CORE: Final[dict[int, tuple[type, ...]]] = {
    numbers.NOP: (), numbers.FIRST: (), numbers.CHILD: (), numbers.NEXT: (), numbers.PARENT: (), numbers.FIND: (str,),
    numbers.INFO: (), numbers.GETPROP: (str,), numbers.NEXTPROP: (str,), numbers.CHANGES: (int,), numbers.OPEN: (int,),
    numbers.CLOSE: (), numbers.GET_STATUS: (), numbers.SET_STATUS: (int,), numbers.GET_FEATURES: (),
    numbers.SET_FEATURES: (int,), numbers.SET_MASK: (int,), numbers.POLL: (int,), numbers.ADD_MEMORY: (int, int, int),
    numbers.REMOVE_MEMORY: (int,), numbers.ADD_PART: (int, int, int, int), numbers.LIST: (int,),
    numbers.CONFIG_READ: (int, int, int), numbers.CONFIG_WRITE: (int, int, int, int),
    numbers.CLAIM: (str, int, int),
    numbers.STSCH: (int,), numbers.SSCH: (int, int, int), numbers.TSCH: (int,),
}  # fmt: skip
_pack: Final[Callable[[Any], bytes]] = msgpack.Packer(use_bin_type=True).pack


class Shape(NamedTuple):
    """What a call takes."""

    areas: tuple[bool, ...]  # each is filled
    kinds: tuple[type, ...]


def _shapes() -> dict[str, dict[str, Shape]]:
    """By path and name, of all devices."""
    machine = hostd.Machine.from_tables(tomllib.loads(QUIET + EVERYTHING), Path("/"))
    return {
        f"/{spec.path}": {
            each.name: Shape(tuple(area is Room for area in each.areas), each.kinds)
            for each in spec.device.declares.handlers
        }
        for spec in machine.devices
    }


SHAPES: Final = _shapes()


class Fuzz:
    """Makes values, with chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def value(self, kind: type) -> Any:
        """One of that type, most of the time."""
        chance, pick = self._chance, self._chance.choice
        if chance.random() < 0.06:
            kind = pick([int, str, bytes, bool, float, list, dict, type(None)])
        if kind is int:
            return pick([0, 0, 1, 2, 3, 7, 11, 15, 16, 63, 255, 4095, 4096, 65535, 1 << 31, (1 << 32) - 1, 1 << 40,
                         (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -(1 << 63), chance.randrange(200)])  # fmt: skip
        if kind is bytes:
            return pick([b"", b"a", b"..", b".", b"a/b", b"../..", b"a/../b", b"/", b"\0", b"x" * 255, b"x" * 300,
                         b"a" * 5000, b"shared", self._chance.randbytes(20)])  # fmt: skip
        if kind is str:
            return pick(["", "/", "/rng", "/disk", "/net3/x", "/" * 60, "power", "on", "blink", "x" * 255, "x" * 9000,
                         "é\0", "capacity", "compatible", "../disk"])  # fmt: skip
        if kind is float:
            return pick([0.0, -1.5, 1e300, float("inf"), float("nan")])
        if kind is list:
            return [[], [1, [2, [3]]], [None] * 70][self._chance.randrange(3)]
        if kind is dict:
            return pick([{}, {1: 2}, {"a": {"b": 1}}])
        return pick([True, False]) if kind is bool else None

    def areas(self, wanted: tuple[bool, ...]) -> list[Any]:
        """Those that a call takes, most of the time."""
        found: list[Any] = []
        for filled in wanted:
            for _ in range(self._chance.choice([1, 1, 1, 2, 5])):
                found.append(self._area(filled))
        if self._chance.random() < 0.08:
            found += [self._area(self._chance.random() < 0.5)] * self._chance.choice([1, 3, 64])
        return found

    def _area(self, filled: bool) -> Any:
        pick = self._chance.choice
        if self._chance.random() < 0.3:
            return (
                pick([0, 1, 24, 512, 4096, 4097, -1])
                if filled
                else self._chance.randbytes(pick([0, 1, 512, 4096, 5000]))
            )
        if self._chance.random() < 0.08:
            return pick([[], [1], [1, 2, 3, 4], [ADDRESS, "x", 1], None, "x", [ADDRESS, 1, 2], [ADDRESS, 1 << 63, 1]])
        start = pick([0, 0, 1, 511, PAGE, PAGE - 1, _PAGES * PAGE - 1, _PAGES * PAGE, -1])
        return [ADDRESS + start, pick([0, 1, 24, 512, 513, PAGE, 5 * PAGE, _PAGES * PAGE, 1 << 40]), int(filled)]


class Victim:
    """A session on which some devices are open."""

    def __init__(self, enemy: Enemy, guest: Attacker, fuzz: Fuzz) -> None:
        self._enemy, self._guest, self._fuzz = enemy, guest, fuzz
        self._handles: list[int] = [0, 1, (1 << 48) | 5, 1 << 63]
        self._open: list[tuple[int, str, dict[str, int]]] = []

    async def start(self) -> None:
        """Open a few devices, as far as they are free."""
        assert self._guest.memory is not None
        for path in self._enemy.chance.sample(list(SHAPES), 6):
            node = await self._guest.must(numbers.FIND, 0, path)
            self._handles.append(node)
            with contextlib.suppress(AssertionError):
                handle, calls = await self._guest.open(path)
                self._open.append((handle, path, calls))
                self._handles.append(handle)

    def frame(self, slot: int, may_wait: bool = False) -> list[Any]:
        """A call, or several, of the right form, whatever they say; *may_wait*: for the world outside, too."""
        chance, fuzz = self._enemy.chance, self._fuzz
        self._guest.seq += 1
        if self._open and chance.random() < 0.75:
            handle, path, calls = chance.choice(self._open)
            name = chance.choice([name for name in calls if may_wait or name not in _WAITING])
            shape, number = SHAPES[path].get(name, Shape((), ())), calls[name]
        else:
            handle, number = chance.choice(self._handles), chance.choice(list(_CORE))
            shape = Shape((), _CORE[number])
        if chance.random() < 0.03:
            number = chance.choice([0, 1, number + 1, number ^ (1 << 16), (1 << 64) - 1, 1 << 31])

        def args() -> list[Any]:
            return [fuzz.value(kind) for kind in shape.kinds] + [fuzz.value(int)] * (chance.random() < 0.05)

        if chance.random() < 0.3:
            count = chance.choice([1, 2, 3, 20])
            several = [args() for _ in range(count)], [fuzz.areas(shape.areas) for _ in range(count)]
            return [CALLS, slot, self._guest.seq, number, handle, *several]
        return [CALL, slot, self._guest.seq, number, handle, args(), fuzz.areas(shape.areas)]

    async def round(self) -> None:
        """Some calls at once, each of which is answered, unless one is more than a message may be, which ends all."""
        chance = self._enemy.chance
        frames = [self.frame(slot) for slot in range(chance.randrange(1, SLOTS))]
        self._enemy.seen["frames"] += len(frames)
        waiting = {frame[2]: frame for frame in frames}
        left = {frame[2]: set(range(len(frame[5]))) for frame in frames if frame[0] == CALLS}
        await self._guest.write(b"".join(map(_pack, frames)))
        while waiting:
            try:
                message = await self._guest.message()
            except Fault:
                raise Fault(f"not answered: {list(waiting.values())}") from None
            if message[0] == IRQ:
                continue
            frame = waiting.get(message[2], [None])
            if (frame[0], message[0]) not in ((CALL, REPLY), (CALLS, REPLIES)):
                raise Fault(f"an answer that nobody asked for: {message}")
            if frame[0] == CALLS:
                _, _, seq, first, statuses, values = message
                answered = set(range(first, first + len(values)))
                if not answered or not answered <= left[seq] or (statuses and len(statuses) != len(values)):
                    raise Fault(f"an answer to a call that does not wait: {message}")
                left[seq] -= answered
                self._enemy.seen["answers"] += len(answered)
                internal = statuses != 0 and Status.INTERNAL in statuses
            else:
                self._enemy.seen["answers"] += 1
                internal = message[3] == Status.INTERNAL
            if internal:
                raise Fault(f"INTERNAL: {frame}: {message}")
            if not left.get(message[2]):
                del waiting[message[2]]

    async def spoil(self) -> None:
        """Bytes of messages that are changed, lost, doubled or cut off, or messages of a wrong form; then hang up."""
        chance = self._enemy.chance
        frames = [self.frame(slot, may_wait=True) for slot in range(6)]
        wrong = chance.choice(frames)
        at = chance.randrange(7)
        match chance.randrange(5):
            case 0:
                wrong[at] = self._fuzz.value(chance.choice([int, str, list, dict]))
            case 1:
                del wrong[at]
            case 2:
                wrong.insert(at, self._fuzz.value(int))
            case 3:
                wrong[:] = [ACK, *(self._fuzz.value(int) for _ in range(chance.choice([2, 3, 3, 4])))]
            case _:
                pass
        with contextlib.suppress(OverflowError, ValueError):
            data = bytearray(b"".join(map(_pack, frames)))
            for _ in range(chance.choice([0, 1, 1, 2, 8])):
                start = chance.randrange(len(data))
                end = start + chance.choice([0, 1, 2, 9])
                data[start:end] = chance.choice([b"", chance.randbytes(1), chance.randbytes(5), data[start:end] * 2])
            self._enemy.seen["frames"] += len(frames)
            with contextlib.suppress(Refused):
                await self._guest.write(bytes(data[: chance.choice([len(data), chance.randrange(len(data) + 1)])]))
        with contextlib.suppress(Refused, OSError):
            self._guest.sock.shutdown(socket.SHUT_WR)
            while (await self._guest.message())[0] in (REPLY, REPLIES, IRQ):
                pass


@attack()
async def mutated_frames(enemy: Enemy) -> None:
    """Calls of all devices with values from the edges or of wrong types, and broken messages; each call is answered."""
    most = enemy.some(3000, 100_000)
    fuzz = Fuzz(enemy.chance)
    while enemy.seen["frames"] < most:
        guest = await enemy.guest(pages=_PAGES)
        try:
            victim = Victim(enemy, guest, fuzz)
            await victim.start()
            for _ in range(enemy.chance.randrange(1, 20)):
                await victim.round()
            await victim.spoil()
        except Refused:
            enemy.seen["ended"] += 1
        finally:
            guest.close()
        enemy.seen["sessions"] += 1
