"""Runs one attack on a stage, beside a canary: a row of what was seen, and whether it held."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import pkgutil
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from raw import ADDRESS, PAGE, RawGuest, hello, lent, memfd

from hcall.errors import Status
from hcall.messages import END, FD_LANE
from hcall.numbers import NOP

from . import known
from .canary import Canary, Waits
from .enemy import Enemy, Refused
from .people import ALICE, BOB, TWO_USERS, Failed, Person, say
from .stage import EVERYTHING, Held, Stage

LOG_BYTES: Final = 64 << 10  # the most that one attack may make of the daemon's log
_FAULTS: Final = re.compile(r"Traceback|unhandled|never retrieved|Exception ignored")
_POOLS: Final = 24  # threads that may stay, however many attacks there were: devices keep their workers
_GOING: Final = 120.0  # seconds beyond its time that an attack may take to end
_BACK: Final = 10.0  # seconds within which the daemon has to hold what it held before
_GRACE: Final = 2.0  # seconds within which somebody who is new must get in


class Attack(NamedTuple):
    """One of the attacks, and the stage that it is for."""

    name: str
    run: Callable[[Enemy], Awaitable[None]]
    machine: str = EVERYTHING
    files: int | None = None  # descriptors that the daemon may have
    read: bool = True  # somebody reads the daemon's log
    memory: int | None = None  # bytes that the daemon may have
    slow: bool = False  # there is a folder `slow` in the daemon's whose filesystem is slow, or worse
    p99: float = 0.0  # seconds that the canary may wait besides, where the attack leaves no processor idle
    lasts: bool = False  # what it did is there for half a minute: the next one gets another stage

    @property
    def stage(self) -> tuple[str, int | None, bool, int | None]:
        """What a stage is made with."""
        return self.machine, self.files, self.read, self.memory, self.slow

    @property
    def about(self) -> str:
        """For people."""
        return (self.run.__doc__ or "").strip()


ATTACKS: Final[dict[str, Attack]] = {}


def attack(**options: Any) -> Callable[[Callable[[Enemy], Awaitable[None]]], Callable[[Enemy], Awaitable[None]]]:
    """Make a coroutine function one of the attacks, by its name with spaces."""

    def add(run: Callable[[Enemy], Awaitable[None]]) -> Callable[[Enemy], Awaitable[None]]:
        name = run.__name__.replace("_", " ")
        ATTACKS[name] = Attack(name, run, **options)
        return run

    return add


class Row(NamedTuple):
    """What was seen of one run."""

    attack: str
    user: str  # the attacker's, as the canary sees it: other, same, or one if there is only one here
    quiet: Waits
    waits: Waits
    before: Held
    after: Held
    log: int  # bytes that it grew by
    seen: dict[str, int]  # what the attack counted
    faults: list[str]  # whatever the time, this must not be
    slow: list[str]  # what waited for too long

    @property
    def holds(self) -> bool:
        """Whether all is right."""
        return not self.faults and not self.slow


class Bounds(NamedTuple):
    """How long a canary may wait beside an attack: so many times as without it, or so many seconds."""

    times: float
    p99: float
    worst: float
    worst_times: float

    def slow(self, quiet: Waits, waits: Waits) -> list[str]:
        """What took longer, for people."""
        found = []
        for what, had, has, floor, times in (
            ("p99", quiet.p99, waits.p99, self.p99, self.times),
            ("worst", quiet.worst, waits.worst, self.worst, self.worst_times),
        ):
            if has > (most := max(floor, times * had)):
                found.append(f"{what} {has * 1e3:.1f} ms, expected {most * 1e3:.1f} at most")
        return found


OTHER: Final = Bounds(2, 0.005, 0.050, 2)
SAME: Final = Bounds(float("inf"), 0, 0.250, 2)
BUSY: Final = Bounds(50, 1.0, 3.0, 50)  # on a machine that has other things to do


class Theatre:
    """Stages for attacks; one after the other may use the same, as long as nothing was broken on it."""

    def __init__(
        self, seed: int, brief: bool, seconds: float, back: float = _BACK, spin: bool = False
    ) -> None:  # fmt: skip
        """*seconds* is what an attack that goes on for a time takes; *back* those until nothing of it may be left."""
        self.seed, self.brief, self.seconds, self.back, self._spin = seed, brief, seconds, back, spin
        self._stage: Stage | None = None
        self._canary: Canary | None = None
        self._kind: tuple[Any, ...] = ()
        self._quiet: Waits | None = None

    def play(self, one: Attack, same: bool) -> Row:
        """Run it, by a process of another user than the canary's, or of the *same*."""
        kind = one.stage
        if kind != self._kind:
            self.close()
        if self._stage is None or self._canary is None or self._quiet is None:
            self._stage = Stage(*kind, spin=self._spin)
            self._canary = Canary(self._stage.path, _uid(ALICE), self._spin)
            self._kind = kind
            begun = time.monotonic()
            time.sleep(self.seconds / 4 if self.brief else max(1.0, self.seconds / 4))
            self._quiet = self._canary.waits(begun)
        row = self._play(one, same, self._stage, self._canary, self._quiet)
        if row.faults or (one.lasts and not self.brief):
            self.close()
        return row

    def _play(self, one: Attack, same: bool, stage: Stage, canary: Canary, quiet: Waits) -> Row:
        uid, faults, one_user = _uid(ALICE if same else BOB), [], same or not TWO_USERS
        seen: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            witness = Person(lambda sock: asyncio.run(_testify(sock, stage.path, one_user)), _uid(ALICE))
            stack.callback(witness.end)
            witness.hear(_GOING)
            before, logged, begun = stage.held(), stage.logged(), time.monotonic()
            enemy = Person(lambda sock: _run(one, sock, stage.path, self), uid, 5)
            stack.callback(enemy.end)
            try:
                said = enemy.hear(self.seconds + _GOING)
                while said == "worst":
                    faults += _others(stage, witness)
                    enemy.tell()
                    said = enemy.hear(self.seconds + _GOING)
                seen, told = said
                faults += told
            except Failed as error:
                faults.append(f"the attack itself failed: {error}")
            enemy.end()
            if not faults:
                faults += _others(stage, witness)
            allowed = before._replace(threads=stage.threads + _POOLS)
            after = _settled(stage, allowed, self.back)
            ended = time.monotonic()
        waits, log = canary.waits(begun, ended), stage.logged() - logged
        faults += _left(allowed, after) if stage.lives() else ["the daemon is dead"]
        if waits.failed:
            faults.append(f"{waits.failed} calls of the canary failed")
        if log > LOG_BYTES:
            faults.append(f"{log} bytes of log, expected {LOG_BYTES} at most")
        if found := _FAULTS.search(text := stage.log(logged)):
            faults.append(f"in the log: {text[found.start() :][:2000]}")
        bounds = BUSY if self.brief else SAME if same or not TWO_USERS else OTHER
        bounds = bounds._replace(p99=max(bounds.p99, one.p99))
        user = "one" if not TWO_USERS else "same" if same else "other"
        return Row(one.name, user, quiet, waits, before, after, log, seen, faults, bounds.slow(quiet, waits))

    def close(self) -> None:
        """Forget the stage."""
        if self._canary is not None:
            self._canary.close()
        if self._stage is not None:
            self._stage.close()
        self._stage = self._canary = self._quiet = None


