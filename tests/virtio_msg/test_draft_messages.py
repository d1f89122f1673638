"""Messages in general, as the draft has them: headers, tokens, what is malformed."""

from __future__ import annotations

import struct

import pytest
from msg_peer import MsgPeer

from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import HEADER, encode

FORMAT = "Basic Concepts / Common Message Format"
ERRORS = "Basic Concepts / Error Signaling"
DISCARDED = """A bus implementation MUST treat malformed headers or unsupported msg_id values as invalid, MUST discard
them without generating additional protocol traffic."""
DISCARDED_TOO = """A device receiving a malformed or unsupported transport message MUST discard it without producing
further protocol traffic."""
CORRELATION = "Basic Concepts / Message Correlation"


@pytest.mark.draft(
    "Basic Concepts / Endianness",
    "All values and fields defined in the virtio-msg messages MUST be encoded in little-endian.",
)
async def test_numbers_are_little_endian(peer: MsgPeer) -> None:
    peer.send(msg.Ping(0x01020304), token=0x0506)
    await peer.answer()
    assert peer.raw == bytes.fromhex("03 03 0000 0605 0c00 04030201")


@pytest.mark.draft(FORMAT, "type, Bits[2..7]: MUST be zero; receivers MUST ignore.")
@pytest.mark.parametrize("bits", range(2, 8))
async def test_reserved_bits_of_the_type_are_ignored_and_not_sent_back(peer: MsgPeer, bits: int) -> None:
    data = encode(msg.Ping(7), 0, 9)
    peer.sock.send(bytes([data[0] | 1 << bits]) + data[1:])
    await peer.answer()
    assert peer.raw[0] == 3


@pytest.mark.draft(FORMAT, "dev_num: for Bus Messages MUST be zero.")
async def test_a_message_of_the_bus_has_device_zero(peer: MsgPeer) -> None:
    for body in (msg.Ping(7), msg.GetDevices(0, 8)):
        peer.send(body)
        assert (await peer.answer()).device == 0


@pytest.mark.draft(CORRELATION, "A response MUST echo token and dev_num.")
@pytest.mark.parametrize("token", [1, 0x00FF, 0xFF00, 0xFFFF])
async def test_an_answer_has_the_token_and_the_device_of_its_request(peer: MsgPeer, device: int, token: int) -> None:
    for body, number in ((msg.Ping(7), 0), (msg.GetStatus(), device), (msg.GetDeviceInfo(), device)):
        peer.send(body, number, token)
        answer = await peer.answer()
        assert (answer.device, answer.token) == (number, token)


@pytest.mark.draft(CORRELATION, "Message tuple: (dev_num, token), unique during a request to response interval.")
async def test_one_token_may_be_in_use_for_two_devices(peer: MsgPeer, device: int, absent: int) -> None:
    peer.send(msg.GetDeviceInfo(), device, 77)
    peer.send(msg.GetDeviceInfo(), absent, 77)
    answers = {(await peer.answer()).device for _ in range(2)}
    assert answers == {device, absent}


@pytest.mark.draft(
    "Basic Concepts / Message Ordering (2026)", "A device MUST send exactly one response for each valid request."
)
async def test_of_many_requests_each_has_one_answer(peer: MsgPeer, device: int) -> None:
    tokens = {peer.send(msg.GetStatus(), device) for _ in range(50)}
    assert {(await peer.answer()).token for _ in range(50)} == tokens
    await peer.fence()


@pytest.mark.draft(FORMAT, "msg_size MUST be >= 8 and MUST NOT exceed the bus's maximum message size.")
async def test_an_answer_is_as_long_as_it_says(peer: MsgPeer, device: int) -> None:
    for body, number in ((msg.Ping(7), 0), (msg.GetDevices(0, 512), 0), (msg.GetDeviceInfo(), device),
                         (msg.GetStatus(), device), (msg.GetFeatures(0, 8), device)):  # fmt: skip
        peer.send(body, number)
        await peer.answer()
        assert HEADER <= struct.unpack_from("<H", peer.raw, 6)[0] == len(peer.raw) <= 0xFFFF


