"""A device, as the draft has it: what it is, features, configuration, status, virtqueues."""

from __future__ import annotations

from typing import Any

import pytest
from msg_peer import MsgPeer

import hostd
from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import DeviceInfo

INFO = "Transport Messages / VIRTIO_MSG_GET_DEVICE_INFO"
FEATURES = "Device Initialization / Feature Negotiation"
STATUS = "Transport Messages / VIRTIO_MSG_SET_DEVICE_STATUS"
CONFIG = "Basic Concepts / Configuration Generation Count"
QUEUES = "Transport Messages / VIRTIO_MSG_GET_VQUEUE"
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED = 1, 2, 4, 8, 128
BEFORE_FEATURES = ACKNOWLEDGE | DRIVER
NONE_OF_IT = 0x5A5A  # index of a virtqueue, or of a region, that no device has


async def info(peer: MsgPeer, device: int) -> DeviceInfo:
    return await peer.ask(msg.GetDeviceInfo(), DeviceInfo, device)


async def offered(peer: MsgPeer, device: int) -> list[int]:
    """The device's features, in blocks."""
    count = (await info(peer, device)).feature_bits // 32
    return [*(await peer.ask(msg.GetFeatures(0, count), msg.Features, device)).blocks]


async def agree(peer: MsgPeer, device: int, blocks: list[int]) -> int:
    """The status after FEATURES_OK was asked for with these features."""
    await peer.set_status(device, ACKNOWLEDGE)
    assert await peer.set_status(device, BEFORE_FEATURES) == BEFORE_FEATURES
    await peer.ask(msg.SetFeatures(0, tuple(blocks)), msg.FeaturesSet, device)
    return await peer.set_status(device, BEFORE_FEATURES | FEATURES_OK)


@pytest.mark.draft(INFO, "The number of feature bits MUST be a multiple of 32.")
async def test_features_come_in_blocks(peer: MsgPeer, device: int) -> None:
    assert (await info(peer, device)).feature_bits % 32 == 0


@pytest.mark.draft(
    f"{INFO} (2026)", "A device MUST supply consistent values for device ID, vendor ID, configuration size, limits."
)
async def test_a_device_is_the_same_each_time(peer: MsgPeer, device: int) -> None:
    found = await info(peer, device)
    await peer.set_status(device, ACKNOWLEDGE)
    assert await info(peer, device) == found
    await peer.set_status(device, 0)
    assert await info(peer, device) == found


@pytest.mark.draft(
    f"{INFO} (2026)", "If admin_vq_count is 0, admin_vq_start is 0; else they are within max_virtqueues."
)
async def test_admin_queues_are_queues(peer: MsgPeer, device: int) -> None:
    found = await info(peer, device)
    assert found.queues <= 65536 and found.admin_start + found.admin_count <= found.queues
    assert found.admin_count or not found.admin_start


@pytest.mark.draft(INFO, "If this message queries an inactive device all fields in the response SHOULD be 0.")
async def test_a_device_that_is_not_there_has_zeroes(peer: MsgPeer, absent: int) -> None:
    assert await info(peer, absent) == DeviceInfo(0, 0, 0, 0)


@pytest.mark.draft(INFO, "This is the only message allowed for an inactive device.")
async def test_a_device_that_is_not_there_answers_nothing_else(peer: MsgPeer, absent: int) -> None:
    for body in (msg.GetFeatures(0, 1), msg.SetFeatures(0, (0,)), msg.GetConfig(0, 0), msg.SetConfig(0, 0, b""),
                 msg.GetStatus(), msg.SetStatus(1), msg.GetQueue(0), msg.SetQueue(0, 0, 0, 0, 0), msg.ResetQueue(0),
                 msg.GetShm(0)):  # fmt: skip
        peer.send(body, absent)
    await peer.fence()


