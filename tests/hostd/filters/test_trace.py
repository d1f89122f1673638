"""A trace of a live host: what its lines say, who gets them, and that nothing is left of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from probe import PROBE, probe
from raw import ADDRESS, attached, bystander, connected, hello, served, settled, until
from slow import SPECS, slow
from tracing import Event, following

import guestd
import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.messages import CALL
from hcall.wire import encode
from hostd.filters.reader import Reader
from hostd.guests.guest import Guest
from hostd.machine.file import DeviceSpec

OPENING = 6  # calls with a handle of a device, to open and negotiate it


class Kept(Reader):
    """A reader in this process, with all that it was given."""

    @property
    def events(self) -> list[Event]:
        self.seen = [*getattr(self, "seen", []), *map(json.loads, self.take().splitlines())]
        return self.seen

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]


@contextlib.contextmanager
def traced(host: hostd.Host, device: str | None = None) -> Any:
    reader = Kept(device)
    leave = host.trace.follow(reader)
    try:
        yield reader
    finally:
        leave()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[tuple[hostd.Host, ManualClock]]:
    """A host with the devices of these tests, on a clock that stands still."""
    clock = ManualClock()
    clock.turn(100.0)
    async with served(tmp_path, PROBE, *SPECS, clock=clock) as host:
        yield host, clock


async def test_a_call_is_told_by_name_with_all_that_goes_in_and_out(bench: tuple[hostd.Host, ManualClock]) -> None:
    host, clock = bench
    async with attached(host, regions=1) as guest:
        handle, calls = await guest.open("/slow")
        clock.turn(2.5)
        with traced(host) as reader:
            await guest.call(calls["read"], handle, 7, areas=(24,))
            await guest.call(calls["write"], handle, 8, areas=((ADDRESS, 100, 0), b"xyz"))
            await guest.call(calls["now"], handle, 12)
            await guest.call(calls["now"], handle, "12")
            await guest.core(numbers.NOP)
            read, write, now, wrong, nop = reader.events
    common = {"event": "call", "time": 2.5, "guest": "raw", "device": "/slow", "data": 0, "room": 0, "seconds": 0.0}
    assert read == common | {
        "id": read["id"], "call": "read", "args": [7], "room": 24, "status": "OK",
        "answer": {"bytes": 24, "hex": "72" * 16},
    }  # fmt: skip
    assert write == common | {
        "id": read["id"] + 1, "call": "write", "args": [8], "data": 103, "status": "OK", "answer": 103,
    }  # fmt: skip
    assert now == common | {"id": read["id"] + 2, "call": "now", "args": [12], "status": "OK", "answer": 12}
    assert wrong == common | {
        "id": read["id"] + 3, "call": "now", "args": ["12"], "status": "BAD_ARGUMENT",
        "answer": "this call takes (int), not (str)",
    }  # fmt: skip
    assert nop == common | {
        "id": read["id"] + 4, "device": None, "call": "NOP", "args": [], "status": "OK", "answer": None
    }  # fmt: skip


async def test_calls_of_the_core_name_the_device_that_their_handle_stands_for(
    bench: tuple[hostd.Host, ManualClock],
) -> None:
    host, _ = bench
    async with attached(host) as guest:
        with traced(host) as reader:
            handle, _calls = await guest.open("/probe")
            await guest.core(numbers.CLOSE, handle)
            await guest.call(numbers.CLOSE, handle)
            await guest.call(12345, handle)
            told = [(event["device"], event["call"], event["args"], event["status"]) for event in reader.events]
    assert told == [
        (None, "FIND", ["/probe"], "OK"), ("/probe", "OPEN", [0], "OK"), ("/probe", "SET_STATUS", [1], "OK"),
        ("/probe", "SET_STATUS", [3], "OK"), ("/probe", "SET_FEATURES", [0], "OK"),
        ("/probe", "SET_STATUS", [11], "OK"), ("/probe", "SET_STATUS", [15], "OK"), ("/probe", "CLOSE", [], "OK"),
        (None, "CLOSE", [], "STALE_HANDLE"),
        (None, "0x3039", [], "NO_SUCH_CALL"),
    ]  # fmt: skip


async def test_a_late_answer_is_an_event_of_its_own_with_the_time_it_took(
    bench: tuple[hostd.Host, ManualClock],
) -> None:
    host, clock = bench
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        with traced(host) as reader:
            guest.send(guest.next_call(calls["late"], handle, (1,), slot=1))
            guest.send(guest.next_call(calls["late"], handle, (2,), slot=2))
            await settled(guest)
            clock.turn(1.5)
            slow(host).waiting[2].done(22)
            clock.turn(0.25)
            slow(host).waiting[1].done(11)
            assert [await guest.reply(), await guest.reply()] == [(0, 22), (0, 11)]
            begun = [event for event in reader.of("call") if event["call"] == "late"]
            ends = reader.of("answer")
    first, second = begun
    assert [event["status"] for event in begun] == [event["seconds"] for event in begun] == [None, None]
    common = {"event": "answer", "guest": "raw", "device": "/slow", "call": "late", "status": "OK"}
    assert ends == [
        common | {"id": second["id"], "time": 1.5, "answer": 22, "seconds": 1.5},
        common | {"id": first["id"], "time": 1.75, "answer": 11, "seconds": 1.75},
    ]


async def test_a_call_that_a_reset_ends_is_told_so(bench: tuple[hostd.Host, ManualClock]) -> None:
    host, _ = bench
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        with traced(host, "/slow") as reader:
            guest.send(guest.next_call(calls["late"], handle, (1,), slot=1))
            await settled(guest)
            guest.send(guest.next_call(numbers.CLOSE, handle))
            assert (await guest.reply())[0] == Status.RESET
            await guest.reply()
            told = [(event["event"], event["call"], event["status"]) for event in reader.events]
    assert told == [("call", "late", None), ("answer", "late", "RESET"),  # within CLOSE, which has to wait for it
                    ("call", "CLOSE", None), ("answer", "CLOSE", "OK")]  # fmt: skip


async def test_an_interrupt_has_its_name_by_handle_or_cookie_and_changes_have_theirs(
    bench: tuple[hostd.Host, ManualClock],
) -> None:
    host, _ = bench
    async with attached(host) as guest, attached(host) as other:
        await guest.open("/probe", cookie=77)
        await other.core(numbers.CHANGES, 0, 0)
        with traced(host) as reader:
            probe(host).rung()
            host.plug(DeviceSpec("more", "probe", type(probe(host)), {}))
            (plug,) = reader.of("plug")
            rung, changes = reader.of("interrupt")
    assert rung == {
        "event": "interrupt", "time": 0.0, "guest": "raw", "device": "/probe", "vector": "rung", "count": 1
    }  # fmt: skip
    assert changes == rung | {"device": "/", "vector": "CHANGES"}
    assert plug == {"event": "plug", "time": 0.0, "device": "/more", "compatible": ["test,probe"]}


async def test_plug_and_unplug_and_the_asking_between_them(bench: tuple[hostd.Host, ManualClock]) -> None:
    host, _ = bench
    async with attached(host) as guest:
        handle, _calls = await guest.open("/probe")
        with traced(host) as reader:
            leaving = asyncio.ensure_future(host.unplug("/probe"))
            await settled(guest)
            await guest.core(numbers.CLOSE, handle)
            await leaving
            told = [event["event"] for event in reader.events if event["event"] != "call"]
    assert told == ["leaving", "unplug"]


async def test_guests_come_lose_their_link_come_back_and_go(bench: tuple[hostd.Host, ManualClock]) -> None:
    host, _ = bench
    token = os.urandom(16)
    with traced(host) as reader:
        with connected(host) as guest:
            await guest.greet(hello(token=token, name="one\x1b[2J"))
        await until(host, lambda: not host.guests.links)
        with connected(host) as guest:
            await guest.greet(hello(token=token))
            await guest.core(numbers.DETACH)
        await until(host, lambda: not host.guests.by_token)
        told = [(event["event"], event["guest"], event["why"]) for event in reader.events if "why" in event]
    name = "one?[2J"
    assert told == [("attach", name, None), ("unlink", name, None), ("resume", name, None),
                    ("end", name, "the guest is gone")]  # fmt: skip


async def test_one_device_is_followed_with_what_stands_below_it(tmp_path: Path) -> None:
    async with served(tmp_path, PROBE) as host:
        kind = type(probe(host))
        for path in ("bus", "bus/below", "bus2"):
            host.plug(DeviceSpec(path, "probe", kind, {}))
        async with attached(host) as guest:
            handles = [await guest.open(path) for path in ("/rng", "/bus", "/bus/below", "/bus2")]
            async with following(host, "bus/") as follower:
                for handle, calls in handles:
                    await guest.call(calls["read"], handle, 0, areas=(8,))
                await host.unplug("/bus", surprise=True)
                told = [await follower.next() for _ in range(4)]
    assert [(event["event"], event["device"]) for event in told] == [
        ("call", "/bus"), ("call", "/bus/below"), ("unplug", "/bus/below"), ("unplug", "/bus")
    ]  # fmt: skip


async def test_nothing_is_in_front_of_anybody_before_the_first_reader_and_after_the_last(host: hostd.Host) -> None:
    async with guestd.attach(host.socket, name="early") as early:
        (guest,) = host.guests.by_token.values()
        ways = guest.dispatch, guest.hint

        def clean(guest: Guest) -> bool:
            return not host.guests.watchers and host.trace not in host.tree.watchers and not guest._filters

        assert clean(guest)
        async with following(host) as first:
            assert guest.dispatch is not ways[0]
            async with following(host, "/disk") as second, guestd.attach(host.socket, name="late") as late:
                await late.nop()
                await early.nop()
                await (await early.bind("disk")).load(512)
                assert (await first.event(call="NOP", guest="late"))["status"] == "OK"
                assert (await first.event(call="NOP", guest="early"))["status"] == "OK"
                for follower in (first, second):
                    assert (await follower.event(call="read"))["device"] == "/disk"
            await early.nop()
            await first.event(call="NOP")
        await until(host, lambda: len(host.guests.by_token) == 1)
        while host.trace.tree.watchers.get(host.trace):  # until the host has seen that the last one hung up
            await early.nop()
        assert (guest.dispatch, guest.hint) == ways and clean(guest)
        await early.nop()


async def test_a_reader_that_does_not_read_loses_events_and_is_told_how_many(host: hostd.Host) -> None:
    """Nobody waits for it, nothing grows, and another reader has it all."""
    many, at_once = 40_000, 50
    async with bystander(host), attached(host) as guest, following(host, "/rng") as follower:
        handle, calls = await guest.open("/rng")
        with traced(host) as reader:
            for _ in range(many // at_once):
                batch = [
                    (CALL, slot, guest.seq + slot + 1, calls["read"], handle, (0,), (16,)) for slot in range(at_once)
                ]
                guest.seq += at_once
                guest.send(b"".join(map(encode, batch)))
                for _ in range(at_once):
                    assert (await guest.reply())[0] == 0
                assert len(reader.events) > 0
                reader.seen.clear()
        seen = lost = 0
        while seen + lost < many + OPENING:
            event = await follower.next()
            seen, lost = (seen, lost + event["count"]) if event["event"] == "lost" else (seen + 1, lost)
        assert lost > 0 and seen + lost == many + OPENING
        await guest.core(numbers.CLOSE, handle)
        assert (await follower.next())["call"] == "CLOSE"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"device": "dsk"}, 4),
        ({"device": 3}, 2),
        ({"devise": "disk"}, 2),
    ],
)
async def test_what_cannot_be_followed_is_refused(host: hostd.Host, request_: dict[str, object], code: int) -> None:
    reader, writer = await asyncio.open_unix_connection(str(host.socket.with_name("control.sock")))
    writer.write(json.dumps({"do": "trace", **request_}).encode() + b"\n")
    answer = json.loads(await reader.readline())
    assert answer["code"] == code
    assert "did you mean 'disk'?" in answer["error"] or code != 4
    writer.write(b'{"do": "ls"}\n')  # the connection goes on
    assert "ok" in json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()


async def test_whatever_a_guest_sends_is_a_line_of_json(bench: tuple[hostd.Host, ManualClock]) -> None:
    host, _ = bench
    nasty: list[Any] = [
        "\x1b]0;x\x07\n\x00\u2028", float("nan"), float("inf"), (1 << 64) - 1, -(1 << 63), b"\xff" * 4096, None, True,
        {b"k": 1, 2: {"\n": ((((("deep",),),),),)}}, tuple(range(60)), "ä" * 60 + "€" * 40,
    ]  # fmt: skip
    async with attached(host) as guest:
        with traced(host) as reader:
            for value in nasty:
                assert (await guest.call(numbers.NOP, 0, value))[0] == Status.BAD_ARGUMENT
            await guest.call(
                numbers.NOP, 0, *range(30), areas=(1, (2, 3), (1, 2, 3, 4), ("a", "b", "c"), None, {}, b"x")
            )
            lines = reader.take().splitlines()
    assert len(lines) == len(nasty) + 1
    assert all(len(line) < 1024 and json.loads(line)["event"] == "call" for line in lines)
    shown = [json.loads(line)["args"] for line in lines]
    assert shown[0] == ["\x1b]0;x\x07\n\x00\u2028"] and shown[1] == shown[2] == [None]
    assert shown[5] == [{"bytes": 4096, "hex": "ff" * 16}]
    assert shown[9] == [[0, 1, 2, 3, 4, 5, 6, 7, "..."]] and shown[11] == [0, 1, 2, 3, 4, 5, 6, 7, "..."]


async def test_a_sentence_is_whole_and_what_a_model_says_at_the_end_of_a_guest_is_a_line_of_json(
    bench: tuple[hostd.Host, ManualClock],
) -> None:
    host, _ = bench
    async with attached(host) as guest:
        with traced(host) as reader:
            _, sentence = await guest.call(
                numbers.FIND, 0, "no/such/path/and/a/rather/long/one/so/that/it/would/be/cut"
            )
            (ours,) = host.guests.by_token.values()
            host.guests.end(ours, Status.RESET, "half a pair: \udc80")
            call, end = reader.events
    assert call["answer"] == sentence and len(sentence) > 64
    assert (end["event"], end["why"]) == ("end", "half a pair: ?")


async def test_a_guest_that_has_ended_is_let_go_of_while_the_trace_goes_on(host: hostd.Host) -> None:
    with traced(host):
        for _ in range(3):
            async with attached(host) as guest:
                await guest.core(numbers.NOP)
        (put,) = host.guests._put
        assert not put.outs


async def test_answers_that_come_after_the_trace_has_gone_reach_the_guest(
    bench: tuple[hostd.Host, ManualClock],
) -> None:
    host, _ = bench
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        with traced(host):
            guest.send(guest.next_call(calls["late"], handle, (1,), slot=1))
            await settled(guest)
        slow(host).waiting[1].done(5)
        assert await guest.reply() == (0, 5)
