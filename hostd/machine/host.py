"""A running machine: its tree, its devices and its guests."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import resource
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec

from hcall.clock import Clock, Timer
from hcall.errors import BadArgument, Busy, Internal, NoMatch
from hcall.programs.command import explain
from hcall.programs.mistakes import InUse
from hcall.saved import Saved, check
from hcall.text import named

from ..calls.limits import Limits
from ..calls.shares import OURS
from ..device import Device
from ..filters.trace import Trace
from ..guests.guest import Guest
from ..guests.guests import Guests
from ..guests.messenger import Messenger
from ..guests.messengers import Messengers
from ..guests.policy import Policy
from ..isolated.process import Process
from ..isolated.proxy import process_of
from ..model.blame import Misbehaved, number_of
from ..model.later import settled
from ..tree.node import Node
from ..tree.plugged import Plugged
from ..tree.tree import Tree
from .file import DeviceInUse, DeviceSpec, Machine, MachineError, read_device
from .identity import Identity
from .means import memory

log = logging.getLogger(__name__)

_VERSION: Final = 1  # of what is saved
TICK_SECONDS: Final = 1.0
LATER_SECONDS: Final = 60.0  # that a model has for an answer that comes later
UNPLUG_SECONDS: Final = 5.0  # that guests have to let go of a device
_FDS_A_GUEST: Final = 3  # its socket, its fd lane, and its memory: mmap keeps one for each region


class Host:
    """The devices of a machine, and the guests that use them."""

    def __init__(
        self, machine: Machine, clock: Clock, socket: Path, identity: Identity, saved: Saved | None = None,
        fds: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """*socket* is where guests attach; what was *saved* of another host, and its *fds*, are this one's now."""
        self.machine, self.clock, self.socket = machine, clock, socket
        self.identity, self.epoch = identity, identity.epoch
        self.tree = Tree(self.epoch, machine.name, identity.tree)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = _affordable(machine.limits, files)
        self.guests = Guests(self.tree, limits, clock, self.epoch, machine.policy, files, machine.spin)
        self.messengers = Messengers(self.guests)
        self.started = clock.time()
        self.trace = Trace(self.guests, self.tree, clock)
        self._specs: dict[int, DeviceSpec] = {}  # by node handle
        self._saved = saved
        self._legacies = _legacies(saved, fds) if saved is not None else {}
        self._common: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()  # see Device
        self._processes: set[Process] = set()  # of devices that have one of their own, until they have ended
        self._ticker: Timer = clock.call_later(TICK_SECONDS, self._tick)

    def who(self) -> Identity:
        """Another host of this identity, with the same devices, is this one to a guest that knows its handles."""
        return Identity(self.identity.seed, self.epoch, self.tree.save())

    async def drain(self) -> None:
        """Take nothing more from guests, and return when all that was taken is answered."""
        for guest in list(self.guests.by_token.values()):
            drained = asyncio.Event()
            guest.stop(drained.set)
            await drained.wait()

    def save(self) -> tuple[Saved, list[int]]:
        """All that `hostd.serve(saved=..., fds=...)` needs to go on with the same devices and guests.

        It is best taken after `drain`: a call that is under way is made again by its guest, if it is one that may be
        repeated, else it fails.  The descriptors stay this host's: copy them, and `cede` at once, else it goes on to
        read what comes for the other one.
        """
        devices, fds = [], []
        for node in self.tree.root.walk():
            if node.plugged is not None:
                device, its_fds = node.plugged.save()
                devices.append([node.path, device, len(its_fds)])
                fds += its_fds
        return {
            "version": _VERSION, "seed": self.identity.seed, "epoch": self.epoch, "tree": self.tree.save(),
            "devices": devices, "guests": self.guests.save(),
        }, fds  # fmt: skip

    def restore(self) -> None:
        """All devices are there: go on with the guests of the host that was saved.  Raises ValueError."""
        if self._saved is not None:
            self.guests.restore(self._saved["guests"])
        self._forget_legacies()

    def cede(self) -> None:
        """Another host goes on: whatever is behind the devices here is its, and stays as it is."""
        for node in self.tree.root.walk():
            if node.plugged is not None:
                node.plugged.cede()

    def _forget_legacies(self) -> None:
        """No device comes any more that they are for."""
        for _, fds in self._legacies.values():
            for fd in fds:
                os.close(fd)
        self._legacies.clear()

    def plug(self, spec: DeviceSpec, source: str | None = None) -> Node:
        """Start the device of *spec* and show it to all guests; one with a process of its own is waited for.

        Raises MachineError, which names *source*, the machine file if not given.
        """
        with self._refusing(spec, source):
            return self._plug(spec, self._placed(spec))

    async def bring(self, spec: DeviceSpec, source: str | None = None) -> Node:
        """As `plug`, but that all others go on while a process starts."""
        with self._refusing(spec, source):
            plugged = self._placed(spec)
            process = process_of(plugged.device)
            try:
                if process is not None and plugged.path not in self._legacies:
                    await settled(process.prepare())
                    self.tree.check(spec.path)
                return self._plug(spec, plugged)
            except BaseException:
                if process is not None:
                    process.close()
                raise

    @contextlib.contextmanager
    def _refusing(self, spec: DeviceSpec, source: str | None) -> Iterator[None]:
        """What is raised in here refuses the device of *spec*, with a sentence."""
        where = f"{source or self.machine.file or 'machine'}: devices.{spec.path}"
        try:
            yield
        except MachineError:
            raise
        except (OSError, ValueError) as error:
            busy = isinstance(error, InUse) or number_of(error) == errno.EBUSY
            raise (DeviceInUse if busy else MachineError)([f"{where}: {explain(error)[0]}"]) from error
        except Internal as error:  # logged where it was
            raise MachineError([f"{where}: the model failed to start: {named(error.__cause__ or error)}"]) from error

    def _placed(self, spec: DeviceSpec) -> Plugged:
        """The device of *spec*, where it can be started.  Raises as `_made` and `Tree.check`."""
        self.tree.check(spec.path)
        path = f"/{spec.path}"
        plugged = Plugged(self._made(spec), path, self.clock, self.identity.source(path), self._common,
                          self._expel, self._is_there, self.guests.attended)  # fmt: skip
        if (process := process_of(plugged.device)) is not None:
            self._processes.add(process)
            process.when_over.append(partial(self._processes.discard, process))
        return plugged

    def _plug(self, spec: DeviceSpec, plugged: Plugged) -> Node:
        if plugged.path in self._legacies:
            plugged.load(*self._legacies.pop(plugged.path))
        else:
            plugged.start()
        node = self.tree.plug(spec.path, plugged)
        self._specs[node.handle] = spec
        self._notify()
        return node

    def _made(self, spec: DeviceSpec) -> Device:
        """The device of *spec*, not started.  Raises OSError, ValueError, or Internal for what else a model does."""
        try:
            device = spec.make()
            if not hasattr(device, "site"):
                raise TypeError("its __init__ does not call that of Device; most of what it does belongs into start()")
        except (OSError, ValueError):
            raise
        except BaseException as error:  # a model may do anything: sys.exit(), too
            log.exception("/%s: the model failed in __init__()", spec.path)
            raise Internal(f"the device model raised {type(error).__name__}") from error
        return device

    def plug_table(
        self, path: str, table: Mapping[str, Any], words: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> Node:
        """Plug what `read` gives.  Raises MachineError."""
        return self.plug(self.read(path, table, words, folder), "plug")

    def read(
        self, path: str, table: Mapping[str, Any], words: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> DeviceSpec:
        """The device that *table*, as in a machine file, and *words*, as in a command, describe.

        Files are relative to *folder*, the machine file's if not given.  Raises MachineError.
        """
        if folder is None:
            folder = self.machine.file.parent if self.machine.file else Path()
        return read_device(path, table, folder.absolute(), words or {})

    async def unplug(
        self, path: str, surprise: bool = False, within: float = UNPLUG_SECONDS, if_free: bool = False
    ) -> bool:
        """Take the node at *path*, and all below it, out of the tree; whether guests let go of it in time.

        They are asked, and have *within* seconds; a *surprise* does not ask.  *if_free* takes only what no guest has
        open.  Raises NoMatch, or Busy.
        """
        if not within >= 0:
            raise BadArgument(f"{within} is no number of seconds")
        node = self.tree.find(path)
        if node is self.tree.root:
            raise NoMatch("the root stays")
        willing = True
        if if_free:
            self._check_free(node)
        if not surprise and any(below.opens for below in node.walk()):
            self.tree.leave(node)
            closing = asyncio.ensure_future(self.closed(node))
            timer = self.guests.attended.call_later(within, closing.cancel)
            try:
                await asyncio.wait({closing})
                willing = not closing.cancelled()
            except asyncio.CancelledError:  # whoever asked is gone; the guests were told, so it goes
                if node.handle in self.tree.nodes:
                    self.guests.chores.add(self._remove(node))
                raise
            finally:
                timer.cancel()
                closing.cancel()
        if node.handle in self.tree.nodes:  # else somebody else was faster
            await self.guests.chores.do(self._remove(node))
        for process in [process for below in node.walk() if (process := process_of(below.device)) is not None]:
            await process.ended()
        return willing

    def _check_free(self, node: Node) -> None:
        """Raises Busy if a guest has *node*, or what stands below it, open."""
        users = by_path(self.openers())
        told = [f"{below.path} is in use by {', '.join(users.get(below.path, ['a guest that has just ended']))}"
                for below in node.walk() if below.opens]  # fmt: skip
        if told:
            raise Busy("; ".join(told))

    async def closed(self, node: Node) -> None:
        """Until nobody has *node*, or what stands below it, open any more, and what is gone has ended."""
        for below in list(node.walk()):
            if below.plugged is not None and below.plugged.holds:
                closed = asyncio.Event()
                below.plugged.when_free.append(closed.set)
                await closed.wait()
            process = process_of(below.device)
            if process is not None and below.gone:
                await process.ended()

    def _remove(self, node: Node) -> Iterator[None]:
        """Take *node* out of the tree, and all below it; what is still open then is closed step by step."""
        below = list(node.walk())
        self.tree.remove(node)
        for gone in below:
            self._specs.pop(gone.handle, None)
        self._notify()
        return itertools.chain.from_iterable([gone.plugged.retiring() for gone in below if gone.plugged is not None])

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return f"serving {self.machine.name!r} at {self.socket}"

    def openers(self) -> Iterator[tuple[str, str]]:
        """The path of each device that a guest has open, and the guest's name."""
        there: list[Guest | Messenger] = [*self.guests.by_token.values(), *self.messengers.by_number.values()]
        for guest in there:
            for hold in list(guest.account.holds.values()):
                yield hold.plugged.path, guest.name

    def spec(self, node: Node) -> DeviceSpec | None:
        """What *node* was plugged from."""
        return self._specs.get(node.handle)

    async def close(self) -> None:
        """Answer every call, end every session, stop every device."""
        self._forget_legacies()
        self._ticker.cancel()
        self.messengers.close()
        await self.guests.close()
        for node in list(self.tree.root.children.values()):
            self.guests.chores.add(self._remove(node))
        self.guests.chores.finish()
        for process in list(self._processes):
            await process.ended()

    async def obey(self, policy: Policy) -> None:
        """*policy* is what holds from now on, for all guests that are here, too."""
        await self.guests.obey(policy)
        await self.messengers.obey(policy)

    def _is_there(self, guest: int) -> bool:
        return guest in self.guests.by_number or guest in self.messengers.by_number

    def _expel(self, guest: int, text: str) -> None:
        self.guests.expel(guest, text)
        self.messengers.expel(guest, text)

    def _notify(self) -> None:
        self.guests.changed.set()

    def _tick(self) -> None:
        long_ago = self.clock.time() - LATER_SECONDS
        for node in list(self.tree.nodes.values()):
            if node.plugged is not None:
                node.plugged.tick()
                self.guests.chores.add(self._expire(node.plugged, long_ago))
        self._ticker = self.clock.call_later(TICK_SECONDS, self._tick)

    def _expire(self, plugged: Plugged, long_ago: float) -> Iterator[None]:
        """Answer the calls that began before *long_ago*, hold by hold."""
        for waiting in plugged.waiting(long_ago):
            for pending in waiting:
                pending.later.expire(Misbehaved(f"the device model gave no answer within {LATER_SECONDS:.0f} s"))
            yield


def _legacies(saved: Saved, fds: Sequence[int]) -> dict[str, tuple[Saved, Sequence[int]]]:
    """By path, what `Plugged.load` takes.  Raises ValueError for what another version saved."""
    check(saved, _VERSION)
    rest = iter(fds)
    return {path: (device, list(itertools.islice(rest, count))) for path, device, count in saved["devices"]}


def _affordable(limits: Limits, files: int) -> Limits:
    """*limits* with no more guests than there are descriptors for, of *files* that this process may have open now.

    And no more pages to be filled than there is memory for.
    """
    possible = max(1, (files - OURS) // _FDS_A_GUEST)
    unfilled = limits.unfilled or memory() * 3 // 4
    return msgspec.structs.replace(limits, guests=min(limits.guests, possible), unfilled=unfilled)


def by_path(openers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names of *openers*, see `Host`, that have each device open, by its path."""
    found: dict[str, list[str]] = {}
    for path, name in openers:
        found.setdefault(path, []).append(name)
    return found
