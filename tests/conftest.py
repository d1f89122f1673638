"""What every test gets: one event loop or both, and a check that nothing was left behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import re
import signal
import tempfile
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop

import hostd

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts with &
    signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("untimed", deadline=None)  # a machine may be busy: no test is timed
hypothesis.settings.load_profile("untimed")

ALLOWED_SKIPS = ("root may read everything", "no control group bounds memory here", "no FUSE: ")
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop,
}  # fmt: skip
_KNOW_NO_LOOP = (
    *(f"hostd/{room}/" for room in ("calls", "filters", "guests", "isolated", "machine", "model", "tree")),
    *(f"devices/test_{name}" for name in ("block", "folder", "hid", "net", "printer", "rng", "sysman", "watchdog")),
)
MACHINE = """
[machine]
name = "test"
[devices.rng]
model = "rng"
[devices.console]
model = "console"
backing = "cmd:cat"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "what knows no loop is tested on one of the two, always the same for each test (default), or on both"
    parser.addoption("--loops", choices=("one", "both"), default="one", help=words)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What comes near to a loop is tested on both."""
    place = item.path.relative_to(Path(__file__).parent).as_posix()
    if config.getoption("--loops") == "both" or not place.startswith(_KNOW_NO_LOOP):
        return _LOOPS
    name = sorted(_LOOPS)[zlib.crc32(f"{place} {item.originalname}".encode()) % 2]
    return {name: _LOOPS[name]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _no_task_left(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """In CI nothing is skipped for want of a tool: a skip that is not on the list is a failure."""
    report = yield
    # A log may have half a surrogate pair in it, as Python's stderr shows it; what tests in parallel tell may not.
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    if report.skipped and "CI" in os.environ and not any(reason in str(report.longrepr) for reason in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


def _no_task_left(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        await test(*args, **kwargs)
        for _ in range(10):  # what was cancelled or answered just now still has a step to go
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks are left: {left}"

    return checked


@pytest.fixture(scope="session", autouse=True)
def loops_are_warm() -> None:
    """The first event loop of a process opens descriptors that stay; so do modules, which are many."""
    for new_loop in _LOOPS.values():
        loop = new_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    gc.collect()
    gc.freeze()  # what is there now stays: each test's collection looks only at what came since


def _held() -> dict[str, object]:
    """What the process holds now."""
    fds = {}
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            fds[fd.name] = str(fd.readlink())
    maps = Path("/proc/self/maps").read_text()
    return {
        "descriptors": fds,
        "mappings of guest memory": len(re.findall("memfd:", maps)),
        "threads": {thread.name for thread in threading.enumerate() if "asyncio" not in thread.name},
    }


@pytest.fixture(autouse=True)
def nothing_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Descriptors, guest memory and threads are after every test what they were before."""
    before = _held()
    yield
    for thread in threading.enumerate():  # of executors that were shut down without waiting
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(5)
    caplog.handler.reset()  # a logged exception holds its frames, and what they hold
    gc.collect()
    gc.freeze()  # what is still there stays: thousands of tests later it is half of the time to look at it again
    assert _held() == before


@pytest.fixture
def machine_file(tmp_path: Path) -> Path:
    """A machine with an rng, a console behind which `cat` runs, and a disk of 1 MiB."""
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    return path


@pytest.fixture
async def host(machine_file: Path, tmp_path: Path) -> AsyncIterator[hostd.Host]:
    """That machine, served in this process; its runtime directory is empty of sockets afterwards."""
    runtime = tmp_path / "run"
    async with hostd.serve(machine_file, runtime) as host:
        yield host
        held = len(host.guests.by_token)
    assert held == 0, "a test left a guest behind"
    assert not list(runtime.glob("*.sock"))


@pytest.fixture(params=["tmp_path", "/dev/shm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a filesystem whose reads can be told not to wait for the disk, and on tmpfs, which has no such flag."""
    if request.param == "tmp_path":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir=request.param) as name:
            yield Path(name)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)