def load() -> dict[str, Attack]:
    """All attacks, by name."""
    for module in pkgutil.iter_modules(known.__path__):
        importlib.import_module(f"{known.__name__}.{module.name}")
    return ATTACKS


def _uid(uid: int) -> int | None:
    return uid if TWO_USERS else None


def _run(one: Attack, sock: socket.socket, path: Path, theatre: Theatre) -> tuple[dict[str, int], list[str]]:
    """In the attacker's process: what it counted, and what it found."""
    seed = f"{theatre.seed} {one.name}"
    enemy = Enemy(path, sock, seed, theatre.seconds, theatre.brief)
    faults = []
    try:
        asyncio.run(one.run(enemy))  # type: ignore[arg-type]  # they are coroutine functions
    except AssertionError as error:
        faults.append(str(error) or repr(error))
    return dict(enemy.seen), faults


async def _testify(sock: socket.socket, path: Path, one_user: bool) -> str:
    """A guest that was there before: whenever it is asked it attaches as somebody new, and comes back on a new link.

    If the attacker is the same user it may be told BUSY: the share of that user is used up.
    """
    token, (ours, theirs) = os.urandom(16), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with lent(memfd()) as (memory,), ours, theirs:
        said = hello(token=token, features=FD_LANE, name="witness", regions=((ADDRESS, PAGE),))
        guest = await _greeted(path, said, [memory, theirs.fileno()])
        say(sock, "here")
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sock.recv, 16):
            what = "somebody new"
            try:
                async with asyncio.timeout(_GRACE * 5):
                    (await _greeted(path, hello(name="new"), [])).close()
                    what = "a guest that comes back on a new link"
                    guest.close()
                    guest = await _greeted(path, said, [memory, theirs.fileno()], resumed=True)
                say(sock, [])
            except Refused as error:
                busy = one_user and error.args[0][1] == Status.BUSY
                say(sock, [] if busy else [f"{what} is not let in: {error}"])
            except (AssertionError, OSError, TimeoutError) as error:
                say(sock, [f"{what} is not let in: {error!r}"])
    return ""


async def _greeted(path: Path, said: bytes, fds: list[int], resumed: bool = False) -> RawGuest:
    """Tried again for a while, as a client does.  Raises Refused with END, AssertionError, OSError."""
    end = time.monotonic() + _GRACE
    while True:
        guest = None
        try:
            guest = RawGuest(path)
            with contextlib.suppress(BrokenPipeError):  # it was refused before: why is there to be read
                guest.send(said, fds)
            message = await guest.receive()
            assert message is not None, "the host hung up"
            if message[0] == END:
                raise Refused(message)
            assert message[5] == resumed, "its session is lost"
            await guest.core(NOP)
            return guest
        except (Refused, AssertionError, OSError):
            if guest is not None:
                guest.close()
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


def _others(stage: Stage, witness: Person) -> list[str]:
    """What others cannot do at this moment."""
    found = []
    witness.tell()
    try:
        found += witness.hear(60)
    except Failed as error:
        found.append(f"the witness failed: {error}")
    try:
        stage.ask("status")
    except (OSError, ValueError, KeyError) as error:
        found.append(f"the control socket does not answer: {error!r}")
    return found


def _settled(stage: Stage, before: Held, seconds: float) -> Held:
    """What the daemon holds when it is through with the attack."""
    end = time.monotonic() + seconds
    while stage.lives():
        try:
            after = stage.held()
        except OSError:
            break
        if all(now <= then for now, then in zip(after[:3], before[:3], strict=True)) or time.monotonic() > end:
            return after
        time.sleep(0.02)
    return Held(0, 0, 0, 0)


def _left(allowed: Held, after: Held) -> Iterator[str]:
    for what in ("descriptors", "threads", "mappings"):
        most, now = getattr(allowed, what), getattr(after, what)
        if now > most:
            yield f"{what}: {now} are left, expected {most} at most"
