"""The entries of a folder, packed, and what is a name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats.folder import (
    MAX_ENTRY,
    MAX_FETCHED,
    Entry,
    Fetched,
    Flag,
    Kind,
    Stored,
    check_name,
    check_path,
    pack,
    pack_fetched,
    pack_stored,
    put_fetched,
    put_flags,
    put_stored,
    shown,
    unpack,
    unpack_fetched,
    unpack_stored,
)

NAME = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b".."))
COOKIE, ID = st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 64) - 1)
ENTRIES = st.lists(st.builds(Entry, COOKIE, ID, st.sampled_from([int(kind) for kind in Kind]), NAME), max_size=5)
SIGNED, SIZE = COOKIE, st.integers(0, (1 << 64) - 1)
MODE, KINDS = st.integers(0, (1 << 16) - 1), st.sampled_from([int(kind) for kind in Kind])
NAMED = st.builds(Fetched, COOKIE, ID, SIZE, SIGNED, MODE, KINDS, st.sampled_from([0, 1]), NAME, st.just(b""))
WHOLE = st.builds(
    lambda name, data, mode: Fetched(1, 2, len(data), 3, mode, 0, 3, name, data), NAME, st.binary(max_size=300), MODE
)
FETCHED = st.lists(st.one_of(NAMED, WHOLE), max_size=5)


def test_the_layout_is_cookie_id_kind_and_name_little_endian() -> None:
    packed = pack([Entry(1, 2, Kind.LINK, b"ab")])
    assert packed == bytes.fromhex("0100000000000000 0200000000000000 02 02 6162")
    assert len(pack([Entry(0, 0, 0, b"x" * 255)])) == MAX_ENTRY


@given(ENTRIES)
def test_what_was_packed_is_unpacked(entries: list[Entry]) -> None:
    assert list(unpack(pack(entries))) == entries


@given(ENTRIES)
def test_what_is_cut_off_anywhere_is_refused_or_ends_between_entries(entries: list[Entry]) -> None:
    packed = pack(entries)
    ends = [len(pack(entries[:n])) for n in range(len(entries) + 1)]
    for length in range(len(packed) + 1):
        if length in ends:
            assert list(unpack(packed[:length])) == entries[: ends.index(length)]
        else:
            with pytest.raises(ValueError, match=r"entry|name"):
                list(unpack(packed[:length]))


@given(st.binary(max_size=100))
def test_any_bytes_are_entries_with_good_names_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        for entry in unpack(data):
            check_name(entry.name)
            assert entry.kind in list(Kind)


@given(FETCHED, st.booleans())
def test_what_was_fetched_is_unpacked_from_bytes_and_from_memory(entries: list[Fetched], is_all: bool) -> None:
    if entries and is_all:
        entries[-1] = entries[-1]._replace(flags=entries[-1].flags | Flag.LAST)
    packed = pack_fetched(entries)
    assert list(unpack_fetched(packed)) == entries
    assert list(unpack_fetched(memoryview(bytearray(packed)))) == entries
    for length in range(len(packed)):
        with contextlib.suppress(ValueError):
            assert pack_fetched(unpack_fetched(packed[:length])) == packed[:length]


@given(NAMED)
def test_an_entry_that_is_put_is_as_one_that_is_packed(entry: Fetched) -> None:
    room = memoryview(bytearray(MAX_FETCHED + 1))
    put_fetched(room, 1, entry.name, *entry[:7])
    put_flags(room, 1, Flag.LAST)
    assert bytes(room).strip(b"\0") == (b"\0" + pack_fetched([entry._replace(flags=Flag.LAST)])).strip(b"\0")


@given(st.lists(st.builds(Stored, st.integers(0, 0o777), NAME, st.binary(max_size=300)), max_size=5))
def test_what_is_to_be_stored_is_unpacked_and_never_cut(files: list[Stored]) -> None:
    packed = pack_stored(files)
    assert list(unpack_stored(packed)) == list(unpack_stored(memoryview(bytearray(packed)))) == files
    room, at = memoryview(bytearray(len(packed))), 0
    for mode, name, data in files:
        start = put_stored(room, at, mode, name, len(data))
        at = start + len(data)
        room[start:at] = data
    assert room == packed
    for length in range(len(packed)):
        with contextlib.suppress(ValueError):
            assert pack_stored(unpack_stored(packed[:length])) == packed[:length]


@given(st.lists(WHOLE, min_size=2, max_size=2))
def test_behind_the_last_there_is_none(entries: list[Fetched]) -> None:
    with pytest.raises(ValueError, match="no entry"):
        list(unpack_fetched(pack_fetched([entries[0]._replace(flags=7), entries[1]])))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * 256])
def test_what_is_no_name_is_refused_in_a_listing_too(name: bytes) -> None:
    with pytest.raises(ValueError, match="no name"):
        check_name(name)
    if len(name) < 256:
        with pytest.raises(ValueError, match="no name"):
            list(unpack(pack([Entry(0, 0, 0, name)])))
        with pytest.raises(ValueError, match="no name"):
            list(unpack_fetched(pack_fetched([Fetched(0, 0, 0, 0, 0, 0, 0, name)])))


@given(NAME)
def test_any_other_name_is_one(name: bytes) -> None:
    assert [entry.name for entry in unpack_fetched(pack_fetched([Fetched(0, 0, 0, 0, 0, 0, 0, name)]))] == [name]


@pytest.mark.parametrize("path", [b"", b"a", b"a/b", b"...", b"a/" * 2047 + b"b", b"\xff"])
def test_a_path_is_names(path: bytes) -> None:
    check_path(path)


@pytest.mark.parametrize("path", [b"/", b"a/", b"/a", b"a//b", b"../a", b"a/..", b"a/" * 2047 + b"bb"])
def test_what_is_no_path_is_refused(path: bytes) -> None:
    with pytest.raises(ValueError, match=r"no name|a path has"):
        check_path(path)


@given(st.binary(max_size=5000))
def test_what_is_shown_of_a_path_is_short_and_can_be_printed(path: bytes) -> None:
    assert len(shown(path)) < 1000
    shown(path).encode()
