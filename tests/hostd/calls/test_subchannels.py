"""Subchannels: which there are, programs for the devices there, and what they come to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from raw import ADDRESS, PAGE, Nobody, RawGuest, attached, plugged, served, settled
from users import ALICE, connect, needs_root

import guestd
import hostd
from guestd.probers import named
from guestd.probers.found import Reach
from hcall import numbers
from hcall.errors import Status as Answer
from hcall.formats import ccw
from hcall.formats.ccw import COMMAND_CHAIN, NOOP, SENSE_ID, SKIP, SLI, TIC, Ccw, Identity, Status, Subchannel
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device
from hostd.machine.file import DeviceSpec
from hostd.service.serve import running
from hostd.tree.faces import ccw as face
from hostd.tree.tree import Tree

DATA: Final = ADDRESS + 0x800
FIRST, SECOND = ccw.subchannel(0, 0), ccw.subchannel(0, 1)
NORMAL: Final = ccw.CHANNEL_END | ccw.DEVICE_END


class Thing(Device):
    compatible, ids = "test,thing", (0x1234, 0x5678)


class Bare(Device):
    compatible = "test,bare"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(
        tmp_path, DeviceSpec("thing", "thing", Thing, {}), DeviceSpec("bus/bare", "bare", Bare, {}), handles=4
    ) as host:
        yield host


def put(guest: RawGuest, at: int, *steps: Ccw) -> int:
    """Write a program; its address."""
    os.pwrite(guest.fds[0], b"".join(step.encode() for step in steps), at - ADDRESS)
    return at


def got(guest: RawGuest, count: int = ccw.SENSE_ID_BYTES) -> bytes:
    return os.pread(guest.fds[0], count, DATA - ADDRESS)


async def start(guest: RawGuest, word: int, *steps: Ccw, parameter: int = 0, at: int = ADDRESS) -> int:
    code: int = await guest.core(numbers.SSCH, 0, word, parameter, put(guest, at, *steps))
    return code


async def status_of(guest: RawGuest, word: int) -> Status:
    for _ in range(50):
        code, data = await guest.core(numbers.TSCH, 0, word)
        if code == ccw.DONE:
            return Status.decode(data)
        assert code == ccw.NOT_PENDING and data == bytes(12)
    raise AssertionError("it does not end")


async def ended(guest: RawGuest, *steps: Ccw, word: int = SECOND) -> Status:
    """What a program comes to."""
    assert await start(guest, word, *steps) == ccw.DONE
    return await status_of(guest, word)


def sense_id(flags: int = SLI, size: int = ccw.SENSE_ID_BYTES, at: int = DATA) -> Ccw:
    return Ccw(SENSE_ID, flags, size, at)


@pytest.mark.spec("CW-1", "CW-2", "CW-3")
async def test_a_scan_of_the_sets_finds_each_device_and_ends(host: hostd.Host) -> None:
    async with attached(host) as guest:
        await host.unplug("thing")
        await settled(guest)
        found = []
        for number in range(4):
            code, data = await guest.core(numbers.STSCH, 0, ccw.subchannel(0, number))
            found.append((code, Subchannel.decode(data).device if data else None))
        assert found == [(0, 0), (0, None), (0, 2), (3, None)]  # rng, the one that is gone, bare
        for number_of_set in (1, 2, 3):
            assert await guest.core(numbers.STSCH, 0, ccw.subchannel(number_of_set, 0)) == (3, b"")
        for word in (0, 0x20000, 0x90000, -1):
            assert (await guest.call(numbers.STSCH, 0, word))[0] == Answer.BAD_ARGUMENT
            assert (await guest.call(numbers.SSCH, 0, word, 0, 0))[0] == Answer.BAD_ARGUMENT
            assert (await guest.call(numbers.TSCH, 0, word))[0] == Answer.BAD_ARGUMENT


@pytest.mark.spec("CW-3")
def test_a_subchannel_is_another_devices_only_when_all_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(1)
    monkeypatch.setattr(face, "MOST", 3)
    one, two = (tree.plug(name, plugged(Thing())) for name in ("one", "two"))
    tree.remove(one)
    three = tree.plug("three", plugged(Thing()))
    assert [tree.ccw.at(0, number) for number in range(3)] == [None, two, three]
    assert tree.ccw.at(0, 0) is None and tree.ccw.exists(0, 2) and not tree.ccw.exists(0, 3)
    tree.remove(two)
    four, five, six = (tree.plug(name, plugged(Thing())) for name in ("four", "five", "six"))
    assert [tree.ccw.place(node) for node in (four, five, six)] == [(0, 0), (0, 1), None]
    again = Tree(1, saved=tree.save())
    assert again.ccw.place(again.plug("three", plugged(Thing()))) == (0, 2)


@pytest.mark.spec("CW-4", "CW-5", "CW-7", "CW-9", "CW-10")
async def test_sense_id_says_what_a_device_is_and_the_parameter_comes_back(host: hostd.Host) -> None:
    thing, bare = host.tree.find("thing"), host.tree.find("bus/bare")
    async with attached(host, regions=1) as guest:
        for word, node, ids in ((SECOND, thing, (0x1234, 0x5678)), (SECOND + 1, bare, None)):
            guest.interrupts.clear()
            assert await start(guest, word, sense_id(), parameter=0xFEED0000 | word & 0xFF) == ccw.DONE
            await settled(guest)
            ((_, tag, vector, _),) = guest.interrupts
            assert (tag, vector) == (word << 32 | 0xFEED0000 | word & 0xFF, 0)
            _, data = await guest.core(numbers.STSCH, 0, word)
            known = Subchannel.decode(data)
            assert known.parameter == tag & 0xFFFFFFFF and known.status.is_pending
            assert await start(guest, word, sense_id()) == ccw.PENDING  # one program, until it is tested
            status = await status_of(guest, word)
            assert status == Status(0x00804007, ADDRESS + 8, NORMAL, 0, 40 - 24)
            assert await guest.core(numbers.TSCH, 0, word) == (ccw.NOT_PENDING, bytes(12))
            identity = Identity.decode(got(guest, 24))
            assert identity.node == node.handle and node.plugged is not None
            vendor, device = ids or (0x1AF4, node.plugged.class_id)
            assert (identity.control_unit, identity.device) == ((vendor, 0), (device, 0))
        nobody = ccw.subchannel(0, 9)
        assert await start(guest, nobody, sense_id()) == ccw.NOT_OPERATIONAL
        assert await guest.core(numbers.TSCH, 0, nobody) == (ccw.NOT_OPERATIONAL, b"")
        for wrong in ((-1, ADDRESS), (1 << 32, ADDRESS), (0, -8), (0, 1 << 32)):
            assert (await guest.call(numbers.SSCH, 0, SECOND, *wrong))[0] == Answer.BAD_ARGUMENT


@pytest.mark.spec("CW-6", "CW-7", "CW-8")
@pytest.mark.parametrize(
    ("steps", "device", "subchannel", "residual", "last"),
    [
        ([Ccw(NOOP)], NORMAL, 0, 0, 1),
        ([Ccw(NOOP, COMMAND_CHAIN), sense_id()], NORMAL, 0, 16, 2),
        ([Ccw(NOOP, COMMAND_CHAIN), Ccw(TIC, address=ADDRESS + 24), Ccw(0xFF), Ccw(NOOP)], NORMAL, 0, 0, 4),
        ([sense_id(size=24, flags=0)], NORMAL, 0, 0, 1),
        ([sense_id(size=8, flags=SLI)], NORMAL, 0, 0, 1),
        ([sense_id(flags=COMMAND_CHAIN), Ccw(NOOP)], NORMAL, 0x40, 16, 1),  # the length ends the chain
        ([sense_id(size=8, flags=0)], NORMAL, 0x40, 0, 1),
        ([sense_id(flags=SLI | SKIP, at=1)], NORMAL, 0, 16, 1),
        ([Ccw(NOOP, ccw.PCI | COMMAND_CHAIN), Ccw(NOOP)], NORMAL, 0x80, 0, 2),
        ([Ccw(0x57, SLI, 9, DATA)], NORMAL | 0x02, 0, 9, 1),  # no command: unit check
        ([Ccw(TIC, address=ADDRESS + 8), Ccw(NOOP)], 0, 0x20, 0, 1),  # none may begin with it
        ([Ccw(NOOP, COMMAND_CHAIN), *(Ccw(TIC, address=ADDRESS + at) for at in (16, 24)), Ccw(NOOP)], 0, 0x20, 0, 3),
        ([Ccw(NOOP, COMMAND_CHAIN), Ccw(TIC, address=ADDRESS + 4)], 0, 0x20, 0, None),
        ([Ccw(NOOP, COMMAND_CHAIN), Ccw(TIC, 0, 1, ADDRESS)], 0, 0x20, 0, 2),
        ([Ccw(NOOP, COMMAND_CHAIN), Ccw(0x18, address=ADDRESS)], 0, 0x20, 0, 2),
        ([Ccw(NOOP, COMMAND_CHAIN), Ccw(TIC, address=ADDRESS)], 0, 0x20, 0, None),  # for ever
        ([Ccw(0x10)], 0, 0x20, 0, 1),
        ([Ccw(NOOP, ccw.DATA_CHAIN)], 0, 0x20, 0, 1),
        ([Ccw(NOOP, ccw.IDA)], 0, 0x20, 0, 1),
        ([Ccw(NOOP, ccw.SUSPEND)], 0, 0x20, 0, 1),
        ([sense_id(at=ADDRESS + PAGE - 8)], 0, 0x20, 0, 1),  # beyond the guest's memory
        ([sense_id(at=0)], 0, 0x20, 0, 1),
    ],
)
async def test_what_a_program_comes_to(
    host: hostd.Host, steps: list[Ccw], device: int, subchannel: int, residual: int, last: int | None
) -> None:
    async with attached(host, regions=1) as guest:
        status = await ended(guest, *steps)
        assert (status.device, status.subchannel, status.residual) == (device, subchannel, residual)
        is_alert = device != NORMAL or bool(subchannel & 0x60)
        assert status.control == 0x00804017 if is_alert else 0x00804007
        if last is not None:
            assert status.program == ADDRESS + 8 * last
        assert (await ended(guest, sense_id())).device == NORMAL and Identity.decode(got(guest)).node


@pytest.mark.spec("CW-6")
@pytest.mark.parametrize("at", [0, ADDRESS - 8, ADDRESS + 4, ADDRESS + PAGE, 0xFFFFFFF8])
async def test_a_program_is_at_a_doubleword_of_the_guests_memory(host: hostd.Host, at: int) -> None:
    async with attached(host, regions=1) as guest:
        assert await guest.core(numbers.SSCH, 0, SECOND, 7, at) == ccw.DONE
        assert (await status_of(guest, SECOND)).subchannel == ccw.PROGRAM_CHECK


@pytest.mark.spec("CW-6")
async def test_a_program_has_256_steps_at_most(host: hostd.Host) -> None:
    async with attached(host, regions=1) as guest:
        noop = Ccw(NOOP, COMMAND_CHAIN)
        assert (await ended(guest, *[noop] * 255, Ccw(NOOP))).device == NORMAL
        status = await ended(guest, *[noop] * 256, Ccw(NOOP))
        assert (status.device, status.subchannel) == (0, ccw.PROGRAM_CHECK)


@pytest.mark.spec("CW-7")
async def test_sense_tells_why_a_command_was_rejected_until_the_next_one(host: hostd.Host) -> None:
    async with attached(host, regions=1) as guest:
        sense = Ccw(ccw.BASIC_SENSE, SLI, 32, DATA)
        assert (await ended(guest, Ccw(0x57))).device & ccw.UNIT_CHECK
        for byte in (ccw.COMMAND_REJECT, 0):
            assert (await ended(guest, sense)).residual == 0
            assert got(guest, 32) == bytes([byte]).ljust(32, b"\0")
        assert (await ended(guest, Ccw(0x57))).device & ccw.UNIT_CHECK
        await ended(guest, sense_id())
        await ended(guest, sense)
        assert got(guest, 1) == b"\0"


class InParts(Nobody):
    """Its turns are the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Any] = []
        self.told: list[tuple[int, int, int]] = []

    def go_on(self, steps: Any) -> None:
        self.steps.append(steps)

    def hint(self, tag: int, vector: int, count: int) -> None:
        self.told.append((tag, vector, count))


