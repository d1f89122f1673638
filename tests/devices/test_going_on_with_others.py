"""What a device that goes on elsewhere has with others: other cards, guests, files that were renamed, print queues."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moving import Hand, Holder, moved, until
from port_end import SECONDS
from raw import plugged
from shipped_uses import ELSEWHEN, Use, batch

import guestd
import hostd
from guestd.drivers.rng import RngDriver
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import HcallError, LinkLost, StaleHandle, WouldBlock
from hcall.formats import frames
from hcall.formats.folder import Access, Kind
from hostd.backings.ip import Network
from hostd.backings.spool import Spool
from hostd.backings.tap import Tap
from hostd.device import Later
from hostd.devices.folder import Folder
from hostd.devices.net import Net
from hostd.devices.ppp import Ppp
from hostd.devices.printer import Printer
from hostd.devices.watchdog import Watchdog
from hostd.model.areas import InlineRoom
from hostd.tree.plugged import Plugged


async def answer(outcome: Any) -> Any:
    """What a call comes to, now or later."""
    if isinstance(outcome, Later):
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        outcome.then(done.set_result)
        outcome = await done
    if isinstance(outcome, HcallError):
        raise outcome
    return outcome


def test_a_card_is_in_its_switch_again() -> None:
    common: Any = plugged(Net()).common

    def place(card: Net) -> Plugged:
        site = plugged(card)
        site.common = card.common = common
        return site

    cards = [Net(), Net()]
    sites = [place(card) for card in cards]
    for site in sites:
        site.start()
        site.holds[Holder(1)] = None  # type: ignore[index]  # all that is asked of it
        site.ready()
    saved, _ = sites[0].save()
    sites[0].cede()
    again = place(Net())
    again.load(saved, [])
    for _ in cards[1]._port.send(batch(2), frames.runs(batch(2))):
        pass
    assert again.device.statistics()[0] == 2  # type: ignore[attr-defined]  # a Net
    for site in (again, sites[1]):
        site.holds.clear()
        site.retire()


class Guests:
    """Whose sessions have ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, str]] = []

    def place(self, device: Watchdog, clock: ManualClock) -> Plugged:
        return Plugged(device, "/dog", clock, bytes, None, self.end)

    def end(self, guest: int, text: str) -> None:
        self.ended.append((guest, text))


def elsewhere(clock: ManualClock) -> ManualClock:
    there = ManualClock()
    there.turn(clock.time() + ELSEWHEN)
    return there


def test_a_countdown_goes_on_for_the_guest_that_it_was_for() -> None:
    guests, clock = Guests(), ManualClock()
    site = guests.place(Watchdog(timeout=20), clock)
    site.start()
    for guest in (7, 8):  # 7 closes the device, and its countdown goes on
        site.holds = {Holder(guest): None}  # type: ignore[dict-item]  # all that is asked of it
        site.ready()
        clock.turn(5)
        if guest == 7:
            site.reset()
    saved, _ = site.save()
    site.cede()
    clock.turn(1000)
    assert not guests.ended  # the old one counts no more
    there = elsewhere(clock)
    again = guests.place(Watchdog(timeout=20), there)
    again.load(saved, [])
    there.turn(9.75)
    assert not guests.ended
    there.turn(0.25)
    assert guests.ended == [(7, "the watchdog fired: no ping for 20 s")]
    again.holds = {Holder(8): None}  # type: ignore[dict-item]
    again.device.keepalive()  # type: ignore[attr-defined]  # a Watchdog
    there.turn(19.75)
    again.reset()
    again.ready()  # the same guest comes back in time
    assert again.device.time_left() == 20.0  # type: ignore[attr-defined]
    there.turn(20)
    assert [guest for guest, _ in guests.ended] == [7, 8]
    again.holds.clear()
    again.retire()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share/sub").mkdir(parents=True)
    for name in ("a", "b", "c", "sub/d"):
        (tmp_path / "share" / name).write_text(f"content of {name}")
    return tmp_path / "share"


async def test_open_files_are_found_again_if_they_are_still_there(share: Path) -> None:
    hand = Hand(lambda: Folder(path=share))
    files = {name: (await answer(hand.call("open_file", 0, name.encode(), int(Access.READ), 0)))[0] for name in "abc"}
    files["d"] = (await answer(hand.call("open_file", 0, b"sub/d", int(Access.READ | Access.WRITE), 0)))[0]
    files["sub"] = await answer(hand.call("open_dir", 0, b"sub"))
    node, kind = await answer(hand.call("walk", 0, b"sub"))
    assert kind == Kind.FOLDER
    (share / "a").rename(share / "renamed")
    (share / "b").unlink()
    (share / "c").rename(share / "elsewhere")
    saved, fds = hand.site.save()
    assert not fds
    (share / "elsewhere").unlink()
    (share / "elsewhere").write_text("of somebody else")
    hand.site.cede()
    hand.site = plugged(hand.make())
    hand.site.load(saved, [])
    hand._set_up()

    async def content(name: str) -> bytes:
        room = InlineRoom(100)
        return room.filled(await answer(hand.call("read_file", room, files[name], 0)))

    assert [await content("a"), await content("d")] == [b"content of a", b"content of sub/d"]
    for name in "bc":
        with pytest.raises(StaleHandle):
            await content(name)
    room = InlineRoom(600)
    assert b"d" in room.filled(await answer(hand.call("read_dir", room, files["sub"], 0)))
    assert (await answer(hand.call("stat", node, b"d")))[0] == Kind.FILE
    assert (await answer(hand.call("open_file", 0, b"renamed", int(Access.READ), 0)))[0] > max(files.values())
    hand.stop()


