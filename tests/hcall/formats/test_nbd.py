"""The messages of NBD: as the protocol's text has them, one byte at a time, and whatever a hostile client may send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.errors import BadArgument, HcallError, IoError, LinkLost, NoSpace, ReadOnly, StaleHandle
from hcall.formats import nbd
from hcall.formats.nbd import BadMessage, Flag, Handshake, OptionReply, Stage

SIZE = 1 << 40
FLAGS = Flag.HAS_FLAGS | Flag.SEND_FLUSH
HELLO = struct.pack(">I", 3)


def shaking() -> Handshake:
    return Handshake("disk", SIZE, FLAGS)


def option(number: int, data: bytes = b"", length: int | None = None) -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data


def asked(name: bytes, *infos: int) -> bytes:
    return struct.pack(f">I{len(name)}sH{len(infos)}H", len(name), name, len(infos), *infos)


def replies(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, type, what follows) of each reply."""
    found = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def test_the_first_words() -> None:
    assert nbd.greeting() == b"NBDMAGICIHAVEOPT\0\3"


EXPORT_INFO = struct.pack(">HQH", 0, SIZE, 5)
SIZES_INFO = struct.pack(">HIII", 3, 1, 4096, 32 << 20)
INFOS = [(3, EXPORT_INFO), (3, SIZES_INFO), (1, b"")]


@pytest.mark.parametrize(
    ("sent", "answered", "stage"),
    [
        (option(7, asked(b"")), [(7, *info) for info in INFOS], Stage.TRANSMISSION),
        (option(7, asked(b"disk", 0, 1, 3)), [(7, *info) for info in INFOS], Stage.TRANSMISSION),
        (option(6, asked(b"disk")), [(6, *info) for info in INFOS], Stage.OPTIONS),
        (option(7, asked(b"other")), [(7, 0x80000006, b"there is disk, the default")], Stage.OPTIONS),
        (option(3), [(3, 2, b"\0\0\0\4disk"), (3, 1, b"")], Stage.OPTIONS),
        (option(3, b"x"), [(3, 0x80000003, b"")], Stage.OPTIONS),
        (option(2), [(2, 1, b"")], Stage.ABORTED),
        (option(8), [(8, 0x80000001, b"")], Stage.OPTIONS),  # structured replies
        (option(5) + option(99, b"abc"), [(5, 0x80000001, b""), (99, 0x80000001, b"")], Stage.OPTIONS),
    ],
)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_options_are_answered(
    sent: bytes, answered: list[tuple[int, int, bytes]], stage: Stage, step: int
) -> None:
    handshake, said, data = shaking(), b"", HELLO + sent
    for at in range(0, len(data), step):
        said += handshake.feed(data[at : at + step])
    assert replies(said) == answered and handshake.stage is stage and not handshake.rest


@pytest.mark.parametrize(("flags", "zeroes"), [(1, 124), (3, 0)])
def test_the_old_way_to_name_an_export(flags: int, zeroes: int) -> None:
    handshake = shaking()
    assert handshake.feed(struct.pack(">I", flags) + option(1, b"disk")) == struct.pack(">QH", SIZE, 5) + bytes(zeroes)
    assert handshake.stage is Stage.TRANSMISSION


def test_what_comes_behind_the_handshake_is_kept() -> None:
    handshake = shaking()
    handshake.feed(HELLO + option(7, asked(b"")) + b"a request")
    assert handshake.rest == b"a request"


BAD_CHOICES = (
    b"", b"\0\0\0", b"\xff\xff\xff\xff\0\0", asked(b"disk", 1)[:-1], asked(b"disk") + b"x", asked(b"\xff"),
    struct.pack(">I", 5000) + bytes(5002),
)  # fmt: skip


@pytest.mark.parametrize("body", BAD_CHOICES)
def test_a_choice_that_is_none_is_refused_and_the_next_one_taken(body: bytes) -> None:
    handshake = shaking()
    ((number, kind, _),) = replies(handshake.feed(HELLO + option(7, body)))
    assert (number, kind) == (7, OptionReply.INVALID) and handshake.stage is Stage.OPTIONS
    handshake.feed(option(7, asked(b"")))
    assert handshake.stage is Stage.TRANSMISSION


@pytest.mark.parametrize(
    "data",
    [
        bytes(4), struct.pack(">I", 2), struct.pack(">I", 7), HELLO + bytes(16), HELLO + option(7, length=20_000),
        HELLO + option(99, length=0xFFFFFFFF), HELLO + option(1, b"other"), HELLO + option(1, b"\xff"),
        HELLO + option(99) * 65,
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_nonsense_ends_the_handshake(data: bytes, step: int) -> None:
    handshake = shaking()
    with pytest.raises(BadMessage):
        for at in range(0, len(data), step):
            handshake.feed(data[at : at + step])
    assert len(handshake.rest) < 20_000


@given(st.lists(st.binary(max_size=40) | st.builds(option, st.integers(0, 12), st.binary(max_size=30))))
def test_whatever_comes_is_answered_or_ends_it(pieces: list[bytes]) -> None:
    handshake = shaking()
    handshake.feed(HELLO)
    try:
        for piece in pieces:
            handshake.feed(piece)
    except BadMessage:
        return
    assert handshake.stage is not Stage.OPTIONS or len(handshake.rest) < nbd.OPTION.size + nbd.MAX_OPTION


@given(*[st.integers(0, (1 << bits) - 1) for bits in (16, 16, 64, 64, 32)])
def test_a_request_is_read_as_it_was_written(flags: int, command: int, cookie: int, offset: int, length: int) -> None:
    data = b"\x25\x60\x95\x13" + struct.pack(">HHQQI", flags, command, cookie, offset, length)
    assert nbd.request(b"x" + data, 1) == (flags, command, cookie, offset, length)
    with pytest.raises(BadMessage, match="magic"):
        nbd.request(b"\0" + data[1:])


@pytest.mark.parametrize(
    ("error", "number"),
    [(BadArgument, 22), (ReadOnly, 1), (NoSpace, 28), (IoError, 5), (StaleHandle, 108), (LinkLost, 108)],
)
def test_errors_have_the_numbers_of_the_protocol(error: type[HcallError], number: int) -> None:
    assert nbd.error_of(error("why")) == number