@pytest.mark.draft(FORMAT, "Unused trailing bytes MUST be zero and MUST be ignored by receivers.")
async def test_trailing_bytes_are_ignored(peer: MsgPeer) -> None:
    peer.sock.send(encode(msg.Ping(7), 0, 9) + bytes(20))
    assert (await peer.answer()).body == msg.Pong(7)


MALFORMED = {
    "nothing behind the type": "02",
    "half a header": "02 03 0000",
    "a header without its last byte": "02 03 0000 0700 0c",
    "a size below the header's": "02 03 0000 0700 0700 00000000",
    "a size of zero": "02 03 0000 0700 0000 00000000",
    "more than came": "02 03 0000 0700 ff00 00000000",
    "less than the message has": "02 03 0000 0700 0800",
    "a reserved id of the bus, 0": "02 00 0000 0700 0800",
    "a reserved id of the bus, 1": "02 01 0000 0700 0800",
    "an id of the bus that is not there": "02 3f 0000 0700 0800",
    "an event of the bus that is not there": "02 7f 0000 0000 0800",
    "a window that begins at no multiple of 8": "02 02 0000 0700 0c00 0400 0800",
    "a window of no multiple of 8": "02 02 0000 0700 0c00 0000 0700",
}


@pytest.mark.draft(f"{ERRORS}, bus", DISCARDED)
@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_has_no_answer(peer: MsgPeer, wire: str) -> None:
    peer.sock.send(bytes.fromhex(wire))
    await peer.fence()


@pytest.mark.draft(f"{ERRORS}, device", DISCARDED_TOO)
@pytest.mark.parametrize("number", [0x00, 0x01, 0x0D, 0x3F, 0x80, 0xFF])
async def test_a_transport_message_that_is_not_there_has_no_answer(peer: MsgPeer, device: int, number: int) -> None:
    peer.sock.send(struct.pack("<BBHHH", 0, number, device, 7, HEADER))
    await peer.fence()


@pytest.mark.draft(f"{ERRORS}, device", DISCARDED_TOO)
@pytest.mark.parametrize(
    "body",
    [msg.GetFeatures(0, 1), msg.SetFeatures(0, (0,)), msg.GetConfig(0, 1), msg.SetConfig(0, 0, b"x"), msg.SetStatus(1),
     msg.GetQueue(0), msg.SetQueue(0, 0, 0, 0, 0), msg.ResetQueue(0), msg.GetShm(0)],
    ids=lambda body: type(body).__name__,
)  # fmt: skip
async def test_a_request_that_is_cut_has_no_answer_and_does_nothing(peer: MsgPeer, device: int, body: msg.Body) -> None:
    whole = encode(body, device, 7)
    for end in range(HEADER, len(whole)):
        peer.sock.send(whole[:6] + struct.pack("<H", end) + whole[8:end])  # it says that it is so short
    for end in range(1, len(whole)):
        peer.sock.send(whole[:end])
        if end % 16 == 0:
            await peer.fence()
    await peer.fence()
    assert await peer.status(device) == 0


@pytest.mark.draft(
    CORRELATION,
    "Reception of unknown or already completed correlation tuples SHOULD result in discarding the response without "
    "further protocol action.",
)
async def test_an_answer_that_nobody_waits_for_is_dropped(peer: MsgPeer, device: int) -> None:
    peer.send(msg.Pong(7), token=99)
    peer.send(msg.StatusIs(15), device, token=99)
    await peer.fence()
    assert await peer.status(device) == 0


@pytest.mark.draft(
    f"{ERRORS}, bus", "A bus implementation MUST NOT generate error responses to event (one-way) messages."
)
async def test_an_event_has_no_answer(peer: MsgPeer, device: int, absent: int) -> None:
    for number in (device, absent):
        peer.send(msg.Available(0xFFFF, 0), number)
    await peer.fence()


@pytest.mark.draft(CORRELATION, "The request originator assigns a non-zero token for every request.")
async def test_a_request_without_a_token_has_no_answer(peer: MsgPeer) -> None:
    peer.sock.send(bytes.fromhex("02 03 0000 0000 0c00 00000000"))
    await peer.fence()