def printer(folder: Path, spool: str = "spool:jobs") -> Callable[[], Printer]:
    return lambda: Printer(spool=Spool.parse(spool, folder))


async def test_a_job_that_is_being_written_becomes_one_job(tmp_path: Path) -> None:
    hand = Hand(printer(tmp_path))
    assert hand.write(b"first ") == 6
    hand.move()
    assert hand.write(b"second ") == 7
    hand.move()
    assert hand.write(b"third") == 5 and hand.call("finish") == 1
    assert hand.call("outcome") == (1, "")
    hand.write(b"dropped")
    hand.move()
    hand.leave()
    hand.stop()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["job-000001"]
    assert (tmp_path / "jobs/job-000001").read_bytes() == b"first second third"


async def test_a_job_for_a_print_queue_is_sent_by_whoever_has_it_when_it_is_finished(tmp_path: Path) -> None:
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await came.put(await reader.read())
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(SECONDS):
        hand = Hand(printer(tmp_path, f"socket://127.0.0.1:{port}"))
        hand.write(b"one ")
        hand.move()
        hand.write(b"two")
        hand.call("finish")
        assert await came.get() == b"one two"
        await until(lambda: not hand.device.status() & 0x80)
        assert hand.call("outcome") == (1, "")
        hand.write(b"on its way")
        hand.call("finish")
        hand.move()  # half of it may be there, and none is sent twice
        with pytest.raises(WouldBlock):
            hand.call("outcome")
        await asyncio.sleep(0)
        number, why = hand.call("outcome")
        assert number == 2 and "may have been printed" in why
        hand.stop()


@pytest.mark.parametrize("sort", ["tun", "tap"])
async def test_an_interface_of_the_kernel_stays_and_has_the_same_other_end(sort: str) -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("to make an interface takes root, iproute2 and /dev/net/tun")
    name = f"hostdm{os.getpid() % 100000}"
    there = Path("/sys/class/net") / name
    if sort == "tap":
        hand = Hand(lambda: Net(tap=Tap.parse(name, Path())))
    else:
        hand = Hand(lambda: Ppp(backing=Network.parse(f"tun:{name}", Path())))
    number = (there / "ifindex").read_text()
    for _ in range(2):
        hand.move()
        assert (there / "ifindex").read_text() == number
    hand.stop()
    assert not there.exists()


def test_what_is_late_when_it_is_saved_is_due_at_once() -> None:
    use = Use(lambda: Watchdog(timeout=1))
    ended: list[str] = []
    use.site._expel = lambda guest, text: ended.append(text)
    saved, _ = use.site.save()
    assert saved["device"]["running"]["left"] == 1.0
    with contextlib.suppress(HcallError):
        use.clock.turn(3)
    saved, _ = use.site.save()
    assert saved["device"]["running"]["over"]
    again = moved(use.site, Watchdog(timeout=1), ManualClock())
    with pytest.raises(HcallError, match="fired"):
        again.device.keepalive()  # type: ignore[attr-defined]  # a Watchdog
    again.retire()


async def test_a_guest_that_falls_silent_is_reset_by_the_host_that_goes_on_and_no_other_is(tmp_path: Path) -> None:
    machine = tmp_path / "machine.toml"
    machine.write_text('[devices.dog]\nmodel = "watchdog"\ntimeout = 20\n[devices.rng]\nmodel = "rng"\n')
    clock, later = ManualClock(), ManualClock()
    async with (
        hostd.serve(machine, tmp_path / "run", clock) as old,
        guestd.attach(old.socket, name="bystander") as bystander,
        guestd.attach(old.socket, name="silent") as silent,
    ):
        await silent.bind("dog")
        rng = await bystander.bind("rng")
        assert isinstance(rng, RngDriver)
        clock.turn(15)
        await old.drain()
        saved, fds = old.save()
        old.cede()
        assert not fds
        async with hostd.serve(machine, tmp_path / "next", later, saved=saved) as new:
            new.socket.rename(old.socket)
            for link in list(old.guests.links):
                link.abort()
            assert await rng.read_exactly(8)
            await until(lambda: all(guest.lane.link is not None for guest in new.guests.by_token.values()))
            later.turn(4.75)
            assert {guest.name for guest in new.guests.by_token.values()} == {"silent", "bystander"}
            later.turn(0.25)
            async with asyncio.timeout(SECONDS):
                await new.guests.wait_for(lambda: len(new.guests.by_token) == 1)
            with pytest.raises(LinkLost, match="the watchdog fired"):
                await silent.call(0, numbers.NOP)
            assert await rng.read_exactly(8)
            await bystander.unbind("rng")
