"""The command `guestd`: a guest at the terminal."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from protocol.command import Exit, Failure, no_host, print_json, print_table, run, say, shown
from protocol.options import Json, Socket

if TYPE_CHECKING:
    from .blocking import BlockingGuest
    from .probers import Found

app = App(
    name="guestd",
    help="Standard virtual devices as ordinary processes: a guest, which finds and uses them.",
    help_format="plaintext",
    version=lambda: importlib.metadata.version("hostd"),
)

Device = Annotated[str, Parameter(help="name or path of the device, such as disk")]
At = Annotated[int, Parameter(help="byte to begin with; a stream has none")]

_CHUNK = 1 << 20  # bytes


@contextmanager
def _guest(socket: str | None) -> Iterator[BlockingGuest]:
    from .blocking import attach_blocking
    from .guest import NoHost

    try:
        with attach_blocking(socket) as guest:
            yield guest
    except NoHost as error:
        raise no_host(error.filename, error) from None


@app.command
def probe(*, socket: Socket = None, as_json: Json = False) -> None:
    """Find all devices, as open firmware does it: first, next, child.

    The driver column says which driver would take the device.
    """
    from .bus import known_drivers, match

    drivers = known_drivers()

    def driver_of(found: Found) -> str | None:
        driver = match(found, drivers)
        return driver.__name__ if driver else None

    with _guest(socket) as guest:
        nodes = guest.run(guest.walk())
        if as_json:
            about = {found.node: guest.run(guest.properties(found.node)) for found in nodes}
            print_json(
                [{**found._asdict(), "driver": driver_of(found), "properties": about[found.node]} for found in nodes]
            )
            return
        print_table(
            ("PATH", "COMPATIBLE", "IDS", "DRIVER"),
            ((found.path, shown(found.compatible) or "-", "{:04x}:{:04x}".format(*found.ids) if any(found.ids) else "-",
              driver_of(found) or "-") for found in nodes),
        )  # fmt: skip


@app.command
def attach(
    *,
    name: Annotated[str | None, Parameter(help="what the host calls this guest")] = None,
    socket: Socket = None,
) -> None:
    """Be a guest that binds every device it can get, and follows plug and unplug, until Ctrl-C."""
    from .terminal import attach_and_follow

    attach_and_follow(socket, name)


@app.command
def read(
    device: Device,
    /,
    *,
    at: At = 0,
    count: Annotated[int | None, Parameter(help="bytes; else to the end of a disk or a stream")] = None,
    output: Annotated[Path | None, Parameter(alias="-o", help="file to write to; else standard output")] = None,
    socket: Socket = None,
) -> None:
    """Read from a device."""
    from .drivers.block import BlockDriver
    from .stream import StreamDriver

    if at < 0 or (count is not None and count < 0):
        raise Failure("--at and --count are 0 or more", Exit.USAGE)
    with _guest(socket) as guest:
        driver = guest.bind(device)
        if isinstance(driver, BlockDriver):
            left = driver.capacity - at if count is None else count
            if not 0 <= left <= driver.capacity - at:
                raise Failure(f"{device} has {driver.capacity} bytes: {at}+{max(left, 0)} is outside", Exit.USAGE)
        elif count is None and not isinstance(driver, StreamDriver):
            raise Failure(f"{device} has no end: how many bytes? --count N", Exit.USAGE)
        else:
            left = sys.maxsize if count is None else count
        out = output.open("wb") if output else sys.stdout.buffer
        while left:
            if isinstance(driver, StreamDriver):
                data = guest.run(driver.read_some(left))
            else:
                data = guest.run(driver.load(min(left, _CHUNK), at))
            if not data:
                break
            out.write(data)
            if isinstance(driver, StreamDriver):
                out.flush()  # somebody may be looking
            at += len(data)
            left -= len(data)
        out.flush()
        if output:
            out.close()


@app.command
def write(
    device: Device,
    file: Annotated[Path | None, Parameter(name="FILE", help="what to write; else standard input")] = None,
    /,
    *,
    at: At = 0,
    socket: Socket = None,
) -> None:
    """Write to a device, and wait until it is stable."""
    from .stream import StreamDriver

    with file.open("rb") if file else sys.stdin.buffer as source, _guest(socket) as guest:
        driver = guest.bind(device)
        start = at
        while data := source.read(_CHUNK):
            guest.run(driver.write_all(data) if isinstance(driver, StreamDriver) else driver.store(data, at))
            at += len(data)
        if "sync" in driver.dev.calls:
            guest.run(driver.sync())
        say("guestd", f"{at - start} bytes written to {device}")


@app.command(name="console")
def console_(
    device: Annotated[str, Parameter(help="name or path of the console")] = "console", /, *, socket: Socket = None
) -> int:
    """Be the terminal of a console; Ctrl-] leaves.

    From a pipe, what comes on standard input is written, ^D after it, and what comes back is shown.
    """
    from .terminal import interact

    return interact(socket, device)


def main() -> None:
    """The entry point."""
    sys.exit(run(app, "guestd", sys.argv[1:]))
