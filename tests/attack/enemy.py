"""What an attack gets, and a guest on the bare wire for it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from raw import ADDRESS, PAGE, RawGuest, hello, memfd

from hcall.messages import BUNDLES, END, FD_LANE, REPLY, WELCOME
from hcall.numbers import FIND, OPEN

from .people import say

SLOTS: Final = 32
PATIENCE: Final = 60.0  # seconds for what must come: an attack that waits for longer has found something


class Fault(AssertionError):
    """An attack saw what must not be."""


class Enemy:
    """One run of an attack."""

    def __init__(self, path: Path, sock: socket.socket, seed: str, seconds: float, brief: bool) -> None:
        self.path, self.brief = path, brief
        self.chance = random.Random(seed)
        self.seen: Counter[str] = Counter()  # what there is to tell: frames, refusals, ...
        self._sock, self._seconds, self._end = sock, seconds, float("inf")

    @property
    def over(self) -> bool:
        """Whether an attack that goes on for a time should end; the time begins when it asks first."""
        now = time.monotonic()
        self._end = min(self._end, now + self._seconds)
        return now > self._end

    @staticmethod
    async def pause(seconds: float) -> None:
        """Do nothing."""
        await asyncio.sleep(seconds)

    def some(self, brief: int, full: int) -> int:
        """How many, in a brief run and in a full one."""
        return brief if self.brief else full

    async def hold(self) -> None:
        """At its worst: wait until others have tried to attach and to come back."""
        say(self._sock, "worst")
        await asyncio.get_running_loop().run_in_executor(None, self._sock.recv, 16)

    async def guest(self, pages: int = 0, lane: bool = True, sparse: bool = True, **fields: Any) -> Attacker:
        """A guest that has attached, with one region of so many pages.  Raises Refused."""
        one = Attacker(self.path)
        try:
            await one.attach(pages, lane, sparse, **fields)
        except BaseException:
            one.close()
            raise
        return one

    async def crowd(self, count: int, pages: int = 0, lane: bool = False) -> list[Attacker]:
        """As many guests as there may be, up to *count*."""
        found: list[Attacker] = []
        try:
            while len(found) < count:
                found.append(await self.guest(pages, lane))
        except Refused:
            self.seen["refused"] += 1
        self.seen["sessions"] += len(found)
        return found


class Refused(Exception):
    """The host said END, or hung up."""


class Attacker(RawGuest):
    """A guest that may be refused, is patient, and makes many calls at once."""

    patience = PATIENCE

    def __init__(self, path: Path) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)  # its backlog may be full
        try:
            sock.connect(str(path))
        except BaseException as error:
            sock.close()
            raise Refused(str(error)) from None
        super().__init__(path, sock)
        self.memory: int | None = None
        self.lane_end: socket.socket | None = None

    async def attach(self, pages: int, lane: bool, sparse: bool, **fields: Any) -> None:
        """Raises Refused."""
        fds: list[int] = []
        theirs: socket.socket | None = None
        if pages:
            self.memory = memfd(pages * PAGE)
            if not sparse:
                os.posix_fallocate(self.memory, 0, pages * PAGE)
            fds.append(self.memory)
            fields["regions"] = ((ADDRESS, pages * PAGE),)
        fields.setdefault("features", BUNDLES | (FD_LANE if lane else 0))
        if lane:
            self.lane_end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            fds.append(theirs.fileno())
        try:
            await self.write(hello(**fields), fds)
        finally:
            if theirs is not None:
                theirs.close()
        message = await self.message()
        if message[0] != WELCOME:
            raise Refused(message)

    async def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """All of it, however long the host takes.  Raises Refused."""
        try:
            if fds:
                socket.send_fds(self.sock, [data], fds)
            else:
                await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self.sock, data), PATIENCE)
        except TimeoutError:
            raise Fault(f"the host has read nothing for {PATIENCE:.0f} s") from None
        except OSError as error:
            raise Refused(str(error)) from None

    async def message(self) -> tuple[Any, ...]:
        """The next one, which is not END.  Raises Refused, or Fault if nothing comes."""
        try:
            message = await self.receive()
        except TimeoutError:
            raise Fault(f"no answer for {PATIENCE:.0f} s") from None
        if message is None or message[0] == END:
            raise Refused(message)
        return message

    async def answers(self, calls: Iterable[bytes]) -> list[tuple[int, Any]]:
        """(status, value) of calls that are sent at once, each in a slot of its own, as they come."""
        sent = list(calls)
        await self.write(b"".join(sent))
        found = []
        while len(found) < len(sent):
            message = await self.message()
            if message[0] == REPLY:
                found.append((message[3], message[4]))
        return found

    async def ask(self, number: int, handle: int = 0, *args: Any, areas: Any = ()) -> tuple[int, Any]:
        """One call: (status, value)."""
        (answer,) = await self.answers([self.next_call(number, handle, args, areas)])
        return answer

    async def must(self, number: int, handle: int = 0, *args: Any, areas: Any = ()) -> Any:
        """The value of a call that goes well.  Raises Fault."""
        status, value = await self.ask(number, handle, *args, areas=areas)
        if status:
            raise Fault(f"call {number} of {handle}: {status} {value}")
        return value

    async def opens(self, path: str, count: int) -> int:
        """Open it so many times, and no more; how many there are then."""
        node = await self.must(FIND, 0, path)
        done = 0
        while done < count:
            some = min(SLOTS, count - done)
            answers = await self.answers(self.next_call(OPEN, node, (0,), slot=slot) for slot in range(some))
            good = sum(not status for status, _ in answers)
            done += good
            if good < some:
                break
        return done

    def lend(self, *fds: int, ids: Sequence[int] = (1,)) -> None:
        """Send descriptors over the fd lane, in one packet."""
        assert self.lane_end is not None
        socket.send_fds(self.lane_end, [struct.pack(f"<{len(ids)}I", *ids)], fds)

    def close(self) -> None:
        """Everything, as the end of a process does."""
        super().close()
        if self.lane_end is not None:
            self.lane_end.close()
        if self.memory is not None:
            os.close(self.memory)
            self.memory = None
