"""The command `guestd`: a guest at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hcall.programs.command import Exit, Failure, run
from hcall.programs.help import new_program
from hcall.programs.options import Json, ReadyFd, Socket

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

    from ..clients.blocking import BlockingGuest
    from ..driver import Driver

app = new_program("guestd", "Standard virtual devices as ordinary processes: a guest, which finds and uses them.")


@Parameter(name="*")
@dataclass(frozen=True)
class Reach:
    """How a command finds its host, and drivers beside the installed ones."""

    socket: Socket = None
    driver: Annotated[
        tuple[Path, ...],
        Parameter(help="a driver of your own: path/file.py[:Class] or module:Class; may be given again for another"),
    ] = ()

    def drivers(self) -> list[type[Driver]]:
        """Those that were named, then all that are known.  Raises PluginError."""
        from ..bus.known import known_drivers, own_drivers

        return own_drivers(map(str, self.driver)) + known_drivers()


DEFAULT_REACH = Reach()


@contextmanager
def _guest(reach: Reach, prober: str = "tree") -> Iterator[BlockingGuest]:
    from ..clients.blocking import attach_blocking

    with attach_blocking(reach.socket, drivers=reach.drivers(), prober=prober) as guest:
        yield guest


def _device_names(context: CompletionContext) -> list[str]:
    """The devices of the machine that runs, for completion."""
    slash = "" if context.incomplete.startswith("/") else "/"
    with _guest(Reach(context["--socket"].raw)) as guest:
        return [found.path.removeprefix(slash) for found in guest.run(guest.walk()) if found.has_device]


Device = Annotated[str, Parameter(help="name or path of the device, such as disk", completer=_device_names)]
At = Annotated[int, Parameter(metavar="BYTE", help="the first byte; a stream has none")]


Prober = Annotated[str, Parameter(metavar="NAME", help="how devices are found, such as tree")]


@app.command
def probe(
    *,
    prober: Annotated[str, Parameter(metavar="NAME", help="how devices are found; all: in every way")] = "tree",
    dump: Annotated[
        Path | None, Parameter(metavar="FILE", help="of a real machine, by pci: what `lspci -xxxx` wrote there")
    ] = None,
    reach: Reach = DEFAULT_REACH,
    as_json: Json = False,
) -> None:
    """Find all devices; if nobody says how, as open firmware does it: first, next, child.

    The driver column says which driver would take the device.  With all, each way has a column, and each node a row.

    $ guestd probe --prober all
    """
    from .probing import print_found, print_side_by_side

    if dump is not None:
        from .dumped import print_dumped

        if prober != "pci":
            raise Failure("a dump is for the prober pci: --prober pci --dump FILE", Exit.USAGE)
        print_dumped(dump, reach.drivers(), as_json=as_json)
        return
    with _guest(reach, "tree" if prober == "all" else prober) as guest:
        if prober == "all":
            print_side_by_side(guest, as_json=as_json)
        else:
            print_found(guest, reach.drivers(), as_json=as_json)


@app.command
def attach(
    *,
    name: Annotated[str | None, Parameter(help="what the host calls this guest")] = None,
    prober: Prober = "tree",
    claim: Annotated[
        str | None,
        Parameter(metavar="CLASS", help="one device that is compatible with CLASS, as soon as one is free; no others"),
    ] = None,
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Be a guest that binds every device it can get, until Ctrl-C.

    It follows plug and unplug, and says so.
    """
    from .terminal import attach_and_follow

    attach_and_follow(reach.socket, name, reach.drivers(), prober, claim)


@app.command
def read(
    device: Device,
    /,
    *,
    at: At = 0,
    count: Annotated[
        int | None, Parameter(metavar="BYTES", help="how many; else to the end of a disk or a stream")
    ] = None,
    output: Annotated[
        Path | None, Parameter(alias="-o", metavar="FILE", help="file to write to; else standard output")
    ] = None,
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


@app.command
def copy(
    source: Annotated[str, Parameter(help="what to copy: a path of this system, or NAME:PATH in a shared folder")],
    target: Annotated[str, Parameter(help="where to: the other of the two")],
    /,
    *,
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Copy files and folders into a shared folder, or out of it.

    A folder goes with all that is in it.  NAME is that of the device, or its tag.  A folder that is there gets the copy
    under its own name, as with `cp -r`.

    $ guestd copy shared:/results .
    """
    from .copying import copy as copy_files

    copy_files(reach.socket, source, target, reach.drivers())


@app.command(name="console")
def console_(
    device: Annotated[str, Parameter(help="name or path of the console", completer=_device_names)] = "console",
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
def export(
    device: Device,
    uri: Annotated[str, Parameter(help="where and how, such as nbd:unix:/tmp/disk.sock")],
    /,
    *,
    spin: Annotated[bool, Parameter(help="look for answers for up to 100 us before it sleeps")] = False,
    ready_fd: Annotated[ReadyFd, Parameter(help='write "ready" to this descriptor when others can use it')] = None,
    reach: Reach = DEFAULT_REACH,
) -> None:
    """Let other programs use a device, until Ctrl-C.

    A stream goes to pty:PATH, tcp:HOST:PORT, unix:PATH or stdio:, for one peer at a time; a printer to tcp:HOST:PORT
    or unix:PATH, a job for each peer; a disk to nbd:unix:PATH, a network card to tap:NAME.

    $ guestd export disk nbd:unix:/tmp/disk.sock
    """
    from .exporting import export as export_device

    export_device(reach.socket, device, uri, reach.drivers(), ready_fd, spin)


@app.command
def shell(
    *lines: Annotated[str, Parameter(name="LINE", help="run this line, and the next, instead of a prompt")],
    reach: Reach = DEFAULT_REACH,
) -> int:
    """Look around and call devices by hand, at an `ok` prompt.

    The prompt is open firmware's; `help` says what can be typed there.  From a pipe, or with LINEs, the first error
    ends it.

    $ guestd shell 'dev disk' .properties 'read 512'
    """
    from ..shell.prompt import run_shell

    with _guest(reach) as guest:
        return run_shell(guest, lines)


def main() -> None:
    """The entry point."""
    sys.exit(run(app, "guestd", sys.argv[1:]))
