"""Writes the man pages hostd.1 and guestd.1 into a folder: `python man.py FOLDER`.

Commands, arguments and options come from the programs, exit codes from `hcall.programs.command.Exit`.  What no
program can say about itself is here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import guestd.commands.cli
import hostd.commands.cli
from guestd.bus.known import VARIABLE as DRIVERS
from hcall.programs.command import Exit
from hcall.programs.help import Entry, Page, Program, page
from hcall.rendezvous import CONTROL_SOCKET, GUEST_SOCKET
from hcall.rendezvous import VARIABLE as SOCKET

RUNTIME: Final = [
    Entry("/run/hostd", "The runtime directory, if you are root."),
    Entry("$XDG_RUNTIME_DIR/hostd", "The runtime directory, if you are not, and the variable is set."),
    Entry("/tmp/hostd-UID", "The runtime directory otherwise; it has to be yours alone."),
]
FINDING: Final = [
    Entry(SOCKET, "Where the host is, for a command without `--socket`: one of its sockets, or the directory of both."),
    Entry("RUNTIME_DIRECTORY", "The runtime directory, before those under FILES; systemd sets it for its services."),
    Entry("XDG_RUNTIME_DIR", "Where the runtime directory is: see FILES."),
]
LOOKS: Final = [
    Entry("NO_COLOR", "If it is set, nothing is bold or in colour.  What is no terminal gets plain text anyway."),
    Entry("COLUMNS", "How wide help and tables are, if not as wide as the terminal."),
]

STREAMS: Final = "Data is on standard output, everything else on standard error."
DESCRIPTION: Final = {
    "hostd": "It plays the hypervisor: it owns the devices that a machine file names, and offers them over Unix "
    f"sockets as hypercalls, shared memory and interrupts.  `guestd` is a guest of it.  {STREAMS}",
    "guestd": "It plays the operating system: it attaches to a host, finds the devices there the way firmware does, "
    f"and runs drivers for them.  {STREAMS}",
}
ENVIRONMENT: Final = {
    "hostd": [
        *FINDING,
        *LOOKS,
        Entry("LISTEN_FDS, LISTEN_FDNAMES", "Sockets that `hostd serve` is given to begin with: see sd_listen_fds(3)."),
        Entry("NOTIFY_SOCKET, WATCHDOG_USEC", "Whom `hostd serve` tells how it goes: see sd_notify(3)."),
    ],
    "guestd": [
        Entry(
            DRIVERS,
            "Drivers of your own, as `--driver` has them, with commas between; those of `--driver` come before them.",
        ),
        *FINDING,
        *LOOKS,
        Entry("XDG_STATE_HOME", "Where the history of `guestd shell` is: see FILES."),
    ],
}
FILES: Final = {
    "hostd": [
        *RUNTIME,
        Entry(GUEST_SOCKET, "In the runtime directory: where guests attach."),
        Entry(CONTROL_SOCKET, "Beside it: where the commands ask, in lines of JSON."),
        Entry("/etc/hostd/machine.toml", "The machine of the system's own host, if it runs as a service."),
    ],
    "guestd": [
        *RUNTIME,
        Entry(
            "$XDG_STATE_HOME/hostd/shell_history", "What was typed at the prompt; else it is in ~/.local/state/hostd."
        ),
    ],
}
SEE_ALSO: Final = {
    "hostd": "`guestd`(1).  The sources have more in docs: devices of your own, the service, the wire protocol.",
    "guestd": "`hostd`(1).  The sources have more in docs: drivers of your own, the wire protocol.",
}


def roff(text: str) -> str:
    """*text* as it stands, but for `words`, which are bold."""
    for character, escape in ("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("^", r"\(ha"), ("~", r"\(ti"):
        text = text.replace(character, escape)
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fP", text)
    return rf"\&{text}" if text.startswith(".") else text


def bold(text: str) -> str:
    return rf"\fB{roff(text)}\fP"


def values(text: str) -> str:
    """*text*, in which words in capitals stand for something else."""
    return re.sub(r"\b[A-Z]{2,}(\.toml)?\b", r"\\fI\g<0>\\fP", roff(text))


def option(name: str) -> str:
    """`-o, --output FILE`."""
    return re.sub(r"(\\-[^ ,]+)", r"\\fB\1\\fP", values(name))


def usage(line: str, command: str) -> str:
    return bold(command) + values(line.removeprefix(command))


def listed(entries: Iterable[Entry], look: str = "bold") -> Iterator[str]:
    """Names, and beside each what it means."""
    for name, text in entries:
        yield ".TP"
        yield {"bold": bold, "option": option, "value": values}[look](name)
        yield roff(text)


def paragraphs(about: Iterable[str]) -> Iterator[str]:
    """Prose, and examples as they stand."""
    for n, paragraph in enumerate(about):
        if n:
            yield ".PP"
        if paragraph.startswith("$ "):
            yield from (".in +4n", ".EX", roff(paragraph), ".EE", ".in")
        else:
            yield roff(" ".join(paragraph.split()))


def manual(program: Program) -> Iterator[str]:
    """The lines of the page of *program*."""
    name = program.name[0]
    itself = page(program)
    commands: dict[str, Page] = {f"{name} {entry.name}": page(program, entry.name) for entry in itself.commands}
    yield rf".\" Written by scripts/man: change what {name} says about itself, or scripts/man.d/man.py."
    yield f'.TH {name.upper()} 1 "" "hostd {version("hostd")}" "Virtual devices"'
    yield ".ad l"
    yield ".SH NAME"
    (about,) = itself.about
    yield rf"{name} \- {roff(about[0].lower() + about[1:].removesuffix('.'))}"
    yield ".SH SYNOPSIS"
    yield ".nf"
    yield from (usage(command.usage, words) for words, command in commands.items())
    yield ".fi"
    yield ".SH DESCRIPTION"
    yield roff(DESCRIPTION[name])
    yield ".SH COMMANDS"
    for words, command in commands.items():
        yield f".SS {usage(command.usage, words)}"
        yield from paragraphs(command.about)
        yield from listed(command.arguments, "value")
        yield from listed(command.options, "option")
    yield ".SH OPTIONS"
    yield from listed(itself.options, "option")
    yield ".SH EXIT STATUS"
    yield from listed(Entry(str(int(code)), code.meaning) for code in Exit)
    yield ".SH ENVIRONMENT"
    yield from listed(ENVIRONMENT[name])
    yield ".SH FILES"
    yield from listed(FILES[name])
    yield ".SH SEE ALSO"
    yield roff(SEE_ALSO[name])


def main() -> None:
    """The entry point."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for program in hostd.commands.cli.app, guestd.commands.cli.app:
        (folder / f"{program.name[0]}.1").write_text("\n".join(manual(program)) + "\n")


if __name__ == "__main__":
    main()
