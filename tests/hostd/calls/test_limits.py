"""What `[limits]` takes, guests can live with; what it does not take is told before anybody serves."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from raw import RNG
from sources import ROOT

import guestd
import hostd
from guestd.clients.guest import RAM_BYTES
from hcall.messages import MAX_SLOTS
from hostd.calls.limits import BOUNDS, FILE_BOUNDS, GUESTD_BYTES, Limits

MACHINE = '[devices.rng]\nmodel = "rng"\n[devices.disk]\nmodel = "block"\npath = "disk.img"\ncreate = "1M"\n'


def test_every_limit_has_bounds_and_its_default_is_within_them() -> None:
    assert BOUNDS.keys() == FILE_BOUNDS.keys() == set(Limits.__struct_fields__)
    assert all(FILE_BOUNDS[name].mistake(value) is None for name, value in msgspec.to_builtins(Limits()).items())
    assert GUESTD_BYTES == RAM_BYTES and BOUNDS["slots"].most == MAX_SLOTS


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("end", ["least", "most"])
async def test_a_guest_can_live_at_both_ends_of_each(tmp_path: Path, name: str, end: str) -> None:
    (tmp_path / "m.toml").write_text(f"[limits]\n{name} = {getattr(FILE_BOUNDS[name], end)}\n{MACHINE}")
    async with hostd.serve(tmp_path / "m.toml") as host, guestd.attach(host.socket) as guest:
        assert len(await guest["rng"].getrandom(16)) == 16
        await guest.unbind("rng")  # it may have one device at a time
        assert await guest["disk"].load(512, 0) == bytes(512)


async def test_a_guest_can_live_with_the_least_of_everything(tmp_path: Path) -> None:
    limits = "".join(f"{name} = {bounds.least}\n" for name, bounds in FILE_BOUNDS.items())
    (tmp_path / "m.toml").write_text(f"[limits]\n{limits}{MACHINE}")
    async with hostd.serve(tmp_path / "m.toml") as host, guestd.attach(host.socket) as guest:
        assert len(await guest["rng"].getrandom(16)) == 16


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("beyond", [-1, 1])
def test_what_is_beyond_is_refused_in_a_file_and_from_python(tmp_path: Path, name: str, beyond: int) -> None:
    for bounds in (BOUNDS[name], FILE_BOUNDS[name]):
        value = bounds.least - 1 if beyond < 0 else bounds.most + 1
        (tmp_path / "m.toml").write_text(f"[limits]\n{name} = {value}\n{MACHINE}")
        with pytest.raises(hostd.MachineError, match=rf"m\.toml: limits\.{name}: must be \d+ to \d+, not {value}: "):
            hostd.Machine.load(tmp_path / "m.toml")
    with pytest.raises(ValueError, match=f"{name} must be"):
        Limits(**{name: BOUNDS[name].least - 1 if beyond < 0 else BOUNDS[name].most + 1})


async def test_a_program_may_serve_guests_that_lend_less_than_guestd(tmp_path: Path) -> None:
    machine = hostd.Machine(limits=Limits(memory=1 << 20), devices=(RNG,))
    async with hostd.serve(machine) as host, guestd.attach(host.socket, memory=1 << 20) as guest:
        assert len(await guest["rng"].getrandom(16)) == 16


def test_the_readme_has_them_all() -> None:
    rows = {
        line.split("|")[1].strip(" `"): line for line in (ROOT / "README.md").read_text().splitlines() if "|" in line
    }
    for name, default in msgspec.to_builtins(Limits()).items():
        cells = [cell.strip().replace(",", "") for cell in rows[name].split("|")]
        assert cells[2:5] == [str(default), str(FILE_BOUNDS[name].least), str(FILE_BOUNDS[name].most)]
