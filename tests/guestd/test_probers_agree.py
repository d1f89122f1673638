"""All probers find the same: on any machine that is idle, and as far as that can be said, on one that is not."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

import guestd
import hostd
from guestd.probers import PROBERS, Found
from hostd.devices.rng import Rng
from hostd.machine.file import DeviceSpec, Machine

MODELS: list[dict[str, Any]] = [
    {"model": "rng"}, {"model": "sysman"}, {"model": "watchdog"}, {"model": "hid"}, {"model": "net"},
    {"model": "console", "backing": "file:/dev/null"},
]  # fmt: skip


def machine(chance: random.Random, folder: Path) -> Machine:
    """Up to 80 devices: more than a bus of 32 slots takes; some below others."""
    paths: list[str] = []
    for n in range(chance.choice((0, 1, 5, 31, 80))):
        above = chance.choice(["", "", "bus/", "bus/deep/", *[f"{path}/" for path in paths if path.count("/") < 5]])
        paths.append(f"{above}d{n}")
    devices = {path: dict(chance.choice(MODELS)) for path in paths}
    return Machine.from_tables({"host": {"msg": True}, "devices": devices}, folder)


def devices(nodes: list[Found], there: set[int]) -> set[int]:
    """Those of *nodes* that are among the devices *there*; each has to be found once."""
    found = [each.node for each in nodes if each.node in there]
    assert len(found) == len(set(found)), "a device twice"
    return set(found)


@pytest.mark.parametrize("seed", range(12))
async def test_all_find_the_same_devices_on_a_machine_that_is_idle(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with hostd.serve(machine(chance, tmp_path)) as host, guestd.attach(host.socket) as guest:
        for turn in range(2):
            there = {node.handle for node in host.tree.nodes.values() if node.device is not None}
            for prober in PROBERS:
                nodes = await guest.walk(prober)
                assert devices(nodes, there) == there, prober
                assert {each.node for each in nodes if each.compatible} <= there, prober
            for node in [*host.tree.nodes.values()]:  # again, when some have gone, and others come
                if node.device is not None and not node.gone and chance.random() < 0.3:
                    await host.unplug(node.path, surprise=True)
            for n in range(chance.randrange(20)):
                host.plug(DeviceSpec(f"new{turn}.{n}", "rng", Rng, {}))


@pytest.mark.parametrize("prober", PROBERS)
@pytest.mark.parametrize("seed", range(4))
async def test_none_finds_a_device_twice_or_misses_one_that_stays_while_others_come_and_go(
    tmp_path: Path, seed: int, prober: str
) -> None:
    chance = random.Random(seed)
    spec = machine(chance, tmp_path)
    async with hostd.serve(spec) as host, guestd.attach(host.socket) as guest, guestd.attach(host.socket) as other:
        throughout = {node.handle for node in host.tree.nodes.values() if node.device is not None}
        ever = set(throughout)
        walk = asyncio.ensure_future(guest.walk(prober))
        while not walk.done():
            if chance.random() < 0.5:
                host.plug(DeviceSpec(f"new{host.tree.handles.following}", "rng", Rng, {}))
            elif len(host.tree.nodes) > 1:
                node = chance.choice([*host.tree.nodes.values()][1:])
                await host.unplug(node.path, surprise=True)
            there = {node.handle for node in host.tree.nodes.values() if node.device is not None}
            throughout &= there
            ever |= there
            await other.nop()
        assert throughout <= devices(walk.result(), ever)
