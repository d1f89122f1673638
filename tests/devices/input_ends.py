"""A host with an input device, its guest, and what events are to be compared by."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import guestd
import hostd
from guestd.drivers.hid import HidDriver
from hcall.clock import Clock
from hcall.formats.input import EV_KEY, EV_REL, Event, Packet
from hcall.formats.keycodes import BUTTONS, KEYS, LEDS
from hostd import Machine
from hostd.devices.hid import Hid
from hostd.service.panel import act

SECONDS = 10  # after which a test says that something hangs
A, LEFT, CAPS = KEYS["KEY_A"], BUTTONS["BTN_LEFT"], LEDS["LED_CAPSL"]


@contextlib.asynccontextmanager
async def served(folder: Path, clock: Clock | None = None, **keys: object) -> AsyncIterator[hostd.Host]:
    devices = {"hid": {"model": "hid", **keys}}
    async with hostd.serve(Machine.from_tables({"devices": devices}, folder), folder / "run", clock) as host:
        async with asyncio.timeout(SECONDS):
            yield host


@contextlib.asynccontextmanager
async def bound(host: hostd.Host) -> AsyncIterator[HidDriver]:
    async with guestd.attach(host.socket) as guest:
        yield cast(HidDriver, await guest.bind("hid"))
    await host.guests.wait_for(lambda: not host.guests.by_token)


def panel(host: hostd.Host, action: str, *args: Any) -> None:
    with contextlib.suppress(StopIteration):  # it does not wait for anything
        act(host.tree.find("/hid"), action, list(args)).send(None)


def model(host: hostd.Host) -> Hid:
    device = host.tree.find("/hid").device
    assert isinstance(device, Hid)
    return device


def key(code: int, *values: int) -> list[Packet]:
    return [Packet(0, (Event(EV_KEY, code, value),)) for value in values]


def encoded(packets: list[Packet]) -> bytes:
    return b"".join(packet.encode() for packet in packets)


def events(packets: list[Packet]) -> list[tuple[Event, ...]]:
    return [packet.events for packet in packets]


def edges(packets: list[Packet]) -> list[Event]:
    return [event for packet in packets for event in packet.events if event.type == EV_KEY]


def way(packets: list[Packet]) -> dict[int, int]:
    """How far it went in all, by axis."""
    sums: dict[int, int] = {}
    for event in (event for packet in packets for event in packet.events if event.type == EV_REL):
        sums[event.code] = sums.get(event.code, 0) + event.value
    return sums
