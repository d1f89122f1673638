"""The probers: by name, with either client, and what somebody is told who names another."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.commands.probing import beside
from guestd.probers import PROBERS, Found, named

MACHINE = """
[host]
msg = true
[devices."bus/one"]
model = "rng"
[devices.two]
model = "rng"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    return path


@pytest.mark.parametrize("prober", PROBERS)
async def test_a_guest_finds_devices_by_the_prober_that_it_was_told(machine: Path, prober: str) -> None:
    async with hostd.serve(machine) as host, guestd.attach(host.socket, prober=prober) as guest:
        nodes = {host.tree.find(path).handle for path in ("bus/one", "two")}
        for found in (await guest.walk(), await guest.walk(prober)):
            assert nodes == {each.node for each in found if any(each.ids)}
        assert all(not isinstance(outcome, Exception) for outcome in (await guest.bind_all()).values())
        assert len(guest.drivers) == 2


@pytest.mark.parametrize("prober", PROBERS)
async def test_so_does_a_guest_that_blocks(machine: Path, prober: str) -> None:
    async with hostd.serve(machine) as host:

        def bound() -> set[int]:
            with guestd.attach_blocking(host.socket, prober=prober) as guest:
                assert all(not isinstance(outcome, Exception) for outcome in guest.run(guest.bind_all()).values())
                return {device.found.node for device in guest.devices.values()}

        nodes = {host.tree.find(path).handle for path in ("bus/one", "two")}
        assert await asyncio.to_thread(bound) == nodes


@pytest.mark.parametrize(
    ("name", "what"), [("tre", r"no prober 'tre' \(did you mean 'tree'\?\)"), ("x", "no prober 'x': there is tree")]
)
async def test_who_names_another_is_told_which_there_are(machine: Path, name: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        named(name)
    async with hostd.serve(machine) as host, guestd.attach(host.socket) as guest:
        with pytest.raises(ValueError, match=what):
            await guest.walk(name)
        with pytest.raises(ValueError, match=what):
            async with guestd.attach(host.socket, prober=name):
                pass
        with pytest.raises(ValueError, match=what), guestd.attach_blocking(host.socket, prober=name):
            pass


def test_the_same_node_is_in_one_row_whoever_found_it() -> None:
    def found(node: int, path: str) -> Found:
        return Found(node, path, path.rpartition("/")[2], (), (0, 0))

    root, disk, rng, bridge = found(1, "/"), found(5, "/bus/disk"), found(2, "/rng"), found(0, "/00:01.0")
    by_bus = [bridge, found(5, "/01:00.0")]
    rows = beside({"tree": [root, rng, disk], "bus": by_bus, "other": [found(0, "/00:01.0")]})
    assert rows == [
        {"tree": root}, {"tree": rng}, {"tree": disk, "bus": by_bus[1]}, {"bus": bridge}, {"other": bridge}
    ]  # fmt: skip


def test_probe_shows_the_machine_in_every_way_side_by_side(machine: Path) -> None:
    def probed(*words: str) -> str:
        command = [sys.executable, "-m", "hostd", "run", str(machine), "--", sys.executable, "-m", "guestd", "probe"]
        return subprocess.run([*command, "--prober", *words], check=True, capture_output=True, text=True).stdout

    headings, *rows = [line.split() for line in probed("all").splitlines()]
    assert headings == [name.upper() for name in PROBERS]
    assert [row[0] for row in rows][:4] == ["/", "/two", "/bus", "/bus/one"]
    assert "-" not in rows[1] + rows[3]
    assert {"node", "found"} == set(json.loads(probed("all", "--json"))[0])
    assert "/bus/one" in probed("claim") and "RngDriver" in probed("claim")


def test_a_way_that_a_machine_does_not_have_is_left_out_and_told(machine: Path) -> None:
    machine.write_text(machine.read_text().replace("msg = true", "msg = false"))
    command = [sys.executable, "-m", "hostd", "run", str(machine), "--", sys.executable, "-m", "guestd", "probe"]
    done = subprocess.run([*command, "--prober", "all"], check=True, capture_output=True, text=True)
    assert done.stdout.split()[: len(PROBERS) - 1] == [name.upper() for name in PROBERS if name != "msg"]
    assert "nothing for the prober 'msg'" in done.stderr and "[host] msg = true" in done.stderr
