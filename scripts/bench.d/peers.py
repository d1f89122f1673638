"""The processes at the other end: our daemon, and what it is measured beside.  Each runs on the host's core.

`peers.py MODE SOCKET` is an echo: of raw bytes on uvloop, or of ZeroMQ messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import uvloop

DISK_BYTES: Final = 64 << 20
MACHINE: Final = """
[machine]
name = "bench"
[devices.rng]
model = "rng"
[devices.disk]
model = "block"
path = "disk.img"
read_only = true
[devices.disk2]                # of the same image: the disk of the second client
model = "block"
path = "disk.img"
read_only = true
[devices.disk3]                # of the same image: the one that is exported
model = "block"
path = "disk.img"
read_only = true
[devices.disk4]                # of the same image: the one that somebody else reads
model = "block"
path = "disk.img"
read_only = true
[devices.disk5]                # of the same image: the one that is read over a ring
model = "block"
path = "disk.img"
read_only = true
"""
_START_SECONDS: Final = 20
_MALLOC: Final = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}  # its maximum


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """On *core* from here on; so are the processes that are started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def steady_malloc() -> Iterator[None]:
    """For the processes that are started meanwhile: glibc's malloc keeps what is freed, and maps nothing on its own.

    Else (mallopt(3)) it depends on what a process has freed before whether each large block is faulted in anew.
    """
    before = {name: os.environ.get(name) for name in _MALLOC}
    os.environ.update(_MALLOC)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def running(core: int, *command: object, listens: Path) -> Iterator[int]:
    """*command* on *core*, once somebody answers at the socket *listens*; its pid.  Raises RuntimeError."""
    with tempfile.TemporaryFile() as errors:
        with pinned(core):
            process = subprocess.Popen([*map(str, command)], stdin=subprocess.DEVNULL, stderr=errors)
        try:
            if not _answers(process, listens):
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise RuntimeError(f"{' '.join(map(str, command))} does not start: {said or 'it says nothing'}")
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def _answers(process: subprocess.Popen[bytes], path: Path) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            return True
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def host(core: int, folder: Path, spin: bool) -> Iterator[Path]:
    """The daemon that is measured beside the peers; its guest socket."""
    with (folder / "disk.img").open("wb") as image:
        for _ in range(0, DISK_BYTES, 1 << 20):
            image.write(os.urandom(1 << 20))
        image.flush()
        os.fsync(image.fileno())  # else the disk is written while we measure
    with daemon(core, folder, "bench", MACHINE, spin) as (guests, _):
        yield guests


@contextlib.contextmanager
def daemon(core: int, folder: Path, name: str, machine: str, spin: bool = False) -> Iterator[tuple[Path, int]]:
    """A daemon as anybody would start it, of the text *machine*: its guest socket and its pid."""
    file, runtime = folder / f"{name}.toml", folder / name
    file.write_text(f"{machine}[host]\nspin = {str(spin).lower()}\n")
    guests = runtime / "guest.sock"
    command = (sys.executable, "-P", "-m", "hostd", "serve", file, "--runtime-dir", runtime)
    with running(core, *command, listens=guests) as pid:
        yield guests, pid


@contextlib.contextmanager
def echo(core: int, mode: str, folder: Path) -> Iterator[Path]:
    """This file as a process, *mode* being "uvloop" or "zmq"; its socket."""
    path = folder / f"{mode}.sock"
    with running(core, sys.executable, __file__, mode, path, listens=path):
        yield path


@contextlib.contextmanager
def nbdkit(core: int, folder: Path) -> Iterator[str]:
    """nbdkit's memory plugin, filled; the address for fio.  Both have to be installed."""
    path = folder / "nbd.sock"
    with running(core, "nbdkit", "--exit-with-parent", "-U", path, "memory", DISK_BYTES, listens=path):
        uri = f"nbd+unix:///?socket={path}"
        fio(uri, folder, rw="write", bs=1 << 20, iodepth=1, refill_buffers=1)
        yield uri


@contextlib.contextmanager
def nbdkit_python(core: int, folder: Path) -> Iterator[str]:
    """nbdkit with a disk in Python; the address for fio."""
    path = folder / "python.sock"
    script = Path(__file__).with_name("ramdisk.py")
    with running(core, "nbdkit", "--exit-with-parent", "-U", path, "python", script, listens=path):
        yield f"nbd+unix:///?socket={path}"


@contextlib.contextmanager
def export(core: int, folder: Path, guests: Path, spin: bool) -> Iterator[str]:
    """A guest of the host at *guests* that exports its disk as `guestd export` does; the address for fio."""
    path = folder / "export.sock"
    command = (sys.executable, "-P", "-m", "guestd", "export", "disk3", f"nbd:unix:{path}", "--socket", guests)
    command += ("--spin",) if spin else ()
    with running(core, *command, listens=path):
        yield f"nbd+unix:///?socket={path}"


def fio(uri: str, folder: Path, **options: object) -> list[float]:
    """Run fio with *options*; seconds for each operation, as the mean of every 20 ms."""
    log = folder / "fio_iops.log"
    log.unlink(missing_ok=True)
    given = {"name": "x", "ioengine": "nbd", "uri": uri, "size": DISK_BYTES, "per_job_logs": 0, **options}
    command = ["fio", *(f"--{key}={value}" for key, value in given.items())]
    command += [f"--write_iops_log={log.with_name('fio')}", "--log_avg_msec=20"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    rates = [int(line.split(",")[1]) for line in log.read_text().splitlines()]
    return [1 / rate for rate in rates[1:-1] if rate]  # the first is of all the time that fio takes to start


def missing(*programs: str) -> str | None:
    """What has to be installed before *programs* run, in one sentence; None if nothing."""
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    if "fio" in programs and subprocess.run(["fio", "--enghelp=nbd"], capture_output=True, check=False).returncode:
        return "this fio has no engine for nbd"
    return None


def no_plugin() -> str | None:
    """The same of what nbdkit needs for a plugin in Python."""
    asked = subprocess.run(["nbdkit", "python", "--dump-plugin"], capture_output=True, check=False)
    return "nbdkit's plugin for Python not installed" if asked.returncode else None


class Echo(asyncio.Protocol):
    """Gives back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


async def _echo(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await server.serve_forever()


def _router(path: str) -> None:
    import zmq  # an extra, which may be missing

    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(f"ipc://{path}")
    while True:
        router.send_multipart(router.recv_multipart())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    if sys.argv[1] == "uvloop":
        uvloop.run(_echo(sys.argv[2]))
    else:
        _router(sys.argv[2])
