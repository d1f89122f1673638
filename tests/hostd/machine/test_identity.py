"""Chance comes in at one place: two hosts of one identity are the same to their guests."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Any

import pytest
from raw import RNG, RawGuest, attached, plugged, run_on, until
from sources import HOMES, Sources

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.probers import tree
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hostd import Identity
from hostd.device import Device, call
from hostd.devices.ppp import Ppp
from hostd.machine.file import DeviceSpec
from hostd.tree.tree import Tree

SEED = b"the same"


def test_an_identity_is_drawn_or_given() -> None:
    assert Identity(SEED).epoch == Identity(SEED).epoch == Identity(SEED, epoch=None).epoch
    assert len({Identity().seed for _ in range(100)}) == 100
    assert len({Identity().epoch for _ in range(100)}) > 90
    assert all(0 < Identity(bytes([n])).epoch <= 0x7FFF for n in range(256))
    assert (Identity(SEED, epoch=7).epoch, Identity(SEED, epoch=7).seed) == (7, SEED)


@pytest.mark.parametrize("epoch", [-1, 0, 0x8000])
def test_an_epoch_fits_a_handle(epoch: int) -> None:
    with pytest.raises(ValueError, match=f"an epoch is 1 to 32767, not {epoch}"):
        Identity(epoch=epoch)


def test_who_draws_draws_the_same_whatever_others_do_and_never_the_same_twice() -> None:
    one, other = Identity(SEED), Identity(SEED)
    there = one.source("/net0")
    assert other.source("/net1")(6) != one.source("/net1")(7)[:5]
    drawn = [there(16) for _ in range(100)]
    here = other.source("/net0")
    assert drawn == [here(16) for _ in range(100)] and len(set(drawn)) == 100
    assert Identity(b"another").source("/net0")(16) != drawn[0]
    assert not {Identity(SEED).source(path)(16) for path in ("/a", "/b", "/a/b")} & set(drawn)


async def test_hosts_of_one_identity_have_equal_handles(tmp_path: Path) -> None:
    tables = {"devices": {"rng": {"model": "rng"}, "bus/rng": {"model": "rng"}}}
    machine = hostd.Machine.from_tables(tables, tmp_path)
    seen = []
    for seed in (SEED, SEED, b"another"):
        async with hostd.serve(machine, identity=Identity(seed)) as host, attached(host) as guest:
            nodes = [await guest.core(numbers.FIND, 0, path) for path in ("/rng", "/bus/rng")]
            handle, _ = await guest.open("/rng")
            seen.append((host.epoch, *nodes, handle))
    assert seen[0] == seen[1] and not set(seen[0]) & set(seen[2])


@pytest.mark.parametrize("client", ["asyncio", "blocking"])
async def test_a_guest_has_the_token_that_it_is_given(host: hostd.Host, client: str) -> None:
    token = bytes(range(16))

    async def scenario(guest: Guest[Any]) -> list[bytes]:
        return list(host.guests.by_token)

    assert await run_on(client, host, scenario, token=token) == [token]
    await until(host, lambda: not host.guests.by_token)
    (other,) = await run_on(client, host, scenario)
    assert other != token and len(other) == 16
    await until(host, lambda: not host.guests.by_token)
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        guestd.attach_blocking(host.socket, token=b"abc").__enter__()


async def macs_and_magics(folder: Path, identity: Identity) -> tuple[object, ...]:
    """What chance decides of two cards, one plugged later, and of one end of a slow network."""
    tables = {"devices": {"a": {"model": "net"}, "link": {"model": "ppp"}}}
    machine = hostd.Machine.from_tables(tables, folder)
    async with hostd.serve(machine, clock=ManualClock(), identity=identity) as host:
        host.plug_table("late", {"model": "net"})
        plugged = host.tree.find("/link").plugged
        assert plugged is not None
        link = plugged.device
        assert isinstance(link, Ppp)
        magics = [link._peer.lcp.magic]
        plugged.used = True
        plugged.reset()  # another guest comes
        magics.append(link._peer.lcp.magic)
        return (*(host.tree.find(f"/{name}").properties()["mac-address"] for name in ("a", "late")), *magics)


async def test_devices_of_one_identity_draw_the_same(tmp_path: Path) -> None:
    one = await macs_and_magics(tmp_path, Identity(SEED))
    assert one == await macs_and_magics(tmp_path, Identity(SEED)) and len(set(one)) == 4
    assert not set(one) & set(await macs_and_magics(tmp_path, Identity()))


CHANCE = {"urandom", "token_bytes", "token_hex", "randbytes", "randint", "uuid4", "uuid1", "getrandbits"}
EDGES = {
    "hostd.machine.identity": "here it comes in",
    "hostd.devices.rng": "it is what this device gives",
    "hostd.backings.spool": "a file name that no other process has in the same folder, of whatever identity",
    "guestd.clients.guest": "the token, if none is given",
    "guestd.drivers.ppp": "the guest's end of the link: not the host's magic number, whatever identity that has",
    "guestd.commands.evidence.console": "what is shown is made up", "guestd.commands.evidence.disk": "so is this",
    "guestd.commands.evidence.folder": "and this", "guestd.commands.evidence.tty": "and this",
}  # fmt: skip


def test_chance_comes_in_at_the_edges_only() -> None:
    sources = Sources(HOMES)
    found = {
        module
        for module, tree in sources.trees.items()
        if {"random", "secrets.randbelow"} & sources.names(module)
        or any(isinstance(node, ast.Attribute) and node.attr in CHANCE for node in ast.walk(tree))
        or any(name.rpartition(".")[2] in CHANCE for name in sources.names(module))
    }
    assert found == EDGES.keys()


async def known(guest: RawGuest) -> dict[str, tuple[int, dict[str, int]]]:
    """What a guest knows of each device: its node's handle, and the numbers of its calls.  In the order of a walk."""

    async def core(handle: int, number: int, *args: object) -> Any:
        return await guest.core(number, handle, *args)

    found: dict[str, tuple[int, dict[str, int]]] = {}
    async for node in tree.probe(core):
        if node.compatible:
            handle, calls, *_ = await guest.core(numbers.OPEN, node.node, 0)
            await guest.core(numbers.CLOSE, handle)
            found[node.path] = node.node, calls
    return found


