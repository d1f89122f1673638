"""The probers: by name, with either client, and what somebody is told who names another."""

from __future__ import annotations

from pathlib import Path

import pytest

import guestd
import hostd
from guestd.probers import PROBERS, named

MACHINE = """
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
