"""Batches of frames: what goes in comes out, and no bytes whatever make more of them than there is."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import frames as batches
from hcall.formats.frames import HEADER, MAX_FRAME, MAX_FRAMES, PREFIX, Bytes, copies, fitting, pack_into, runs, split

ADDRESSES = [bytes([2, 0, 0, 0, 0, n]) for n in range(3)]
ADDRESS = st.sampled_from(ADDRESSES)
PAYLOAD = st.one_of(st.binary(max_size=200), st.integers(4000, 20_000).map(bytes))
FRAME = st.builds(lambda to, source, payload: to + source + b"\x88\xb5" + payload, ADDRESS, ADDRESS, PAYLOAD)


def many_alike(size: int, count: int, last: list[bytes]) -> list[bytes]:
    """Frames that are taken all at once, if the last one is as they are."""
    return [ADDRESSES[0] + ADDRESSES[1] + n.to_bytes(size - 12, "big") for n in range(count)] + last


SIZE = st.sampled_from([HEADER, 60, 61, 1500, 5000])
ALIKE = st.builds(many_alike, SIZE, st.integers(1, 200), st.lists(FRAME, max_size=1))


def packed(frames: Sequence[Bytes], room: int = 1 << 20) -> bytes:
    view = memoryview(bytearray(room))
    size, done = pack_into(view, frames)
    assert done == len(frames)
    return bytes(view[:size])


def spelt(frames: list[bytes]) -> bytes:
    """The layout, as it is described."""
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


def one_by_one(batch: bytes) -> list[bytes] | None:
    """The frames of a batch, read as slowly as can be; None if it is none."""
    found, at = [], 0
    while at < len(batch):
        if len(batch) - at < PREFIX:
            return None
        (length,) = struct.unpack_from("<I", batch, at)
        found.append(batch[at + PREFIX : at + PREFIX + length])
        at += PREFIX + length
    return found if at == len(batch) else None


@given(st.one_of(st.lists(FRAME, max_size=40), ALIKE))
def test_what_was_packed_comes_out(frames: list[bytes]) -> None:
    batch = packed(frames)
    assert batch == spelt(frames)
    assert copies(memoryview(batch)) == split(batch) == list(map(bytes, split(memoryview(batch)))) == frames
    assert packed(list(map(memoryview, frames))) == packed(list(map(bytearray, frames))) == batch


@pytest.mark.parametrize("number", [0, 20, 39])
@pytest.mark.parametrize("at", range(PREFIX + HEADER))
@pytest.mark.parametrize("value", [0, 10, 255])
def test_a_byte_that_is_not_as_in_the_other_frames_is_seen(number: int, at: int, value: int) -> None:
    changed = bytearray(packed(many_alike(64, 40, [])))
    changed[number * (PREFIX + 64) + at] = value
    batch = bytes(changed)
    expected = one_by_one(batch)
    if expected is None:
        for wrong in (copies, runs):
            with pytest.raises(ValueError, match="frame"):
                wrong(batch)
        return
    assert copies(batch) == copies(memoryview(batch)) == expected
    if not all(HEADER <= len(frame) <= MAX_FRAME for frame in expected):
        with pytest.raises(ValueError, match="frame"):
            runs(batch)
        return
    alike = [(key, len(list(group))) for key, group in itertools.groupby(frame[:12] for frame in expected)]
    assert [(run.destination + run.source, run.frames) for run in runs(batch)] == alike


@pytest.mark.parametrize("length", [0, 1, HEADER - 1, 1501])
def test_many_of_one_wrong_length_are_refused(length: int) -> None:
    batch = spelt([bytes(length)] * 600)
    with pytest.raises(ValueError, match=rf"frame 0 at 0: .* {length}$"):
        runs(batch, 1500)


@given(st.one_of(st.lists(FRAME, max_size=40), ALIKE))
def test_runs_are_all_frames_in_their_order_cut_where_an_address_changes(frames: list[bytes]) -> None:
    batch = packed(frames)
    found = runs(batch)
    assert b"".join(batch[run.start : run.end] for run in found) == batch
    assert sum(run.frames for run in found) == len(frames)
    for run in found:
        inside = [bytes(frame) for frame in split(memoryview(batch)[run.start : run.end])]
        assert len(inside) == run.frames
        assert {frame[:12] for frame in inside} == {run.destination + run.source}
    neighbours = [(run.destination, run.source) for run in found]
    assert all(one != next_one for one, next_one in itertools.pairwise(neighbours))


@given(st.lists(FRAME, min_size=1, max_size=20), st.integers(0, 100_000))
def test_only_whole_frames_fit(frames: list[bytes], room: int) -> None:
    view, got, done = memoryview(bytearray(room)), [], 0
    ends = [len(spelt(frames[: n + 1])) for n in range(len(frames))]
    fits = sum(end <= room for end in ends)
    assert fitting(spelt(frames), 0, room) == (ends[fits - 1] if fits else 0, fits)
    if any(len(frame) + PREFIX > room for frame in frames):
        with pytest.raises(ValueError, match="does not fit"):
            while done < len(frames):
                _, done = pack_into(view, frames, done)
        return
    while done < len(frames):
        size, done = pack_into(view, frames, done)
        got += [bytes(frame) for frame in split(view[:size])]
    assert got == frames


@given(st.binary(max_size=300))
def test_any_bytes_are_a_batch_or_refused(data: bytes) -> None:
    try:
        found = runs(data)
    except ValueError:
        return
    assert spelt([bytes(frame) for frame in split(memoryview(data))]) == data
    assert sum(run.frames for run in found) == len(split(memoryview(data)))


@given(st.lists(FRAME, min_size=1, max_size=5), st.data())
def test_one_byte_less_or_more_is_no_batch(frames: list[bytes], data: st.DataObject) -> None:
    batch = packed(frames)
    cut = data.draw(st.integers(1, len(batch) - 1))
    whole = {len(spelt(frames[:n])) for n in range(len(frames) + 1)}
    for wrong in ([batch[:cut]] if cut not in whole else []) + [batch + b"\0"]:
        with pytest.raises(ValueError, match="frame"):
            runs(wrong)
        with pytest.raises(ValueError, match="frame"):
            split(memoryview(wrong))


@pytest.mark.parametrize("length", [0, 1, HEADER - 1, MAX_FRAME + 1, 1 << 31, 0xFFFF_FFFF])
def test_a_wrong_length_is_refused_and_named(length: int) -> None:
    good = spelt([bytes(60)])
    with pytest.raises(ValueError, match=rf"frame 1 at 64: .* {length}$"):
        runs(good + struct.pack("<I", length) + bytes(60))


def test_a_frame_behind_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="frame 0 ends 5 bytes behind"):
        runs(struct.pack("<I", 65) + bytes(60))


def test_a_frame_longer_than_allowed_is_refused() -> None:
    batch = spelt([bytes(1519)])
    assert runs(batch, 1519)
    with pytest.raises(ValueError, match="14 to 1518 bytes, not 1519"):
        runs(batch, 1518)


def test_a_batch_has_so_many_frames_and_no_more() -> None:
    assert runs(spelt([bytes(14)] * MAX_FRAMES))[0].frames == MAX_FRAMES
    with pytest.raises(ValueError, match="at most"):
        runs(spelt([bytes(14)] * (MAX_FRAMES + 1)))
    assert copies(spelt([b""] * (MAX_FRAMES + 1))) == [b""] * (MAX_FRAMES + 1)
    view = memoryview(bytearray(1 << 20))
    assert pack_into(view, [bytes(14)] * (MAX_FRAMES + 1)) == (MAX_FRAMES * 18, MAX_FRAMES)


@pytest.mark.parametrize("size", [0, HEADER - 1, MAX_FRAME + 1])
def test_what_is_no_frame_is_not_packed(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        pack_into(memoryview(bytearray(1 << 18)), [bytes(60), bytes(size)])


def test_the_longest_frame_is_packed() -> None:
    assert packed([bytes(MAX_FRAME)]) == spelt([bytes(MAX_FRAME)])


def test_addresses_are_read_and_written() -> None:
    assert batches.parse_mac("02:00:5e:10:00:0a") == bytes.fromhex("02005e10000a")
    assert batches.format_mac(batches.parse_mac("02:00:5E:10:00:0A")) == "02:00:5e:10:00:0a"


@pytest.mark.parametrize(
    "text", ["", "02:00:5e:10:00", "02:00:5e:10:00:0g", "02-00-5e-10-00-0a", "2:0:5e:10:0:a", "02:00:5e:10:00:0a:0b",
             "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", " 2:00:5e:10:00:0a"],
)  # fmt: skip
def test_what_is_no_address_of_a_card_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        batches.parse_mac(text)