class Plain(Device):
    """One of many models without an id: the numbers of their calls depend on who came first."""

    compatible = "test,plain"

    @call
    def work(self) -> None:
        pass


class Other(Plain):
    compatible = ("test,other", "test,plain")


async def test_a_host_that_goes_on_elsewhere_is_the_same_to_who_knows_its_handles(tmp_path: Path) -> None:
    rng, first, last = RNG, DeviceSpec("bus/first", "plain", Plain, {}), DeviceSpec("bus/last", "other", Other, {})
    with_past = DeviceSpec("gone", "plain", Plain, {})
    async with hostd.serve(hostd.Machine(devices=(rng, with_past)), clock=ManualClock()) as host:
        async with attached(host) as guest:
            for spec in (last, first):
                host.plug(spec)
            gone = host.tree.find("/gone").handle
            await host.unplug("gone")
            before = await known(guest)
            now, _ = await guest.core(numbers.CHANGES, 0, 0)
        identity = host.who()
    assert list(before) == ["/rng", "/bus/last", "/bus/first"]

    machine = hostd.Machine(devices=(first, last, rng))
    async with hostd.serve(machine, identity=identity) as host, attached(host) as guest:
        assert (host.epoch, await known(guest)) == (identity.epoch, before)
        assert list(await known(guest)) == list(before)
        news = await guest.core(numbers.CHANGES, 0, now)
        assert news[1] in ((), None) and news[0] > now  # it was all there, all the time
        assert (await guest.call(numbers.INFO, gone))[0] == Status.STALE_HANDLE
        await host.unplug("bus/last")
        assert host.plug(last).handle >= news[0] and host.plug(with_past).handle != gone
        assert list(await known(guest)) == ["/rng", "/bus/first", "/bus/last", "/gone"]


def test_what_another_version_saved_is_refused() -> None:
    with pytest.raises(ValueError, match="another version: 7, not 1"):
        Tree(1, saved={"version": 7})


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_siblings_stand_in_the_order_of_their_handles_however_they_come_back(order: tuple[int, ...]) -> None:
    old = Tree(1)
    for n in range(4):
        old.plug(f"d{n}", plugged(Plain(), f"/d{n}"))
    new = Tree(1, saved=old.save())
    for n in order:
        new.plug(f"d{n}", plugged(Plain(), f"/d{n}"))
    new.plug("late", plugged(Plain(), "/late"))
    names, node = [], new.root.first_child
    while node is not None:
        names.append(node.name)
        assert node.previous is None or node.previous.next is node
        node = node.next
    assert names == list(new.root.children) == ["d0", "d1", "d2", "d3", "late"]
    new.remove(new.find("d1"))
    d0, d2 = new.find("d0"), new.find("d2")
    assert d0.next is d2 and d2.previous is d0
