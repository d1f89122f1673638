"""The command `guestd`: a guest at the terminal."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from protocol.command import no_host, print_json, print_table, run, shown
from protocol.options import Json, Socket

if TYPE_CHECKING:
    from .blocking import BlockingGuest
    from .driver import Driver
    from .probers import Found

app = App(
    name="guestd",
    help="Standard virtual devices as ordinary processes: a guest, which finds and uses them.",
    help_format="plaintext",
    version=lambda: importlib.metadata.version("hostd"),
)


@Parameter(name="*")
@dataclass(frozen=True)
class Reach:
    """How a command finds its host, and drivers beside the installed ones."""

    socket: Socket = None
    driver: Annotated[
        tuple[str, ...],
        Parameter(help="a driver of your own: path/file.py[:Class] or module:Class; $GUESTD_DRIVERS names more"),
    ] = ()

    def drivers(self) -> list[type[Driver]]:
        """Those that were named, then all that are known.  Raises PluginError."""
        from .bus import known_drivers, own_drivers

        return own_drivers(self.driver) + known_drivers()


DEFAULT_REACH = Reach()
Device = Annotated[str, Parameter(help="name or path of the device, such as disk")]
At = Annotated[int, Parameter(help="byte to begin with; a stream has none")]


@contextmanager
def _guest(reach: Reach) -> Iterator[BlockingGuest]:
    from .blocking import attach_blocking
    from .guest import NoHost

    try:
        with attach_blocking(reach.socket, drivers=reach.drivers()) as guest:
            yield guest
    except NoHost as error:
        raise no_host(error.filename, error) from None


@app.command
def probe(*, reach: Reach = DEFAULT_REACH, as_json: Json = False) -> None:
    """Find all devices, as open firmware does it: first, next, child.

    The driver column says which driver would take the device.
    """
    from .bus import match

    drivers = reach.drivers()

    def driver_of(found: Found) -> str | None:
        driver = match(found, drivers)
        return driver.__name__ if driver else None

    with _guest(reach) as guest:
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
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Be a guest that binds every device it can get, and follows plug and unplug, until Ctrl-C."""
    from .terminal import attach_and_follow

    attach_and_follow(reach.socket, name, reach.drivers())


@app.command
def read(
    device: Device,
    /,
    *,
    at: At = 0,
    count: Annotated[int | None, Parameter(help="bytes; else to the end of a disk or a stream")] = None,
    output: Annotated[Path | None, Parameter(alias="-o", help="file to write to; else standard output")] = None,
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Read from a device."""
    from .transfer import read as read_device

    with _guest(reach) as guest:
        read_device(guest, device, at, count, output)


@app.command
def write(
    device: Device,
    file: Annotated[Path | None, Parameter(name="FILE", help="what to write; else standard input")] = None,
    /,
    *,
    at: At = 0,
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Write to a device, and wait until it is stable."""
    from .transfer import write as write_device

    with file.open("rb") if file else sys.stdin.buffer as source, _guest(reach) as guest:
        write_device(guest, device, source, at)


@app.command(name="console")
def console_(
    device: Annotated[str, Parameter(help="name or path of the console")] = "console",
    /,
    *,
    reach: Reach = DEFAULT_REACH,
) -> int:
    """Be the terminal of a console; Ctrl-] leaves.

    From a pipe, what comes on standard input is written, ^D after it, and what comes back is shown.
    """
    from .terminal import interact

    return interact(reach.socket, device, reach.drivers())


@app.command
def shell(
    *lines: Annotated[str, Parameter(name="LINE", help="run this line, and the next, instead of a prompt")],
    reach: Reach = DEFAULT_REACH,
) -> int:
    """Be at an `ok` prompt in the device tree, as open firmware has it: look around, and call devices.

    From a pipe, or with LINEs, the first error ends it:  guestd shell 'dev disk' .properties 'read 512'
    """
    from .prompt import run_shell

    with _guest(reach) as guest:
        return run_shell(guest, lines)


def main() -> None:
    """The entry point."""
    sys.exit(run(app, "guestd", sys.argv[1:]))
