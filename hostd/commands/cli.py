"""The command `hostd`: serve a machine, look at a running one, and change it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hcall.programs.command import Exit, Failure, print_json, print_table, run, say
from hcall.programs.help import new_program
from hcall.programs.options import Json, ReadyFd, Socket
from hcall.text import shown

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

app = new_program("hostd", "Standard virtual devices as ordinary processes: the host, which owns the devices.")

TraceFile = Annotated[
    Path | None,
    Parameter(metavar="FILE", help="write all that happens to it, as `hostd trace --json` prints it"),
]
MachineFile = Annotated[Path, Parameter(name="MACHINE.toml", help="the machine file")]
RuntimeDir = Annotated[Path | None, Parameter(metavar="DIR", help="where the sockets are: guest.sock and control.sock")]


@app.command
def serve(
    machine: MachineFile,
    /,
    *,
    runtime_dir: RuntimeDir = None,
    ready_fd: Annotated[ReadyFd, Parameter(help="write a line to this descriptor once guests can attach")] = None,
    trace: TraceFile = None,
    verbose: Annotated[bool, Parameter(alias="-v", help="log who comes and goes")] = False,
) -> int:
    """Serve a machine until SIGTERM or SIGINT.

    SIGHUP reads its file again, as `hostd reload` does.
    """
    from ..service.process import serve_forever

    return serve_forever(machine, runtime_dir, ready_fd, verbose, trace)


@app.command(name="run", usage="hostd run [OPTIONS] MACHINE.toml -- COMMAND [ARGUMENT...]")
def run_(
    machine: MachineFile,
    /,
    *command: Annotated[str, Parameter(help="what to run, and its arguments", allow_leading_hyphen=True)],
    trace: TraceFile = None,
) -> int:
    """Serve a machine while a command runs, and end with its exit status.

    The command finds the host by $HOSTD_SOCKET.

    $ hostd run machine.toml -- guestd probe
    """
    from ..service.process import run_captive

    if not command:
        raise Failure("which command? hostd run MACHINE.toml -- COMMAND ...", Exit.USAGE)
    return run_captive(machine, list(command), trace)


@app.command
def check(
    file: Annotated[Path, Parameter(help="a machine file, or a model: its name, path/file.py[:Class] or module:Class")],
    /,
    *,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a machine file or a model, or what it has.

    It needs no running host.
    """
    from hcall.programs.plugins import is_plugin

    from .check import check_machine, check_model

    if file.is_dir():
        raise Failure(f"{file} is a folder: name the machine file, or the model, in it", Exit.USAGE)
    if file.suffix == ".toml" or (file.is_file() and not is_plugin(str(file))):
        check_machine(file, as_json)
    else:
        check_model(str(file), as_json)


@app.command
def new(name: Annotated[str, Parameter(help="its name, such as counter; a folder of that name is made")], /) -> None:
    """Write a device of your own, to begin with.

    It is a model, its driver, a test and a machine file, which work as they stand.
    """
    from .new import make

    for file in make(name, Path()):
        print(file)
    say("hostd", f"now try: cd {name}; python -m unittest; hostd check machine.toml")
    say("hostd", f"         hostd run machine.toml -- guestd shell 'dev {name}' 'count 3'")


@app.command
def ls(*, socket: Socket = None, as_json: Json = False) -> None:
    """List the devices of a running machine."""
    from .remote import ask

    devices = ask(socket, "ls")
    if as_json:
        print_json(devices)
    else:
        print_table(("PATH", "MODEL", "USED BY", "PROPERTIES"), map(_device_row, devices))


MAX_SECONDS = 1e9


def _device_row(device: dict[str, Any]) -> tuple[str, ...]:
    from .remote import model_of
    from .trees import own as own_of

    own = own_of(device["properties"])
    state = "failed" if device["failed"] else "leaving" if device["leaving"] else "-"
    used = ", ".join(device["guests"]) or state
    return device["path"], model_of(device), used, "  ".join(f"{name}={shown(own[name])}" for name in own)


