"""The machine file is read anew: what it no longer has goes, what is new or different comes, all else stays as it is.

A device is different when its table is, or its model.  What was plugged by hand, at a path that the file does not
have, stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from hcall.clock import timeout
from hcall.errors import NoMatch
from hcall.text import named

from ..tree.complaints import Complaints
from ..tree.node import Node
from .file import DeviceSpec, Machine, MachineError
from .host import Host

_STOP_SECONDS = 5.0  # that a worker thread has for what it does on a device that is gone


class Told(Protocol):
    """Who hears of reloads."""

    def reloading(self) -> None:
        """One begins."""

    def ready(self, status: str) -> None:
        """It is through; *status* says in one line what the host does, and what went wrong."""


class Outcome(msgspec.Struct):
    """What a reload did: paths, and a line for each thing that it could not do."""

    removed: list[str]
    replaced: list[str]
    added: list[str]
    failed: list[str]  # devices that did not start
    restart: list[str]  # changes that wait for the next start
    changed: list[str] = []  # tables that hold from now on


class Reloads:
    """The reloads of one host, one after the other; *told* hears of each."""

    def __init__(self, host: Host, told: Told, changed: Callable[[Machine], None] = lambda machine: None) -> None:
        """*changed* hears of what the machine is now."""
        self._host, self._told, self._changed = host, told, changed
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Task[Outcome] | None = None
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._complaints = Complaints("reload", host.clock, by_time=True)

    def begin(self) -> asyncio.Task[Outcome]:
        """Reload when the one under way is through; one that waits already is shared.

        The task raises MachineError with all mistakes of the file, and then nothing has changed.
        """
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(self._reload())
            self._tasks.add(self._waiting)
            self._waiting.add_done_callback(self._tasks.discard)
        return self._waiting

    async def close(self) -> None:
        """Reload no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._complaints.settle(last=True)

    async def _reload(self) -> Outcome:
        async with self._turn:
            self._waiting = None
            self._told.reloading()
            failed: list[str] = []
            try:
                outcome = await _reload(self._host)
                self._changed(self._host.machine)
                failed = outcome.failed
            except MachineError as error:
                failed = error.lines
                raise
            except Exception as error:
                failed = [named(error)]
                self._complaints.note("a reload", error)
                raise
            finally:
                trouble = f"; the last reload failed: {failed[0]}" if failed else ""
                self._told.ready(f"{self._host.summary}{trouble}")
                for line in failed:
                    self._complaints.say(line, logging.ERROR)
            for what, paths in msgspec.structs.asdict(outcome).items():
                if paths and what != "failed":  # that was told above
                    self._complaints.say(f"{what} {', '.join(paths)}", logging.INFO)
            return outcome


class Running(NamedTuple):
    """A host that serves, and what changes it when its file has changed."""

    host: Host
    reloads: Reloads


async def _reload(host: Host) -> Outcome:
    old = host.machine
    if old.file is None:
        raise MachineError(["there is no machine file to read again"])
    new = Machine.load(old.file)
    there = {node.path[1:]: spec for node in host.tree.root.walk() if (spec := host.spec(node)) is not None}
    devices = tuple(there[spec.path] if there.get(spec.path) == spec else spec for spec in new.devices)
    from_file = set(map(id, old.devices))
    by_hand = {path: spec for path, spec in there.items() if id(spec) not in from_file}
    wanted = {spec.path: spec for spec in devices}
    wanted |= {path: spec for path, spec in by_hand.items() if path not in wanted}
    host.machine = dataclasses.replace(
        new, name=old.name, limits=old.limits, spin=old.spin, msg=old.msg, devices=devices
    )

    stale = list(_stale(host, host.tree.root, wanted))
    gone = [below.path[1:] for node in stale for below in node.walk() if host.spec(below) is not None]
    async with asyncio.TaskGroup() as group:
        for node in stale:
            group.create_task(_take_out(host, node))
    outcome = Outcome([f"/{path}" for path in gone if path not in wanted], [], [], [], [])
    await host.obey(new.policy)  # before somebody sees what is new
    for path in sorted(wanted, key=lambda path: path.count("/")):  # what stands above comes first
        if path in gone or path not in there:
            try:
                await host.bring(wanted[path])
            except MachineError as error:
                outcome.failed += error.lines
            else:
                (outcome.replaced if path in there else outcome.added).append(f"/{path}")
    for node in stale:
        await _prune(host, node.parent)

    rules = {"policy": new.policy != old.policy, "control": new.roles != old.roles}
    outcome.changed += [section for section, changed in rules.items() if changed]
    sections = {
        "machine.name": new.name != old.name, "limits": new.limits != old.limits,
        "host": (new.spin, new.msg) != (old.spin, old.msg),
    }  # fmt: skip
    outcome.restart += [f"{old.file}: {section}: changed; takes effect when hostd is started again"
                        for section, changed in sections.items() if changed]  # fmt: skip
    return outcome


def _stale(host: Host, node: Node, wanted: dict[str, DeviceSpec]) -> Iterator[Node]:
    """The nodes at and below *node* that cannot stay as they are; not what stands below these, which goes with them."""
    if node.leaving or host.spec(node) is not wanted.get(node.path[1:]):
        yield node
    else:
        for child in node.children.values():
            yield from _stale(host, child, wanted)


async def _take_out(host: Host, node: Node) -> None:
    with contextlib.suppress(NoMatch):  # somebody else was faster
        await host.unplug(node.path)
    with contextlib.suppress(TimeoutError):
        async with timeout(host.clock, _STOP_SECONDS):  # its image, say, is in use until then
            await host.closed(node)


async def _prune(host: Host, node: Node | None) -> None:
    """Take out *node*, and what is above it, if it is there only for what stood below it and is gone."""
    while node is not None and node.parent is not None and not (node.gone or node.device or node.children):
        await host.unplug(node.path)
        node = node.parent
