"""Bytes and messages: how the bytes are cut changes nothing, every limit holds, and decoders never meet."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hcall.text import MAX_TEXT
from hcall.wire import MAX_INLINE, MAX_ITEMS, MAX_LEVELS, MAX_MESSAGE, MAX_READ, Decoder, encode, encode_plain, fits

numbers = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text(max_size=40) | st.binary()
keys = st.text(max_size=10) | st.binary(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6).map(tuple) | st.dictionaries(keys, inner, max_size=6)
)


@given(st.lists(scalars, max_size=5).map(tuple), scalars)
def test_the_quick_way_makes_the_same_bytes(some: tuple[object, ...], other: object) -> None:
    for value in ((0, 3, some, (some, other)), other):
        assert encode_plain(value) == encode(value)


def feed_in(decoder: Decoder, data: bytes, sizes: list[int]) -> list[object]:
    """Feed *data* in parts of *sizes*, over and over."""
    messages: list[object] = []
    at = n = 0
    while at < len(data):
        messages += decoder.feed(data[at : at + sizes[n % len(sizes)]])
        at += sizes[n % len(sizes)]
        n += 1
    return messages


@settings(max_examples=60)
@given(st.lists(values, max_size=5), st.lists(st.integers(1, 50), min_size=1, max_size=5))
@pytest.mark.spec("E-1")
def test_however_the_bytes_are_cut_the_messages_are_the_same(messages: list[object], sizes: list[int]) -> None:
    data = b"".join(map(encode, messages))
    for parts in (sizes, [1], [len(data) or 1]):
        decoder = Decoder()
        assert feed_in(decoder, data, parts) == messages
        assert decoder.broken is None and not decoder.partial


def test_no_bytes_are_no_message() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == [] and not decoder.partial
    assert decoder.feed(b"\x92") == [] and decoder.partial
    assert decoder.feed(b"") == [] and decoder.partial
    assert decoder.feed(b"\x01\x02\x03") == [(1, 2), 3] and not decoder.partial


# Limits.

AT_LIMITS: dict[str, tuple[Any, Any]] = {  # the largest that passes, the smallest that does not
    "characters": ("x" * 256, "x" * 257),
    "utf-8": ("é" * 128, "é" * 128 + "x"),
    "bytes": (bytes(4096), bytes(4097)),
    "bytearray": (bytearray(4096), bytearray(4097)),
    "words": (memoryview(bytes(4096)).cast("Q"), memoryview(bytes(4104)).cast("Q")),
    "array": ((0,) * 64, (0,) * 65),
    "list": ([0] * 64, [0] * 65),
    "map": ({str(n): n for n in range(64)}, {str(n): n for n in range(65)}),
    "key": ({"k" * 256: 0}, {"k" * 257: 0}),
    "deep inside": ({"a": [(b"", {"b": "x" * 256})]}, {"a": [(b"", {"b": "x" * 257})]}),
    "number above": ((1 << 64) - 1, 1 << 64),
    "number below": (-(1 << 63), -(1 << 63) - 1),
}


def plain(value: object) -> object:
    """*value* as it comes out at the other end."""
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


@pytest.mark.parametrize(("good", "bad"), AT_LIMITS.values(), ids=AT_LIMITS)
@pytest.mark.spec("E-6")
def test_limits_are_exact_and_fits_knows_them(good: object, bad: object) -> None:
    assert Decoder().feed(encode(good)) == [plain(good)] and fits(good)
    try:
        data = encode(bad)
    except OverflowError:  # not even msgpack has it
        return
    decoder = Decoder()
    assert decoder.feed(encode(1) + data) == [1] and decoder.broken is not None
    assert not fits(bad)


sized = st.one_of(
    scalars,
    st.integers(MAX_TEXT - 2, MAX_TEXT + 2).map(lambda n: "x" * n),
    st.integers(MAX_TEXT // 2 - 2, MAX_TEXT // 2 + 2).map(lambda n: "é" * n),
    st.integers(MAX_INLINE - 2, MAX_INLINE + 2).map(bytes),
    st.integers(MAX_INLINE - 2, MAX_INLINE + 2).map(bytearray),
    st.integers(MAX_ITEMS - 2, MAX_ITEMS + 2).map(lambda n: (n,) * n),
    st.integers(MAX_ITEMS - 2, MAX_ITEMS + 2).map(lambda n: {str(key): key for key in range(n)}),
)
any_keys = keys | st.none() | st.booleans() | st.integers(-10, 10) | st.tuples(st.integers(0, 3))
anything = st.recursive(
    sized, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_keys, inner, max_size=3), max_leaves=8
)


@settings(max_examples=300)
@given(anything)
@example({1: 2})
@example([{None: ()}])
def test_fits_is_what_a_decoder_takes(value: object) -> None:
    data = encode(value)
    assume(len(data) <= MAX_MESSAGE)
    decoder = Decoder()
    messages = decoder.feed(data)
    assert fits(value) == (messages == [plain(value)])
    assert fits(value) == (decoder.broken is None)


def test_the_limits_are_those_of_the_protocol() -> None:
    assert (MAX_MESSAGE, MAX_TEXT, MAX_INLINE, MAX_ITEMS, MAX_LEVELS) == (16_384, 256, 4_096, 64, 64)


def nested(levels: int, head: bytes, leaf: bytes) -> bytes:
    """A message of so many levels: an array, in it one after the other what *head* opens, the last one a *leaf*."""
    return b"\x91" + head * (levels - 2) + leaf


HEADS = {"arrays": b"\x91", "long arrays": b"\xdd\0\0\0\x01", "maps": b"\x81\x00", "maps of text": b"\x81\xa1x",
         "second of two": b"\x92\xa9some text"}  # fmt: skip


@pytest.mark.parametrize("after", [b"", b"\x05"], ids=["alone", "before another"])
@pytest.mark.parametrize("leaf", [b"\x90", b"\x80", b"\x91\xc0", b"\x93\x01\x02\x03"], ids=bytes.hex)
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.spec("E-6", "E-7")
def test_there_are_sixty_four_levels_and_no_more(head: bytes, leaf: bytes, after: bytes) -> None:
    for cut in (1 << 20, 40, 1):
        decoder = Decoder()
        assert len(feed_in(decoder, nested(64, head, leaf) + after, [cut])) == 1 + len(after)
        assert decoder.broken is None
        for levels in (65, 66, 200):
            decoder = Decoder()
            assert feed_in(decoder, nested(levels, head, leaf) + after, [cut]) == []
            assert decoder.broken is not None and "64 levels" in str(decoder.broken)


def test_levels_are_counted_in_keys_too() -> None:
    key = b"\x91" * 70 + b"\x90"
    decoder = Decoder()
    assert decoder.feed(b"\x91\x81" + key + b"\x01") == [] and decoder.broken is not None


@pytest.mark.parametrize("levels", range(61, 66))
@pytest.mark.parametrize("leaf", [(), {}, [1], "x", {"key": b""}], ids=repr)
def test_fits_counts_levels_as_the_peer_does(levels: int, leaf: Any) -> None:
    value = leaf
    for n in range(levels):
        value = (value,) if n % 2 else {"x": value}
    decoder = Decoder()
    assert len(decoder.feed(encode((1, value)))) == fits(value)


def message_of(size: int) -> bytes:
    """A message of exactly *size* bytes."""
    data = encode((bytes(4096), bytes(4096), bytes(4096), bytes(size - 3 * 4099 - 4)))
    assert len(data) == size
    return data


@pytest.mark.parametrize("before", [b"", encode((1, 2)), message_of(MAX_MESSAGE)], ids=["", "small", "large"])
@pytest.mark.parametrize("parts", [1 << 20, 1000, 1])
@pytest.mark.spec("E-6")
def test_a_message_is_as_long_as_it_may_be(before: bytes, parts: int) -> None:
    decoder = Decoder()
    count = bool(before) + 2
    assert len(feed_in(decoder, before + message_of(MAX_MESSAGE) + encode(1), [parts])) == count
    assert decoder.broken is None
    decoder = Decoder()
    assert len(feed_in(decoder, before + message_of(MAX_MESSAGE + 1) + encode(1), [parts])) == count - 2
    assert decoder.broken is not None


@pytest.mark.parametrize("before", [b"", encode((1, 2))], ids=["first", "second"])
@pytest.mark.parametrize(
    "head", [encode((bytes(4096),) * 5), b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"],
    ids=["array", "string of 4 G", "bytes of 4 G"],
)  # fmt: skip
def test_half_a_message_is_no_longer_than_a_whole_one(before: bytes, head: bytes) -> None:
    decoder, data = Decoder(), head.ljust(MAX_MESSAGE + 1, b"x")
    decoder.feed(before + data[:MAX_MESSAGE])
    assert decoder.broken is None and decoder.partial
    decoder.feed(data[MAX_MESSAGE : MAX_MESSAGE + 1])
    assert decoder.broken is not None


def test_the_largest_read_after_the_largest_remainder_is_taken() -> None:
    decoder, large = Decoder(), message_of(MAX_MESSAGE)
    assert decoder.feed(large[:-1]) == []
    small = encode((1, b"xyz"))
    rest, left = divmod(MAX_READ - 1, len(small))
    assert len(decoder.feed(large[-1:] + small * rest + small[:left])) == 1 + rest
    assert decoder.broken is None


# What is no message.

MALFORMED = {
    "never used": b"\xc1",
    "inside": b"\x93\x01\xc1\x02",
    "not utf-8": b"\xa2\xff\xfe",
    "extension": b"\xd4\x05a",
    "empty extension": b"\xc7\x00\x05",
    "time": b"\xd6\xff\x00\x00\x00\x01",
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "extension of 4 G": b"\xc9\xff\xff\xff\xff\x05",
    "nested": b"\x91" * 3000 + b"\xc0",
    "key is a map in an array": b"\x81\x91\x80\x01",
    "key is a map": b"\x81\x80\x01",
    "key twice": b"\x82\xa1a\x01\xa1a\x02",
    "key twice within": b"\x92\x01\x81\xa1b\x82\x01\x01\x01\x01",
    "deep key twice": b"\x82" + (b"\x91" * 1000 + b"\x90\x01") * 2,
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.spec("E-5", "E-7")
def test_bytes_that_are_no_message_break_the_decoder(bad: bytes) -> None:
    """Those before are kept, wherever the reads end."""
    good = encode((1, 2)) + encode("a")
    for first in range(len(good) + len(bad) if len(bad) < 20 else len(good) + 1):
        decoder = Decoder()
        data = good + bad
        assert decoder.feed(data[:first]) + decoder.feed(data[first:]) == [(1, 2), "a"]
        assert decoder.broken is not None


@pytest.mark.parametrize("bad", [*MALFORMED.values(), message_of(MAX_MESSAGE + 1)], ids=[*MALFORMED, "too long"])
def test_after_a_violation_nothing_comes_any_more_and_nothing_reaches_another_decoder(bad: bytes) -> None:
    decoder = Decoder()
    decoder.feed(encode((1, 2)) + bad)
    broken = decoder.broken
    for data in (b"\x05", encode("b"), encode((1, 2)) * 3, b"\xc1"):
        assert decoder.feed(data) == [] and decoder.broken is broken
        other = Decoder()
        assert other.feed(b"\x93\x01") == []  # half, so that it holds an Unpacker of its own while the next one starts
        assert Decoder().feed(encode((3, 4))) == [(3, 4)]
        assert other.feed(b"\x02\x03") == [(1, 2, 3)]


# Every type has many widths, and a decoder takes each.

WIDTHS: dict[str, tuple[bytes, object]] = {
    "uint 8": (b"\xcc\x05", 5), "uint 16": (b"\xcd\0\x05", 5), "uint 32": (b"\xce\0\0\0\x05", 5),
    "uint 64": (b"\xcf" + bytes(7) + b"\x05", 5), "int 8": (b"\xd0\x05", 5), "int 16": (b"\xd1\0\x05", 5),
    "int 32": (b"\xd2\0\0\0\x05", 5), "int 64": (b"\xd3" + bytes(7) + b"\x05", 5),
    "below": (b"\xd3" + b"\xff" * 8, -1), "str 8": (b"\xd9\x01a", "a"), "str 16": (b"\xda\0\x01a", "a"),
    "str 32": (b"\xdb\0\0\0\x01a", "a"), "bin 16": (b"\xc5\0\x01a", b"a"), "bin 32": (b"\xc6\0\0\0\x01a", b"a"),
    "array 16": (b"\xdc\0\x01\x05", (5,)), "array 32": (b"\xdd\0\0\0\x01\x05", (5,)),
    "map 16": (b"\xde\0\x01\x05\x06", {5: 6}), "map 32": (b"\xdf\0\0\0\x01\x05\x06", {5: 6}),
    "float 32": (b"\xca\x3f\x80\0\0", 1.0),
}  # fmt: skip


@pytest.mark.parametrize(("data", "value"), WIDTHS.values(), ids=WIDTHS)
@pytest.mark.spec("E-2")
def test_any_width_of_a_type_is_the_same(data: bytes, value: object) -> None:
    for cut in (1 << 20, 1):
        (got,) = feed_in(Decoder(), data, [cut])
        assert got == value and type(got) is type(value)


FIXED = struct.Struct(">BBIBQBBQ")  # 93 ce number cf handle 91 cf argument: what one Struct packs


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_a_body_of_fixed_width_is_a_body(number: int, handle: int, argument: int) -> None:
    data = FIXED.pack(0x93, 0xCE, number, 0xCF, handle, 0x91, 0xCF, argument)
    assert (
        Decoder().feed(data) == [(number, handle, (argument,))] == Decoder().feed(encode((number, handle, (argument,))))
    )


# Decoders share Unpackers, but never one with bytes in it.


@settings(max_examples=60)
@given(st.data(), st.integers(2, 12), st.integers(0, 1 << 32))
def test_decoders_that_take_turns_do_not_disturb_each_other(data: st.DataObject, count: int, seed: int) -> None:
    random = Random(seed)
    few = [data.draw(st.lists(values, min_size=1, max_size=3)) for _ in range(3)]
    streams = [few[n % 3] if n % 2 else [n, (n, str(n)), bytes(n)] for n in range(count)]
    decoders = [Decoder() for _ in streams]
    left = [b"".join(map(encode, messages)) for messages in streams]
    got: list[list[object]] = [[] for _ in streams]
    while waiting := [n for n, data in enumerate(left) if data]:
        n = random.choice(waiting)
        size = random.choice([1, 1, 2, 7])
        got[n] += decoders[n].feed(left[n][:size])
        left[n] = left[n][size:]
    assert got == streams
    assert not any(decoder.partial for decoder in decoders)


@pytest.mark.parametrize("bad", [b"\x93\xc1", b"\x93\x01", encode((bytes(4096),) * 4)], ids=["bad", "half", "long"])
def test_what_a_decoder_leaves_behind_reaches_no_other(bad: bytes) -> None:
    message = (1, "two", b"three")
    for _ in range(30):  # more than are kept at rest
        left = Decoder()
        left.feed(encode(message) + bad)
        del left
        one, other = Decoder(), Decoder()
        got: tuple[list[object], list[object]] = ([], [])
        for byte in encode(message):
            got[0].extend(one.feed(bytes([byte])))
            got[1].extend(other.feed(bytes([byte])))
        assert got == ([message], [message])
