"""Messages of the system manager, byte for byte as drivers/ps3/ps3-sys-manager.c lays them out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats.sysmgmt import (
    LONGEST,
    Body,
    Command,
    Event,
    Message,
    Request,
    RequestError,
    Response,
    SetAttr,
    SetNextOp,
    encode,
    messages,
)

U8, U32 = st.integers(0, 255), st.integers(0, (1 << 32) - 1)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.builds(SetAttr, U32), st.builds(SetNextOp, U8, U8, U32), st.builds(Request, U8, U8), st.builds(Command, U8),
    st.builds(Response, U8), st.builds(Event, U8, U32), st.builds(RequestError, st.integers(0, 65535), U32),
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "tag", "written"),
    [
        (SetAttr(15), 0, "01100000 00000010 0008 0000 00000000  01000000 0000000f 0000000000000000"),
        (SetNextOp(2), 0, "01100000 00000010 0005 0000 00000000  03020300 00000000 0000000000000000"),
        (SetNextOp(1, 3, 1 << 31), 0, "01100000 00000010 0005 0000 00000000  03010300 80000000 0000000000000000"),
        (Request(), 7, "01100000 00000010 0001 0000 00000007  01010000 00000000 0000000000000000"),
        (Command(), 7, "01100000 00000010 0003 0000 00000007  01010000 00000000 0000000000000000"),
        (Response(1), 0, "01100000 00000010 0002 0000 00000000  01000000 01000000 0000000000000000"),
        (Event(4, 1500), 0, "01100000 00000010 0004 0000 00000000  01040000 000005dc 0000000000000000"),
        (RequestError(1, 2), 7, "01100000 00000010 0006 0000 00000007  01000001 00000002 0000000000000000"),
    ],
)
def test_a_message_has_these_bytes(body: Body, tag: int, written: str) -> None:
    wire = bytes.fromhex(written)
    assert encode(body, tag) == wire and len(wire) == LONGEST
    (message,) = messages(bytearray(wire))
    assert (message.body(), message.tag) == (body, tag)


def test_a_payload_of_eight_bytes_is_enough_for_what_fits() -> None:
    wire = bytes.fromhex("01100000 00000008 0008 0000 00000000  01000000 00000005")
    (message,) = messages(bytearray(wire))
    assert message.body() == SetAttr(5)
    with pytest.raises(ValueError, match="Request has version 1 and 16 bytes, not version 1 and 8"):
        Message(1, 0, bytes.fromhex("0101000000000000")).body()


@pytest.mark.parametrize(
    "header",
    [
        "02100000 00000010 0008 0000 00000000", "01110000 00000010 0008 0000 00000000",
        "01100000 00000000 0008 0000 00000000", "01100000 00000009 0008 0000 00000000",
        "01100000 ffffffff 0008 0000 00000000", "00000000 00000000 0000 0000 00000000",
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_refused_as_soon_as_it_is_there(header: str) -> None:
    wire = bytes.fromhex(header)
    assert list(messages(bytearray(wire[:15]))) == []
    with pytest.raises(ValueError, match="no header"):
        list(messages(bytearray(wire)))


@pytest.mark.parametrize("service", [0, 7, 9, 65535])
def test_a_service_that_there_is_not_is_told_and_the_next_message_is_read(service: int) -> None:
    wire = struct.pack(">BB2xIH2xI", 1, 16, 8, service, 5) + bytes(8) + encode(Command())
    first, second = messages(bytearray(wire))
    with pytest.raises(ValueError, match=f"no service {service}"):
        first.body()
    assert second.body() == Command()


def test_a_payload_of_another_version_is_refused() -> None:
    wire = bytearray(encode(SetNextOp(1)))
    wire[16] = 1
    (message,) = messages(wire)
    with pytest.raises(ValueError, match="SetNextOp has version 3"):
        message.body()


@pytest.mark.parametrize(("attributes", "tag"), [(1 << 32, 0), (-1, 0), (0, 1 << 32)])
def test_a_number_that_does_not_fit_is_refused(attributes: int, tag: int) -> None:
    with pytest.raises(ValueError, match=rf"SetAttr\(attributes={attributes}\) with tag {tag} is no message: "):
        encode(SetAttr(attributes), tag)


@given(st.lists(st.tuples(BODIES, U32)))
def test_messages_come_as_they_went_one_byte_at_a_time(sent: list[tuple[Body, int]]) -> None:
    buffer = bytearray()
    received = []
    for byte in b"".join(encode(body, tag) for body, tag in sent):
        buffer.append(byte)
        received += [(message.body(), message.tag) for message in messages(buffer)]
    assert received == sent and not buffer


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_message_or_an_error_and_never_much(data: bytes) -> None:
    buffer = bytearray()
    for byte in data:
        buffer.append(byte)
        try:
            for message in messages(buffer):
                assert len(message.payload) in (8, 16)
                message.body()
        except ValueError:
            if len(buffer) >= 16:
                return  # the header
        assert len(buffer) < LONGEST