@pytest.mark.spec("CW-4", "CW-5", "CW-11")
def test_a_subchannel_has_one_program_which_goes_on_in_steps_and_hears_of_attention_at_its_end() -> None:
    tree, owner = Tree(1), InParts()
    nodes = [tree.plug(name, plugged(Thing())) for name in ("one", "two")]
    account = Account(tree, Limits(handles=2), owner)
    dispatch = Dispatcher(account).dispatch
    assert dispatch(numbers.SSCH, 0, (FIRST, 5, 0), ()) == (0, ccw.DONE)
    assert dispatch(numbers.SSCH, 0, (FIRST, 6, 0), ()) == (0, ccw.BUSY)
    assert dispatch(numbers.TSCH, 0, (FIRST,), ()) == (0, (ccw.NOT_PENDING, bytes(12)))
    _, (_, data) = dispatch(numbers.STSCH, 0, (FIRST,), ())  # type: ignore[misc]
    known = Subchannel.decode(data)
    assert known.parameter == 5 and known.status.control == 0x008040C0
    tree.leave(nodes[0])
    tree.leave(nodes[1])
    assert owner.told == [(ccw.tag(SECOND, 0), 0, 1)]  # nobody asked for that
    status = Status.decode(dispatch(numbers.TSCH, 0, (SECOND,), ())[1][1])  # type: ignore[index]
    assert (status.device, status.control) == (ccw.ATTENTION, 0x00800011)
    list(owner.steps[0])
    assert owner.told[1:] == [(ccw.tag(FIRST, 5), 0, 2)]
    account.relink()
    assert owner.told[2:] == [(ccw.tag(FIRST, 5), 0, 3)]
    again = Account(tree, Limits(), heir := InParts())
    again.restore(account.save())
    again.relink()
    assert [told[:2] for told in heir.told] == [(ccw.tag(FIRST, 5), 0)] and heir.told[0][2] > 1 << 32
    status = Status.decode(dispatch(numbers.TSCH, 0, (FIRST,), ())[1][1])  # type: ignore[index]
    assert (status.device, status.subchannel) == (ccw.ATTENTION, ccw.PROGRAM_CHECK)
    assert owner.purse.used["open devices"] == 0


