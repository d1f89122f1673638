"""The entries of a folder, packed, and what is a name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats.folder import MAX_ENTRY, Entry, Kind, check_name, check_path, pack, shown, unpack

NAME = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & {*name} and name not in (b".", b".."))
COOKIE, ID = st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, (1 << 64) - 1)
ENTRIES = st.lists(st.builds(Entry, COOKIE, ID, st.sampled_from([int(kind) for kind in Kind]), NAME), max_size=5)


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


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"x" * 256])
def test_what_is_no_name_is_refused_in_a_listing_too(name: bytes) -> None:
    with pytest.raises(ValueError, match="no name"):
        check_name(name)
    if len(name) < 256:
        with pytest.raises(ValueError, match="no name"):
            list(unpack(pack([Entry(0, 0, 0, name)])))


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
