"""The bus, as the draft has it: which devices there are, and which come and go."""

from __future__ import annotations

import pytest
from msg_peer import MsgPeer

import hostd
from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import DEVICES, READY, REMOVED, DeviceEvent

WINDOWS = "Bus Messages / BUS_MSG_GET_DEVICES"
EVENTS = "Bus Messages / BUS_MSG_EVENT_DEVICE"


@pytest.mark.draft("Bus Messages / BUS_MSG_PING", "both sides MUST echo the 32-bit data field precisely.")
@pytest.mark.parametrize("data", [0, 1, 0xFFFFFFFF, 0x80000000, 0xDEADBEEF])
async def test_a_ping_comes_back(peer: MsgPeer, data: int) -> None:
    assert await peer.ask(msg.Ping(data), msg.Pong) == msg.Pong(data)


@pytest.mark.draft(WINDOWS, "offset and count MUST be multiples of 8; the bitmap length is count/8; offset (echoed).")
@pytest.mark.parametrize("offset", [0, 8, 256, 4096, DEVICES - 8])
async def test_a_window_begins_where_it_was_asked_for(peer: MsgPeer, offset: int) -> None:
    window = await peer.ask(msg.GetDevices(offset, 8), msg.Devices)
    assert window.offset == offset and len(window.bitmap) <= 1


@pytest.mark.draft(
    WINDOWS, "Responders SHOULD return the requested count unless constrained; otherwise a smaller value."
)
@pytest.mark.parametrize("count", [8, 16, 64, 128])
async def test_a_window_is_as_long_as_it_was_asked_for(peer: MsgPeer, count: int) -> None:
    assert len((await peer.ask(msg.GetDevices(0, count), msg.Devices)).bitmap) == count // 8


@pytest.mark.draft(
    WINDOWS, "otherwise they MAY return a smaller value, in which case the bitmap covers the reduced window."
)
async def test_a_window_that_is_too_long_is_cut(peer: MsgPeer) -> None:
    window = await peer.ask(msg.GetDevices(0, DEVICES - 8), msg.Devices)
    assert 0 < len(window.bitmap) <= (DEVICES - 8) // 8


@pytest.mark.draft(WINDOWS, "next_offset is either 0 (no further windows) or an aligned value >= offset + count.")
@pytest.mark.parametrize("count", [8, 64, 512])
async def test_going_on_where_it_says_comes_to_an_end(peer: MsgPeer, count: int) -> None:
    offset, ends = 0, []
    while True:
        window = await peer.ask(msg.GetDevices(offset, count), msg.Devices)
        end = offset + 8 * len(window.bitmap)
        ends.append(end)
        if not window.following:
            break
        assert window.following >= end > offset
        offset = window.following
    assert ends == sorted(set(ends))


@pytest.mark.draft(WINDOWS, "bit n describes device number (offset + n) (0=absent, 1=present), packed LSB-first.")
async def test_every_window_tells_the_same_devices(peer: MsgPeer) -> None:
    there = await peer.devices()
    assert there == sorted({*there})
    for device in there[:16]:
        window = await peer.ask(msg.GetDevices(device // 8 * 8, 8), msg.Devices)
        assert window.bitmap[0] >> device % 8 & 1


@pytest.mark.draft(WINDOWS, "confirm candidates via GET_DEVICE_INFO before issuing other transport messages.")
async def test_every_device_that_is_present_says_what_it_is(peer: MsgPeer) -> None:
    for device in (await peer.devices())[:16]:
        assert (await peer.ask(msg.GetDeviceInfo(), msg.DeviceInfo, device)).id


@pytest.mark.draft(
    "Basic Concepts / Device Numbers", "A bus implementation MUST assign a unique device number to every device."
)
async def test_a_device_that_comes_has_a_number_of_its_own(peer: MsgPeer, host: hostd.Host) -> None:
    before = await peer.devices()
    host.plug_table("extra", {"model": "rng"})
    event = await peer.event(DeviceEvent)
    assert event.device not in before
    assert await peer.devices() == sorted([*before, event.device])


@pytest.mark.draft(EVENTS, "DEVICE_BUS_STATE_READY 0x1: Device is present and ready; REMOVED 0x2: no longer present.")
async def test_what_comes_and_goes_is_told(peer: MsgPeer, host: hostd.Host) -> None:
    await peer.fence()
    host.plug_table("extra", {"model": "rng"})
    came = await peer.event(DeviceEvent)
    assert came.state == READY
    assert (await peer.ask(msg.GetDeviceInfo(), msg.DeviceInfo, came.device)).id
    await host.unplug("extra")
    assert await peer.event(DeviceEvent) == DeviceEvent(came.device, REMOVED)
    assert came.device not in await peer.devices()


@pytest.mark.draft(
    "Basic Concepts / Device Number Assignment (2026)",
    "A bus implementation SHOULD prevent reuse of a device number immediately after a device is removed.",
)
async def test_a_number_is_not_used_again_at_once(peer: MsgPeer, host: hostd.Host) -> None:
    await peer.fence()
    seen = []
    for _ in range(5):
        host.plug_table("extra", {"model": "rng"})
        seen.append((await peer.event(DeviceEvent)).device)
        await host.unplug("extra")
        await peer.event(DeviceEvent)
    assert len({*seen}) == 5
