"""A guest on the bare wire: it sends whatever it likes, and reads one message at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import guestd
import hostd
from guestd.clients.guest import Guest
from hcall import numbers
from hcall.clock import Clock, ManualClock
from hcall.errors import BadArgument, NoSuchCall, Status
from hcall.kernel.memfd import F_ADD_SEALS, SEALS
from hcall.messages import CALL, CALLS, END, FD_LANE, HELLO, IRQ, MAGIC, REPLIES, REPLY, WELCOME
from hcall.wire import Decoder, encode
from hostd.calls.account import Rings
from hostd.calls.limits import Limits
from hostd.calls.memory import Lending, Memory, Region
from hostd.calls.shares import Purse, Shares
from hostd.device import Device
from hostd.devices.rng import Rng
from hostd.machine.file import DeviceSpec
from hostd.machine.identity import Identity
from hostd.tree.complaints import Complaints
from hostd.tree.plugged import Plugged

T = TypeVar("T")
Message: TypeAlias = tuple[Any, ...]
PATIENCE: Final = 3.0  # seconds of real time for what must come; no test uses them up
ADDRESS: Final = 0x4000_0000
PAGE: Final = 4096
LIVE: Final = (1, 3, 11, 15)  # the status byte of a device, step by step
RNG: Final = DeviceSpec("rng", "rng", Rng, {})


def memfd(size: int = PAGE, seals: int = SEALS) -> int:
    """A memfd, the caller's to close; without *seals* the host has to add them."""
    fd = os.memfd_create("raw", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


@contextlib.contextmanager
def lent(*fds: int) -> Iterator[tuple[int, ...]]:
    """Descriptors that are closed at the end."""
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def hello(**fields: Any) -> bytes:
    """HELLO without memory and lane, with some fields otherwise."""
    message = {
        "kind": HELLO, "magic": MAGIC, "lowest": 1, "highest": 1, "features": 0, "name": "raw",
        "token": os.urandom(16), "regions": (),
    }  # fmt: skip
    return encode((*(message | fields).values(),))


class RawGuest:
    """One connection, and what a guest needs to remember about it."""

    patience = PATIENCE

    def __init__(self, path: Path, sock: socket.socket | None = None) -> None:
        """*sock* is connected already, by somebody else."""
        self.sock = sock or socket.socket(socket.AF_UNIX)
        if sock is None:
            self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.seq = 0
        self.interrupts: list[Message] = []  # that came while `call` waited
        self.fds: Sequence[int] = ()  # its memory
        self.lane: socket.socket  # its end of the fd lane, if it has one
        self._messages: deque[Message] = deque()
        self._decoder = Decoder()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send *data* at once, with descriptors."""
        sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
        assert sent == len(data), "the host does not read"

    async def receive(self) -> Message | None:
        """The next message; None is the end of the stream."""
        while not self._messages:
            async with asyncio.timeout(self.patience):
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                except ConnectionResetError:
                    data = b""
            if not data:
                return None
            self._messages += self._decoder.feed(data)  # type: ignore[arg-type]  # asserted tuples just below
            assert self._decoder.broken is None and all(type(message) is tuple for message in self._messages)
        return self._messages.popleft()

    async def rest(self) -> list[Message]:
        """All messages up to the end of the stream."""
        messages = []
        while (message := await self.receive()) is not None:
            messages.append(message)
        return messages

    async def ended(self) -> tuple[int, str]:
        """The status and the text of END, which must be all that comes, and the last."""
        (message,) = await self.rest()
        kind, status, text, lowest, highest = message
        assert kind == END and (lowest, highest) == (1, 1) and text
        return status, text

    async def greet(self, data: bytes, fds: Sequence[int] = ()) -> Message:
        """Send HELLO; the WELCOME."""
        self.send(data, fds)
        welcome = await self.receive()
        assert welcome is not None and welcome[0] == WELCOME, welcome
        return welcome

    def next_call(self, number: int, handle: int = 0, args: Any = (), areas: Any = (), slot: int = 0) -> bytes:
        """The bytes of one more call."""
        self.seq += 1
        return encode((CALL, slot, self.seq, number, handle, args, areas))

    def next_bundle(self, number: int, handle: int, calls: Sequence[tuple[Any, Any]], slot: int = 0) -> bytes:
        """The bytes of several more calls in one message: of each its arguments and its areas."""
        self.seq += 1
        args, areas = zip(*calls, strict=True)
        return encode((CALLS, slot, self.seq, number, handle, args, areas))

    async def replies(self, count: int) -> list[tuple[int | None, Any]]:
        """(status, value) of *count* calls of a bundle, however many messages they come in; IRQs are kept."""
        answers: dict[int, tuple[int | None, Any]] = {}
        while len(answers) < count:
            message = await self.receive()
            assert message is not None, "the host hung up"
            if message[0] == IRQ:
                self.interrupts.append(message)
                continue
            kind, _, seq, first, statuses, values = message
            assert kind == REPLIES and seq == self.seq, message
            for at, value in enumerate(values, first):
                assert at not in answers
                answers[at] = (0 if statuses == 0 else statuses[at - first]), value
        return [answers[at] for at in sorted(answers)]

    async def reply(self) -> tuple[int, Any]:
        """(status, value) of the next REPLY; IRQs before it are kept."""
        while True:
            message = await self.receive()
            assert message is not None, "the host hung up"
            if message[0] == IRQ:
                self.interrupts.append(message)
                continue
            assert message[0] == REPLY, message
            return message[3], message[4]

    async def call(self, number: int, handle: int = 0, *args: Any, areas: Any = ()) -> tuple[int, Any]:
        """Make a call in slot 0, and wait: (status, value)."""
        self.send(self.next_call(number, handle, args, areas))
        return await self.reply()

    async def core(self, number: int, handle: int = 0, *args: Any) -> Any:
        """The value of a core call that must go well."""
        status, value = await self.call(number, handle, *args)
        assert status == 0, (status, value)
        return value

    async def open(self, path: str, cookie: int = 0, features: int = 0) -> tuple[int, dict[str, int]]:
        """Open and negotiate the device at *path*: (open handle, calls)."""
        handle, calls, _, _ = await self.core(numbers.OPEN, await self.core(numbers.FIND, 0, path), cookie)
        for status in LIVE:
            if status == 11:
                await self.core(numbers.SET_FEATURES, handle, features)
            await self.core(numbers.SET_STATUS, handle, status)
        return handle, calls

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


@contextlib.contextmanager
def connected(host: hostd.Host, sock: socket.socket | None = None) -> Iterator[RawGuest]:
    """A connection, *sock* if there is one already, and nothing sent yet."""
    guest = RawGuest(host.socket, sock)
    try:
        yield guest
    finally:
        guest.close()


@contextlib.asynccontextmanager
async def attached(
    host: hostd.Host, regions: int = 0, token: bytes = b"", sock: socket.socket | None = None, name: str = "raw",
    features: int = FD_LANE,
) -> AsyncIterator[RawGuest]:  # fmt: skip
    """A guest with an fd lane and *regions* pages of memory from ADDRESS on; at the end the host has forgotten it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    token = token or os.urandom(16)
    fds = [memfd() for _ in range(regions)]
    with connected(host, sock) as guest, lent(*fds), ours:
        guest.fds, guest.lane = fds, ours
        with theirs:
            pages = tuple((ADDRESS + n * PAGE, PAGE) for n in range(regions))
            data = hello(features=features, name=name, token=token, regions=pages)
            await guest.greet(data, [*fds, theirs.fileno()])
        yield guest
    await until(host, lambda: token not in host.guests.by_token)


@contextlib.asynccontextmanager
async def bystander(host: hostd.Host) -> AsyncIterator[RawGuest]:
    """Another guest, which must not notice what happens meanwhile: the same connection, the same handle, no message."""
    async with attached(host) as guest:
        handle, calls = await guest.open("/rng")

        async def works() -> None:
            status, data = await guest.call(calls["read"], handle, 0, areas=(8,))
            assert status == 0 and len(data) == 8

        await works()
        yield guest
        await works()
        assert not guest.interrupts


async def settled(guest: RawGuest) -> None:
    """Whatever was sent before has reached the host: it takes its sockets in turn, and has come round to this one."""
    for _ in range(4):
        await guest.core(numbers.NOP)


async def until(host: hostd.Host, condition: Callable[[], bool]) -> None:
    """Until *condition* holds, looked at whenever a guest comes or goes."""
    async with asyncio.timeout(PATIENCE):
        await host.guests.wait_for(condition)


@contextlib.asynccontextmanager
async def served(
    directory: Path, *devices: DeviceSpec, clock: Clock | None = None, spin: bool = False, **limits: int
) -> AsyncIterator[hostd.Host]:
    """A host with an rng and *devices*; every guest must be gone at its end."""
    machine = hostd.Machine(limits=Limits(**limits), devices=(RNG, *devices), spin=spin)
    async with contextlib.AsyncExitStack() as stack:
        host = await stack.enter_async_context(hostd.serve(machine, directory / "run", clock))
        try:
            yield host
            assert not host.guests.by_token, "a test left a guest behind"
        except BaseException:
            if isinstance(clock, ManualClock):  # the end of a host takes time, and nobody turns the clock any more
                turning = asyncio.create_task(_turn(clock))
                try:
                    await stack.aclose()
                finally:
                    turning.cancel()
            raise


async def _turn(clock: ManualClock) -> None:
    while True:
        await asyncio.sleep(0.01)
        clock.turn(1)


async def in_thread(host: hostd.Host, work: Callable[[], T], within: float = PATIENCE) -> T:
    """Run what blocks.  If it does not end, the host ends its guests: then whoever waits for an answer gets none."""
    task = asyncio.create_task(asyncio.to_thread(work))
    done, _ = await asyncio.wait([task], timeout=within)
    for guest in [] if done else list(host.guests.by_token.values()):
        host.guests.end(guest, Status.RESET, "the test takes too long")
    return await task


async def run_on(
    client: str, host: hostd.Host, scenario: Callable[[Guest[Any]], Coroutine[Any, Any, T]], **options: Any
) -> T:
    """Run *scenario*, which uses what both clients have, on a guest of the "asyncio" or the "blocking" one."""

    options.setdefault("memory", 1 << 20)

    def work() -> T:
        with guestd.attach_blocking(host.socket, **options) as guest:
            return guest.run(scenario(guest))

    if client == "blocking":
        return await in_thread(host, work)
    async with guestd.attach(host.socket, **options) as guest:
        return await scenario(guest)


def plugged(device: Device, path: str = "/device", clock: Clock | None = None) -> Plugged:
    """*device* in a place of its own, without a host."""
    return Plugged(device, path, clock or ManualClock(), Identity(b"").source(path))


def memory_of(**limits: int) -> Memory:
    """Memory of a guest, which has none yet."""
    bounds = Limits(**limits)
    return Memory(bounds, Purse(Shares(bounds, 1024).of(0)))


class Nobody:
    """The owner of an account who hears of nothing."""

    name, number, sees, opens = "nobody", 0, None, None

    def __init__(self) -> None:
        self.complaints = Complaints("nobody", ManualClock())
        self.purse = Purse(Shares(Limits(), 1024).of(0))

    def hint(self, tag: int, vector: int, count: int) -> None:
        """It takes no interrupt."""

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """It has sent none."""
        then(BadArgument("nobody sends descriptors"))

    def free(self, region: Region, then: Callable[[], None]) -> None:
        """There is none."""

    def go_on(self, steps: Iterator[None]) -> None:
        """It has no turns."""
        list(steps)

    @property
    def rings(self) -> Rings:
        """It has none."""
        raise NoSuchCall("nobody has rings")

    def detach(self, then: Callable[[], None]) -> None:
        """It does not matter."""
