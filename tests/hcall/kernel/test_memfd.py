"""Memory that two processes share: nobody can shrink it, whoever made it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hcall.kernel import memfd


@contextmanager
def closed(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def seals(fd: int) -> int:
    return fcntl.fcntl(fd, memfd.F_GET_SEALS)


def bare(flags: int = os.MFD_ALLOW_SEALING) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | flags)
    os.ftruncate(fd, memfd.PAGE)
    return fd


def test_what_is_made_has_its_size_for_good() -> None:
    with closed(memfd.create(3 * memfd.PAGE)) as fd:
        assert os.fstat(fd).st_size == 3 * memfd.PAGE and seals(fd) == memfd.SEALS and not os.get_inheritable(fd)
        for size in (0, memfd.PAGE, 4 * memfd.PAGE):
            with pytest.raises(PermissionError):
                os.truncate(fd, size)
        assert os.pwrite(fd, b"written", 0) == 7


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 64])
def test_a_size_that_cannot_be_leaves_nothing_open(size: int) -> None:
    with pytest.raises((OSError, OverflowError)):
        memfd.create(size)


@pytest.mark.parametrize("before", [0, memfd.F_SEAL_SHRINK, memfd.F_SEAL_GROW])
def test_seals_that_are_missing_are_added(before: int) -> None:
    with closed(bare()) as fd:
        fcntl.fcntl(fd, memfd.F_ADD_SEALS, before)
        memfd.seal(fd)
        memfd.seal(fd)  # again
        assert seals(fd) == memfd.SEALS


def test_seals_that_are_final_stay_if_it_cannot_shrink() -> None:
    with closed(bare()) as fd:
        fcntl.fcntl(fd, memfd.F_ADD_SEALS, memfd.F_SEAL_SHRINK | memfd.F_SEAL_SEAL)
        memfd.seal(fd)
        assert seals(fd) == memfd.F_SEAL_SHRINK | memfd.F_SEAL_SEAL


def sealed_too_early() -> int:
    fd = bare()
    fcntl.fcntl(fd, memfd.F_ADD_SEALS, memfd.F_SEAL_SEAL)
    return fd


def pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


@pytest.mark.parametrize("make", [sealed_too_early, lambda: bare(flags=0), pipe], ids=["sealed", "unsealable", "pipe"])
def test_what_can_shrink_for_good_is_refused(make: Callable[[], int]) -> None:
    with closed(make()) as fd, pytest.raises(OSError):
        memfd.seal(fd)