@pytest.mark.spec("CW-4")
async def test_what_a_guest_does_not_test_is_bounded_and_goes_with_it(host: hostd.Host) -> None:
    for number in range(5):
        host.plug(DeviceSpec(f"more{number}", "thing", Thing, {}))
    async with attached(host, regions=1) as guest:
        words = [ccw.subchannel(0, number) for number in range(5)]
        put(guest, ADDRESS, Ccw(NOOP))
        for word in words[:4]:
            assert await guest.core(numbers.SSCH, 0, word, 0, ADDRESS) == ccw.DONE
        assert (await guest.call(numbers.SSCH, 0, words[4], 0, ADDRESS))[0] == Answer.BUSY
        await status_of(guest, words[0])
        assert await guest.core(numbers.SSCH, 0, words[4], 0, ADDRESS) == ccw.DONE
        await host.unplug("thing", surprise=True)
        assert await guest.core(numbers.SSCH, 0, words[0], 0, ADDRESS) == ccw.DONE  # in the place of what went


@pytest.mark.spec("CW-12")
@needs_root
async def test_what_a_guest_does_not_see_has_no_subchannel(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    devices = "".join(f'[devices.{name}]\nmodel = "rng"\n' for name in ("hidden", "seen"))
    file.write_text(f'[policy.alice]\nusers = [{ALICE}]\nsee = ["seen"]\n' + devices)
    async with running(file, tmp_path / "run") as (host, _):
        (tmp_path / "run").chmod(0o711)
        async with attached(host, regions=1, sock=connect(host.socket, ALICE)) as alice:
            code, data = await alice.core(numbers.STSCH, 0, FIRST)
            assert code == ccw.DONE and Subchannel.decode(data) == Subchannel()
            assert await start(alice, FIRST, sense_id()) == ccw.NOT_OPERATIONAL
            assert await start(alice, SECOND, sense_id()) == ccw.DONE
            assert (await status_of(alice, SECOND)).device == NORMAL


@pytest.mark.spec("CW-2", "CW-9")
async def test_the_prober_sends_nothing_but_stsch_and_sense_id(host: hostd.Host) -> None:
    sent: list[int] = []
    async with guestd.attach(host.socket) as guest:

        async def core(handle: int, number: int, *args: object) -> Any:
            sent.append(number)
            return await guest.core(handle, number, *args)

        found = [each async for each in named("ccw")(Reach(core, guest.ram, guest.datagrams))]
    there = {node.handle: node for node in host.tree.root.walk() if node.plugged is not None}
    assert [(each.name, each.node) for each in found] == [
        (f"0.0.{number:04x}", handle) for number, handle in enumerate(there)
    ]
    assert set(sent) == {numbers.STSCH, numbers.SSCH, numbers.TSCH} and sent.count(numbers.STSCH) == len(there) + 4
    assert not guest.ram._given_back