@app.command
def tree(
    *,
    form: Annotated[
        str, Parameter("--format", metavar="FORMAT", help="tree, json, dts (for dtc), dtb (flattened), or lspci")
    ] = "tree",
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Show the device tree of a running machine, with properties.

    $ hostd tree --format dtb > machine.dtb
    """
    from .remote import ask
    from .trees import show

    show(ask(socket, "tree"), "json" if as_json else form)


@app.command
def status(*, socket: Socket = None, as_json: Json = False) -> None:
    """Show a running host and its guests."""
    from .remote import ask
    from .status import show_status

    found = ask(socket, "status")
    if as_json:
        print_json(found)
        return
    show_status(found)


def _model_names(_: CompletionContext) -> list[str]:
    """For completion."""
    from ..machine.models import names

    return names()


def _device_names(context: CompletionContext) -> list[str]:
    """The devices of the machine that runs, for completion."""
    from .remote import ask

    slash = "" if context.incomplete.startswith("/") else "/"
    return [device["path"].removeprefix(slash) for device in ask(context["--socket"].raw, "ls")]


@app.command
def plug(
    path: Annotated[str, Parameter(help="its name, or bus/NAME to stand below another node")],
    model: Annotated[str, Parameter(help="what it is: block, console, rng, ...", completer=_model_names)],
    /,
    *settings: Annotated[
        str, Parameter(name="KEY=VALUE", help="a setting; without quotes, and files are relative to here")
    ],
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Add a device to a running machine.

    $ hostd plug disk2 block path=extra.img read_only=true
    """
    from .remote import ask

    words = dict(map(_setting, settings))
    if len(words) < len(settings):
        raise Failure("a KEY is there twice", Exit.USAGE)
    node = ask(socket, "plug", path=path, config={"model": model}, words=words, folder=str(Path.cwd()))
    if as_json:
        print_json(node)
    else:
        say("hostd", f"{node['path']} is plugged")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise Failure(f"{text!r} is no KEY=VALUE", Exit.USAGE)
    return key, value


@app.command
def unplug(
    path: Annotated[str, Parameter(help="its name or path; what stands below it goes, too", completer=_device_names)],
    /,
    *,
    surprise: Annotated[bool, Parameter(help="do not ask the guests first")] = False,
    if_free: Annotated[bool, Parameter(help="only if no guest has it open; else the exit code is 5")] = False,
    timeout: Annotated[float, Parameter(metavar="SECONDS", help="how long guests have to let go of it")] = 5.0,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Take a device out of a running machine."""
    from .remote import PATIENCE_SECONDS, ask

    _check_seconds(timeout)
    answer = ask(
        socket, "unplug", patience=timeout + PATIENCE_SECONDS,
        path=path, surprise=surprise, timeout=timeout, if_free=if_free,
    )  # fmt: skip
    path = f"/{path.strip('/')}"
    if as_json:
        print_json(answer)
    elif answer["willing"]:
        say("hostd", f"{path} is unplugged")
    else:
        say("hostd", f"{path} is unplugged; a guest held it to the end of {timeout:g} s")


@app.command
def reload(*, socket: Socket = None, as_json: Json = False) -> None:
    """Have a running host read its machine file again.

    It changes what is different; nothing, if the file has mistakes.
    """
    from .remote import ask

    done = ask(socket, "reload")
    changes = [f"{what} {path}" for what in ("removed", "replaced", "added", "changed") for path in done[what]]
    if as_json:
        print_json(done)
    else:
        for line in changes or ["nothing changed"] * (not done["failed"]):
            print(line)
        for line in done["restart"]:
            say("hostd", line)
    if done["failed"]:
        raise Failure("\n".join(done["failed"]), Exit.BAD_CONFIGURATION)


@app.command
def act(
    path: Annotated[str, Parameter(help="name or path of the device", completer=_device_names)],
    action: Annotated[str | None, Parameter(name="ACTION", help="what to do; else they are listed")] = None,
    /,
    *args: Annotated[str, Parameter(name="ARG", help="what the action takes")],
    timeout: Annotated[float, Parameter(metavar="SECONDS", help="after which the exit code is 6; it goes on")] = 60.0,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Do something at a device's front panel, such as press a button.

    $ hostd act power press power
    """
    from .remote import PATIENCE_SECONDS, ask

    _check_seconds(timeout)
    patience = timeout + PATIENCE_SECONDS
    answer = ask(socket, "act", patience=patience, path=path, action=action, args=list(args), timeout=timeout)
    if as_json:
        print_json(answer)
    elif action is None:
        for each in answer:
            print(each["signature"])
        if not answer:
            say("hostd", f"{path} has no actions")
    elif answer is not None:
        print(shown(answer))


@app.command
def wait(
    *,
    device: Annotated[str | None, Parameter(help="until there is this device")] = None,
    gone: Annotated[
        str | None, Parameter(metavar="DEVICE", help="until this device is gone", completer=_device_names)
    ] = None,
    guest: Annotated[str | None, Parameter(metavar="NAME", help="until a guest of this name is attached")] = None,
    timeout: Annotated[float, Parameter(metavar="SECONDS", help="after which the exit code is 6")] = 30.0,
    socket: Socket = None,
) -> None:
    """Wait until a host answers, and all that is asked for holds."""
    from hcall.clock import SystemClock

    from .remote import ask

    _check_seconds(timeout)
    clock = SystemClock()
    deadline = clock.time() + timeout
    while True:
        try:
            left = max(0.0, deadline - clock.time())
            ask(socket, "wait", patience=left + 1, device=device, gone=gone, guest=guest, timeout=left)
            return
        except Failure as failure:
            if failure.code == Exit.TIMEOUT:
                raise Failure(f"it did not happen within {timeout:g} s", Exit.TIMEOUT) from None
            if failure.code != Exit.NO_HOST:
                raise
            if clock.time() >= deadline:
                raise Failure(f"it did not happen within {timeout:g} s: {failure}", Exit.TIMEOUT) from None
        clock.sleep(0.05)  # there is nothing to be told by yet


def _check_seconds(timeout: float) -> None:
    if not 0 <= timeout <= MAX_SECONDS:  # nan is none, either
        raise Failure(f"--timeout {timeout:g}: seconds, 0 to {MAX_SECONDS:g}", Exit.USAGE)


@app.command
def trace(
    device: Annotated[
        str | None, Parameter(help="name or path: only what happens there, and below it", completer=_device_names)
    ] = None,
    /,
    *,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Follow what happens in a running host, until Ctrl-C.

    Calls and their answers, interrupts, guests and devices that come and go.

    $ hostd trace disk
    """
    from .tracing import trace as follow

    follow(socket, device, as_json)


@app.command
def demo(
    *,
    every: Annotated[bool, Parameter(name="--all", help="use every device there is, and say a line of each")] = False,
    as_json: Json = False,
) -> int:
    """Show it all, in a second or two.

    A host process and a guest process, real data, hotplug and a cut link.
    """
    from .demo import run_demo
    from .demo_all import run_demo_all

    return run_demo_all(as_json) if every else run_demo(as_json)


def main() -> None:
    """The entry point."""
    sys.exit(run(app, "hostd", sys.argv[1:]))