@pytest.mark.draft(
    "Basic Concepts / Feature Blocks", "Blocks that extend beyond the features a device implements: MUST return zero."
)
@pytest.mark.parametrize("beyond", [0, 1, 100, (1 << 32) - 4])
async def test_beyond_its_features_there_are_zeroes(peer: MsgPeer, device: int, beyond: int) -> None:
    first = min((await info(peer, device)).feature_bits // 32 + beyond, (1 << 32) - 2)
    found = await peer.ask(msg.GetFeatures(first, 2), msg.Features, device)
    assert found == msg.Features(first, (0, 0))


@pytest.mark.draft(
    "Basic Concepts / Device Feature Blocks (2026)",
    "A device MUST report the device-offered feature set and MUST NOT reflect the driver-selected subset.",
)
async def test_what_it_offers_does_not_depend_on_what_was_taken(peer: MsgPeer, device: int) -> None:
    before = await offered(peer, device)
    await agree(peer, device, [0] * len(before))
    assert await offered(peer, device) == before


@pytest.mark.draft(FEATURES, "The device MAY accept the selected features by FEATURES_OK set.")
async def test_no_more_than_it_offers_is_accepted(peer: MsgPeer, device: int) -> None:
    blocks = [0] * len(await offered(peer, device))
    assert await agree(peer, device, blocks) & FEATURES_OK


@pytest.mark.draft(
    "Transport Messages / VIRTIO_MSG_SET_DRIVER_FEATURES",
    "If the device is not OK with the features set, it MUST not allow the FEATURES_OK bit to be set.",
)
async def test_a_feature_that_it_does_not_offer_is_refused(peer: MsgPeer, device: int) -> None:
    blocks = await offered(peer, device)
    block, bit = next((at, bit) for at, bits in enumerate(blocks) for bit in range(32) if not bits >> bit & 1)
    wanted = [1 << bit if at == block else 0 for at in range(len(blocks))]
    status = await agree(peer, device, wanted)
    assert not status & FEATURES_OK and await peer.status(device) == status


@pytest.mark.draft(
    "Transport Messages / VIRTIO_MSG_SET_DRIVER_FEATURES",
    "If the device is not OK with the features set, it MUST not allow the FEATURES_OK bit to be set.",
)
async def test_so_is_one_beyond_all_that_there_are(peer: MsgPeer, device: int) -> None:
    blocks = len(await offered(peer, device))
    assert not await agree(peer, device, [*[0] * blocks, 1]) & FEATURES_OK


@pytest.mark.draft(
    "Basic Concepts / Device Feature Blocks (2026)",
    "A device MUST update only the driver-selected feature blocks addressed, MUST leave all other blocks unchanged.",
)
async def test_a_block_by_itself_leaves_the_others(peer: MsgPeer, device: int) -> None:
    blocks = await offered(peer, device)
    unoffered = ~blocks[0] & 0xFFFFFFFF
    await peer.set_status(device, ACKNOWLEDGE)
    await peer.set_status(device, BEFORE_FEATURES)
    await peer.ask(msg.SetFeatures(0, (unoffered & -unoffered,)), msg.FeaturesSet, device)
    await peer.ask(msg.SetFeatures(1, (0,)), msg.FeaturesSet, device)
    assert not await peer.set_status(device, BEFORE_FEATURES | FEATURES_OK) & FEATURES_OK
    await peer.ask(msg.SetFeatures(0, (0,)), msg.FeaturesSet, device)
    assert await peer.set_status(device, BEFORE_FEATURES | FEATURES_OK) & FEATURES_OK


@pytest.mark.draft(STATUS, "The resulting device status is returned and MAY not match the status set.")
async def test_the_status_is_what_the_answer_said(peer: MsgPeer, device: int) -> None:
    for status in (ACKNOWLEDGE, BEFORE_FEATURES, BEFORE_FEATURES | FEATURES_OK, 0xFFFFFFFF, 0x40000000):
        assert await peer.set_status(device, status) == await peer.status(device)


@pytest.mark.draft(
    "Compliance / Device-Side Requirements", "If the status is set to zero, the device MUST reset its internal state."
)
async def test_zero_resets_it(peer: MsgPeer, device: int) -> None:
    blocks = await offered(peer, device)
    await agree(peer, device, [bits ^ 0xFFFFFFFF for bits in blocks])
    assert await peer.set_status(device, 0) == 0 == await peer.status(device)
    assert await agree(peer, device, [0] * len(blocks)) & FEATURES_OK  # what was selected before is forgotten


@pytest.mark.draft("Device Operation / Device Reset and Shutdown", "The driver MAY reset at any time by writing 0.")
async def test_a_device_that_is_in_use_is_reset(peer: MsgPeer, device: int) -> None:
    status = await agree(peer, device, [0] * len(await offered(peer, device)))
    assert await peer.set_status(device, status | DRIVER_OK) == status | DRIVER_OK
    assert await peer.set_status(device, 0) == 0 == await peer.status(device)


@pytest.mark.draft("Device Initialization / Device Configuration", "The device returns the requested data.")
async def test_the_configuration_is_the_same_however_it_is_read(peer: MsgPeer, device: int) -> None:
    size = (await info(peer, device)).config_size
    whole = await peer.config(device)
    assert len(whole) == size
    for offset, length in ((0, min(size, 1)), (size // 2, min(8, size - size // 2)), (size, 0), (0, 0)):
        found = await peer.ask(msg.GetConfig(offset, length), msg.Config, device)
        assert found.offset == offset and found.data == whole[offset : offset + length]


@pytest.mark.draft(CONFIG, "This count is incremented at least once for every driver-visible change.")
async def test_what_does_not_change_has_one_generation(peer: MsgPeer, device: int) -> None:
    asked = [await peer.ask(msg.GetConfig(0, 0), msg.Config, device) for _ in range(3)]
    assert len({found.generation for found in asked}) == 1


@pytest.mark.draft(
    CONFIG, "A generation count that does not match the device's current count: MUST reject the request."
)
async def test_a_write_to_what_has_changed_is_rejected(peer: MsgPeer, device: int) -> None:
    now = await peer.ask(msg.GetConfig(0, 1), msg.Config, device)
    stale = (now.generation - 1) % (1 << 32)
    answer = await peer.ask(msg.SetConfig(stale, 0, bytes([now.data[0] ^ 0xFF])), msg.ConfigSet, device)
    assert answer == msg.ConfigSet(now.generation, 0, b"")
    assert (await peer.ask(msg.GetConfig(0, 1), msg.Config, device)).data == now.data


@pytest.mark.draft(
    "Device Operation / Configuration Changes", "MUST signal those changes with EVENT_CONFIG; before: a new generation."
)
async def test_what_changes_by_itself_is_told(peer: MsgPeer, device: int, host: hostd.Host) -> None:
    before = await peer.ask(msg.GetConfig(0, 0), msg.Config, device)
    await peer.set_status(device, ACKNOWLEDGE)
    disk: Any = host.tree.find("disk").device
    disk.capacity = 2 << 20
    event = await peer.event(msg.ConfigChanged)
    assert event.generation != before.generation and event.status == ACKNOWLEDGE
    assert (await peer.ask(msg.GetConfig(0, 0), msg.Config, device)).generation == event.generation


@pytest.mark.draft(
    "Device Operation / Device Side Initiated Reset", "EVENT_CONFIG with the DEVICE_NEEDS_RESET bit set."
)
async def test_a_device_that_fails_says_so(peer: MsgPeer, device: int, host: hostd.Host) -> None:
    await peer.set_status(device, ACKNOWLEDGE)
    plugged = host.tree.find("disk").plugged
    assert plugged is not None
    plugged.fail()
    assert (await peer.event(msg.ConfigChanged)).status & 64
    assert await peer.status(device) & 64
    assert await peer.set_status(device, 0) == 0
    assert await peer.set_status(device, ACKNOWLEDGE) == ACKNOWLEDGE


@pytest.mark.draft(QUEUES, "If the maximum virtqueue size is zero, the virtqueue is not valid.")
async def test_a_queue_that_is_not_there_has_no_size(peer: MsgPeer, device: int) -> None:
    found = await info(peer, device)
    assert found.queues <= NONE_OF_IT
    assert await peer.ask(msg.GetQueue(NONE_OF_IT), msg.Queue, device) == msg.Queue(NONE_OF_IT, 0, 0, 0, 0, 0)
    for queue in range(found.queues):
        asked = await peer.ask(msg.GetQueue(queue), msg.Queue, device)
        assert asked.queue == queue and asked.size <= asked.most


@pytest.mark.draft(
    f"{QUEUES}, SET_, RESET_ (2026)", "For an unavailable virtqueue a device MUST treat it as a no-op; empty response."
)
async def test_a_queue_that_is_not_there_is_not_set_up(peer: MsgPeer, device: int) -> None:
    await peer.ask(msg.SetQueue(NONE_OF_IT, 64, 4096, 8192, 12288), msg.QueueSet, device)
    await peer.ask(msg.ResetQueue(NONE_OF_IT), msg.QueueReset, device)
    assert await peer.ask(msg.GetQueue(NONE_OF_IT), msg.Queue, device) == msg.Queue(NONE_OF_IT, 0, 0, 0, 0, 0)


@pytest.mark.draft(
    "Transport Messages / VIRTIO_MSG_GET_SHM", "If the returned length is zero, the memory region does not exist."
)
async def test_a_region_that_is_not_there_has_no_length(peer: MsgPeer, device: int) -> None:
    found = await peer.ask(msg.GetShm(NONE_OF_IT), msg.Shm, device)
    assert (found.region, found.length) == (NONE_OF_IT, 0)


@pytest.mark.draft(
    "Bus Messages / BUS_MSG_EVENT_DEVICE", "Upon REMOVED, drivers MUST stop queueing new requests, release resources."
)
async def test_a_device_that_went_is_not_there(peer: MsgPeer, host: hostd.Host) -> None:
    host.plug_table("extra", {"model": "rng"})
    device = (await peer.event(msg.DeviceEvent)).device
    await peer.set_status(device, ACKNOWLEDGE)
    await host.unplug("extra", surprise=True)
    await peer.event(msg.DeviceEvent)
    assert await info(peer, device) == DeviceInfo(0, 0, 0, 0)
