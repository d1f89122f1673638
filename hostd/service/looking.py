"""What the control socket tells of a host: if there is much, it tells in turns, and nobody waits."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from hcall.formats import pci

from ..guests.guest import Guest
from ..guests.messenger import Messenger
from ..isolated.proxy import process_of
from ..machine.host import Host, by_path
from ..tree.node import Node


def described(host: Host, node: Node, users: dict[str, list[str]]) -> dict[str, object]:
    """*node*, and who has its device open."""
    spec = host.spec(node)
    return {
        "path": node.path, "name": node.name, "handle": node.handle, "model": spec.model if spec else None,
        "pci": pci.name(where) if (where := host.tree.pci.address(node)) is not None else None,
        "class_code": node.device.class_code if node.device else None, "bus_ids": node.bus_ids,
        "shared": node.device.shared if node.device else None, "leaving": node.leaving, "failed": node.failed,
        "guests": users.get(node.path, []), "properties": node.properties(), "process": _process(node),
    }  # fmt: skip


async def devices(host: Host) -> list[dict[str, object]]:
    """All of them, as the tree has them."""
    users = by_path(await host.guests.chores.gather(host.openers()))
    there = [node for node in host.tree.root.walk() if node.device is not None]
    return await host.guests.chores.gather(described(host, node, users) for node in there)


async def nodes(host: Host) -> dict[str, object]:
    """The root, with "children" and theirs."""
    users = by_path(await host.guests.chores.gather(host.openers()))
    there = list(host.tree.root.walk())

    def each() -> Iterator[tuple[Node, dict[str, object]]]:
        for node in there:
            yield node, described(host, node, users)

    told: dict[int, dict[str, object]] = {}
    for node, tells in await host.guests.chores.gather(each()):
        told[node.handle] = tells | {"children": []}
        if node.parent is not None:
            above: list[object] = told[node.parent.handle]["children"]  # type: ignore[assignment]
            above.append(told[node.handle])
    return told[host.tree.root.handle]


async def status(host: Host) -> dict[str, object]:
    """Of the machine, its guests, their users, and what took long."""
    there = list(host.guests.by_token.values())
    guests = await host.guests.chores.gather(map(_guest, there))
    guests += await host.guests.chores.gather(map(_messenger, list(host.messengers.by_number.values())))
    users = [
        {"uid": share.uid, "has": +share.used, "seconds": round(host.guests.turns.of(share.uid).used, 3)}
        for share in host.guests.shares.users
    ]
    return {
        "machine": host.machine.name, "file": str(host.machine.file) if host.machine.file else None,
        "pid": os.getpid(), "epoch": host.epoch, "uptime": round(host.clock.time() - host.started, 3),
        "socket": str(host.socket), "spin": host.machine.spin,
        "devices": sum(node.device is not None for node in host.tree.nodes.values()),
        "limits": msgspec.to_builtins(host.guests.limits), "guests": guests, "users": users,
        "bounds": {what: bound._asdict() for what, bound in host.guests.shares.bounds.items()},
        "long_calls": host.tree.overran(),
        "processes": [{"device": node.path, **found} for node in host.tree.nodes.values() if (found := _process(node))],
    }  # fmt: skip


def _guest(guest: Guest) -> dict[str, object]:
    return {
        "name": guest.name, "uid": guest.uid, "rules": list(guest.rights.rules),
        "linked": guest.lane.link is not None,
        "open": sorted(hold.plugged.path for hold in guest.account.holds.values()),
        "memory": sum(region.end - region.start for region in guest.account.memory.regions),
        "calls": guest.lane.session.calls, "bytes": guest.lane.bytes, "has": dict(guest.purse.used),
    }  # fmt: skip


def _messenger(guest: Messenger) -> dict[str, object]:
    link = guest.link
    return {
        "name": guest.name, "uid": guest.uid, "rules": list(guest.rights.rules), "linked": link is not None,
        "open": sorted(hold.plugged.path for hold in guest.account.holds.values()), "memory": 0,
        "calls": link.messages if link is not None else 0, "bytes": 0, "has": dict(guest.purse.used),
    }  # fmt: skip


def _process(node: Node) -> dict[str, object] | None:
    """Of a device that has one of its own; no pid: it has ended, and is started again."""
    process = process_of(node.device)
    return {"pid": process.pid, "starts": process.starts} if process is not None else None
