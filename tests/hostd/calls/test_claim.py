"""Claims: a free device of a class is found and opened in one step; who gets none is told when there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from raw import Nobody, RawGuest, attached, plugged, served, settled
from users import ALICE, connect, needs_root

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import ACK
from hcall.wire import encode
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device, call
from hostd.machine.file import DeviceSpec
from hostd.service.serve import running
from hostd.tree.tree import Tree

SORT: Final = "test,lamp"


class Lamp(Device):
    """Keeps what the last guest left in it, until a reset."""

    compatible = ("test,lamp-2", SORT)

    def start(self) -> None:
        self.left = 0
        self.broken = False

    def reset(self) -> None:
        if self.broken:
            raise OSError("no bulb")
        self.left = 0

    @call
    def leave(self, value: int) -> int:
        before, self.left = self.left, value
        return before


def lamps(*names: str) -> list[DeviceSpec]:
    return [DeviceSpec(name, "lamp", Lamp, {}) for name in names]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *lamps("one", "bus/two"), handles=8) as host:
        yield host


async def claim(guest: RawGuest, sort: str = SORT, after: int = 0, cookie: int = 0) -> tuple[int, Any]:
    return await guest.call(numbers.CLAIM, 0, sort, after, cookie)


async def claimed(guest: RawGuest, sort: str = SORT, after: int = 0) -> tuple[int, int, dict[str, int]]:
    """The node, the open handle, the calls."""
    status, value = await claim(guest, sort, after)
    assert status == Status.OK, value
    node, handle, calls, _, _ = value
    return node, handle, calls


async def available(guest: RawGuest, host: hostd.Host) -> int:
    """How often it was told that a claim may be made again, since the last time; they are acknowledged."""
    await settled(guest)
    told, guest.interrupts[:] = guest.interrupts[:], []
    for _, tag, vector, count in told:
        assert (tag, vector) == (host.tree.root.handle, numbers.AVAILABLE)
        guest.send(encode((ACK, tag, vector, count)))
    return len(told)


@pytest.mark.spec("Q-1", "Q-2", "Q-3")
async def test_a_claim_opens_the_first_free_device_that_is_compatible(host: hostd.Host) -> None:
    one, two = host.tree.find("one").handle, host.tree.find("bus/two").handle
    async with attached(host) as guest, attached(host) as other:
        node, handle, calls = await claimed(guest)
        assert node == one
        await guest.core(numbers.SET_STATUS, handle, 15)
        assert (await guest.call(calls["leave"], handle, 7)) == (Status.OK, 0)
        node, _, _ = await claimed(other, "test,lamp-2")
        assert node == two
        status, text = await claim(other)
        assert status == Status.BUSY and "test,lamp" in text
        assert (await claim(other, "test,lam"))[0] == Status.NO_MATCH
        assert (await claim(other, "lamp"))[0] == Status.NO_MATCH  # the model's name is the host's, not a class
        await guest.core(numbers.CLOSE, handle)
        node, handle, calls = await claimed(other)  # reset: it shows nothing of the guest before
        assert node == one
        await other.core(numbers.SET_STATUS, handle, 15)
        assert (await other.call(calls["leave"], handle, 1)) == (Status.OK, 0)


@pytest.mark.spec("Q-1", "Q-2")
async def test_claims_of_any_class_go_on_behind_a_node(host: hostd.Host) -> None:
    async with attached(host) as guest:
        found, after = [], 0
        while True:
            status, value = await claim(guest, "", after)
            if status:
                break
            after = value[0]
            found.append(host.tree.node(after).path)
            await guest.core(numbers.CLOSE, value[1])
        assert status == Status.NO_MATCH and found == ["/rng", "/one", "/bus/two"]
        first, _, _ = await claimed(guest, "hostd,rng")
        assert (await claimed(guest, "hostd,rng"))[0] == first  # it is shared, and always free


@pytest.mark.spec("Q-4")
async def test_who_claims_in_vain_is_told_once_when_a_device_of_the_class_is_free(host: hostd.Host) -> None:
    async with attached(host) as guest, attached(host) as other, attached(host) as third:
        holds = [(await claimed(guest))[1] for _ in range(2)]
        assert (await claim(other))[0] == (await claim(third))[0] == Status.BUSY
        assert (await claim(third, "test,gone"))[0] == Status.NO_MATCH
        assert await available(other, host) == await available(third, host) == 0
        await guest.core(numbers.CLOSE, holds.pop())
        assert await available(other, host) == await available(third, host) == 1
        assert [(await claim(each))[0] for each in (other, third)] == [Status.OK, Status.BUSY]  # one of two wins
        await guest.core(numbers.CLOSE, holds.pop())
        assert (await available(other, host), await available(third, host)) == (0, 1)
        host.plug(*lamps("three"))
        assert await available(third, host) == 0  # it does not wait any more
        holds = [(await claimed(third))[1] for _ in range(2)]
        assert (await claim(third))[0] == Status.BUSY
        host.plug(*lamps("four"))
        assert await available(third, host) == 1


@pytest.mark.spec("Q-4")
async def test_a_guest_that_dies_returns_all_that_it_held(host: hostd.Host) -> None:
    async with attached(host) as other:
        async with attached(host) as guest:
            assert [(await claimed(guest))[0] for _ in range(2)]
            assert (await claim(other))[0] == Status.BUSY
        assert await available(other, host) == 1
        for _ in range(2):
            await claimed(other)


@pytest.mark.spec("Q-3")
async def test_of_all_that_is_wrong_with_a_claim_the_first_is_answered(host: hostd.Host) -> None:
    async with attached(host) as guest:
        assert (await claim(guest, "no,such", cookie=-1))[0] == Status.BAD_ARGUMENT
        assert (await claim(guest, cookie=1 << 64 - 1))[0] == Status.OK
        for _ in range(7):
            await claimed(guest, "hostd,rng")
        status, text = await claim(guest, "no,such", cookie=-1)
        assert status == Status.BUSY and "8 devices" in text


@pytest.mark.spec("Q-2", "Q-3")
async def test_one_that_has_failed_is_passed_over(host: hostd.Host, caplog: pytest.LogCaptureFixture) -> None:
    broken = [host.tree.find(path) for path in ("one", "bus/two")]
    for node in broken:
        assert isinstance(node.device, Lamp) and node.plugged is not None
        node.device.broken = True
        async with attached(host) as guest:
            await claimed(guest, after=node.handle - 1)
            node.plugged.fail()
        async with attached(host) as guest:
            status, value = await claim(guest)
            if node is broken[0]:
                assert status == Status.OK and value[0] == broken[1].handle
                assert (await claim(guest))[0] == Status.BUSY  # the other is in use, and that ends
            else:
                assert status == Status.IO_ERROR
    caplog.clear()


@pytest.mark.spec("Q-5")
@needs_root
async def test_what_a_guest_may_not_open_is_none_for_it(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    devices = "".join(f'[devices.{name}]\nmodel = "watchdog"\n' for name in ("hidden", "seen", "mine"))
    policy = f'[policy.alice]\nusers = [{ALICE}]\nsee = ["seen"]\nopen = [{{}}]\n'
    file.write_text(policy.format("") + devices)
    async with running(file, tmp_path / "run") as (host, reload):
        (tmp_path / "run").chmod(0o711)
        sort = "hostd,watchdog"
        async with attached(host, sock=connect(host.socket, ALICE)) as alice, attached(host) as ours:
            assert (await claim(alice, sort))[0] == Status.NO_MATCH
            _, handle, _ = await claimed(ours, sort)
            await ours.core(numbers.CLOSE, handle)
            assert await available(alice, host) == 0
            file.write_text(policy.format('"mine"') + devices)
            await reload.begin()
            assert await available(alice, host) == 1
            node, _, _ = await claimed(alice, sort)
            assert host.tree.node(node).path == "/mine"
            status, text = await claim(alice, sort)
            assert status == Status.BUSY and "seen" not in text


async def test_a_guest_that_waits_for_many_classes_waits_for_any_and_costs_no_more(host: hostd.Host) -> None:
    async with attached(host) as guest, attached(host) as other:
        for number in range(200):
            assert (await claim(guest, f"no,such-{number}"))[0] == Status.NO_MATCH
        (account,) = [each.account for each in host.guests.by_token.values() if host.tree.classes.waits(each.account)]
        assert len(host.tree.classes.waits(account)) == 65
        _, handle, _ = await claimed(other)
        await other.core(numbers.CLOSE, handle)
        assert await available(guest, host) == 1
    assert host.tree.classes.waits(account) == []


class InParts(Nobody):
    """Its turns are the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Iterator[None]] = []
        self.told: list[tuple[int, int]] = []

    def go_on(self, steps: Iterator[None]) -> None:
        self.steps.append(steps)

    def hint(self, tag: int, vector: int, count: int) -> None:
        self.told.append((tag, vector))


@pytest.mark.spec("Q-4")
def test_a_search_takes_a_step_for_each_device_and_what_is_given_back_behind_it_is_told() -> None:
    tree = Tree(1)
    nodes = [tree.plug(f"lamp{number}", plugged(Lamp())) for number in range(5)]
    keeper, owner = Account(tree, Limits(), Nobody()), InParts()
    holds = [keeper.open(node, 0) for node in nodes]
    answer = Dispatcher(Account(tree, Limits(), owner)).dispatch(numbers.CLAIM, 0, (SORT, 0, 0), ())
    assert not isinstance(answer, tuple)
    said: list[int] = []
    answer.then(lambda status, value: said.append(status))
    (steps,) = owner.steps
    for _ in range(3):
        next(steps)
    assert owner.told == [] and not said
    holds[1].close()  # the search is past it
    assert owner.told == [(tree.root.handle, numbers.AVAILABLE)]
    tree.remove(nodes[3])
    assert len(list(steps)) == 1 and said == [Status.BUSY]
