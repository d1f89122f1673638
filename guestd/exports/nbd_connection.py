"""One client of an NBD export.

Data goes straight between the client's socket and guest memory, which the host fills and reads.  A connection has its
own part of that memory, in slots, and each request takes one slot at least: so what a client can have under way, and
what it can hold up, is bounded, and is nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, cast

from hcall.errors import HcallError, IoError
from hcall.formats import nbd
from hcall.formats.nbd import BadMessage, Command, Error, Flag, Handshake, Request, Stage
from hcall.messages import Areas

from ..clients.loop.late import Heard
from ..driver import Buffer
from .nbd_disk import Disk

log = logging.getLogger(__name__)

CONNECTIONS: Final = 8  # at a time
SLOTS: Final = 64  # requests of one connection that are under way; as many areas as a call can have
MEMORY: Final = nbd.MAX_PAYLOAD  # of one connection: the largest request takes it all
SLOT: Final = MEMORY // SLOTS
HANDSHAKE_SECONDS: Final = 10.0
_INPUT: Final = 64 * 1024  # bytes: requests, with small payloads, that are read at once
_HEAD: Final = nbd.REQUEST.size


class Slot(Heard):
    """A piece of guest memory, and the request that has it."""

    __slots__ = ("_answer", "_buffer", "cookie", "part", "reads")

    def __init__(self, connection: Connection, buffer: Buffer) -> None:
        self._answer = connection.answer
        self._buffer = self.part = buffer
        self.cookie = 0
        self.reads = False

    def first(self, size: int) -> Buffer:
        """Its first *size* bytes."""
        if self.part.size != size:  # most often it is the size of the request before
            self.part = self._buffer.part(0, size)
        return self.part

    def set_result(self, value: object) -> None:
        """So many bytes were moved."""
        if value != self.part.size:
            self._answer(self.cookie, Error.EIO, (self,))
        else:
            self._answer(self.cookie, 0, (self,), (self.part.view,) if self.reads else ())

    def set_exception(self, error: BaseException) -> None:
        """None were."""
        self._answer(self.cookie, nbd.error_of(error), (self,))


class Connection(asyncio.BufferedProtocol):
    """Its handshake, then its requests, each answered when it is done."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._handshake = Handshake(disk.name, disk.driver.capacity, disk.flags)
        self._loop = asyncio.get_running_loop()
        self._call = cast("Callable[..., asyncio.Future[int]]", disk.driver.dev.call)
        self._transport: asyncio.Transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._memory: Buffer | None = None
        self._free: list[Slot] = []
        # What comes in.
        self._input = bytearray(_INPUT)
        self._view = memoryview(self._input)
        self._start = self._end = 0  # of what has come, and was not looked at
        self._writing: tuple[Request, list[Slot]] | None = None  # a request whose payload comes in
        self._filling: deque[memoryview] = deque()  # what it has yet to fill
        self._skipping = 0  # bytes to come of a payload that nobody wants
        self._refused: tuple[int, int, list[Slot]]  # the answer to it: cookie, error, slot
        self._stalled = self._leaving = self._lost = False
        # What goes out.
        self._out: list[bytes | memoryview] = []
        self._answered: list[Slot] = []  # whose answers these are
        self._flushing = self._full = False

    # What the transport calls.

    def connection_made(self, given: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, given)  # uvloop's is none by class
        if len(self._disk.connections) == CONNECTIONS:
            log.warning("%s: a client is refused: %d are connected", self._disk.name, CONNECTIONS)
            self._lost = True
            transport.abort()
            return
        self._disk.connections.add(self)
        transport.set_write_buffer_limits(0)  # what is written is gone at once, or we hear of it: see _flush
        transport.write(nbd.greeting())
        self._patience = self._loop.create_task(self._lose_patience())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._filling[0] if self._filling else self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._filling:
            self._filled(nbytes)
        else:
            self._end += nbytes
        self._work()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        self._patience.cancel()
        writing = self._writing[1] if self._writing else []
        skipping = self._refused[2] if self._skipping else []
        self._free += writing + skipping
        self._flush()

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    async def _lose_patience(self) -> None:
        await self._disk.driver.clock.sleep(HANDSHAKE_SECONDS)
        log.warning("%s: a client is cut off: it does not come to the point", self._disk.name)
        self.abort()

    # What comes in.

    def _work(self) -> None:
        """Look at what has come, as far as that can be done now."""
        if self._lost or self._leaving:
            return
        try:
            if self._memory is None:
                self._shake_hands()
            if self._memory is not None:
                self._take_requests()
        except (BadMessage, MemoryError) as error:
            log.warning("%s: a client is cut off: %s", self._disk.name, error)
            self.abort()
            return
        if self._start:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        reading = not (self._stalled or self._leaving)
        if reading != self._transport.is_reading() and not self._transport.is_closing():
            (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def _shake_hands(self) -> None:
        shaking = self._handshake
        self._transport.write(shaking.feed(bytes(self._view[: self._end])))
        self._end = 0
        if shaking.stage is Stage.ABORTED:
            self._leaving = True
            self._transport.close()
        elif shaking.stage is Stage.TRANSMISSION:
            self._patience.cancel()
            self._memory = memory = self._disk.driver.dev.ram.alloc(MEMORY)
            self._free = [Slot(self, memory.part(n * SLOT, SLOT)) for n in reversed(range(SLOTS))]
            self._end = len(shaking.rest)
            self._input[: self._end] = shaking.rest

    def _take_requests(self) -> None:
        disk, free, source, capacity = self._disk, self._free, self._input, self._disk.driver.capacity
        self._stalled = False
        while True:
            if self._filling or self._skipping:
                self._take_payload()
            start, end = self._start, self._end
            if end - start < _HEAD:
                return
            if self._full or not free:
                self._stalled = True
                return
            magic, flags, command, cookie, offset, length = nbd.REQUEST.unpack_from(source, start)
            # Most requests are these: without a task, 5 us less for each.
            if 0 < length <= SLOT and offset + length <= capacity and not flags and magic == nbd.REQUEST_MAGIC:
                body = start + _HEAD
                if command == Command.READ:
                    slot = free.pop()
                    slot.cookie, slot.reads = cookie, True
                    self._start = body
                    self._make(disk.read_number, offset, slot.first(length).room, slot)
                    continue
                if command == Command.WRITE and length <= end - body and not disk.flags & Flag.READ_ONLY:
                    slot = free.pop()
                    slot.cookie, slot.reads = cookie, False
                    part = slot.first(length)
                    self._start = body + length
                    part.view[:] = self._view[body : body + length]
                    self._make(disk.write_number, offset, part.data, slot)
                    continue
            if not self._take_other(nbd.request(source, start)):
                return

    def _make(self, number: int, offset: int, areas: Areas, slot: Slot) -> None:
        """Make a call, which fails in its answer if not at once."""
        try:
            self._call(number, (offset,), areas, slot)
        except HcallError as error:
            slot.set_exception(error)

    def _take_other(self, request: Request) -> bool:
        """Begin *request*, whatever it is; whether that could be done now.  Raises BadMessage."""
        _, command, cookie, _, length = request
        if command == Command.DISC:
            self._leaving = True
            self._flush()
            return False
        if command == Command.WRITE and length > nbd.MAX_PAYLOAD:
            raise BadMessage(f"a write of {length} bytes")
        error = self._disk.wrong(request)
        moves = command in (Command.READ, Command.WRITE) and not error
        size = length if moves else 0
        slots = max(1, -(-size // SLOT))
        if slots > len(self._free):
            self._stalled = True
            return False
        self._start += _HEAD
        taken = [self._free.pop() for _ in range(slots)]
        for n, slot in enumerate(taken):
            slot.first(min(size - n * SLOT, SLOT))
        if error and command == Command.WRITE and length:
            self._skipping, self._refused = length, (cookie, error, taken)
        elif error:
            self.answer(cookie, error, taken)
        elif command == Command.WRITE and length:
            self._writing = request, taken
            self._filling.extend(slot.part.view for slot in taken)
        else:
            self._serve(request, taken)
        return True

    def _take_payload(self) -> None:
        """What has come of the payload of a write."""
        if self._skipping:
            count = min(self._skipping, self._end - self._start)
            self._start += count
            self._skipping -= count
            if not self._skipping:
                self.answer(*self._refused)
        while self._filling and self._start < self._end:
            count = min(len(self._filling[0]), self._end - self._start)
            self._filling[0][:count] = self._view[self._start : self._start + count]
            self._start += count
            self._filled(count)

    def _filled(self, count: int) -> None:
        """*count* more bytes of a payload are in guest memory."""
        if count < len(self._filling[0]):
            self._filling[0] = self._filling[0][count:]
            return
        self._filling.popleft()
        if not self._filling and self._writing is not None:
            request, slots = self._writing
            self._writing = None
            self._serve(request, slots)

    # What is done.

    def _serve(self, request: Request, slots: list[Slot]) -> None:
        task = self._loop.create_task(self._do(request, slots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, request: Request, slots: list[Slot]) -> None:
        """Do *request*, and answer it."""
        flags, command, cookie, offset, length = request
        disk, driver = self._disk, self._disk.driver
        error = 0
        views: list[memoryview] = []
        try:
            if command == Command.READ:
                areas = tuple(area for slot in slots for area in slot.part.room)
                _whole(await self._call(disk.read_number, (offset,), areas), length)
                views = [slot.part.view for slot in slots]
            elif command == Command.WRITE:
                areas = tuple(area for slot in slots for area in slot.part.data)
                _whole(await self._call(disk.write_number, (offset,), areas), length)
            elif command == Command.TRIM:
                await driver.discard(offset, length)
            elif command == Command.WRITE_ZEROES:
                await (driver.allocate_zeroes if flags & nbd.NO_HOLE else driver.write_zeroes)(offset, length)
            if command == Command.FLUSH or (flags & nbd.FUA and command != Command.READ):
                await driver.sync()
        except HcallError as failure:
            error, views = nbd.error_of(failure), []
        self.answer(cookie, error, slots, views)

    def answer(self, cookie: int, error: int, slots: Iterable[Slot], views: Iterable[memoryview] = ()) -> None:
        """Answer a request, with the bytes of *views*; its *slots* are free again."""
        self._out.append(nbd.reply(cookie, error))
        self._out += views
        self._answered += slots
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)  # with all that is answered by then

    def _flush(self) -> None:
        self._flushing = False
        if self._lost:
            self._free += self._answered
            self._answered.clear()
            if self._memory is None or len(self._free) == SLOTS:
                self._forget()
            return
        if self._out and not self._full:
            self._transport.writelines(self._out)
            self._free += self._answered  # what the socket did not take is safe: until it has, nothing is begun
            self._out, self._answered = [], []
        if self._leaving and len(self._free) == SLOTS:
            self._transport.close()
        elif self._stalled:
            self._work()

    def _forget(self) -> None:
        """It is gone, and nothing of it is under way: its memory can be another's."""
        self._free.clear()
        self._out.clear()  # views of it
        if self._memory is not None:
            self._memory.free()
            self._memory = None
        self._disk.forget(self)


def _whole(moved: int, length: int) -> None:
    """Raises IoError if a call moved fewer than *length* bytes."""
    if moved != length:
        raise IoError(f"{moved} bytes of {length} were moved")
